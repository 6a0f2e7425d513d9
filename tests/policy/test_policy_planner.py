"""The planner against every schedule there is, on instances that are small enough; and what it owes on larger ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from windfall.policy.planner import PlannedSite, cost_of, plan_budget, seconds, trim
from windfall.policy.programme import OnPeriod, Programme, SpinUp, StepFunction

T = 1_768_150_800.0
L = 300.0
VALUES = st.sampled_from([-80.0, -5.0, 0.0, 10.0, 40.0, 99.0, 100.0, 300.0])
COSTS = VALUES.filter(lambda v: v >= 0)
PARTS = st.lists(st.tuples(st.integers(1, 2), st.sampled_from([0.0, 0.2, 1.0])), max_size=2)
#: A schedule in whole intervals: decided, ready, stopped.
Whole = list[tuple[int, int, int]]


def held(values: list[float]) -> StepFunction:
    return StepFunction(T + L * np.arange(len(values) + 1), np.array(values, np.float64))


def spin_of(parts: list[tuple[int, float]]) -> SpinUp:
    return SpinUp(tuple((L * k, share) for k, share in parts))


def schedules(i: int, n: int, spin: int) -> Iterator[Whole]:
    """Every schedule of the intervals from ``i`` to ``n`` by a site that is off at ``i``. Starts that come to nothing count too."""
    yield []
    for start in range(i, n - spin + 1):
        for stop in range(max(start + spin, start + 1), n + 1):
            for rest in schedules(stop, n, spin):
                yield [(start, start + spin, stop), *rest]


def running(n: int, spin: int, ready: int) -> Iterator[Whole]:
    """The same for a site that is on and ``ready`` intervals from training: what it is stopped at, then any schedule."""
    for stop in range(ready, n + 1):
        for rest in schedules(stop, n, spin):
            yield [(ready, ready, stop), *rest] if stop > ready else rest
    yield from schedules(0, n, spin)


def tokens_and_cost(values: list[float], parts: list[tuple[int, float]], schedule: Whole) -> tuple[float, float]:
    """Seconds trained and what it cost per kW, interval by interval."""
    shares = [share for k, share in parts for _ in range(k)]
    trained, cost = 0.0, 0.0
    for start, ready, stop in schedule:
        cost += L * sum(shares[i - start] * values[i] for i in range(start, ready))
        cost += L * sum(values[ready:stop])
        trained += L * (stop - ready)
    return trained, cost


def best_by_hand(values: list[float], parts: list[tuple[int, float]], found: Iterator[Whole], worth: float) -> float:
    return max(worth * trained - cost for trained, cost in (tokens_and_cost(values, parts, s) for s in found))


@given(values=st.lists(VALUES, min_size=1, max_size=7), parts=PARTS, worth=st.sampled_from([-20.0, 0.0, 30.0, 100.0, 500.0]))
def test_the_programme_finds_the_best_of_all_schedules(values: list[float], parts: list[tuple[int, float]], worth: float) -> None:
    # Where using power earns money and training is worth less than nothing, one start in vain after the other would be best.
    assume(worth >= 0 or min(values) >= 0)
    spin = sum(k for k, _ in parts)
    value, on_periods = Programme(held(values), spin_of(parts)).solve(worth)
    assert value == pytest.approx(best_by_hand(values, parts, schedules(0, len(values), spin), worth), abs=1e-3)
    told = [(round((s.start - T) / L), round((s.ready - T) / L), round((s.stop - T) / L)) for s in on_periods]
    trained, cost = tokens_and_cost(values, parts, told)
    if min(values) >= 0.0:  # else a start may be paid for and come to nothing
        assert worth * trained - cost == pytest.approx(value, abs=1e-3)
    assert all(b[0] >= a[2] for a, b in itertools.pairwise(told))
    assert all(ready - start == spin and stop > ready for start, ready, stop in told)


@given(values=st.lists(COSTS, min_size=1, max_size=6), parts=PARTS, worth=st.sampled_from([0.0, 30.0, 100.0]), data=st.data())
def test_a_site_that_runs_or_is_starting_need_not_start_again(
    values: list[float], parts: list[tuple[int, float]], worth: float, data: st.DataObject
) -> None:
    spin, n = sum(k for k, _ in parts), len(values)
    ready = data.draw(st.integers(0, spin))
    value, on_periods = Programme(held(values), spin_of(parts), on=True, ready_in_s=ready * L).solve(worth)
    found = running(n, spin, ready) if ready <= n else schedules(0, n, spin)
    assert value == pytest.approx(best_by_hand(values, parts, found, worth), abs=1e-3)
    trained = seconds(on_periods)
    cost = cost_of(PlannedSite(Programme(held(values), spin_of(parts)), 1.0, 1.0), on_periods)
    if ready < spin or not spin:  # else what it is starting with looks like a start to pay for
        assert worth * trained - cost == pytest.approx(value, abs=1e-2)


def test_of_equal_schedules_the_one_with_fewer_starts_is_taken() -> None:
    flat = Programme(held([0.0, 100.0, 0.0]), SpinUp(()))
    assert flat.solve(100.0)[1] == [OnPeriod(T, T, T + 3 * L)]
    # A start that just pays is not worth its trouble.
    assert Programme(held([50.0, 0.0]), spin_of([(1, 1.0)])).solve(50.0)[1] == []


def test_a_start_of_no_time_costs_nothing_even_where_energy_is_paid_for() -> None:
    for s in (0.0, 2e-4):
        value, on_periods = Programme(held([-50.0, 80.0, -50.0]), SpinUp(((s, 1.0),))).solve(10.0)
        assert value == pytest.approx(2 * 60.0 * L, abs=1.0)
        assert len(on_periods) == 2


def test_what_being_on_at_the_end_is_worth_keeps_a_site_on() -> None:
    values = [0.0, 0.0, 120.0]
    for tail, trained in ((0.0, L), (19.0 * L, L), (21.0 * L, 2 * L)):
        assert seconds(Programme(held(values), spin_of([(1, 1.0)]), tail=tail).solve(100.0)[1]) == trained


def test_a_start_may_begin_between_two_readings_so_that_it_ends_with_one() -> None:
    (s,) = Programme(held([300.0, 300.0, 0.0, 0.0]), SpinUp(((240.0, 0.0), (100.0, 0.5)))).solve(100.0)[1]
    assert s.ready == pytest.approx(T + 2 * L)
    assert s.ready - s.start == pytest.approx(340.0)


SITES = st.lists(
    st.tuples(
        st.lists(st.tuples(COSTS, st.integers(1, 9)), min_size=4, max_size=12), PARTS,
        st.sampled_from([500.0, 1000.0]), st.sampled_from([1.0, 2.5]), st.booleans(),
    ),
    min_size=1, max_size=3,
).map(lambda drawn: {
    f"s{i}": PlannedSite(
        Programme(held([v for v, k in runs for _ in range(k)]), spin_of(parts), on=on, ready_in_s=100.0 if on and parts else 0.0),
        rate, kw,
    )
    for i, (runs, parts, rate, kw, on) in enumerate(drawn)
})  # fmt: skip


def most(sites: dict[str, PlannedSite]) -> float:
    """What all sites can train."""
    return sum(p.rate * seconds(p.programme.solve(1e9)[1]) for p in sites.values())


@given(SITES, st.floats(0.02, 0.999), st.sampled_from([0.0, 0.3]))
def test_a_plan_trains_the_target_and_no_plan_costs_less_than_the_bound(
    sites: dict[str, PlannedSite], share: float, beyond: float
) -> None:
    target = share * most(sites)
    if not target:
        return
    found = plan_budget(sites, target, beyond=beyond * target)
    assert found.reachable
    assert found.trained >= target * (1 - 1e-6)
    assert found.trained <= target * (1 + 1e-6) + 1e-3 * 1000.0 * sum(len(s) for s in found.on_periods.values())
    assert found.cost >= found.bound - 1e-6 * max(1.0, abs(found.bound))
    assert found.cost == pytest.approx(sum(cost_of(sites[n], s) for n, s in found.on_periods.items()))
    assert found.trained == pytest.approx(beyond * target + sum(sites[n].rate * seconds(s) for n, s in found.on_periods.items()))
    for name, on_periods in found.on_periods.items():
        programme = sites[name].programme
        assert all(b.start >= a.stop - 1e-3 for a, b in itertools.pairwise(on_periods))
        for s in on_periods:
            assert programme.signal.start - 1e-3 <= s.start <= s.ready < s.stop <= programme.signal.end + 1e-3
            started = s.ready - s.start == pytest.approx(programme.spin.seconds, abs=1e-2)
            assert started or s.start == programme.signal.start  # else it ran already


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.lists(COSTS, min_size=2, max_size=5), st.integers(0, 2), st.sampled_from([100.0, 200.0]),
                  st.sampled_from([1.0, 2.0])),
        min_size=1, max_size=2,
    ),
    st.floats(0.05, 1.0),
)  # fmt: skip
def test_the_bound_is_below_every_schedule_and_the_plan_at_most_a_dearest_interval_above_the_best(
    drawn: list[tuple[list[float], int, float, float]], share: float
) -> None:
    sites, ways = {}, []
    for i, (values, spin, rate, kw) in enumerate(drawn):
        parts = [(spin, 0.3)] if spin else []
        sites[f"s{i}"] = PlannedSite(Programme(held(values), spin_of(parts)), rate, kw)
        told = [tokens_and_cost(values, parts, s) for s in schedules(0, len(values), spin)]
        ways.append({(rate * trained, kw * cost) for trained, cost in told})
    target = share * sum(max(tokens for tokens, _ in w) for w in ways)
    if not target:
        return
    target = math.ceil(target / (100.0 * L) - 1e-9) * 100.0 * L
    best = min(sum(c for _, c in x) for x in itertools.product(*ways) if sum(t for t, _ in x) >= target - 1e-3)
    found = plan_budget(sites, target)
    assert found.bound <= best + 1e-6 * best + 1e-3
    dearest = max(max(values) * kw * L for values, _, _, kw in drawn)
    assert found.cost <= best + dearest + 1e-3


@given(st.lists(st.integers(0, 500), min_size=2, max_size=12, unique=True), st.data())
def test_without_starts_and_equals_the_plan_is_the_cheapest_intervals(values: list[int], data: st.DataObject) -> None:
    half = len(values) // 2
    sites = {
        n: PlannedSite(Programme(held([float(v) for v in part]), SpinUp(())), 1000.0, 2.0)
        for n, part in (("a", values[:half]), ("b", values[half:]))
    }
    k = data.draw(st.integers(1, len(values)))
    found = plan_budget(sites, k * L * 1000.0)
    assert found.cost == pytest.approx(2.0 * L * sum(sorted(values)[:k]), rel=1e-6, abs=1e-3)
    assert found.bound == pytest.approx(found.cost, rel=1e-6, abs=1e-2)


@given(SITES, st.floats(0.0, 1.0), st.sampled_from([30.0, 100.0, 1e6]))
def test_trimming_never_takes_more_than_the_surplus(sites: dict[str, PlannedSite], share: float, worth: float) -> None:
    whole = {n: p.programme.solve(worth)[1] for n, p in sites.items()}
    had = sum(sites[n].rate * seconds(s) for n, s in whole.items())
    need = share * had
    left = trim(sites, whole, need)
    kept = sum(sites[n].rate * seconds(s) for n, s in left.items())
    # Stretches of a millisecond are dropped.
    slack = 1e-6 * max(1.0, need) + sum(2e-3 * sites[n].rate * len(s) for n, s in whole.items())
    assert need - slack <= kept <= had + 1e-6
    fixed = sum(sites[n].rate * seconds([s]) for n, found in whole.items() for s in found if s.ready == T)
    assert kept <= max(need, fixed) + slack
    for name, on_periods in left.items():
        for s in on_periods:
            assert any(w.start - 1e-6 <= s.start and s.stop <= w.stop + 1e-6 for w in whole[name])


def test_trimming_begins_where_it_is_dearest() -> None:
    site = {"a": PlannedSite(Programme(held([90.0, 10.0, 20.0, 50.0]), spin_of([])), 1.0, 1.0)}
    whole = {"a": [OnPeriod(T - 60, T, T + 4 * L)]}
    assert trim(site, whole, 3 * L)["a"] == [OnPeriod(T - 60, T, T + 3 * L)]  # it runs at T: its begin cannot be moved
    later = {"a": [OnPeriod(T + L, T + L, T + 4 * L)]}
    assert trim(site, later, 2.5 * L)["a"] == [OnPeriod(T + L, T + L, T + 3.5 * L)]


def test_a_site_that_is_starting_already_is_not_made_to_start_later() -> None:
    site = {"a": PlannedSite(Programme(held([300.0, 10.0, 10.0]), spin_of([(1, 0.5)]), on=True, ready_in_s=120.0), 1.0, 1.0)}
    found = plan_budget(site, 800.0 - 120.0)
    (s,) = found.on_periods["a"]
    assert (s.start, s.ready) == (T, pytest.approx(T + 120.0))


@given(SITES, st.floats(1.001, 5.0))
def test_a_target_beyond_every_schedule_is_unreachable_and_everything_runs(sites: dict[str, PlannedSite], over: float) -> None:
    all_ = most(sites)
    found = plan_budget(sites, all_ * over + 1.0)
    assert not found.reachable
    assert found.worth == math.inf
    assert found.trained == pytest.approx(all_)


def test_an_endless_target_and_no_sites_are_unreachable_and_no_target_needs_nothing() -> None:
    site = {"a": PlannedSite(Programme(held([10.0, 20.0]), spin_of([])), 1.0, 1.0)}
    assert not plan_budget(site, math.inf).reachable
    assert not plan_budget({}, 1.0).reachable
    nothing = plan_budget(site, 0.0)
    assert nothing.reachable
    assert nothing.trained == 0.0
    assert not any(nothing.on_periods.values())


def test_the_last_on_period_may_be_worth_more_than_the_dearest_hour_because_of_its_start() -> None:
    site = {"a": PlannedSite(Programme(held([300.0, 300.0, 10.0]), spin_of([(2, 1.0)])), 1.0, 1.0)}
    found = plan_budget(site, L)
    assert found.reachable
    assert found.cost == pytest.approx(610.0 * L)
    assert found.worth == pytest.approx(610.0, rel=1e-6)


def test_no_start_is_paid_for_a_little_that_another_on_period_can_train_at_its_ends() -> None:
    values = [0.0, 0.0, 0.0, 0.0, 100.0, 300.0, 300.0, 50.0, 10.0, 10.0]
    site = {"a": PlannedSite(Programme(held(values), spin_of([(1, 1.0)])), 1.0, 1.0)}
    found = plan_budget(site, 3 * L + 10.0)
    assert found.cost == pytest.approx(10.0 * 100.0, abs=1.0)
    assert found.on_periods["a"] == [OnPeriod(T, T + L, pytest.approx(T + 4 * L + 10.0))]


def test_between_two_schedules_a_window_is_left_early_and_not_begun_late() -> None:
    """Of a window that is dear in its middle only so much is taken as is needed, and all of its cheap ends."""
    values = [5.0] * 3 + [30.0] * 16 + [6.0] * 3
    site = {"a": PlannedSite(Programme(held(values), spin_of([])), 1.0, 1.0)}
    found = plan_budget(site, 10 * L)
    assert found.cost == pytest.approx((3 * 5.0 + 3 * 6.0 + 4 * 30.0) * L, rel=1e-6)


def test_a_budget_is_trained_while_electricity_is_paid_for() -> None:
    site = {"a": PlannedSite(Programme(held([30.0, -20.0, -5.0, 40.0]), spin_of([])), 1.0, 1.0)}
    found = plan_budget(site, L)
    assert found.on_periods["a"] == [OnPeriod(T + L, T + L, pytest.approx(T + 2 * L))]
    assert found.cost == pytest.approx(-20.0 * L)
    assert found.bound <= found.cost + 1e-3


@given(st.sampled_from([0.0, 1.0, 7.0]), SITES, st.floats(0.1, 0.9))
def test_a_plan_at_another_time_is_the_same_plan(hours: float, sites: dict[str, PlannedSite], share: float) -> None:
    target = share * most(sites)
    moved = {}
    for name, p in sites.items():
        s = StepFunction(p.programme.signal.edges + 3600.0 * hours, p.programme.signal.values)
        on = p.programme._begun >= 0
        ready = 100.0 if on and p.programme.spin.parts else 0.0
        moved[name] = PlannedSite(Programme(s, p.programme.spin, on=on, ready_in_s=ready), p.rate, p.kw)
    one, two = plan_budget(sites, target), plan_budget(moved, target)
    assert two.cost == pytest.approx(one.cost, rel=1e-6, abs=1e-2)
    assert {n: [s.stop - 3600.0 * hours for s in x] for n, x in two.on_periods.items()} == {
        n: [pytest.approx(s.stop, abs=1e-2) for s in x] for n, x in one.on_periods.items()
    }
