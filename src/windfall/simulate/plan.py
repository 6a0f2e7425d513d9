"""Plan: what the next days will probably bring, from forecast and history, with a range.

The future is drawn many times. A draw takes the forecast as far as it reaches, and then for each day the readings of a past day;
that is the same day for every site, so regions that tend to be windy together stay so. The run's own policy is simulated over each
draw, and the plan gives quantiles over the draws. Nothing after the plan's instant is used, even if a trace knows it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from windfall.config.schema import Config
from windfall.errors import RunError
from windfall.grid.build import Grid
from windfall.grid.signal import Columns, Signal, StepSignal
from windfall.simulate.backtest import Row, compare
from windfall.simulate.quantiles import quantiles
from windfall.simulate.simulation import TimeSpan
from windfall.units import iso_utc

Array = npt.NDArray[np.float64]

_DAY_S = 86400.0
_LEAST_DAYS = 2
#: A past day is drawn only if at most so much of it is unknown (s).
_UNKNOWN_S = 3600.0
#: No draw is simulated for longer than this.
_LONGEST_DAYS = 120


@dataclass(frozen=True)
class DayPlan:
    """The plan of one day. Triples are the 10th, 50th and 90th percentile over the draws."""

    start: float
    hours_inside: dict[str, tuple[float, ...]]
    hours_training: dict[str, tuple[float, ...]]
    tokens: tuple[float, ...]


@dataclass(frozen=True)
class Plan:
    """The next days, and the whole budget. ``likely``: by site, how likely each hour of them is inside a window (0 to 1)."""

    at: float
    policy: str
    draws: int
    history_days: int
    #: How far each site's forecast reaches, in hours; 0 where there is none.
    forecast_h: dict[str, float]
    days: list[DayPlan]
    likely: dict[str, list[float]]
    finished: int
    finish_h: tuple[float, ...] | None
    kg_co2: tuple[float, ...] | None
    energy_kwh: tuple[float, ...] | None
    money: tuple[float, ...] | None
    budget_tokens: int

    def as_json(self) -> dict[str, Any]:
        """For `--json`. Times are ISO 8601, UTC."""

        def triple(x: tuple[float, ...] | None) -> dict[str, float] | None:
            return None if x is None else dict(zip(("p10", "p50", "p90"), x, strict=True))

        finish = triple(self.finish_h)
        return {
            "at": iso_utc(self.at), "policy": self.policy, "draws": self.draws, "history_days": self.history_days,
            "forecast_h": self.forecast_h, "budget_tokens": self.budget_tokens,
            "days": [
                {"start": iso_utc(d.start), "tokens": triple(d.tokens),
                 "hours_inside": {n: triple(x) for n, x in d.hours_inside.items()},
                 "hours_training": {n: triple(x) for n, x in d.hours_training.items()}}
                for d in self.days
            ],
            "likely_inside_by_hour": self.likely, "finished_draws": self.finished, "finish_h": finish,
            "finish": None if finish is None else {k: iso_utc(self.at + 3600 * v) for k, v in finish.items()},
            "kg_co2": triple(self.kg_co2), "energy_kwh": triple(self.energy_kwh), "money": triple(self.money),
        }  # fmt: skip


def make_plan(
    config: Config,
    grid: Grid,
    at: float,
    *,
    days: int = 3,
    draws: int = 40,
    tell: Callable[[float, str], None] = lambda _, what: None,
) -> Plan:
    """Plan the run of ``config`` from ``at`` (Unix seconds) on. ``tell`` is called with the share done and what is being done.

    Raises:
        RunError: less than two days of some signal are known before ``at``.
    """
    policy = config.policy.name
    past = {id(s): _past_days(s, at, config.policy.climatology_days) for _, s in _drawn_from(grid)}
    over = [n for n, s in grid.by_site.items() if s.ends_at() <= at - _DAY_S]
    if over and len(over) < len(grid.by_site):
        ends = iso_utc(grid.by_site[over[0]].ends_at())
        raise RunError(
            f"{', '.join(over)}: nothing is known any more, its readings end at {ends}, over a day before the plan would begin "
            f"({iso_utc(at)}); give a longer trace, plan from earlier (--at), or leave the site out"
        )
    known = min((len(p) for p in past.values()), default=0)
    if known < _LEAST_DAYS:
        name = next(n for n, s in _drawn_from(grid) if len(past[id(s)]) < _LEAST_DAYS)
        if at >= min(s.ends_at() for s in grid.by_site.values()) + _DAY_S:
            ends = iso_utc(min(s.ends_at() for s in grid.by_site.values()))
            raise RunError(f"the signals end at {ends}, before the plan would begin ({iso_utc(at)}); plan from earlier (--at)")
        raise RunError(
            f"a plan needs at least {_LEAST_DAYS} days of readings before {iso_utc(at)}, and of {name} fewer are known; plan from "
            "later (--at), or give a longer trace or a provider with history"
        )
    length = _LONGEST_DAYS
    begin = np.floor(at / _DAY_S) * _DAY_S
    # Deadlines and delays are those of the run, not of the configured backtest.
    one = config.model_copy(
        update={
            "backtest": config.backtest.model_copy(
                update={"publication_delays_s": [], "target": "budget", "start": None, "site_hours": None}
            )
        }
    )
    rows: list[Row] = []
    grids: list[dict[str, StepSignal]] = []
    for i in range(draws):
        tell(i / draws, f"future {i + 1} of {draws}")
        order = [random.Random(f"{config.run.seed} {i} {d}").randrange(known) for d in range(length)]
        made = {key: _future(grid, key, p, order, at, float(begin)) for key, p in past.items()}
        drawn = Grid(
            {n: made[id(s)] for n, s in grid.by_site.items()}, {},
            {n: {label: made[id(s)] for label, s in found.items()} for n, found in grid.signals.items()},
            {n: made[id(s)] for n, s in grid.supplies.items()},
        )  # fmt: skip
        rows += compare(one, drawn, TimeSpan(at, at + length * _DAY_S), [policy], judged=False)
        grids.append({n: made[id(s)] for n, s in grid.by_site.items()})
    return _summed(config, grid, at, days, rows, grids, known)


def _drawn_from(grid: Grid) -> list[tuple[str, Signal]]:
    """Every signal whose future is drawn, with its site: those of policies and accounts, and what plants behind meters deliver."""
    return [*((n, s) for n, found in grid.signals.items() for s in found.values()), *grid.supplies.items()]


def _past_days(signal: Signal, at: float, most: float) -> list[Columns]:
    """Whole days before ``at``, newest first, their times counted from the day's begin. Days with much unknown are left out."""
    history = signal.history(at, (most + 1) * _DAY_S).known()
    if not len(history.values):
        return []
    found: list[Columns] = []
    end = np.floor(min(at, history.ends[-1]) / _DAY_S) * _DAY_S
    while len(found) < most and end - _DAY_S >= history.starts[0] - 1.0:
        inside = (history.ends > end - _DAY_S) & (history.starts < end)
        starts = np.maximum(history.starts[inside], end - _DAY_S) - (end - _DAY_S)
        ends = np.minimum(history.ends[inside], end) - (end - _DAY_S)
        if (ends - starts).sum() >= _DAY_S - _UNKNOWN_S:
            found.append(Columns(starts, ends, history.values[inside]))
        end -= _DAY_S
    return found


