"""Finds how long each row of a trace counts: its resolution, which may change within a file, and the holes in it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from windfall.units import duration_text, iso_utc

Array = npt.NDArray[np.float64]

#: Steps that differ by a smaller factor belong to one resolution, because clocks jitter.
_ALIKE = 1.12
#: A resolution takes at least so many equal steps in a row; in a long file more, up to the second number.
_SUSTAINED, _SUSTAINED_LONG = 3, 12
#: At least this share of all steps of that length must be in such rows. Steps that come from single lost rows are not.
_SHARE = 0.5
#: A step longer than so many periods is a hole.
HOLE = 1.5


def sustained(times: Array) -> Array:
    """The resolution (s) of each step between neighbouring rows [n - 1]; NaN for a hole or an irregular step.

    ``times`` [n] are sorted. A resolution must last for several rows, so a hole is not taken for one.
    """
    steps = np.diff(times)
    found = np.full(len(steps), np.nan)
    if len(steps) < _SUSTAINED:
        return found
    low, high = np.minimum(steps[1:], steps[:-1]), np.maximum(steps[1:], steps[:-1])
    edges = np.flatnonzero(~((low > 0) & (high <= low * _ALIKE)))
    begins, ends = np.append(0, edges + 1), np.append(edges + 1, len(steps))
    longest = np.maximum.reduceat(steps, begins)
    count = ends - begins
    enough = max(_SUSTAINED, min(_SUSTAINED_LONG, len(times) // 50))
    long = (count >= enough) & (longest > 0)
    # Runs of about the same step length are judged together.
    kinds = np.sort(np.unique(longest[long]))
    if not len(kinds):
        return found
    groups = np.split(kinds, np.flatnonzero(kinds[1:] > kinds[:-1] * _ALIKE) + 1)
    for group in groups:
        of_it = (longest >= group[0] / _ALIKE) & (longest <= group[-1] * _ALIKE)
        several = of_it & (count >= _SUSTAINED)
        if not (of_it & long).any() or count[several].sum() < _SHARE * count[of_it].sum():
            continue
        for a, b, step in zip(begins[several].tolist(), ends[several].tolist(), longest[several].tolist(), strict=True):
            found[a:b] = step
    return found


def row_periods(times: Array, default: float, *, ends: bool = False) -> Array:
    """How long each row counts (s): its resolution, ``default`` where none can be seen.

    ``times`` are sorted; they are where rows begin, or with ``ends`` where they end. A row before a hole is like those
    before it; with ``ends`` a row after a hole is like those after it.
    """
    n = len(times)
    steps = sustained(times)
    if not np.isfinite(steps).any():
        return np.full(n, float(default))
    return _filled(np.append(np.nan, steps)[::-1])[::-1] if ends else _filled(np.append(steps, np.nan))


def _filled(values: Array) -> Array:
    """``values`` with each NaN replaced by the value before it, or at the beginning by the first value."""
    real = np.isfinite(values)
    place = np.maximum.accumulate(np.where(real, np.arange(len(values)), -1))
    place[place < 0] = int(np.argmax(real))
    return values[place]


@dataclass(frozen=True, slots=True)
class ResolutionPart:
    """Rows of one resolution: ``begin`` and ``end`` are Unix seconds."""

    begin: float
    end: float
    period_s: float
    rows: int


def resolution_parts(times: Array, periods: Array) -> list[ResolutionPart]:
    """The parts of a trace that have one resolution each, in order."""
    if not len(times):
        return []
    low, high = np.minimum(periods[1:], periods[:-1]), np.maximum(periods[1:], periods[:-1])
    edges = [0, *(np.flatnonzero(high > low * _ALIKE) + 1).tolist(), len(times)]
    return [
        ResolutionPart(float(times[a]), float(times[b - 1] + periods[b - 1]), float(np.median(periods[a:b])), b - a)
        for a, b in pairwise(edges)
    ]


def holes(times: Array, periods: Array) -> list[tuple[float, float]]:
    """From when to when rows are missing: from the end of a row's period to the next row."""
    steps = np.diff(times)
    at = np.flatnonzero(steps > HOLE * periods[:-1])
    return [(float(times[i] + periods[i]), float(times[i + 1])) for i in at.tolist()]


def span_text(seconds: float) -> str:
    """As ``duration_text``; what is longer than three days in days."""
    return f"{seconds / 86400:,.1f} days" if seconds > 3 * 86400 else duration_text(seconds)


def holes_text(found: list[tuple[float, float]], most: int = 3) -> str:
    """How many holes, how long in all, and the largest: from when to when."""
    total = sum(b - a for a, b in found)
    largest = sorted(sorted(found, key=lambda h: h[0] - h[1])[:most])
    shown = ", ".join(f"{iso_utc(a)} to {iso_utc(b)} ({span_text(b - a)})" for a, b in largest)
    if len(found) == 1:
        return f"rows are missing from {shown}"
    if len(found) <= most:
        return f"rows are missing {len(found)} times: {shown}"
    return f"rows are missing {len(found):,} times, {span_text(total)} in all; the longest: {shown}"
