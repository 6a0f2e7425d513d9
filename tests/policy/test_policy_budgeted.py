"""Budgeted: in time, near the bound with a perfect forecast, honest about what it does not know, and never against invariant 5."""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulate.days import START, STEP, config, write_trace
from windfall.config.schema import Config
from windfall.energy.account import Interval
from windfall.errors import ConfigError
from windfall.grid.build import build_grid
from windfall.grid.signal import Columns, Forecast, Reading
from windfall.policy.base import Decision, FleetView, SiteView
from windfall.policy.breakeven import Breakeven
from windfall.policy.budgeted import Budgeted
from windfall.policy.build import build_policy
from windfall.policy.criterion import under
from windfall.policy.prior import prior_days
from windfall.policy.programme import SpinUp
from windfall.simulate.backtest import span_of
from windfall.simulate.oracle import BudgetOracle
from windfall.simulate.simulation import Simulation, SimulationResult, TimeSpan

T = 1_768_176_000.0  # midnight
HOUR, DAY = 3600.0, 86400.0


@dataclass
class Outlook:
    """What a test says is to come, and was; counts how often it is asked."""

    made: Forecast | None = None
    past: Columns | None = None
    asked: list[float] = field(default_factory=list)

    def forecast(self, horizon_s: float) -> Forecast | None:
        self.asked.append(horizon_s)
        return self.made

    def history(self, span_s: float) -> Columns:
        none = np.empty(0)
        return self.past or Columns(none, none, none)


def ahead(values: Sequence[float], step: float = HOUR, start: float = T) -> Forecast:
    times = start + step * np.arange(len(values))
    return Forecast(start, times, np.array(values, np.float64), float(times[-1]) + step)


