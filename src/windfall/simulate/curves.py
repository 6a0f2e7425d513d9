"""A backtest's row over time: what each site was doing, and how much it had emitted by when.

A row keeps only states (its lanes). The models of the trainer (with its stalls) and of power give phases and emissions from them.
The last value of ``emissions`` is the row's ``kg_co2``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from windfall.config.schema import Config, SiteTable
from windfall.energy.levels import tokens_per_s_at
from windfall.energy.phases import of_state, with_stalls
from windfall.energy.power import PowerModel
from windfall.energy.tariff import Tariff
from windfall.grid.build import Grid
from windfall.simulate.backtest import Row
from windfall.simulate.work import TrainerModel
from windfall.units import J_PER_KWH

Array = npt.NDArray[np.float64]
#: States in which a site takes optimizer steps, except in stalls.
_WORKING = ("ready", "training")


class Laned(Protocol):
    """What went through a simulation: the preset of the trainer's model, and by site the time in each state and at each level."""

    @property
    def preset(self) -> str: ...

    @property
    def lanes(self) -> Mapping[str, Sequence[tuple[float, float, str]]]: ...

    @property
    def levels(self) -> Mapping[str, Sequence[tuple[float, float, float]]]: ...


@dataclass(frozen=True, slots=True)
class Activity:
    """What a site does over ``[t0, t1)`` (Unix seconds): provisioning, idle, local (training alone), federated or draining."""

    t0: float
    t1: float
    what: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A growing quantity, linear between ``times`` [n] (Unix seconds); ``values`` [n] count from the start."""

    times: Array
    values: Array

    def at(self, t: Array) -> Array:
        """The values at any instants; constant before the first and after the last."""
        return np.interp(t, self.times, self.values)


def activities(row: Laned, config: Config) -> dict[str, list[Activity]]:
    """By site, what it was doing over a row's time, in order. Time off is left out."""
    model = TrainerModel.of(config, row.preset)
    joint = _joint(row)
    found: dict[str, list[Activity]] = {}
    for site, lane in row.lanes.items():
        own: list[Activity] = []
        for t0, t1, state in lane:
            if state == "off":
                continue
            if state == "training":
                own += _trained(t0, t1, joint, model)
            else:
                loads_at = t0 + model.starts[site].provision_s
                own += [Activity(a, b, phase) for phase, a, b in of_state(state, t0, t1, loads_at=loads_at)]
        found[site] = [s for s in own if s.t1 > s.t0]
    return found


def emissions(row: Row, config: Config, grid: Grid) -> Curve | None:
    """kgCO2 of all sites since the start of a row; None where it has no emissions."""
    if row.kg_co2 is None:
        return None
    return emitted(row, "marginal" if "marginal" in row.kg_by_method else "average", config, grid)


def emitted(row: Laned, method: str, config: Config, grid: Grid) -> Curve | None:
    """The same by one kind of intensity; None where no site has it."""
    doing = activities(row, config)
    parts = []
    for site in config.site:
        tariff = Tariff.of(site, grid.signals[site.name], config.run)
        # Marginal and average intensities are never mixed in one sum.
        if tariff.method != method or tariff.emissions is None or not row.lanes.get(site.name):
            continue
        lane, power = row.lanes[site.name], PowerModel.of(site)
        columns = tariff.emissions.between(lane[0][0], lane[-1][1])
        edges, watts = power_steps(doing[site.name], power, lane[0][0], lane[-1][1], columns.starts, row.levels.get(site.name, ()))
        values = columns.values[np.searchsorted(columns.starts, edges[:-1], side="right") - 1]
        grams = np.nan_to_num(watts * np.diff(edges) / J_PER_KWH * values, nan=0.0)
        parts.append(Curve(edges, np.concatenate(([0.0], np.cumsum(grams))) / 1000.0))
    if not parts:
        return None
    return added(parts)


def added(parts: Sequence[Curve]) -> Curve:
    """The sum of curves."""
    times = np.unique(np.concatenate([c.times for c in parts]))
    return Curve(times, np.sum([c.at(times) for c in parts], axis=0))


