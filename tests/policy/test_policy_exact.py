"""The cheapest budget by enumeration, against every schedule that there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windfall.policy.exact import exact
from windfall.policy.planner import PlannedSite, plan_budget
from windfall.policy.programme import Programme, SpinUp, StepFunction

HOUR = 3600.0


def site(values: list[float], spin_h: int, rate: float = 1.0, kw: float = 1.0) -> PlannedSite:
    edges = 1e9 + np.arange(len(values) + 1) * HOUR
    return PlannedSite(Programme(StepFunction(edges, np.array(values)), SpinUp(((spin_h * HOUR, 1.0),))), rate, kw)


def least_by_hours(values: list[float], spin_h: int) -> dict[int, float]:
    """The least cost of every number of whole hours trained, over all 2^n schedules."""
    found: dict[int, float] = {}
    for mask in itertools.product((False, True), repeat=len(values)):
        warm = trained = 0
        cost, whole = 0.0, True
        for i, on in enumerate(mask):
            if on:
                warm += 1
                trained += warm > spin_h
                cost += values[i]
            whole &= not (not on and 0 < warm <= spin_h)  # a start that is given up is never worth it here
            warm = warm if on else 0
        if whole and not 0 < warm <= spin_h:
            found[trained] = min(found.get(trained, np.inf), cost)
    return found


def test_two_short_on_periods_are_found_where_a_multiplier_takes_one_long_one() -> None:
    hourly = [10, 10, 60, 20, 300, 40, 10, 100, 100, 300, 200, 300, 60, 300, 100, 10, 40, 300, 20, 300, 10, 10, 300, 40]
    sites = {"a": site([float(v) for v in hourly], 2, rate=1.0, kw=2.0)}
    made = exact(sites, 3 * HOUR, plan_budget(sites, 3 * HOUR))
    # Starting in hours 0 and 1 and training in 2 and 3; starting in 5 and 6 and training in 7.
    assert made.cost == pytest.approx(2.0 * HOUR * (10 + 10 + 60 + 20 + 40 + 10 + 100))
    assert made.bound == pytest.approx(made.cost)
    assert made.trained == pytest.approx(3 * HOUR)
    assert [(s.start - 1e9, s.stop - 1e9) for s in made.on_periods["a"]] == [(0.0, 4 * HOUR), (5 * HOUR, 8 * HOUR)]


VALUES = st.lists(st.sampled_from([0.0, 10.0, 40.0, 100.0, 300.0]), min_size=3, max_size=9)


@settings(max_examples=40)
@given(VALUES, VALUES, st.integers(1, 2), st.integers(1, 6))
def test_of_two_sites_no_schedule_is_cheaper(one: list[float], two: list[float], spin_h: int, hours: int) -> None:
    a, b = least_by_hours(one, spin_h), least_by_hours(two, spin_h)
    best = min((x + y for (g, x), (h, y) in itertools.product(a.items(), b.items()) if g + h >= hours), default=np.inf)
    sites = {"a": site(one, spin_h), "b": site(two, spin_h)}
    made = exact(sites, hours * HOUR, plan_budget(sites, hours * HOUR))
    assert made.reachable == np.isfinite(best)
    if made.reachable:
        assert made.cost == pytest.approx(best * HOUR, abs=1e-6)
        assert made.bound <= made.cost


def test_nothing_is_planned_into_a_hole() -> None:
    sites = {"a": site([10.0, 10.0, np.nan, np.nan, 300.0, 300.0, 300.0], 1)}
    made = exact(sites, 2 * HOUR, plan_budget(sites, 2 * HOUR))
    # One hour in front of the hole, one behind it; or two behind it for less: each start is paid for.
    assert made.cost == pytest.approx(HOUR * min(10 + 10 + 300 + 300, 300 * 3))
    assert all(not (s.start < 1e9 + 4 * HOUR and s.stop > 1e9 + 2 * HOUR) for s in made.on_periods["a"])
