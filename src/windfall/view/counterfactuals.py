"""What every alternative to a run would have cost: the same tokens, at the run's own pace and power, under the same readings.

The alternatives: each region always on; all sites always on; the run's own on-periods at random times; a threshold without
hysteresis; the study's rule; the oracle, which knew all readings to come. Rules and oracle go through the controller and the
account of a backtest. All of it follows from the run's directory and its traces alone, and is the same whenever it is asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from windfall.config.schema import Config
from windfall.energy.always_on import always_on
from windfall.energy.tariff import Tariff
from windfall.errors import WindfallError
from windfall.grid.build import Grid
from windfall.grid.signal import Signal
from windfall.policy.base import Policy
from windfall.policy.build import build_policy
from windfall.policy.planner import plan_budget
from windfall.simulate.curves import Curve, added, emitted
from windfall.simulate.oracle import gap, planned_sites, same_unit
from windfall.simulate.simulation import Simulation, SimulationResult, TimeSpan
from windfall.store.rundir import RunDir
from windfall.store.telemetry_energy import EnergyRow, EnergySums
from windfall.store.telemetry_states import StateRow
from windfall.units import clock_text
from windfall.view.as_it_ran import as_it_ran
from windfall.view.baselines import (
    NOTHING,
    Counterfactual,
    MeasuredPace,
    baselines,
    cumulative,
    headline,
    mean_pace,
    method_of,
    nothing_to_compare,
    paces,
    points_of,
    share,
    why_not,
)
from windfall.view.moment import Moment, one_moment
from windfall.view.recorded import Readings, configuration, known_part, load_grid
from windfall.view.shuffled import Shuffled, shuffled
from windfall.view.state import RunState, run_state
from windfall.view.text import safe
from windfall.view.tokens_paid import own_count

#: Seeds of those that are drawn.
SEEDS = 200
#: Instants at which one that is drawn is looked at.
_DRAWN_AT = 1000
#: With a larger share of its energy in hours without a reading an alternative cannot be compared.
_UNKNOWN = 1e-3
#: How much longer than the run an alternative may take: so many times its length, and at least so many seconds.
_LONGER, _LEAST_S = 10.0, 60 * 86400.0
_NAMES = {
    "all_on": "all sites always on",
    "random": "the same duty at random times",
    "threshold": "threshold without hysteresis",
    "paper": "the study's rule",
    "oracle": "oracle",
}
MIXED = "sites count emissions by marginal and by average intensity, and these do not add"


@dataclass(frozen=True, slots=True)
class Counterfactuals:
    """A run beside its alternatives. ``rows``: regions, cleanest first, then all sites always on, random, rules and the oracle.

    ``tokens`` are what all of them train: those that the run has committed. ``unknown_h``: site-hours of the run itself without a
    reading, whose energy is in no kg.
    """

    tokens: int
    kg: float | None
    kwh: float
    money: dict[str, float]
    site_hours: float
    hours: float
    unknown_h: float
    method: str
    rows: tuple[Counterfactual, ...]
    notes: tuple[str, ...]

    @property
    def regions(self) -> list[Counterfactual]:
        """Each region always on, cleanest first."""
        return [r for r in self.rows if r.kind == "region"]

    @property
    def headline(self) -> Counterfactual | None:
        """The region that the run is first compared with."""
        return headline(self.rows)

    def of(self, kind: str) -> Counterfactual:
        """The first row of a kind."""
        return next(r for r in self.rows if r.kind == kind)

    def as_json(self) -> dict[str, Any]:
        """The same as an object of JSON, without curves; names are those of the exported table."""
        rows = [
            {
                "name": r.name, "kind": r.kind, "region": r.region, "own": r.own, "kg_co2": r.kg, "run_share": r.share,
                "kg_low": r.kg_low, "kg_high": r.kg_high, "seeds": r.seeds, "energy_kwh": r.kwh, "money": r.money,
                "site_hours": r.site_hours, "finish_h": r.finish_h, "starts": r.starts, "unknown_h": r.unknown_h,
                "why_not": safe(r.why) or None, "note": r.note or None,
            }
            for r in self.rows
        ]  # fmt: skip
        return {
            "tokens": self.tokens, "method": self.method, "unknown_h": self.unknown_h, "notes": [safe(n) for n in self.notes],
            "rows": rows,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Ways:
    """What alternatives are computed from."""

    config: Config
    grid: Grid
    state: RunState
    paces: Mapping[str, MeasuredPace]
    mean: MeasuredPace
    start: float
    span_s: float


def counterfactuals(
    config: Config, state: RunState, readings: Readings, rows: Sequence[EnergyRow], sums: Sequence[EnergySums],
    states: Sequence[StateRow], trained: Mapping[str, int] | None = None,
) -> Counterfactuals:  # fmt: skip
    """All alternatives of a run. ``rows``, ``sums``, ``states``: its account and the states of its sites."""
    found = baselines(config, state, readings.grid, readings.why, trained)
    found += _others(config, state, readings, rows, sums, states, trained)
    notes = [readings.why] if readings.why and readings.grid is not None else []
    unknown = state.unpriced_kwh
    if state.kg_co2 is not None and unknown > _UNKNOWN * state.energy_kwh:
        used = f"{unknown:,.3g} kWh of the run itself were used in hours without a reading"
        notes.append(f"{used}: its kg and its shares are too low")
    behind = [s.name for s in config.site if s.microgrid is not None]
    if behind:
        notes.append(f"alternatives that are always on take all of their energy from the grid, also at {', '.join(behind)}")
    if state.state not in ("done", "interrupted") and state.tokens_committed > 0:
        notes.append(f"the run is {state.state}: only what is committed by now is compared")
    money: dict[str, float] = {}
    currencies = {s.name: x.currency for s in config.site for x in reversed(s.all_signals) if x.type == "price"}
    for r in rows:
        if r.money is not None and (currency := currencies.get(r.site, "")):
            money[currency] = money.get(currency, 0.0) + r.money
    method = method_of(config)
    dark = [r for r in rows if (r.inside == -1 if method == "none" else r.g_per_kwh is None) and not r.cause and r.phase != "off"]
    return Counterfactuals(
        state.tokens_committed, state.kg_co2, state.energy_kwh, money, state.training_hours, state.run_hours,
        math.fsum(r.t1 - r.t0 for r in dark) / 3600.0, method, tuple(found), tuple(notes),
    )  # fmt: skip


def run_counterfactuals(run: RunDir, at: Moment | None = None) -> Counterfactuals:
    """The alternatives of a run in its directory; ``at``: the moment to read (default: now).

    Raises:
        StoreError: there is no run, or its databases cannot be read.
        ConfigError: its configuration cannot be read.
    """
    config = configuration(run)
    with one_moment(run, at) as now:
        state = run_state(run, now)
        readings = load_grid(config, run, now)
        t = now.telemetry
        rows, sums, states = (t.energy(), t.energy_sums(), t.states()) if t else ([], [], [])
    return counterfactuals(config, state, readings, rows, sums, states, own_counts(run, state))


def own_counts(run: RunDir, state: RunState) -> dict[str, int]:
    """Tokens that sites have taken steps on by their own count, where it is here; of a run that goes on, none."""
    if state.state not in ("done", "interrupted"):
        return {}
    return {name: count for name in state.sites if (count := own_count(run, name)) is not None}


def _others(
    config: Config, state: RunState, readings: Readings, rows: Sequence[EnergyRow], sums: Sequence[EnergySums],
    states: Sequence[StateRow], trained: Mapping[str, int] | None,
) -> list[Counterfactual]:  # fmt: skip
    paced = paces(state, trained)
    mean = mean_pace(state, paced)
    why = nothing_to_compare(state) or (readings.why if readings.grid is None else "")
    if why or mean is None or readings.grid is None or state.started_run is None:
        return [Counterfactual(name, kind, why=why or NOTHING) for kind, name in _NAMES.items()]
    known, grid = known_part(config, readings.grid)
    mine = as_it_ran(known, state, paced, mean, sums, states)
    ways = _Ways(mine, grid, state, paced, mean, state.started_run, state.run_hours * 3600.0)
    plain = known.policy.model_copy(
        update={
            "start_g_per_kwh": config.run.threshold_g_per_kwh, "stop_g_per_kwh": None, "confirm_s": 0.0, "off_delay_s": 0.0,
            "min_up_s": 0.0,
        }
    )  # fmt: skip
    return [
        _all_on(ways),
        _at_random(ways, rows),
        _ruled(ways, "threshold", known.model_copy(update={"policy": plain})),
        _ruled(ways, "paper", known),
        _oracle(ways),
    ]


def _all_on(ways: _Ways) -> Counterfactual:
    """Every site from the start on, without a start and without a pause."""
    name, kind = _NAMES["all_on"], "all_on"
    sites = ways.config.site
    hours = ways.state.tokens_committed / sum(s.tokens_per_s for s in sites) / 3600.0
    tariffs = {s.name: Tariff.of(s, ways.grid.signals[s.name], ways.config.run) for s in sites}
    kg, unknown, said = 0.0, 0.0, MIXED if method_of(ways.config) == "mixed" else ""
    curves: list[Curve] = []
    money: dict[str, float] = {}
    for s in sites:
        t = tariffs[s.name]
        if t.price is not None:
            paid = always_on(t.price, s.train_power_w, ways.start, hours).whole_kg
            money[t.currency] = math.nan if paid is None else money.get(t.currency, 0.0) + paid
        if t.emissions is None:
            said = said or "its sites have no intensity of emissions"
            continue
        made = always_on(t.emissions, s.train_power_w, ways.start, hours)
        curves.append(cumulative(t.emissions, s.train_power_w, ways.start, hours))
        unknown += made.unknown_h
        kg += made.kg or 0.0
        if made.whole_kg is None:
            said = said or f"{s.name}: {why_not(t.emissions, ways.start, hours)}"
    whole = None if said else kg
    return Counterfactual(
        name, kind, whole, share(ways.state, whole), hours * sum(s.train_power_w for s in sites) / 1000.0,
        {c: m for c, m in money.items() if not math.isnan(m)}, hours * len(sites), hours, None, unknown, why=said,
        curve=() if whole is None else points_of(added(curves)),
    )  # fmt: skip


def _at_random(ways: _Ways, rows: Sequence[EnergyRow]) -> Counterfactual:
    """The run's own on-periods, each site's in a random order at random times between the run's start and now."""
    name, kind = _NAMES["random"], "random"
    end = ways.start + ways.span_s
    found: list[Shuffled] = []
    money: dict[str, float] = {}
    said = MIXED if method_of(ways.config) == "mixed" else ""
    behind = [s.name for s in ways.config.site if s.microgrid is not None]
    if behind:
        said = said or f"{', '.join(behind)}: its own plants and battery would have given something else at other times"
    gone = sorted({r.site for r in rows} - {s.name for s in ways.config.site})
    if gone:
        said = said or f"{', '.join(gone)}: no part of the run any more, so nothing says what other times would have cost there"
    for i, s in enumerate(ways.config.site):
        own = [r for r in rows if r.site == s.name]
        if not own or said:
            continue
        t = Tariff.of(s, ways.grid.signals[s.name], ways.config.run)
        if t.emissions is None:
            said = "its sites have no intensity of emissions"
            continue
        made = shuffled(own, t.emissions, t.price, ways.start, end, SEEDS, seed=(ways.config.run.seed, i))
        if made is None:
            said = f"{s.name} was on for longer than there are readings"
            continue
        found.append(made)
        if made.money is not None:
            money[t.currency] = money.get(t.currency, 0.0) + float(np.median(made.money))
    if said or not found:
        return Counterfactual(name, kind, why=said or NOTHING)
    drawn = np.sum([f.kg for f in found], axis=0)
    low, middle, high = np.percentile(drawn, (10, 50, 90)).tolist()
    state, times = ways.state, np.linspace(ways.start, end, _DRAWN_AT)
    # One of the draws stands for all: that which comes nearest to the median.
    typical = int(np.argmin(np.abs(drawn - middle)))
    along = np.sum([f.kg_by(typical, times) for f in found], axis=0)
    return Counterfactual(
        name, kind, middle, share(state, middle), sum(f.kwh for f in found), money, state.training_hours, state.run_hours,
        sum(x.starts for x in state.sites.values()), 0.0, low, high, SEEDS, curve=points_of(Curve(times, along)),
    )  # fmt: skip