def _future(grid: Grid, key: int, past: Sequence[Columns], order: Sequence[int], at: float, begin: float) -> StepSignal:
    """One drawn future of a signal: history as it was, then the forecast where it has values, else the drawn past days."""
    signal = next(s for _, s in _drawn_from(grid) if id(s) == key)
    days = [(begin + d * _DAY_S, past[k]) for d, k in enumerate(order)]
    drawn = Columns(
        np.concatenate([t + c.starts for t, c in days]), np.concatenate([t + c.ends for t, c in days]),
        np.concatenate([c.values for _, c in days]),
    )  # fmt: skip
    history = signal.history(at, 40 * _DAY_S).known()
    parts = [history, drawn]
    forecast = signal.forecast(at, 7 * _DAY_S)
    if forecast is not None and len(forecast.values):
        parts.append(Columns(forecast.times, np.append(forecast.times[1:], forecast.ends_at), forecast.values).known())
    edges = np.unique(np.concatenate([x for c in parts for x in (c.starts, c.ends)] + [np.array([at])]))
    values = _held(history, edges)
    for c in parts[1:]:
        found = _held(c, edges)
        values = np.where((edges >= at) & np.isfinite(found), found, values)
    # Each value holds for its own length only, so what none of the parts knows stays unknown.
    lengths = np.append(np.diff(edges), 0.0)
    keep = np.isfinite(values) & (lengths > 0)
    return StepSignal(
        edges[keep], values[keep], unit=signal.unit, source="drawn", period_s=1.0, periods=lengths[keep], stale_periods=1.0,
    )  # fmt: skip


