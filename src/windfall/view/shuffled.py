"""The same duty at random times: what a site's own on-periods would have emitted, had their times been drawn.

Energy, tokens and starts stay what they were, so whatever differs from the run is what its timing was worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from windfall.grid.signal import Signal
from windfall.store.telemetry_energy import EnergyRow
from windfall.units import J_PER_KWH

Array = npt.NDArray[np.float64]
#: Entries closer than this (s) belong together: float64 Unix seconds have a resolution of a quarter of a microsecond.
_APART_S = 1e-3


@dataclass(frozen=True, slots=True)
class Shuffled:
    """kgCO2 and cost of each draw [n]; ``money`` is None where the site has no price, or not for all of the time.

    ``kg_by``: of a draw, by its number, the kg up to given instants.
    """

    kg: Array
    money: Array | None
    kwh: float
    kg_by: Callable[[int, Array], Array]


@dataclass(slots=True)
class _Stretch:
    """Time in one phase."""

    t0: float
    t1: float
    phase: str
    joules: float


def shuffled(
    rows: Sequence[EnergyRow], emissions: Signal, price: Signal | None, start: float, end: float, seeds: int, seed: tuple[int, ...]
) -> Shuffled | None:  # fmt: skip
    """A site's on-periods, in a random order and with random pauses between them, within the known time of ``[start, end)``.

    All arrangements are equally likely. Time without a reading does not exist here: no on-period falls into it. None where the site
    was on for longer than there are readings.
    """
    stretches = _stretches(rows)
    off = [s for s in stretches if s.phase == "off"]
    off_s = math.fsum(s.t1 - s.t0 for s in off)
    off_w = math.fsum(s.joules for s in off) / off_s if off_s > 0 else 0.0
    periods = _periods([s for s in stretches if s.phase != "off"])
    # From here on time is known time: its instants count seconds that have a reading.
    c = emissions.between(start, end) if end > start else None
    if c is None or not np.isfinite(c.values).any():
        return None
    costs = [np.full(len(c.values), np.nan) if price is None else _at(price, c.starts, end), c.values]
    keep = np.isfinite(c.values)
    length = (c.ends - c.starts)[keep]
    edges = np.append(0.0, np.cumsum(length))
    lengths = np.array([p[-1].t1 - p[0].t0 for p in periods])
    room = float(edges[-1]) - float(lengths.sum())
    if room < -_APART_S * (1 + len(periods)):
        return None
    places = _places(lengths, max(0.0, room), seeds, seed)
    a, b, watts, of = (np.array(x) for x in zip(*_profile(periods, off_w), strict=True)) if periods else (np.zeros(0),) * 4
    begins = places[:, of.astype(int)] if len(of) else np.zeros((seeds, 0))
    joules = math.fsum(s.joules for s in stretches)
    found: list[Array | None] = []
    for values in costs:
        per_s = values[keep]
        if not np.isfinite(per_s).all():
            found.append(None)
            continue
        total = np.append(0.0, np.cumsum(per_s * length))
        held = np.interp(begins + b, edges, total) - np.interp(begins + a, edges, total)
        idle = off_w * float(total[-1]) if off_s > 0 else 0.0
        found.append((held @ watts + idle) / J_PER_KWH / 1000.0)
    money, kg = found
    assert kg is not None
    borders = np.column_stack([c.starts[keep], c.ends[keep]]).ravel()
    known = np.column_stack([edges[:-1], edges[1:]]).ravel()
    grams = np.append(0.0, np.cumsum(c.values[keep] * length))

    def kg_by(draw: int, t: Array) -> Array:
        at = np.interp(t, borders, known)[:, None]
        upto = np.interp(np.minimum(at, begins[draw] + b), edges, grams) - np.interp(np.minimum(at, begins[draw] + a), edges, grams)
        idle = off_w * np.interp(at[:, 0], edges, grams) if off_s > 0 else 0.0
        return np.asarray((upto @ watts + idle) / J_PER_KWH / 1000.0)

    return Shuffled(kg, money, joules / J_PER_KWH, kg_by)


def _stretches(rows: Sequence[EnergyRow]) -> list[_Stretch]:
    """A site's account as stretches of one phase, each with what it used.

    A correction belongs to the time that it corrects, and what was used beside what the site did to what it did then.
    """
    found: list[_Stretch] = []
    for r in sorted((r for r in rows if not r.cause and r.t1 > r.t0), key=lambda r: r.t0):
        last = found[-1] if found else None
        if last is not None and last.phase == r.phase and r.t0 - last.t1 <= _APART_S:
            last.t1, last.joules = max(last.t1, r.t1), last.joules + r.joules
        else:
            found.append(_Stretch(r.t0, r.t1, r.phase, r.joules))
    starts = [s.t0 for s in found]
    for r in rows:
        if (r.cause or r.t1 == r.t0) and found:
            found[max(0, int(np.searchsorted(starts, 0.5 * (r.t0 + r.t1), side="right")) - 1)].joules += r.joules
    return found


def _periods(stretches: Sequence[_Stretch]) -> list[list[_Stretch]]:
    """Stretches in which a site drew power one after the other, as on-periods."""
    found: list[list[_Stretch]] = []
    for s in stretches:
        if found and s.t0 - found[-1][-1].t1 <= _APART_S:
            found[-1].append(s)
        else:
            found.append([s])
    return found


def _profile(periods: Sequence[Sequence[_Stretch]], off_w: float) -> list[tuple[float, float, float, int]]:
    """Of each stretch: begin and end from the on-period's begin, watts over those of a site that is off, place of the on-period."""
    return [
        (s.t0 - p[0].t0, s.t1 - p[0].t0, s.joules / (s.t1 - s.t0) - off_w, i) for i, p in enumerate(periods) for s in p
    ]  # fmt: skip


def _places(lengths: Array, room: float, seeds: int, seed: tuple[int, ...]) -> Array:
    """When on-periods of ``lengths`` [p] begin in each draw [seeds, p], where pauses of ``room`` seconds in all are left."""
    n = len(lengths)
    found = np.zeros((seeds, n))
    for k in range(seeds):
        rng = np.random.default_rng((*seed, k))
        order = rng.permutation(n)
        pauses = np.sort(rng.uniform(0.0, room, n)) if room > 0 else np.zeros(n)
        before = np.append(0.0, np.cumsum(lengths[order]))[:-1]
        found[k, order] = pauses + before
    return found


def _at(signal: Signal, starts: Array, end: float) -> Array:
    """A second signal's mean over each of the intervals that begin at ``starts``; NaN where any of one is unknown."""
    c = signal.between(float(starts[0]), end)
    total = np.append(0.0, np.cumsum(np.nan_to_num(c.values) * (c.ends - c.starts)))
    dark = np.append(0.0, np.cumsum(np.where(np.isfinite(c.values), 0.0, c.ends - c.starts)))
    edges = np.append(c.starts, c.ends[-1])
    borders = np.append(starts, end)
    length = np.diff(borders)
    mean = np.diff(np.interp(borders, edges, total)) / length
    return np.where(np.diff(np.interp(borders, edges, dark)) > 0, np.nan, mean)