def _ruled(ways: _Ways, kind: str, policed: Config) -> Counterfactual:
    """A rule from the run's start on. Its levels and demands are those of ``policed``, within its limits."""
    try:
        return _simulated(ways, kind, build_policy(policed, kind))
    except WindfallError as e:
        return Counterfactual(_NAMES[kind], kind, why=str(e))


def _simulated(ways: _Ways, kind: str, policy: Policy) -> Counterfactual:
    ends = max(s.ends_at() for s in ways.grid.by_site.values())
    end = min(ends, ways.start + max(_LONGER * ways.span_s, _LEAST_S))
    if end <= ways.start:
        return Counterfactual(_NAMES[kind], kind, why=f"its readings end at {clock_text(ends)} UTC, before the run's start")
    simulation = Simulation(ways.config, ways.grid, TimeSpan(ways.start, end), "windfall")
    return _row(ways, kind, simulation.decided_by(policy), end)


def _oracle(ways: _Ways) -> Counterfactual:
    """The least that could have been emitted for these tokens in the run's own time; of prices, if nothing says what is emitted."""
    kind, name = "oracle", _NAMES["oracle"]
    config, end = ways.config, ways.start + ways.span_s
    signals: dict[str, Signal] = {}
    method = method_of(config)
    for s in config.site:
        t = Tariff.of(s, ways.grid.signals[s.name], config.run)
        signals[s.name] = t.emissions or t.first
    if method == "mixed":
        return Counterfactual(name, kind, why=MIXED)
    if method == "none" and not same_unit(config):
        return Counterfactual(name, kind, why="what is best for its sites is not in one unit")
    simulation = Simulation(config, ways.grid, TimeSpan(ways.start, end), "windfall")
    rates = {s.name: s.tokens_per_s for s in config.site}
    sites = planned_sites(config, signals, simulation.model, ways.start, end, rates)
    # A run that was on all the time has no room for rounding.
    made = plan_budget(sites, ways.state.tokens_committed * (1 - 1e-6)) if sites else None
    if made is None or not made.reachable:
        return Counterfactual(name, kind, why="no schedule has these tokens in the run's time at its sites' mean pace and starts")
    result = simulation.scheduled({n: [(p.start, p.stop) for p in periods] for n, periods in made.on_periods.items()})
    row = _row(ways, kind, result, end, whole=1 - 1e-5)
    if any(s.microgrid is not None for s in config.site):
        return replace(row, note="planned as if all energy came from the grid: with its own plants less may be possible")
    return replace(row, note=f"no schedule is cheaper by more than {gap(made) * 100:.2f} %")