def behind(hourly: Callable[[int], float], days: int = 3, until: float = T) -> Columns:
    starts = until - days * DAY + HOUR * np.arange(24 * days)
    return Columns(starts, starts + HOUR, np.array([hourly(int(t % DAY // HOUR)) for t in starts]))


def fresh(value: float, t: float = T, unit: str = "gCO2/kWh") -> Reading:
    return Reading(value, unit, t, t, t + 300, t + 900, "test", t + 300)


def late(value: float, t: float = T) -> Reading:
    return Reading(value, "gCO2/kWh", t - 400, t - 400, t - 100, t + 500, "test", t - 100)


def stale(value: float, t: float = T) -> Reading:
    return Reading(value, "gCO2/kWh", t - 4000, t - 4000, t - 3700, t - 3100, "test", t - 3700)


def budgeted(deadline_h: float = 24.0, replan_s: float = 900.0, sure: bool = True) -> Budgeted:
    return Budgeted(
        defaultdict(lambda: under(100.0)), defaultdict(lambda: SpinUp(((300.0, 0.5),))), deadline=None, deadline_h=deadline_h,
        climatology_s=28 * DAY, replan_s=replan_s, breakeven=Breakeven(), prior=lambda site: prior_days(),
        sure=_Every() if sure else (),
    )  # fmt: skip


def site(name: str = "a", value: float | Reading | None = 0.0, **more: object) -> SiteView:
    r = fresh(value) if isinstance(value, float) else value
    return SiteView(name, r, **{"on": False, "since": T, "spin_up_s": 300.0, **more})  # type: ignore[arg-type]


def view(*sites: SiteView, t: float = T, left: float = 6 * HOUR, tick_s: float = 60.0) -> FleetView:
    return FleetView(t, {s.name: s for s in sites}, T, left, 0.0, tick_s)


class _Every:
    """Has every name."""

    def __contains__(self, name: object) -> bool:
        return True


class Told:
    """Every decision of a simulation."""

    def __init__(self) -> None:
        self.views: list[FleetView] = []
        self.decisions: list[Mapping[str, Decision]] = []

    def decided(self, view: FleetView, decisions: Mapping[str, Decision]) -> None:
        self.views.append(view)
        self.decisions.append(decisions)

    def booked(self, entries: list[Interval]) -> None:
        return None


def simulated(c: Config, deadline_h: float) -> tuple[SimulationResult, float, float, Told]:
    """A run of ``budgeted``, when it ended (hours), the bound of its cost (g·s/kWh·kW), and what it decided."""
    grid = build_grid(c)
    span = span_of(c, grid)
    s = Simulation(c, grid, span, "windfall")
    told = Told()
    found = s.run("budgeted", recorder=told)
    made = BudgetOracle(c, s.signals, s.model, span.start, s.rates, s.budget).schedule(deadline_h)
    assert made is not None
    assert found.done_at is not None
    return found, (found.done_at - span.start) / HOUR, made.bound, told


@settings(max_examples=10)
@given(sites=st.integers(1, 3), seed=st.integers(0, 10**6), spin=st.sampled_from([300.0, 340.0, 600.0]), share=st.floats(0.1, 0.7))
def test_with_a_perfect_forecast_it_is_in_time_and_within_five_percent_of_the_bound(
    sites: int, seed: int, spin: float, share: float
) -> None:
    rng, n = np.random.default_rng(seed), 120
    columns: dict[str, list[float | None]] = {}
    for name in "abc"[:sites]:
        levels = np.repeat(rng.uniform(0, 500, n), rng.integers(6, 30, n))[:n]
        columns[name] = [round(float(x), 1) for x in levels + rng.uniform(0, 30, n)]
    deadline_h = n * STEP / HOUR
    with tempfile.TemporaryDirectory() as folder:
        c = config(
            Path(folder), columns, spin_up_s=spin, backtest=f"site_hours = {share * deadline_h * sites}\ntick_s = 60",
            signal='forecast = "perfect"', policy=f"deadline_h = {deadline_h}",
        )  # fmt: skip
        found, hours, bound, told = simulated(c, deadline_h)
    assert hours <= deadline_h
    assert found.kg is not None
    # Starts come whole: two at the dearest time may be too much.
    assert found.kg * 1000 * HOUR <= 1.05 * bound + 2 * spin * 530.0
    assert not any(d.alarm for decisions in told.decisions for d in decisions.values())


@pytest.mark.parametrize("share", [0.4, 0.8, 0.95])
def test_without_a_forecast_a_date_that_can_be_kept_is_kept_also_if_the_price_would_stop_a_site_near_it(
    tmp_path: Path, share: float
) -> None:
    rng = np.random.default_rng(round(100 * share))
    columns: dict[str, list[float | None]] = {n: np.repeat(rng.uniform(0, 500, 72), 4).round(1).tolist() for n in "ab"}
    c = config(
        tmp_path, columns, spin_up_s=900, signal='forecast = "none"', policy="deadline_h = 20\nclimatology_days = 7",
        backtest=f"tick_s = 300\nsite_hours = {share * 2 * 20}",
    )  # fmt: skip
    _, hours, _, told = simulated(c, 20.0)
    assert hours <= 20.0
    assert not any(d.alarm for decisions in told.decisions for d in decisions.values())


def test_without_a_forecast_it_goes_by_climatology_says_so_and_is_in_time(tmp_path: Path) -> None:
    days: list[float | None] = [20.0 if 120 <= i % 288 < 200 else 300.0 + i % 7 for i in range(288 * 5)]
    c = config(
        tmp_path, {"a": days, "b": days[30:] + days[:30]}, spin_up_s=340, signal='forecast = "none"', policy="deadline_h = 72",
        backtest="tick_s = 300\nsite_hours = 20",
    )  # fmt: skip
    found, hours, _, told = simulated(c, 72.0)
    assert hours <= 72.0
    assert found.kg is not None
    assert found.kg < 20 * 0.2  # most of it at 20 g, though nothing said so on the first day
    reasons = [d["a"].reason for d in told.decisions]
    assert "0 days of its past and a prior" in reasons[0]
    assert any("climatology: 1 days of its past and a prior" in r for r in reasons)
    assert "planned to the deadline" not in "".join(reasons)


def _days_with_chance(days: int, seed: int) -> np.ndarray:
    """Days of which each is clean around noon, more or less and sooner or later, and dirty else."""
    rng, hours = np.random.default_rng(seed), np.arange(288) / 12.0
    found = []
    for _ in range(days):
        depth, noon = rng.uniform(50.0, 380.0), rng.uniform(10.0, 15.0)
        found.append(400.0 - depth * np.exp(-(((hours - noon) / 2.5) ** 2)) + rng.normal(0.0, 10.0, 288))
    return np.maximum(0.0, np.concatenate(found)).round(1)


def _forecasts(kind: str, values: np.ndarray, steps: int) -> np.ndarray:
    """What a forecast of a kind says in each row of the time so many steps later."""
    true = np.append(values[steps:], np.full(steps, values[-1]))
    noise = np.random.default_rng(1).uniform(0.0, 500.0, len(values))
    turned = np.where(np.arange(len(values)) < 6 * 288, true, 700.0 - true)  # it was good until half a day into the run
    return {"true": true, "upside down": 700.0 - true, "noise": noise, "nothing": np.zeros(len(values)), "turned": turned}[
        kind
    ].round(1)


@pytest.mark.slow  # a dozen simulations: some CPU seconds
def test_a_bad_forecast_costs_next_to_nothing_and_a_good_one_less_than_none(tmp_path: Path) -> None:
    kg: dict[str, float] = {}
    leads = {"f1": 3600, "f3": 10800, "f8": 28800}
    for kind in ("none", "true", "upside down", "noise", "nothing", "turned"):
        for seed in (0, 1):
            values = _days_with_chance(10, seed)
            columns = {"a": values.tolist()}
            ahead = "forecast_columns = { " + ", ".join(f"{n} = {s}" for n, s in leads.items()) + " }" if kind != "none" else ""
            c = config(
                tmp_path, columns, spin_up_s=300, forecasts=ahead, idle_w=0.0, backtest="tick_s = 300\nsite_hours = 7",
                policy="deadline_h = 66\nreplan_s = 3600\nclimatology_days = 7",
            )  # fmt: skip
            if kind != "none":
                write_trace(
                    tmp_path / "trace.csv", columns | {n: _forecasts(kind, values, s // 300).tolist() for n, s in leads.items()}
                )
            start = START + 5.5 * DAY
            found = Simulation(c, build_grid(c), TimeSpan(start, start + 4 * DAY), "windfall").run("budgeted")
            assert found.done_at is not None
            assert found.done_at <= start + 66 * HOUR
            kg[kind] = kg.get(kind, 0.0) + (found.kg or 0.0)
    assert all(kg[x] <= 1.02 * kg["none"] for x in kg), kg
    assert kg["true"] < kg["none"], kg


def test_the_price_weighs_the_hours_that_are_still_to_come() -> None:
    """Two clean hours a day at noon: at midnight they are awaited; once noon is past the date, the next best must do."""
    past = behind(lambda hour: 10.0 if hour in (12, 13) else 50.0 if hour in (2, 3, 4) else 400.0, days=28)

    def worth(deadline_h: float, left: float) -> float:
        d = budgeted(deadline_h).decide(view(site(value=400.0, outlook=Outlook(None, past)), left=left))["a"]
        assert "climatology" in d.reason
        return d.numbers["worth"]

    assert 10.0 < worth(24.0, 1.5 * HOUR) < 30.0
    assert 50.0 < worth(24.0, 4.0 * HOUR) < 80.0
    assert 50.0 < worth(10.0, 1.5 * HOUR) < 80.0  # noon is past the deadline
    assert worth(10.0, 5.0 * HOUR) > 400.0


def test_the_price_counts_on_every_site() -> None:
    past = behind(lambda hour: 10.0 if hour in (12, 13) else 50.0 if hour in (2, 3, 4) else 400.0, days=28)

    def worth(sites: int, left: float) -> float:
        views = [site(n, 400.0, outlook=Outlook(None, past)) for n in "abc"[:sites]]
        return budgeted().decide(view(*views, left=left))["a"].numbers["worth"]

    assert worth(1, 1.8 * HOUR) < 30.0
    assert worth(1, 5.4 * HOUR) > 50.0
    assert worth(3, 5.4 * HOUR) < 30.0


def test_with_neither_forecast_nor_past_it_waits_for_what_is_usual_elsewhere_and_says_so() -> None:
    an_hour = Columns(np.array([T - HOUR]), np.array([T]), np.array([400.0]))
    for outlook in (None, Outlook(), Outlook(None, an_hour)):
        d = budgeted(14 * 24.0).decide(view(site(value=400.0, outlook=outlook), left=36 * HOUR))["a"]
        assert not d.on
        assert "0 days of its past and a prior" in d.reason
        assert d.numbers["worth"] < 300.0
        assert 0.0 < d.numbers["expected"] < 300.0


def test_a_site_that_failed_is_not_counted_on() -> None:
    past = behind(lambda hour: 10.0 if hour in (12, 13) else 400.0, days=28)
    found = {}
    for state in ("off", "failed"):
        sites = [site(n, 400.0, outlook=Outlook(None, past), state=state if n != "a" else "off") for n in "abc"]
        found[state] = budgeted().decide(view(*sites, left=5.4 * HOUR))["a"].numbers["worth"]
    assert found["off"] < 30.0 < 400.0 <= found["failed"]
    alone = [site("a", 500.0), site("b", 500.0, state="failed")]
    d = budgeted().decide(view(*alone, left=23.95 * HOUR))["a"]
    assert d.on
    assert not d.alarm


def test_the_plan_is_kept_between_two_plans() -> None:
    outlook = Outlook(ahead([300.0] * 4 + [20.0] * 10 + [300.0] * 10))
    policy = budgeted(replan_s=900.0)
    memory: Mapping[str, float] = {}
    for t in range(0, 3600, 60):
        d = policy.decide(view(site(value=fresh(300.0, T + t), outlook=outlook, memory=memory), t=T + t))["a"]
        memory = d.memory
        assert memory["plan_at"] == T + t // 900 * 900
    assert len(outlook.asked) == 4


def test_the_plan_is_kept_while_a_reading_is_missing_and_while_the_target_is_out_of_the_plans_reach() -> None:
    outlooks = {n: Outlook(ahead([20.0] * 24)) for n in "ab"}
    policy = budgeted()
    for left in (6 * HOUR, 2 * 23.9 * HOUR, math.inf):
        memories: dict[str, Mapping[str, float]] = {"a": {}, "b": {}}
        for o in outlooks.values():
            o.asked.clear()
        for t in range(0, 900, 60):
            a = site("a", fresh(20.0, T + t), outlook=outlooks["a"], memory=memories["a"])
            found = policy.decide(view(a, site("b", None, outlook=outlooks["b"], memory=memories["b"]), t=T + t, left=left))
            memories = {n: d.memory for n, d in found.items()}
            assert not found["b"].on
        assert len(outlooks["a"].asked) <= 1, left


def test_a_plan_of_more_switches_than_are_remembered_is_made_anew_when_these_are_used_up() -> None:
    flicker = Outlook(ahead([10.0, 300.0] * 12))
    policy = budgeted(replan_s=DAY)
    memory: Mapping[str, float] = {}
    on, trained = False, 0.0
    for t in range(0, 24 * 3600, 300):
        s = site(
            value=fresh(10.0, T + t), outlook=flicker, memory=memory, on=on, state="training" if on else "off", spin_up_s=0.0
        )  # fmt: skip
        d = policy.decide(view(s, t=T + t, left=11 * HOUR - trained, tick_s=300.0))["a"]
        memory, on = d.memory, d.on
        assert "planned to the deadline" in d.reason
        trained += 300.0 * on
        if trained >= 11 * HOUR:
            break
    assert trained >= 11 * HOUR
    assert len(memory) <= 12


def test_one_worth_for_all_equal_sites_the_same_and_a_site_twice_as_fast_per_watt_twice_as_much() -> None:
    """A token is worth the same wherever it is trained; with a forecast, and without one."""
    past = behind(lambda hour: 20.0 * hour)
    for made in (ahead([20.0 * h for h in range(24)]), None):
        sites = [
            site(n, 480.0, outlook=Outlook(made, past), rate=rate, watts=watts)
            for n, rate, watts in (("a", 1.0, 1000.0), ("b", 1.0, 1000.0), ("fast", 2.0, 1000.0), ("lean", 1.0, 500.0))
        ]
        found = budgeted().decide(view(*sites, left=10 * HOUR))
        worth = {n: d.numbers["worth"] for n, d in found.items()}
        assert worth["a"] == worth["b"] > 0
        assert worth["fast"] == pytest.approx(2 * worth["a"])
        assert worth["lean"] == pytest.approx(2 * worth["a"])


def test_the_worth_that_it_names_is_the_level_under_which_it_trains() -> None:
    hours = [10.0 * h for h in range(24)]
    made = Outlook(ahead(hours))
    found = budgeted().decide(view(
        site("a", 0.0, outlook=made, spin_up_s=0.0), site("b", 0.0, outlook=made, spin_up_s=0.0, rate=3.0), left=4.5 * HOUR
    ))  # fmt: skip
    worth = {n: d.numbers["worth"] for n, d in found.items()}
    # b at 0, 10 and so on: one and a half of its hours are enough, and its second is as dear a token as 10 ÷ 3 at a.
    assert worth["b"] == pytest.approx(10.0, abs=0.1)
    assert worth["a"] == pytest.approx(10.0 / 3, abs=0.1)


def test_slow_sites_train_at_their_dearest_hours_too_if_all_is_needed() -> None:
    """The search for the worth reaches what the least efficient site needs."""
    past = behind(lambda hour: 100.0 + hour)
    sites = [site(n, 123.0, outlook=Outlook(None, past), rate=rate, spin_up_s=0.0) for n, rate in (("slow", 1.0), ("fast", 9.0))]
    found = budgeted().decide(view(*sites, left=10 * 22.7 * HOUR))
    assert found["slow"].numbers["worth"] > 122.0


def test_when_everything_is_needed_everything_runs_and_when_that_is_too_late_there_is_an_alarm() -> None:
    sites = [site("a", 500.0), site("b", 20.0)]
    for left, alarm in ((2 * 24 * HOUR - 2 * 300.0, False), (2 * 24 * HOUR, True)):
        found = budgeted().decide(view(*sites, left=left))
        assert all(d.on for d in found.values())
        assert all(bool(d.alarm) == alarm for d in found.values())
        assert all(("too little is left" if alarm else "every site is needed") in d.reason for d in found.values())


def test_after_the_deadline_everything_runs_until_it_is_done() -> None:
    found = budgeted().decide(view(site(value=fresh(300.0, T + 30 * HOUR)), t=T + 30 * HOUR, left=100.0))
    assert found["a"].on
    assert "cannot be met" in found["a"].alarm
    done = budgeted().decide(view(site(value=fresh(300.0, T + 30 * HOUR)), t=T + 30 * HOUR, left=0.0))
    assert not done["a"].alarm


def test_without_an_end_everything_runs_and_nothing_is_alarmed() -> None:
    d = budgeted().decide(view(site(value=300.0, outlook=Outlook(ahead([300.0] * 24))), left=math.inf))["a"]
    assert d.on
    assert not d.alarm


PLANS: list[tuple[str, Outlook | None, float]] = [
    ("urgent", None, 24 * HOUR),
    ("planned", Outlook(ahead([5.0 + h for h in range(24)])), 20 * HOUR),
    ("climatology", Outlook(None, behind(lambda _: 5.0)), 20 * HOUR),
    ("nothing known", None, 6 * HOUR),
]


@pytest.mark.parametrize(("name", "outlook", "left"), PLANS, ids=[p[0] for p in PLANS])
def test_no_site_starts_without_a_fresh_reading_and_none_goes_on_with_a_stale_one(
    name: str, outlook: Outlook | None, left: float
) -> None:
    policy = budgeted()
    eager = {"acc": 1e12, "to": T}
    starts = policy.decide(view(site(value=0.0, outlook=outlook, memory=eager), left=left))["a"]
    assert starts.on, name
    for gone in (None, late(0.0), stale(0.0), fresh(math.nan), fresh(math.inf)):
        for memory in (eager, starts.memory):
            other = site("b", 0.0, outlook=outlook)
            for on in (False, True):
                was = site("a", gone, outlook=outlook, memory=memory, on=on, state="training" if on else "off")
                d = policy.decide(view(was, other, left=left))["a"]
                may_go_on = gone is not None and math.isfinite(gone.value) and not gone.is_stale(T)
                assert d.on == (on and may_go_on), (name, gone, on, d.reason)


def test_a_forecast_that_begins_late_does_not_stop_a_site_that_runs() -> None:
    made = replace(ahead([20.0] * 24), times=T + 200.0 + HOUR * np.arange(24))
    d = budgeted().decide(view(site(value=20.0, outlook=Outlook(made), on=True, state="training"), left=23.5 * HOUR))["a"]
    assert d.on
    assert "planned" in d.reason


def test_holes_in_a_forecast_are_filled_and_one_of_holes_alone_is_none() -> None:
    holes = Outlook(ahead([300.0, math.nan, 20.0, math.nan, 20.0] + [300.0] * 19))
    d = budgeted().decide(view(site(value=300.0, outlook=holes), left=2 * HOUR))["a"]
    assert not d.on
    assert T + 2 * HOUR - 300.0 <= d.memory["e0"] <= T + 3 * HOUR
    nothing = budgeted().decide(view(site(value=300.0, outlook=Outlook(ahead([math.nan] * 24))), left=2 * HOUR))["a"]
    assert not nothing.on


def test_prices_are_weighed_by_their_own_scale_and_named_in_their_own_unit(tmp_path: Path) -> None:
    c = config(tmp_path, {"a": [5.0] * 20}, signal='type = "price"\ncurrency = "AUD"', policy="deadline_h = 24")
    policy = build_policy(c, "budgeted")
    past = behind(lambda hour: -1.0 if hour in (1, 2, 3) else 1.0, days=28)
    told = []
    for value in (1.0, -2.0):
        reading = fresh(value, unit="AUD/MWh")
        d = policy.decide(view(site(value=reading, outlook=Outlook(None, past)), left=2 * HOUR))["a"]
        told.append(d)
        assert d.numbers["restart_cost"] == pytest.approx(300.0 * max(0.0, value))  # a start's energy, which earns at -2
        assert abs(d.numbers["worth"]) <= 1.0
    assert "AUD·s/MWh" in told[1].reason
    planned = budgeted().decide(view(site(value=fresh(5.0, unit="AUD/MWh"), outlook=Outlook(ahead([5.0] * 24))), left=2 * HOUR))[
        "a"
    ]
    assert "5.0 AUD/MWh" in planned.reason


def test_a_policy_without_a_deadline_is_refused(tmp_path: Path) -> None:
    c = config(tmp_path, {"a": [5.0] * 20})
    with pytest.raises(ConfigError, match="budgeted needs a deadline"):
        build_policy(c, "budgeted")
    assert build_policy(c, "budgeted", deadline_h=3.0).name == "budgeted"


@settings(max_examples=40)
@given(
    value=st.one_of(st.none(), st.floats(-500, 2000)), left=st.one_of(st.just(math.inf), st.floats(0, 1e6)),
    hours=st.floats(-30, 60), on=st.booleans(), state=st.sampled_from(["off", "provisioning", "training", "draining", "failed"]),
    forecast=st.one_of(st.none(), st.lists(st.floats(-500, 2000), min_size=1, max_size=30)), begins=st.floats(-20, 20),
    spin=st.sampled_from([0.0, 1.0, 340.0]), past=st.booleans(), memory=st.sampled_from([{}, {"acc": 5.0, "to": T}, {"x": 1.0}]),
)  # fmt: skip
def test_odd_input_is_decided_like_any_other_and_twice_the_same(
    value: float | None, left: float, hours: float, on: bool, state: str, forecast: list[float] | None, begins: float, spin: float,
    past: bool, memory: dict[str, float],
) -> None:  # fmt: skip
    t = T + hours * HOUR
    outlook = Outlook(
        ahead(forecast, start=t + begins * HOUR) if forecast else None, behind(lambda h: 40.0 * h - 80.0, until=t) if past else None
    )
    s = site(
        value=None if value is None else fresh(value, t), outlook=outlook, on=on, state=state, spin_up_s=spin, memory=memory,
        ready_in_s=spin / 2 if state == "provisioning" else 0.0,
    )  # fmt: skip
    policy = budgeted()
    one, two = (policy.decide(view(s, t=t, left=left)) for _ in range(2))
    assert one == two
    d = one["a"]
    assert all(isinstance(x, float) for x in d.memory.values())
    assert value is not None or not d.on
    # What it remembers can be decided on.
    again = policy.decide(view(replace(s, memory=d.memory, on=d.on), t=t + 60, left=left))["a"]
    assert again.reason