def _held(c: Columns, at: Array) -> Array:
    """The value of the interval in which each instant lies [n]; NaN where there is none."""
    if not len(c.values):
        return np.full(len(at), np.nan)
    i = np.searchsorted(c.starts, at, side="right") - 1
    return np.where((i >= 0) & (at < c.ends[i]), c.values[i], np.nan)


def _summed(
    config: Config, grid: Grid, at: float, days: int, rows: Sequence[Row], drawn: Sequence[Mapping[str, StepSignal]], known: int
) -> Plan:
    from windfall.energy.tariff import inside_of
    from windfall.simulate.curves import trained as tokens_trained

    inside = {s.name: inside_of(s, config.run) for s in config.site}
    planned = []
    likely: dict[str, list[float]] = {}
    for s in config.site:
        hours = np.zeros(days * 24)
        for signals in drawn:
            c = signals[s.name].between(at, at + days * _DAY_S)
            opened = inside[s.name](c.values)
            for h in range(days * 24):
                a, b = at + h * 3600.0, at + (h + 1) * 3600.0
                overlap = np.clip(np.minimum(c.ends, b) - np.maximum(c.starts, a), 0.0, None)
                hours[h] += float(overlap[opened].sum()) / 3600.0
        likely[s.name] = [round(float(x), 3) for x in hours / len(drawn)]
    for d in range(days):
        a, b = at + d * _DAY_S, at + (d + 1) * _DAY_S
        trained = {
            n: [sum(max(0.0, min(t1, b) - max(t0, a)) for t0, t1, state in r.lanes[n] if state == "training") / 3600 for r in rows]
            for n in inside
        }
        open_hours = {}
        for n in inside:
            columns = [signals[n].between(a, b) for signals in drawn]
            open_hours[n] = quantiles([float((c.ends - c.starts)[inside[n](c.values)].sum()) / 3600 for c in columns])
        tokens = [sum(tokens_trained(r, s, a, b) for s in config.site) for r in rows]
        planned.append(DayPlan(a, open_hours, {n: quantiles(x) for n, x in trained.items()}, quantiles(tokens)))
    done = [r for r in rows if r.finish_h is not None]

    def over(values: list[float | None]) -> tuple[float, ...] | None:
        found = [v for v in values if v is not None]
        return quantiles(found) if found else None

    reach = {}
    for n, signal in grid.by_site.items():
        f = signal.forecast(at, 7 * _DAY_S)
        reach[n] = 0.0 if f is None else max(0.0, f.ends_at - at) / 3600
    return Plan(
        at=at, policy=config.policy.name, draws=len(rows), history_days=known, forecast_h=reach, days=planned, likely=likely,
        finished=len(done), finish_h=over([r.finish_h for r in done]), kg_co2=over([r.kg_co2 for r in done]),
        energy_kwh=over([r.energy_kwh for r in done]), money=over([r.money for r in done]), budget_tokens=config.run.budget_tokens,
    )  # fmt: skip