def _row(ways: _Ways, kind: str, o: SimulationResult, end: float, whole: float = 1.0) -> Counterfactual:
    """A simulation as a row. ``whole``: the share of the tokens that it must have trained to be compared."""
    state, name = ways.state, _NAMES[kind]
    done = o.done_at is not None or o.tokens >= whole * state.tokens_committed
    unknown = _dark_hours(ways, o)
    finish = (end if o.done_at is None else o.done_at) - ways.start
    said = ""
    if not done:
        reached = f"{o.tokens / state.tokens_committed:.0%} of the tokens"
        said = f"it has trained {reached} by {clock_text(end)} UTC, where its readings end"
    elif method_of(ways.config) == "mixed":
        said = MIXED
    elif o.unknown_kwh > _UNKNOWN * o.kwh:
        said = f"{unknown:.1f} h of its {o.site_hours:.1f} site-hours have no reading"
    elif o.kg is None:
        said = "its sites have no intensity of emissions"
    kg = None if said else o.kg
    return Counterfactual(
        name, kind, kg, share(state, kg), o.kwh if done else None, o.money_by_currency if done else {}, o.site_hours,
        finish / 3600.0 if done else None, o.starts, unknown, why=said,
        curve=() if kg is None else _curve(ways, o, ways.start + finish),
    )  # fmt: skip


def _curve(ways: _Ways, o: SimulationResult, until: float) -> tuple[tuple[float, float], ...]:
    """A simulation's kg over run time; nothing where plants and a battery of its own make them, of which only the sum is known."""
    if any(s.microgrid is not None for s in ways.config.site):
        return ()
    made = emitted(o, "marginal" if "marginal" in o.kg_by_method else "average", ways.config, ways.grid)
    if made is None:
        return ()
    times = np.append(made.times[made.times < until], until)
    return points_of(Curve(times, made.at(times)))


def _dark_hours(ways: _Ways, o: SimulationResult) -> float:
    """Hours in which sites were on, and nobody knows by what their energy is priced."""
    total = 0.0
    for s in ways.config.site:
        t = Tariff.of(s, ways.grid.signals[s.name], ways.config.run)
        signal = t.emissions or t.first
        for t0, t1, state in o.lanes[s.name]:
            if state != "off" and t1 > t0:
                c = signal.between(t0, t1)
                total += float((c.ends - c.starts)[~np.isfinite(c.values)].sum())
    return total / 3600.0
