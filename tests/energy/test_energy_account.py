"""Invariant 8: joules are the sum over phases, grams the integral of power times reading."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windfall.energy.account import Account
from windfall.energy.always_on import always_on
from windfall.energy.phases import PHASES, of_state
from windfall.energy.power import PowerModel
from windfall.energy.tariff import Tariff
from windfall.grid.signal import StepSignal

POWER = PowerModel(2024.0, 468.0, 50.0)


def signal(values: list[float], period: float = 300.0) -> StepSignal:
    return StepSignal(np.arange(len(values)) * period, np.array(values), unit="gCO2/kWh", source="t", period_s=period)


@given(
    values=st.lists(st.floats(0, 900), min_size=1, max_size=12),
    cuts=st.lists(st.tuples(st.floats(1, 900), st.sampled_from(PHASES)), min_size=1, max_size=20),
)
def test_the_account_is_the_integral_of_power_times_reading(values: list[float], cuts: list[tuple[float, str]]) -> None:
    s = signal(values)
    account = Account({"a": POWER}, {"a": Tariff.plain(s, 100.0)})
    t, spans, entries = 0.0, [], []
    for length, phase in cuts:
        entries += account.book("a", phase, t, t + length)
        spans.append((t, t + length, phase))
        t += length
    # an independent integral: second by second at the midpoints of a fine grid cut at every border
    borders = sorted({b for a, e, _ in spans for b in (a, e)} | {i * 300.0 for i in range(len(values) + 1) if i * 300.0 < t})
    joules = grams = 0.0
    for a, b in itertools.pairwise(borders):
        middle = (a + b) / 2
        watts = POWER.watts(next(p for x, y, p in spans if x <= middle < y))
        joules += watts * (b - a)
        if middle < 300 * len(values):  # after that nothing is known
            grams += watts * (b - a) / 3.6e6 * values[int(middle // 300)]
    total = account.total()
    assert total.joules == pytest.approx(joules, rel=1e-9, abs=1e-6)
    assert total.grams == pytest.approx(grams, rel=1e-9, abs=1e-9)
    assert total.joules == pytest.approx(sum(account.total(phase=p).joules for p in PHASES), rel=1e-12)
    assert total.joules == pytest.approx(sum(e.joules for e in entries), rel=1e-9)
    assert total.grams == pytest.approx(sum(e.grams for e in entries), rel=1e-9, abs=1e-12)
    assert total.seconds == pytest.approx(t)


def test_inside_is_energy_under_the_criterion_and_equality_is_outside() -> None:
    account = Account({"a": POWER}, {"a": Tariff.plain(signal([99.9, 100.0]), 100.0)})
    account.book("a", "training", 0, 600)
    assert account.share_inside() == pytest.approx(0.5)


def test_energy_without_a_reading_is_shown_and_carries_no_grams() -> None:
    account = Account({"a": POWER}, {"a": Tariff.plain(signal([50.0]), 100.0)})
    account.book("a", "training", -300, 300)
    total = account.total()
    assert total.unpriced_joules == pytest.approx(2024 * 300)
    assert total.grams == pytest.approx(2024 * 300 / 3.6e6 * 50)


def test_energy_in_the_hole_of_a_signal_is_kwh_and_neither_grams_nor_inside_nor_outside() -> None:
    times = np.array([0.0, 300.0, 600.0, 9600.0])
    holed = StepSignal(times, np.array([50.0, 50.0, 150.0, 50.0]), unit="gCO2/kWh", source="t")
    account = Account({"a": POWER}, {"a": Tariff.plain(holed, 100.0)})
    entries = account.book("a", "training", 0.0, 9900.0)
    total = account.total()
    # The row at 600 s holds for three periods, to 1500 s; from there to 9600 s nobody knows.
    assert total.seconds == pytest.approx(9900.0)
    assert total.joules == pytest.approx(2024 * 9900)
    assert total.unpriced_joules == total.unjudged_joules == pytest.approx(2024 * 8100)
    assert total.grams == pytest.approx(2024 / 3.6e6 * (50 * 900 + 150 * 900))
    assert account.share_inside() == pytest.approx(0.5)
    unknown = [e for e in entries if e.g_per_kwh is None]
    assert [(e.t0, e.t1, e.grams, e.inside) for e in unknown] == [(1500.0, 9600.0, 0.0, None)]


def test_energy_without_a_price_costs_nothing_known_and_is_told_apart() -> None:
    price = StepSignal(np.array([0.0]), np.array([40.0]), unit="USD/MWh", source="p")
    account = Account(
        {"a": POWER}, {"a": Tariff(signal([50.0] * 3), lambda v: v < 100.0, signal([50.0] * 3), "marginal", price=price)}
    )
    entries = account.book("a", "training", 0.0, 900.0)
    assert [e.money for e in entries] == [pytest.approx(2024 * 300 / 3.6e9 * 40.0), None, None]
    assert account.total().uncosted_joules == pytest.approx(2024 * 600)


def test_an_always_on_site_has_whole_kg_only_where_every_hour_is_known() -> None:
    assert always_on(signal([100.0] * 12), 1000.0, 0.0, 1.0).whole_kg == pytest.approx(0.1)
    beyond = always_on(signal([100.0] * 12), 1000.0, 0.0, 2.0)
    assert (beyond.whole_kg, beyond.kg, beyond.unknown_h) == (None, pytest.approx(0.1), pytest.approx(1.0))
    assert always_on(signal([100.0] * 12), 1000.0, 7200.0, 2.0).kg is None


def test_what_is_used_at_an_instant_is_priced_by_its_readings_and_takes_no_time() -> None:
    account = Account({"a": POWER}, {"a": Tariff.plain(signal([50.0, 150.0]), 100.0)})
    (e,) = account.book_at("a", "network", 299.9999, 7200.0)
    assert (e.t0, e.t1, e.g_per_kwh, e.inside, e.grams) == (299.9999, 299.9999, 50.0, True, pytest.approx(0.1))
    (late,) = account.book_at("a", "network", 300.0, 3600.0)
    (unknown,) = account.book_at("a", "network", 601.0, 1800.0)
    assert (late.inside, unknown.g_per_kwh, unknown.grams, unknown.inside) == (False, None, 0.0, None)
    assert account.book_at("a", "network", 0.0, 0.0) == []
    total = account.total("a", "network")
    assert (total.seconds, total.joules, total.unpriced_joules, total.inside_joules) == (0.0, 12600.0, 1800.0, 7200.0)
    assert total.grams == pytest.approx(0.1 + 0.15)


def test_a_draining_site_whose_driver_has_been_asked_is_terminating() -> None:
    assert of_state("draining", 0.0, 5.0) == [("draining", 0.0, 5.0)]
    assert of_state("draining", 0.0, 5.0, ending=True) == [("terminating", 0.0, 5.0)]
    assert of_state("off", 0.0, 5.0, ending=True) == [("off", 0.0, 5.0)]
    assert POWER.watts("terminating") == POWER.watts("draining")
