"""What the same training would have emitted at one site that is always on. The report begins with this comparison.

Equal tokens count as equal hours of training. So a baseline has the run's site-hours at its mean training power, without
interruption from the run's start, with the readings of the baseline's region.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from windfall.config.schema import Config
from windfall.energy.always_on import always_on
from windfall.energy.tariff import Tariff
from windfall.errors import SignalError
from windfall.grid.build import Grid, build_grid
from windfall.grid.signal import Signal, StepSignal
from windfall.store.rundir import RunDir
from windfall.units import J_PER_KWH, clock_text
from windfall.view.moment import Moment, one_moment
from windfall.view.state import RunState

Array = npt.NDArray[np.float64]

#: With less training (s) than this a comparison means nothing.
_LEAST_HOURS = 1e-6


@dataclass(frozen=True, slots=True)
class Baseline:
    """One region, always on. ``kg`` is None where ``why`` says why; ``share`` is the run's kg over it."""

    region: str
    #: Whether the run has a site there (else it is a counterfactual region).
    own: bool
    kg: float | None
    share: float | None
    kwh: float
    #: (run time, kg so far) at every change of the reading.
    curve: list[tuple[float, float]]
    why: str


def load_grid(config: Config, run: RunDir | None = None, at: Moment | None = None) -> tuple[Grid | None, str]:
    """The grid of a configuration, or None and why it cannot be built any more (a trace has been moved).

    Of live signals, what ``run`` recorded of them (by ``at``, default: now); without a run, what this machine has heard.
    """
    try:
        grid = build_grid(config)
    except SignalError as e:
        return None, str(e)
    if run is None or not any(s.signal.live for s in config.site):
        return grid, ""
    heard = _heard(run, at)
    for site in config.site:
        if site.signal.live and site.name in heard:
            times, values = heard[site.name]
            signal = StepSignal(
                times, values, unit=grid.by_site[site.name].unit, source="recorded", period_s=site.signal.period_s,
                publication_delay_s=site.signal.publication_delay_s, stale_periods=site.signal.stale_periods,
            )  # fmt: skip
            grid.by_site[site.name] = grid.signals[site.name][site.signal.label] = signal
            if next(s.name for s in config.site if s.region == site.region) == site.name:
                grid.by_region[site.region] = signal
    return grid, ""


def _heard(run: RunDir, at: Moment | None) -> dict[str, tuple[Array, Array]]:
    """Instants and values of the readings that a run recorded, by site."""
    with one_moment(run, at) as now:
        if now.telemetry is None:
            return {}
        rows = now.telemetry.readings()
    found: dict[str, tuple[list[float], list[float]]] = {}
    for r in rows:
        times, values = found.setdefault(r.site, ([], []))
        times.append(r.valid_from)
        values.append(r.value)
    return {n: (np.array(t), np.array(v)) for n, (t, v) in found.items()}


def baselines(config: Config, state: RunState, grid: Grid | None, why: str = "") -> list[Baseline]:
    """Every region of the configuration, cleanest first; those that cannot be computed last."""
    hours = state.training_hours
    watts = state.mean_training_watts or config.site[0].train_power_w
    own = {s.region for s in config.site}
    regions = list(dict.fromkeys([*(s.region for s in config.site), *(c.region for c in config.counterfactual)]))
    start = state.started_run
    found: list[Baseline] = []
    for region in regions:
        kg: float | None = None
        reason = why
        curve: list[tuple[float, float]] = []
        if start is None or hours <= _LEAST_HOURS:
            reason = "nothing has been trained yet"
        elif grid is not None and (signal := _emissions(config, grid, region)) is None:
            reason = "its signal is no intensity of emissions"
        elif grid is not None:
            assert signal is not None
            kg = always_on(signal, watts, float(start), hours).whole_kg
            if kg is None:
                reason = _why_not(signal, float(start), hours)
            else:
                curve = _curve(signal, watts, float(start), hours)
        share = state.kg_co2 / kg if kg and state.kg_co2 is not None else None
        found.append(Baseline(region, region in own, kg, share, watts * hours / 1000.0, curve, "" if kg is not None else reason))
    return sorted(found, key=lambda b: (b.kg is None, b.kg or 0.0))


def _emissions(config: Config, grid: Grid, region: str) -> Signal | None:
    """The signal that a region's emissions are counted by, if it has one."""
    for site in config.site:
        if site.region == region:
            return Tariff.of(site, grid.signals[site.name], config.run).emissions
    table = next(c.signal for c in config.counterfactual if c.region == region)
    return grid.by_region[region] if table.type in ("marginal_co2", "average_co2") else None


def headline(found: Sequence[Baseline]) -> Baseline | None:
    """The comparison to begin with: the run's region that would have emitted least, which is the hardest to beat."""
    return next((b for b in found if b.own and b.kg is not None and b.share is not None), None)


def _why_not(signal: Signal, start: float, hours: float) -> str:
    end = start + hours * 3600
    if end > signal.ends_at() + 1:
        last = clock_text(signal.ends_at())
        return f"its readings end at {last} UTC, {hours:.1f} h always on would last until {clock_text(end)}"
    if signal.starts_at() > start:
        return f"its readings begin at {clock_text(signal.starts_at())} UTC, after the run's start"
    known = always_on(signal, 1.0, start, hours)
    return f"{known.unknown_h:.1f} of these {hours:.1f} h have no reading"


def _curve(signal: Signal, watts: float, start: float, hours: float) -> list[tuple[float, float]]:
    columns = signal.between(start, start + hours * 3600)
    total = 0.0
    found = [(start, 0.0)]
    for a, b, value in zip(columns.starts.tolist(), columns.ends.tolist(), columns.values.tolist(), strict=True):
        total += value * (b - a) * watts / J_PER_KWH / 1000.0 if math.isfinite(value) else 0.0
        found.append((b, total))
    return found
