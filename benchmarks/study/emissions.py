"""The study's day at its own size under several rules: emissions as shares of the cleanest region always on. Seconds."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass

import numpy as np
from benchmarks.study.scenarios import paper_day

from windfall.config.schema import Config
from windfall.energy.always_on import always_on
from windfall.grid.build import Grid, build_grid, recorded
from windfall.grid.signal import Forecast, StepSignal
from windfall.simulate.backtest import span_of
from windfall.simulate.simulation import Simulation, SimulationResult

DEADLINE_H = 14.65
#: Of forecasts with mistakes: how far off a window's borders are (standard deviation, s), and how many windows are not foreseen.
TIMING_S, MISSED = 1200.0, 0.1
SEEDS = 10


@dataclass(frozen=True)
class DayRow:
    """One rule over the day. ``share`` is of the cleanest baseline; of several draws means, and least and largest shares."""

    rule: str
    kg: float
    share: float
    finish_h: float | None
    kwh: float
    share_inside: float | None
    mark: float | None = None
    least: float | None = None
    largest: float | None = None
    median: float | None = None
    note: str = ""

    def as_json(self) -> dict[str, object]:
        """The row with whether it is within its mark."""
        return {**asdict(self), "met": None if self.mark is None else round(self.share, 4) <= self.mark}


class Mistaken(StepSignal):
    """A signal whose forecasts are its own future with windows moved, and some of them not foreseen at all."""

    def __init__(self, truth: StepSignal, under: float, start: float, end: float, seed: int) -> None:
        self.__dict__.update(truth.__dict__)
        rng = np.random.default_rng(seed)
        c = truth.between(start, end)
        starts, values = c.starts.copy(), c.values.copy()
        inside = values < under
        for i in range(1, len(starts)):
            if inside[i] != inside[i - 1]:
                starts[i] += rng.normal(0.0, TIMING_S)
        for i in np.flatnonzero(inside & ~np.concatenate(([False], inside[:-1]))).tolist():
            if rng.random() < MISSED:
                stop = i
                while stop < len(values) and inside[stop]:
                    values[stop] = values[i - 1] if i else values[~inside].max()
                    stop += 1
        starts = np.maximum.accumulate(starts)
        keep = np.append(np.diff(starts) > 0, True)
        self._told = StepSignal(starts[keep], values[keep], unit=truth.unit, source=truth.source, period_s=0.0, until=end)

    def forecast(self, t: float, horizon_s: float) -> Forecast | None:
        now, end = self.at(t), min(t + horizon_s, self._told.ends_at())
        if end <= t or now is None:
            return None
        c = self._told.between(t, end)
        # What holds now is seen, whatever was foreseen; from the next five minutes on the forecast is believed.
        later = c.starts > t + 300.0
        held = c.values[np.searchsorted(c.starts, t + 300.0, side="right") - 1]
        if t + 300.0 >= end:
            return Forecast(t, np.array([t]), np.array([now.value]), end)
        times, values = np.concatenate(([t, t + 300.0], c.starts[later])), np.concatenate(([now.value, held], c.values[later]))
        return Forecast(t, times, values, end)


def day() -> tuple[list[DayRow], dict[str, float]]:
    """The rows, and kg of each region always on."""
    config = paper_day()
    grid = build_grid(config)
    span = span_of(config, grid)
    hours, watts = config.backtest.baseline_site_hours or 0.0, config.site[0].train_power_w
    kg = {s.region: always_on(grid.by_region[s.region], watts, span.start, hours).kg or 0.0 for s in config.site}
    cleanest = min(kg.values())

    def row(rule: str, r: SimulationResult, mark: float | None = None, note: str = "") -> DayRow:
        finish = None if r.done_at is None else (r.done_at - span.start) / 3600
        return DayRow(rule, r.kg or 0.0, (r.kg or 0.0) / cleanest, finish, r.kwh, r.share_inside, mark, note=note)

    def run(
        policy: str, *, g: Grid = grid, c: Config = config, preset: str = "windfall", late_s: float | None = None
    ) -> SimulationResult:
        deadline = DEADLINE_H if policy == "budgeted" else None
        return Simulation(c, g, span, preset, delay_s=late_s).run(policy, deadline_h=deadline)

    rows = [
        row("the study's rule, simulated with its stall", run("paper", preset="prototype")),
        row("reactive (break-even)", run("breakeven"), 0.087),
        row("reactive, readings 5 min late", run("breakeven", late_s=300.0), 0.098),
        row("the default (learned), of which no past is known", run("learned")),
        row("the default, readings 5 min late", run("learned", late_s=300.0)),
        row(f"budgeted by {DEADLINE_H:g} h, perfect forecast", run("budgeted"), 0.061),
    ]
    draws = [run("budgeted", g=mistaken(config, grid, span.start, span.end, seed)) for seed in range(SEEDS)]
    shares = [(r.kg or 0.0) / cleanest for r in draws]
    finishes = [(r.done_at - span.start) / 3600 for r in draws if r.done_at is not None]
    inside = [r.share_inside for r in draws if r.share_inside is not None]
    rows.append(DayRow(
        f"budgeted by {DEADLINE_H:g} h, windows 20 min off, 10 % not foreseen", statistics.mean(s * cleanest for s in shares),
        statistics.mean(shares), max(finishes) if len(finishes) == SEEDS else None, statistics.mean(r.kwh for r in draws),
        statistics.mean(inside) if inside else None, None, min(shares), max(shares), statistics.median(shares),
        f"{SEEDS} draws; the latest finish",
    ))  # fmt: skip
    blind = _blind(config)
    rows.append(row(f"budgeted by {DEADLINE_H:g} h, no forecast", run("budgeted", g=build_grid(blind), c=blind)))
    return rows, kg


def mistaken(config: Config, grid: Grid, start: float, end: float, seed: int) -> Grid:
    """The grid with forecasts that are wrong; each region's own way, by ``seed``."""
    signals = {}
    for i, s in enumerate(config.site):
        label = s.signal.label
        drawn = Mistaken(recorded(grid.signals[s.name][label]), config.run.threshold_g_per_kwh, start, end, 1000 * seed + i)
        signals[s.name] = {**grid.signals[s.name], label: drawn}
    by_site = {s.name: signals[s.name][s.signal.label] for s in config.site}
    return Grid(by_site, {s.region: by_site[s.name] for s in config.site}, signals)


def _blind(config: Config) -> Config:
    """Nobody sees a forecast."""
    sites = [s.model_copy(update={"signal": s.signal.model_copy(update={"forecast": "none"})}) for s in config.site]
    return config.model_copy(update={"site": sites})
