"""Limits: never exceeded, the best sites first, and never a reason to start."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulate.days import START, config
from windfall.config.schema import LimitsTable
from windfall.grid.build import build_grid
from windfall.grid.signal import Reading
from windfall.policy.base import Criterion, Decision, FleetView, PerSite, SiteView
from windfall.policy.breakeven import Breakeven
from windfall.policy.build import build_policy
from windfall.policy.criterion import under
from windfall.policy.limits import Limited, SiteLimits
from windfall.policy.threshold import Threshold
from windfall.simulate.backtest import span_of
from windfall.simulate.simulation import Simulation

T = 1_768_150_800.0
BEGUN = T - 7200.0


@dataclass
class Wants:
    """A policy that wants what it is told, and remembers what it is told."""

    on: Mapping[str, bool]
    memory: Mapping[str, float]
    alarm: str = ""
    name: str = "wants"
    whole: bool = False

    def decide(self, view: FleetView) -> dict[str, Decision]:
        return {n: Decision(self.on[n], "told", {"x": 1.0}, None, self.memory, None, self.alarm) for n in view.sites}


def reading(value: float, *, t: float = T, fresh: float = 300.0, stale: float = 900.0, unit: str = "gCO2/kWh") -> Reading:
    return Reading(value, unit, t, t, t + fresh, t + stale, "test", t + 300)


def site(
    name: str, moer: float = 50.0, *, price: float | Reading | None = None, on: bool = False, watts: float = 1000.0,
    since: float = BEGUN, starts: tuple[float, ...] = (), memory: Mapping[str, float] | None = None,
) -> SiteView:  # fmt: skip
    priced = reading(price) if isinstance(price, float | int) else price
    return SiteView(
        name, reading(moer), on, since, 300.0, memory or {}, {"moer": reading(moer), "price": priced}, watts=watts, starts=starts
    )


def limited(
    views: list[SiteView], *, want: Mapping[str, bool] | None = None, starts: int | None = None, ramp: float | None = None,
    memory: Mapping[str, float] | None = None, spent: float = 0.0, alarm: str = "", t: float = T, **limits: float,
) -> dict[str, Decision]:  # fmt: skip
    names = [v.name for v in views]
    criteria: dict[str, Criterion] = dict.fromkeys(names, under(100.0))
    policy = Limited(
        Wants(want or dict.fromkeys(names, True), memory or {}, alarm), LimitsTable.model_validate(limits),
        dict.fromkeys(names, SiteLimits(starts, ramp, "price")), criteria,
    )  # fmt: skip
    return policy.decide(FleetView(t, {v.name: v for v in views}, BEGUN, math.inf, spent))


def on(found: Mapping[str, Decision]) -> set[str]:
    return {n for n, d in found.items() if d.on}


def test_the_best_sites_are_the_ones_that_may_be_on() -> None:
    found = limited([site("a", 60), site("b", 5), site("c", 30)], max_sites=2)
    assert on(found) == {"b", "c"}
    assert found["a"].reason == "off: 2 sites are on, 2 are allowed (the policy: told)"
    assert found["a"].numbers == {"x": 1.0}


def test_among_equals_the_name_decides_so_that_the_same_question_has_the_same_answer() -> None:
    views = [site(n) for n in "cab"]
    assert on(limited(views, max_sites=2)) == on(limited(views[::-1], max_sites=2)) == {"a", "b"}


def test_a_site_that_runs_is_not_thrown_out_for_a_trifle_and_is_for_more_than_half_a_seconds_worth() -> None:
    for newcomer, stays in ((60.0, True), (31.0, True), (29.0, False), (0.0, False)):
        found = limited([site("new", newcomer), site("old", 80.0, on=True)], max_sites=1)
        assert on(found) == ({"old"} if stays else {"new"}), newcomer


def test_a_site_without_a_fresh_reading_comes_last() -> None:
    late = replace(site("late", 0.0, on=True), reading=reading(0.0, t=T - 400))
    assert on(limited([late, site("new", 60.0)], max_sites=1)) == {"new"}


def test_power_is_counted_in_training_watts_and_a_smaller_site_may_fill_what_is_left() -> None:
    views = [site("big", 5, watts=3000), site("mid", 20, watts=2500), site("small", 60, watts=900)]
    found = limited(views, max_power_w=4000.0)
    assert on(found) == {"big", "small"}
    assert "3000 W are on and it takes 2500 W, 4000 W are allowed" in found["mid"].reason
    assert on(limited(views, max_power_w=3900.0)) == {"big", "small"}
    assert on(limited(views, max_power_w=6400.0)) == {"big", "mid", "small"}


def test_what_an_hour_may_cost_is_kept_by_price_and_power_and_a_price_that_pays_costs_nothing() -> None:
    views = [site("a", 5, price=40.0, watts=2e6), site("b", 20, price=-30.0, watts=9e6), site("c", 60, price=10.0, watts=1e6)]
    assert on(limited(views, max_spend_per_h=90.0)) == {"a", "b", "c"}
    assert on(limited(views, max_spend_per_h=89.0)) == {"a", "b"}
    found = limited(views, max_spend_per_h=79.0)
    assert on(found) == {"b", "c"}  # what b is paid for does not pay for a
    assert "0.00 an hour are spent and it would cost 80.00, 79.00 are allowed" in found["a"].reason


@pytest.mark.parametrize(
    "price", [None, math.nan, math.inf, reading(5.0, t=T - 1000)], ids=["missing", "no number", "endless", "stale"]
)
def test_a_price_that_is_not_known_is_no_price(price: float | Reading | None) -> None:
    found = limited([site("a", price=price)], max_spend_per_h=1e9)
    assert found["a"].reason.startswith("off: its price is not known, and what an hour may cost is limited")
    assert not on(limited([site("a", price=price)], max_spend=10.0, spent=10.0))
    assert on(limited([site("a", price=price)], max_spend=10.0, spent=9.99)) == {"a"}


def test_when_all_is_spent_sites_train_only_where_electricity_costs_nothing() -> None:
    views = [site("a", price=1.0), site("b", price=0.0), site("c", price=-3.0)]
    assert on(limited(views, max_spend=100.0, spent=100.0)) == {"b", "c"}
    assert on(limited(views, max_spend=100.0, spent=99.0)) == {"a", "b", "c"}


def test_only_so_many_starts_fall_into_any_hour_and_a_site_that_runs_may_go_on() -> None:
    two = (T - 3599.0, T - 1200.0)
    assert on(limited([site("a", starts=two)], starts=3)) == {"a"}
    found = limited([site("a", starts=two)], starts=2)
    assert found["a"].reason.startswith("off: 2 starts in the last hour, 2 are allowed")
    assert on(limited([site("a", starts=two, on=True)], starts=2)) == {"a"}
    assert on(limited([site("a", starts=(T - 3600.0, T - 1200.0))], starts=2)) == {"a"}


def test_after_a_switch_its_load_may_rise_again_when_the_ramp_allows_however_long_it_ran() -> None:
    for starts in ((), (T - 1800.0,)):
        found = limited([site("a", watts=6000, since=T - 599.0, starts=starts)], ramp=600.0)  # 10 minutes
        assert found["a"].reason.startswith("off: its load may rise by 600 W a minute: not for 1 s")
        assert on(limited([site("a", watts=6000, since=T - 600.0, starts=starts)], ramp=600.0)) == {"a"}
    # The first start of a run follows no switch.
    assert on(limited([site("a", watts=6000, since=BEGUN)], ramp=1.0)) == {"a"}
    assert on(limited([site("a", watts=6000, since=T - 1.0, on=True)], ramp=1.0)) == {"a"}


def test_a_place_that_a_site_may_not_take_goes_to_the_next() -> None:
    best = site("a", 5, starts=(T - 60.0,))
    assert on(limited([best, site("b", 60)], starts=1, max_sites=1)) == {"b"}


def test_an_alarm_of_the_policy_is_heard_from_a_site_that_is_kept_off() -> None:
    assert limited([site("a", price=5.0)], max_spend=1.0, spent=1.0, alarm="too late")["a"].alarm == "too late"


def test_a_start_that_is_not_allowed_has_not_happened_and_what_else_was_learned_is_kept() -> None:
    was = {"acc": 900.0, "to": T - 300.0, "crossed": T - 600.0, "plan_at": T - 3600.0, "e0": 1.0, "e1": 2.0}
    new = {"acc": 0.0, "to": T + 300.0, "gain": 5.0, "plan_at": T, "e0": 3.0}
    found = limited([site("a", price=5.0, memory=was)], memory=new, max_spend=1.0, spent=1.0)
    assert found["a"].memory == {"acc": 900.0, "to": T - 300.0, "crossed": T - 600.0, "plan_at": T, "e0": 3.0}


def test_a_site_that_is_thrown_out_does_not_take_its_losses_for_gains() -> None:
    """Break-even has lost 200 s of it when a limit ends the on-period: the next start must be earned from nothing."""
    policy = Limited(
        PerSite(Breakeven(), {"a": under(100.0)}), LimitsTable(max_spend=1.0), {"a": SiteLimits(None, None, "price")},
        {"a": under(100.0)},
    )  # fmt: skip
    view = site("a", 200.0, price=5.0, on=True, memory={"acc": 9000.0, "to": T + 250.0})
    out = policy.decide(FleetView(T, {"a": view}, BEGUN, math.inf, 1.0))["a"]
    assert not out.on
    assert out.memory.get("acc", 0.0) == 0.0
    free = Limited(PerSite(Threshold(100.0, confirm_s=60.0, off_delay_s=9e9), {"a": under(100.0)}), LimitsTable(max_spend=1.0),
                   {"a": SiteLimits(None, None, "price")}, {"a": under(100.0)})  # fmt: skip
    view = site("a", 200.0, price=5.0, on=True, memory={"crossed": T - 900.0})
    out = free.decide(FleetView(T, {"a": view}, BEGUN, math.inf, 1.0))["a"]
    again = free.decide(FleetView(T + 10, {"a": site("a", 50.0, price=-5.0, memory=out.memory)}, BEGUN, math.inf, 1.0))["a"]
    assert not again.on  # it has to be confirmed


FLEETS = st.lists(
    st.tuples(
        st.floats(0, 300), st.one_of(st.none(), st.just(math.nan), st.floats(-50, 200)), st.booleans(), st.booleans(),
        st.sampled_from([500.0, 1000.0, 2e6]), st.lists(st.floats(0, 3599), max_size=3), st.floats(0, 7000),
    ),
    min_size=1, max_size=6,
)  # fmt: skip


LIMITS = st.fixed_dictionaries({}, optional={
    "max_sites": st.integers(1, 4), "max_power_w": st.sampled_from([400.0, 1000.0, 1600.0, 2.001e6]),
    "max_spend_per_h": st.floats(0.01, 200), "max_spend": st.floats(1, 100), "starts": st.integers(1, 3),
    "ramp": st.floats(1, 1e5),
})  # fmt: skip


@given(fleet=FLEETS, limits=LIMITS, spent=st.floats(0, 150))
def test_limits_are_never_exceeded_and_never_start_a_site(
    fleet: list[tuple[float, float | None, bool, bool, float, list[float], float]], limits: dict[str, float], spent: float
) -> None:
    views = [
        site(
            f"s{i}", moer, price=price, on=was, watts=watts, starts=tuple(T - s for s in sorted(ago, reverse=True)), since=T - held
        )
        for i, (moer, price, was, _, watts, ago, held) in enumerate(fleet)
    ]
    want = {f"s{i}": wanted for i, (_, _, _, wanted, *_) in enumerate(fleet)}
    found = limited(views, want=want, spent=spent, **limits)  # type: ignore[arg-type]
    there = [v for v in views if found[v.name].on]
    assert on(found) <= {n for n, w in want.items() if w}
    assert all(found[n].reason == "told" for n, w in want.items() if not w or found[n].on)
    assert len(there) <= limits.get("max_sites", math.inf)
    assert sum(v.watts for v in there) <= limits.get("max_power_w", math.inf)
    price = {v.name: r.value if (r := v.readings["price"]) and math.isfinite(r.value) else None for v in views}
    if "max_spend_per_h" in limits:
        hourly = [max(0.0, p) * v.watts / 1e6 for v in there if (p := price[v.name]) is not None]
        assert len(hourly) == len(there)
        assert sum(hourly) <= limits["max_spend_per_h"] + 1e-9
    if spent >= limits.get("max_spend", math.inf):
        assert all(price[v.name] is not None and price[v.name] <= 0 for v in there)  # type: ignore[operator]
    for v in there:
        if not v.on:
            assert len(v.starts) < limits.get("starts", math.inf)
            assert "ramp" not in limits or v.watts / limits["ramp"] * 60 <= T - v.since
    # Whoever is kept off would have exceeded something that those who are on leave no room for.
    if not limits:
        assert on(found) == {n for n, w in want.items() if w}


def test_limits_are_around_the_policy_only_where_there_are_any(tmp_path: Path) -> None:
    c = config(tmp_path, {"a": [5.0] * 20})
    assert not isinstance(build_policy(c), Limited)
    limits = LimitsTable(max_sites=1)
    bounded = build_policy(c.model_copy(update={"limits": limits}))
    assert isinstance(bounded, Limited)
    assert (bounded.name, bounded.whole) == ("learned", True)
    own = c.site[0].model_copy(update={"max_starts_per_h": 1})
    assert isinstance(build_policy(c.model_copy(update={"site": [own]})), Limited)


def test_in_a_run_of_many_days_no_limit_is_ever_broken(tmp_path: Path) -> None:
    flicker: list[float | None] = [20.0 if i % 11 < 6 else 300.0 for i in range(600)]
    c = config(tmp_path, {"a": flicker, "b": flicker[3:] + flicker[:3], "c": flicker[7:] + flicker[:7]}, spin_up_s=300)
    sites = [s.model_copy(update={"max_starts_per_h": 1, "ramp_w_per_min": 50.0}) for s in c.site]
    c = c.model_copy(update={"site": sites, "limits": LimitsTable(max_sites=2)})
    grid = build_grid(c)
    lanes = Simulation(c, grid, span_of(c, grid), "windfall").run("threshold").lanes
    edges = []
    for spans in lanes.values():
        begun = [t0 for t0, _, state in spans if state == "provisioning"]
        assert len(begun) > 10
        assert min(b - a for a, b in itertools.pairwise(begun)) >= 3600.0
        stopped = [a[1] for a, b in itertools.pairwise(spans) if b[2] == "off"]
        for t in stopped:
            assert min((b - t for b in begun if b >= t), default=math.inf) >= 1000.0 / 50.0 * 60.0
        edges += [x for t0, t1, state in spans if state != "off" for x in ((t0, 1), (t1, -1))]
    busy = 0
    for _, step in sorted(edges):
        busy += step
        assert busy <= 2
    assert min(t for t, _ in edges) == START
