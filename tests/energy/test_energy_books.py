"""What meters tell becomes entries of the account: none is changed, late ones correct, and the sum is what the counter says."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patience import examples
from windfall.energy.account import Account, Interval
from windfall.energy.books import LATE, Books
from windfall.energy.measured import SiteMeter
from windfall.energy.meters.base import Counter
from windfall.energy.power import PowerModel
from windfall.energy.tariff import Tariff
from windfall.grid.signal import StepSignal

POWER = PowerModel(2000.0, 400.0, 50.0)
SIGNAL = StepSignal(np.arange(40) * 300.0, np.arange(40) * 20.0, unit="gCO2/kWh", source="t", period_s=300.0)


def books(lag_s: float = 60.0) -> Books:
    return Books(Account(dict.fromkeys("ab", POWER), {n: Tariff.plain(SIGNAL, 100.0) for n in "ab"}), ["a"], lag_s)


def sums(entries: list[Interval]) -> tuple[float, float, float]:
    return sum(e.joules for e in entries), sum(e.grams for e in entries), sum(e.measured_joules for e in entries)


def test_a_site_without_a_meter_is_booked_at_once_and_one_that_is_off_too() -> None:
    b = books()
    assert [e.joules for e in b.book("b", "training", 0.0, 10.0)] == [20000.0]
    assert b.book("a", "off", 0.0, 10.0) == []
    assert not b.waits
    assert b.account.total("a", "off").seconds == 10.0


def test_a_meter_is_waited_for_and_what_it_says_is_booked() -> None:
    b = books()
    for t in range(0, 300, 10):
        b.heard("a", "boot/1", 5000.0 + t, 1500.0 * t, 1200.0 * t, now=t + 0.5)
        assert b.book("a", "training", float(t), t + 10.0) == []
    entries = b.settle(300.0)
    assert max(e.t1 for e in entries) == 290.0, "the newest sample was taken at 290; what is after that still waits"
    assert b.waits
    first, *rest = entries
    assert (first.t0, first.t1, first.watts) == (0.0, 0.5, 2000.0), "before its first word the model stands in"
    joules, _, measured = sums(rest)
    assert joules == pytest.approx(1500.0 * (rest[-1].t1 - rest[0].t0))
    assert measured == pytest.approx(0.8 * joules)
    assert all(e.booked_at == 300.0 and not e.cause for e in entries)
    late = b.settle(380.0)
    assert [(e.t0, e.t1, e.watts, e.measured_joules) for e in late][-1] == (290.5, 300.0, 2000.0, 0.0), "then the model stands in"


def test_the_model_stands_in_at_the_level_that_the_site_was_at_also_after_a_restart() -> None:
    b = books()
    assert [e.joules for e in b.book("b", "training", 0.0, 10.0, watts=800.0)] == [8000.0]
    assert b.book("a", "training", 0.0, 10.0, watts=800.0) == []
    assert b.book("a", "training", 10.0, 20.0) == []
    again = books()
    assert again.restore(json.loads(json.dumps(b.as_json()))) == []
    assert [(e.t0, e.watts) for e in again.settle(100.0)] == [(0.0, 800.0), (10.0, 2000.0)]
    unmetered = Books(Account({"a": POWER}, {"a": Tariff.plain(SIGNAL, 100.0)}))
    assert [e.watts for e in unmetered.restore(b.as_json())] == [800.0, 2000.0]
    older = {"waiting": [["a", "training", 0.0, 10.0]]}
    assert [e.watts for e in unmetered.restore(older)] == [2000.0], "an earlier Windfall wrote no watts"


def test_what_is_measured_late_corrects_by_a_signed_entry_and_changes_none() -> None:
    b = books(lag_s=60.0)
    b.heard("a", "boot/1", 100.0, 0.0, 0.0, now=0.0)
    b.book("a", "training", 0.0, 600.0)
    first = b.settle(700.0)
    assert sums(first)[0] == 2000.0 * 600
    spent = b.spent()
    b.heard("a", "boot/1", 700.0, 1500.0 * 600, 1500.0 * 600, now=900.0)
    fixes = b.settle(900.0)
    assert {e.cause for e in fixes} == {LATE}
    assert all(e.joules == pytest.approx(-500.0 * (e.t1 - e.t0)) for e in fixes)
    joules, grams, measured = sums(first + fixes)
    assert joules == pytest.approx(1500.0 * 600)
    assert grams == pytest.approx(1500.0 * 300 / 3.6e6 * (0 + 20))
    assert measured == pytest.approx(1500.0 * 600)
    total = b.account.total("a")
    assert (total.joules, total.grams, total.seconds) == (pytest.approx(joules), pytest.approx(grams), 600.0)
    assert b.settle(1000.0) == [], "once"
    assert b.spent() == spent == 0.0


def test_a_meter_that_begins_anew_leaves_the_time_between_to_the_model() -> None:
    b = books(lag_s=30.0)
    for at, joules, boot in ((0.0, 0.0, "boot/1"), (100.0, 1e5, "boot/1"), (200.0, 0.0, "boot/2"), (300.0, 1e5, "boot/2")):
        b.heard("a", boot, 1000.0 + at, joules, joules, now=at)
    b.book("a", "training", 0.0, 300.0)
    found = b.settle(400.0)
    assert [(e.t0, e.t1, e.watts) for e in found] == [(0.0, 100.0, 1000.0), (100.0, 200.0, 2000.0), (200.0, 300.0, 1000.0)]


def test_the_next_coordinator_goes_on_with_what_waited() -> None:
    b = books()
    b.heard("a", "boot/1", 100.0, 0.0, 0.0, now=0.0)
    b.book("a", "training", 0.0, 100.0)
    said = b.as_json()
    later = books()
    assert later.restore(said) == []
    later.heard("a", "boot/1", 200.0, 150000.0, 150000.0, now=100.0)
    assert sums(later.settle(100.0)) == (pytest.approx(150000.0), 0.0, pytest.approx(150000.0))
    without = Books(b.account, [], 60.0)
    assert sums(without.restore(said))[0] == 200000.0, "a site that has no meter any more is booked by its model"


@settings(max_examples=examples(20))
@given(seed=st.integers(0, 10_000))
def test_the_account_is_the_counter_to_a_thousandth_however_samples_come(seed: int) -> None:
    """Samples late, twice, in the wrong order, with holes, over two boots; phases of any length; the site's uptime drifts."""
    rng = random.Random(seed)
    b = books(lag_s=rng.choice([0.0, 30.0, 300.0]))
    entries: list[Interval] = []
    power = [rng.uniform(300.0, 2500.0) for _ in range(80)]

    def used(t: float) -> float:
        whole = int(t // 100.0)
        return sum(power[:whole]) * 100.0 + (power[whole] * (t - 100.0 * whole) if whole < len(power) else 0.0)

    drift = 1.0 + rng.uniform(-2e-5, 2e-5)
    sent: list[tuple[float, str, float, float]] = []
    t, down = 0.0, rng.uniform(2000.0, 6000.0)
    while t <= 7900.0:
        boot = "one/1" if t < down else "two/1"
        at = (t if t < down else t - down) * drift + 777.0
        joules = used(t) - (used(down) if t >= down else 0.0)
        if rng.random() > 0.1 or t == 0.0:
            delay = rng.uniform(0.05, 0.3) if rng.random() < 0.9 else rng.uniform(1.0, 500.0)
            sent += [(t + delay, boot, at, joules)] * (2 if rng.random() < 0.1 else 1)
        t += 5.0
    sent.sort()
    at_tick = 0.0
    while at_tick < 7900.0:
        length = rng.uniform(1.0, 60.0)
        upto = min(7900.0, at_tick + length)
        while sent and sent[0][0] <= upto:
            heard, boot, at, joules = sent.pop(0)
            b.heard("a", boot, at, joules, joules, now=heard)
        entries += b.book("a", rng.choice(["training", "idle"]), at_tick, upto)
        before = list(entries)
        entries += b.settle(upto)
        assert entries[: len(before)] == before
        at_tick = upto
    for heard, boot, at, joules in sent:
        b.heard("a", boot, at, joules, joules, now=heard)
    entries += b.settle(9000.0, closing=True)
    joules, grams, measured = sums(entries)
    total = b.account.total()
    assert total.joules == pytest.approx(joules, rel=1e-9)
    assert total.grams == pytest.approx(grams, rel=1e-9)
    assert total.seconds == pytest.approx(7900.0)
    # Where the meter has told, it is the counter's joules; the rest is the model's.
    known = b.meters["a"].between(0.0, 7900.0)
    rest = [e for e in entries if not e.measured_joules and not e.cause]
    assert measured == pytest.approx(sum(u.joules for u in known), rel=1e-9)
    share = measured / used(7900.0)
    if not rest and share > 0.99:
        assert joules == pytest.approx(used(7900.0), rel=1e-3)


def test_the_counter_of_a_whole_run_is_met_to_a_thousandth() -> None:
    """The mark: a recorded counter with late samples and holes, from beginning to end."""
    rng = random.Random(5)
    meter = SiteMeter()
    t, told = 0.0, 0.0
    while t <= 20_000.0:
        watts = 1800.0 if int(t / 600.0) % 3 else 350.0
        if not 5000.0 < t < 5400.0:  # nothing came through
            meter.heard("boot/1/1/0", 50.0 + t * 1.00002, told, told, now=t + rng.uniform(0.02, 2.0))
        told += watts * 5.0
        t += 5.0
    known = meter.between(100.0, 19_900.0)
    assert len(known) == 1, "one stretch, the hole in it bridged by the counter"
    true = sum((1800.0 if int(x / 600.0) % 3 else 350.0) * 5.0 for x in np.arange(100.0, 19_900.0, 5.0))
    assert known[0].joules == pytest.approx(true, rel=1e-3)


def test_a_sample_that_is_told_twice_or_runs_backwards_is_left_alone() -> None:
    meter = SiteMeter()
    for at, joules in ((0.0, 0.0), (10.0, 100.0), (10.0, 100.0), (5.0, 50.0), (20.0, 40.0), (30.0, 200.0)):
        meter.heard("boot", at, joules, joules, now=at)
    found = meter.between(0.0, 40.0)
    assert [(u.t0, u.t1, u.joules) for u in found] == [(0.0, 10.0, 100.0), (20.0, 30.0, 160.0)]


DAY_S = 20_000.0


def true_joules(t: float) -> float:
    """Of a site that trains for twenty minutes of each half hour, and waits for the rest."""
    whole, rest = divmod(t, 1800.0)
    return whole * (1900.0 * 1200.0 + 380.0 * 600.0) + 1900.0 * min(rest, 1200.0) + 380.0 * max(0.0, rest - 1200.0)


@pytest.mark.parametrize(
    ("wraps_at_j", "begins_anew_at", "unread", "unheard"),
    [
        (None, (), (), ()),
        (262_143.0, (), (), ()),  # a counter as RAPL has it: it wraps every two minutes
        (262_143.0, (), ((4000.0, 4060.0),), ((9000.0, 9400.0),)),
        (None, (3000.0, 3100.0, 15_000.0), (), ()),  # its machine is started again, its driver loaded again
        (None, (), ((5000.0, 5900.0),), ()),  # nobody could read it for a quarter of an hour; it counted on
        (None, (), (), ((6000.0, 7000.0), (12_000.0, 12_200.0))),  # read, and heard of late: the model had stood in
        (262_143.0, (8000.0,), ((2000.0, 2050.0),), ((10_000.0, 11_500.0),)),
    ],
)
def test_a_recorded_counter_with_wraps_gaps_resets_and_late_samples_is_met_to_a_thousandth(
    wraps_at_j: float | None, begins_anew_at: tuple[float, ...], unread: tuple[tuple[float, float], ...],
    unheard: tuple[tuple[float, float], ...],
) -> None:  # fmt: skip
    """From the raw counter to the account. ``unread``: the meter could not be read; ``unheard``: what it told came afterwards."""
    rng = random.Random(3)
    counter, epoch, boot, zero, at = Counter(wraps_at_j, most_w=2100.0), 0, 0, 0.0, 0.0
    samples: list[tuple[float, str, float, float]] = []
    while at <= DAY_S:
        if boot < len(begins_anew_at) and at >= begins_anew_at[boot]:
            zero, boot = true_joules(begins_anew_at[boot]), boot + 1
        if not any(a < at < b for a, b in unread):
            raw = true_joules(at) - zero
            epoch += not counter.add(at, raw if wraps_at_j is None else raw % wraps_at_j)
            heard = next((b for a, b in unheard if a < at < b), at) + rng.uniform(0.05, 1.5)
            samples += [(heard, f"boot/1/{epoch}", 300.0 + at, counter.joules)] * rng.choice([1, 1, 1, 2])
        at += 5.0
    samples.sort()
    b, entries, t = books(lag_s=60.0), [], 0.0
    while t < DAY_S:
        upto = t + 10.0
        while samples and samples[0][0] <= upto:
            heard, name, taken, joules = samples.pop(0)
            b.heard("a", name, taken, joules, joules, now=heard)
        entries += b.book("a", "training" if t % 1800.0 < 1200.0 else "idle", t, upto)
        entries += b.settle(upto)
        t = upto
    for heard, name, taken, joules in samples:
        b.heard("a", name, taken, joules, joules, now=heard)
    entries += b.settle(DAY_S + 30.0, closing=True)
    joules, _, measured = sums(entries)
    assert joules == pytest.approx(true_joules(DAY_S), rel=1e-3)
    assert measured > 0.97 * joules
    assert any(e.cause for e in entries) == any(b - a > 60.0 for a, b in (*unread, *unheard)), "it was waited for 60 s"
    assert math.fsum(e.t1 - e.t0 for e in entries if not e.cause) == pytest.approx(DAY_S)


def test_a_correction_keeps_the_readings_under_which_its_energy_was_booked() -> None:
    """What a signal says later of that time, or no longer says, changes nothing of it."""
    b = books(lag_s=0.0)
    b.heard("a", "boot/1", 0.0, 0.0, 0.0, now=0.0)
    b.book("a", "training", 0.0, 900.0)
    first = b.settle(900.0)
    b.account.tariffs = {
        n: Tariff.plain(StepSignal(np.array([0.0]), np.array([900.0]), unit="gCO2/kWh", source="t", period_s=0.0), 100.0)
        for n in "ab"
    }
    b.heard("a", "boot/1", 900.0, 900.0 * 1500.0, 900.0 * 1500.0, now=950.0)
    fixes = b.settle(1000.0)
    assert [(e.t0, e.t1, e.g_per_kwh) for e in fixes] == [(e.t0, e.t1, e.g_per_kwh) for e in first]
    assert sums(first + fixes)[1] == pytest.approx(300.0 * 1500.0 / 3.6e6 * (0 + 20 + 40))


@given(seed=st.integers(0, 10_000))
def test_what_lies_behind_the_watermark_never_falls(seed: int) -> None:
    """All that is booked less what may still be corrected: by phase, joules and grams, whatever meters do and however late."""
    rng = random.Random(seed)
    b = books(lag_s=rng.choice([0.0, 20.0]))
    highest: dict[tuple[str, str], float] = {}
    t = told = 0.0
    for _ in range(60):
        upto = t + rng.choice([5.0, 60.0, 600.0, 4000.0])
        watts = rng.uniform(0.0, 3000.0)
        told += watts * (upto - t)
        if rng.random() < 0.5:
            b.heard("a", rng.choice(["boot/1", "boot/1", "boot/1", f"boot/{t:.0f}"]), upto, told, 0.8 * told, now=upto)
        b.book("a", rng.choice(["training", "idle", "provisioning"]), t, upto)
        b.settle(upto)
        if rng.random() < 0.1:
            after = Books(b.account, ["a"], 20.0)  # the next coordinator, with the same account
            after.restore(json.loads(json.dumps(b.as_json())))
            b = after
        now = {
            (phase, figure): getattr(b.account.total("a", phase), figure)
            - math.fsum(getattr(e, figure) for e in b.open_by_site().get("a", ()) if e.phase == phase)
            for phase in ("training", "idle", "provisioning")
            for figure in ("joules", "grams")
        }
        for key, value in now.items():
            assert value >= highest.get(key, 0.0) * (1 - 1e-9) - 1e-6, (key, value)
        highest = now
        t = upto
