"""What the same training would have emitted in one place that is always on: the comparison that the report leads with.

Equal tokens are taken as equal training hours: the run's own site-hours, at its own mean training power, without
interruption from the run's start, with the region's own readings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from windfall.config.schema import Config
from windfall.energy.account import always_on_kg
from windfall.errors import SignalError
from windfall.grid.build import Grid, build_grid
from windfall.grid.signal import Signal
from windfall.units import J_PER_KWH, clock_text

#: A comparison with less training behind it than this says nothing.
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


def load_grid(config: Config) -> tuple[Grid | None, str]:
    """The grid of a configuration, or None and why it cannot be built any more (a trace has been moved)."""
    try:
        return build_grid(config), ""
    except SignalError as e:
        return None, str(e)


def baselines(config: Config, summary: Mapping[str, Any], grid: Grid | None, why: str = "") -> list[Baseline]:
    """Every region of the configuration, cheapest first; those that cannot be computed last."""
    hours = float(summary["training_hours"])
    watts = float(summary["mean_training_watts"] or config.site[0].train_power_w)
    own = {s.region for s in config.site}
    regions = list(dict.fromkeys([*(s.region for s in config.site), *(c.region for c in config.counterfactual)]))
    start = summary["started_run"]
    found: list[Baseline] = []
    for region in regions:
        kg: float | None = None
        reason = why
        curve: list[tuple[float, float]] = []
        if start is None or hours <= _LEAST_HOURS:
            reason = "nothing has been trained yet"
        elif grid is not None:
            signal = grid.by_region[region]
            kg = always_on_kg(signal, watts, float(start), hours)
            if kg is None:
                reason = _why_not(signal, float(start), hours)
            else:
                curve = _curve(signal, watts, float(start), hours)
        share = float(summary["kg_co2"]) / kg if kg else None
        found.append(Baseline(region, region in own, kg, share, watts * hours / 1000.0, curve, "" if kg is not None else reason))
    return sorted(found, key=lambda b: (b.kg is None, b.kg or 0.0))


def headline(found: Sequence[Baseline]) -> Baseline | None:
    """The comparison to lead with: the cheapest region that the run has a site in, which flatters the run least."""
    return next((b for b in found if b.own and b.kg is not None and b.share is not None), None)


def _why_not(signal: Signal, start: float, hours: float) -> str:
    end = start + hours * 3600
    if end > signal.ends_at() + 1:
        last = clock_text(signal.ends_at())
        return f"its readings end at {last} UTC, {hours:.1f} h always on would last until {clock_text(end)}"
    if signal.starts_at() > start:
        return f"its readings begin at {clock_text(signal.starts_at())} UTC, after the run's start"
    return "its readings have a gap in these hours"


def _curve(signal: Signal, watts: float, start: float, hours: float) -> list[tuple[float, float]]:
    columns = signal.between(start, start + hours * 3600)
    total = 0.0
    found = [(start, 0.0)]
    for a, b, value in zip(columns.starts.tolist(), columns.ends.tolist(), columns.values.tolist(), strict=True):
        total += value * (b - a) * watts / J_PER_KWH / 1000.0 if math.isfinite(value) else 0.0
        found.append((b, total))
    return found
