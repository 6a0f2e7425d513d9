"""Break-even by its definition, and what every policy owes to invariant 5."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windfall.config.load import loads
from windfall.config.template import TEMPLATE
from windfall.grid.signal import Reading
from windfall.policy.base import Decision, FleetView, PerSite, Policy, SitePolicy, SiteView
from windfall.policy.breakeven import Breakeven
from windfall.policy.build import build_policy
from windfall.policy.criterion import under
from windfall.policy.threshold import Threshold, paper

SPIN_UP = 340.0
SITE = "california"


CRITERIA = defaultdict(lambda: under(100.0))


def per_site(policy: SitePolicy) -> PerSite:
    return PerSite(policy, CRITERIA)


def reading(value: float, t: float, fresh: float = math.inf, stale: float = math.inf, until: float = math.inf) -> Reading:
    return Reading(value, "gCO2/kWh", t, t, fresh, stale, "test", until)


def play(policy: Policy, values: list[float | None], dt: float = 60.0, t0: float = 0.0, bounded: bool = True) -> list[Decision]:
    """Decisions over a series of readings, one per ``dt``; None is a missing one. Unless ``bounded`` each holds until the next."""
    on, since, memory = False, t0, {}
    told = []
    for i, value in enumerate(values):
        t = t0 + i * dt
        held = None if value is None else reading(value, t, until=t + dt if bounded else math.inf)
        site = SiteView(SITE, held, on, since, SPIN_UP, memory)
        d = policy.decide(FleetView(t, {SITE: site}))[SITE]
        if d.on != on:
            since = t
        on, memory = d.on, dict(d.memory)
        told.append(d)
    return told


def by_definition(values: list[float], dt: float, worth: float, a_on: float, a_off: float) -> list[bool]:
    """The definition, word for word."""
    restart = SPIN_UP * worth
    on, acc, told = False, 0.0, []
    for c in values:
        acc = max(0.0, acc + ((c - worth) if on else (worth - c)) * dt)
        if not on and c < worth and acc >= a_on * restart:
            on, acc = True, 0.0
        elif on and c >= worth and acc >= a_off * restart:
            on, acc = False, 0.0
        told.append(on)
    return told


@given(
    st.lists(st.floats(0, 900), min_size=1, max_size=80), st.sampled_from([30.0, 60.0, 300.0]),
    st.sampled_from([(0.5, 0.5), (1.0, 0.25), (0.0, 0.0)]),
)  # fmt: skip
def test_breakeven_decides_as_defined(values: list[float], dt: float, shares: tuple[float, float]) -> None:
    policy = per_site(Breakeven(*shares))
    got = [d.on for d in play(policy, list(values), dt)]
    assert got == by_definition(values, dt, 100.0, *shares)


def test_a_reading_without_an_end_counts_for_the_time_that_has_passed() -> None:
    values: list[float | None] = [50.0] * 10
    in_advance = [d.on for d in play(per_site(Breakeven()), values)]
    in_arrears = [d.on for d in play(per_site(Breakeven()), values, bounded=False)]
    # 0.5 x 340 s x 100 g / 50 g = 340 s: six minutes that begin at the sixth reading, or have passed at the seventh.
    assert (in_advance.index(True), in_arrears.index(True)) == (5, 6)


def test_a_five_minute_reading_is_a_gain_as_soon_as_it_is_known_however_often_it_is_looked_at() -> None:
    policy = per_site(Breakeven())
    on, memory = False, {}
    for t in range(0, 300, 10):
        r = reading(20.0, 0.0, until=300.0)
        d = policy.decide(FleetView(float(t), {"s": SiteView("s", r, on, 0.0, SPIN_UP, memory)}))["s"]
        assert d.on  # 300 s x 80 g are more than half of 340 s x 100 g
        on, memory = d.on, dict(d.memory)


def test_breakeven_starts_when_half_the_restart_cost_is_gained_and_says_so() -> None:
    told = play(per_site(Breakeven()), [50.0] * 10)
    first = next(i for i, d in enumerate(told) if d.on)
    assert first == 5
    assert "start pays in" in told[first - 1].reason
    assert told[first].numbers["accumulated"] >= told[first].numbers["needed"] == 17_000


def test_a_value_equal_to_the_worth_is_off() -> None:
    assert not any(d.on for d in play(per_site(Breakeven()), [100.0] * 100))
    told = play(per_site(Breakeven()), [0.0] * 10 + [100.0] * 100)
    assert told[-1].on  # it loses nothing at the worth itself, so it does not pay to stop either


def test_breakeven_expects_when_it_will_change() -> None:
    told = play(per_site(Breakeven()), [50.0, 50.0], bounded=False)
    assert told[0].until == pytest.approx(340.0)
    assert told[1].until == pytest.approx(340.0)


def test_threshold_starts_strictly_below_and_stops_at_or_above() -> None:
    told = play(per_site(Threshold(100.0)), [100.0, 99.9, 100.0])
    assert [d.on for d in told] == [False, True, False]


def test_hysteresis_keeps_a_site_on_between_the_levels() -> None:
    told = play(per_site(Threshold(100.0, 150.0)), [90.0, 140.0, 150.0, 140.0, 90.0])
    assert [d.on for d in told] == [True, True, False, False, True]


def test_the_papers_rule_stops_ten_minutes_after_the_window_and_a_flicker_clears_its_timer() -> None:
    told = play(per_site(paper()), [50.0] + [500.0] * 9 + [50.0] + [500.0] * 12)
    assert all(d.on for d in told[:21])
    assert [d.on for d in told[20:22]] == [True, False]  # ten minutes after minute 11


def test_confirm_and_min_up_are_kept() -> None:
    told = play(per_site(Threshold(100.0, confirm_s=120.0, min_up_s=300.0)), [50.0] * 3 + [500.0] * 10)
    assert [d.on for d in told] == [False, False] + [True] * 5 + [False] * 6


CONFIG = loads(TEMPLATE, "t.toml", Path())
NAMES = ["breakeven", "threshold", "paper", "percentile", "learned"]


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_late_or_stale_reading_never_turns_a_site_on_and_a_stale_one_turns_it_off(name: str) -> None:
    policy = build_policy(CONFIG, name)
    good = reading(0.0, 0.0, fresh=300.0, stale=900.0)
    memory = {"t": 0.0, "value": 0.0, "acc": 1e9, "crossed": -1e9}  # as eager to start as can be
    for t, held in ((301.0, good), (299.0, None)):
        d = policy.decide(FleetView(t, {"california": SiteView("california", held, False, 0, SPIN_UP, memory)}))["california"]
        assert not d.on
    late = policy.decide(FleetView(899.0, {SITE: SiteView(SITE, good, True, 0, SPIN_UP, {})}))[SITE]
    assert late.on
    assert "late" in late.reason
    stale = policy.decide(FleetView(900.0, {SITE: SiteView(SITE, good, True, 0, SPIN_UP, {})}))[SITE]
    assert not stale.on


@pytest.mark.parametrize("name", NAMES)
@given(values=st.lists(st.one_of(st.none(), st.floats(0, 900)), min_size=1, max_size=50), shift=st.integers(-10_000, 10_000))
def test_equal_inputs_give_equal_decisions_and_time_may_be_shifted(name: str, values: list[float | None], shift: int) -> None:
    policy = build_policy(CONFIG, name)
    one, two = play(policy, values), play(policy, values)
    assert one == two
    moved = play(policy, values, t0=shift * 60.0)
    assert [d.on for d in moved] == [d.on for d in one]
    assert [d.reason for d in moved] == [d.reason for d in one]


def test_one_sites_reading_does_not_move_another_site() -> None:
    policy = per_site(Breakeven())
    site = SiteView("a", reading(50.0, 0.0), False, 0.0, SPIN_UP)
    alone = policy.decide(FleetView(0.0, {"a": site}))["a"]
    other = SiteView("b", reading(float(np.float64(900)), 0.0), True, 0.0, SPIN_UP)
    assert policy.decide(FleetView(0.0, {"a": site, "b": other}))["a"] == alone