def power_steps(
    doing: Sequence[Activity], power: PowerModel, start: float, end: float, more: Array,
    levels: Sequence[tuple[float, float, float]] = (),
) -> tuple[Array, Array]:  # fmt: skip
    """Instants in ``[start, end]`` [n + 1] between which neither phase nor reading changes, and the watts between them [n].

    ``levels``: (from, to, W) of training at power levels, in order.
    """
    phase = {"local": "training", "federated": "training"}
    borders = np.array([b for s in doing for b in (s.t0, s.t1)] + [b for a in levels for b in a[:2]])
    edges = np.unique(np.concatenate(([start, end], borders, more)))
    edges = edges[(edges >= start) & (edges <= end)]
    if not doing:
        return edges, np.full(len(edges) - 1, power.off_w)
    starts, ends = (np.array(x) for x in zip(*((s.t0, s.t1) for s in doing), strict=True))
    watts = np.array([power.watts(phase.get(s.what, s.what)) for s in doing])
    i = np.searchsorted(starts, edges[:-1], side="right") - 1
    found = np.where((i >= 0) & (edges[:-1] < ends[i]), watts[i], power.off_w)
    if levels:
        since, until, at_level = (np.array(x) for x in zip(*levels, strict=True))
        k = np.searchsorted(since, edges[:-1], side="right") - 1
        found = np.where((k >= 0) & (edges[:-1] < until[k]), at_level[k], found)
    return edges, found


def trained(row: Row, site: SiteTable, t0: float = -math.inf, t1: float = math.inf) -> float:
    """Tokens that a row's site trained over ``[t0, t1)``: the integral of its pace. At power levels without stalls."""
    if site.name in row.levels:
        return sum(max(0.0, min(b, t1) - max(a, t0)) * tokens_per_s_at(site, watts) for a, b, watts in row.levels[site.name])
    spans = [(a, b) for a, b, state in row.lanes.get(site.name, ()) if state == "training"]
    return site.tokens_per_s * sum(max(0.0, min(b, t1) - max(a, t0)) for a, b in spans)


def seconds_training(doing: Sequence[Activity]) -> Curve:
    """Seconds of training of one site since the start of its first activity."""
    spans = [s for s in doing if s.what in ("local", "federated")]
    if not spans:
        return Curve(np.zeros(1), np.zeros(1))
    starts, ends = (np.array(x) for x in zip(*((s.t0, s.t1) for s in spans), strict=True))
    done = np.cumsum(ends - starts)
    # The curve rises from each activity's start to its end. Where two meet, one of the two equal instants is dropped.
    times, first = np.unique(np.column_stack([starts, ends]).ravel(), return_index=True)
    values = np.column_stack([np.concatenate(([0.0], done[:-1])), done]).ravel()
    return Curve(times, values[first])


def _joint(row: Laned) -> list[tuple[float, float]]:
    """The times in which two or more sites of a row worked, in order. The stall's cycle begins anew with each."""
    changes: dict[float, list[tuple[str, bool]]] = {}
    for site, lane in row.lanes.items():  # in the order of sites, in which the loop places them
        for i, (t0, t1, state) in enumerate(lane):
            if state not in _WORKING:
                continue
            if i == 0 or lane[i - 1][2] not in _WORKING:
                changes.setdefault(t0, []).append((site, True))
            if i + 1 == len(lane) or lane[i + 1][2] not in _WORKING:
                changes.setdefault(t1, []).append((site, False))
    working: set[str] = set()
    found: list[tuple[float, float]] = []
    since: float | None = None
    for t in sorted(changes):
        for site, works in changes[t]:
            working = working | {site} if works else working - {site}
            if len(working) >= 2 and since is None:
                since = t
            elif len(working) < 2 and since is not None:
                found.append((since, t))
                since = None
    return [(a, b) for a, b in found if b > a]


def _trained(t0: float, t1: float, joint: Sequence[tuple[float, float]], model: TrainerModel) -> list[Activity]:
    """What a site in training did over ``[t0, t1)``: trained alone, trained with others, or idled in a stall."""
    found: list[Activity] = []
    at = t0
    for a, b in joint:
        if b <= t0 or a >= t1:
            continue
        begin, end = max(a, t0), min(b, t1)
        found.append(Activity(at, begin, "local"))
        at = end
        if model.stall_s <= 0:
            found.append(Activity(begin, end, "federated"))
            continue
        for phase, c, d in with_stalls(begin, end, a, model.cycle_s, model.stall_s):
            found.append(Activity(c, d, "federated" if phase == "training" else "idle"))
    found.append(Activity(at, t1, "local"))
    return found
