"""How many sites it takes for one to be nearly always open.

Regions are taken one after the other, each the one that adds most time in which some site is in a window: the order in which one
would build. Readings of all regions are compared at the same instants, so that sunshine in neighbouring regions counts once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from windfall.config.schema import Config
from windfall.energy.tariff import inside_of
from windfall.errors import SignalError
from windfall.grid.build import Grid, recorded
from windfall.grid.signal import Signal
from windfall.simulate.regions import moved
from windfall.simulate.simulation import TimeSpan

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class FleetSize:
    """The first ``sites`` regions in building order; ``region`` is the last of them.

    ``own_share``: share of the time in which that region alone is in a window. ``open_share``: any of them.
    """

    sites: int
    region: str
    own_share: float
    open_share: float
    longest_closed_h: float
    #: What an hour with at least one open site costs in owned hardware.
    hardware_per_open_h: float | None


def fleet_sizes(config: Config, grid: Grid, span: TimeSpan, capital_per_site_h: float) -> list[FleetSize]:
    """Every number of sites up to one in each region of the configuration, in the time that all regions' signals have."""
    signals: dict[str, Signal] = {}
    inside = {}
    for site in moved(config):
        signals[site.region] = grid.by_region[site.region]
        inside[site.region] = inside_of(site, config.run)
    start, end = _common(signals, span)
    if end <= start:
        return []
    columns = {r: s.between(start, end) for r, s in signals.items()}
    edges = np.unique(np.concatenate([[start, end], *(np.concatenate([c.starts, c.ends]) for c in columns.values())]))
    lengths = np.diff(edges)
    masks: dict[str, Mask] = {}
    for region, c in columns.items():
        at = np.clip(np.searchsorted(c.starts, edges[:-1], side="right") - 1, 0, None)
        known = (edges[:-1] >= c.starts[at]) & (edges[:-1] < c.ends[at])
        masks[region] = inside[region](np.where(known, c.values[at], np.nan)) & known
    return _built(masks, lengths, capital_per_site_h)


def sites_needed(sizes: list[FleetSize], open_share: float) -> tuple[int | None, int | None]:
    """How many of the regions are needed for ``open_share``; where all are not enough, how many it would take in all.

    The second number takes further regions to be as open as these are in the mean, and independent of each other: a bound that
    neighbours do not reach. None where nothing is ever open.
    """
    reached = next((s.sites for s in sizes if s.open_share >= open_share), None)
    if reached is not None or not sizes:
        return reached, None
    mean = sum(s.own_share for s in sizes) / len(sizes)
    if mean <= 0:
        return None, None
    closed = 1 - sizes[-1].open_share
    more = math.ceil(math.log((1 - open_share) / closed) / math.log1p(-mean) - 1e-9)
    return None, len(sizes) + more


def _built(masks: Mapping[str, Mask], lengths: Array, capital_per_site_h: float) -> list[FleetSize]:
    total = float(lengths.sum())
    left, some = dict(masks), np.zeros(len(lengths), dtype=bool)
    found: list[FleetSize] = []
    while left:
        region = max(left, key=lambda r: float(lengths[some | left[r]].sum()))
        own = left.pop(region)
        some = some | own
        share = float(lengths[some].sum()) / total
        cost = capital_per_site_h * (len(found) + 1) / share if share > 0 else None
        found.append(FleetSize(len(found) + 1, region, float(lengths[own].sum()) / total, share, _longest(~some, lengths), cost))
    return found


def _longest(closed: Mask, lengths: Array) -> float:
    """The longest time (h) in which nothing is open."""
    most = run = 0.0
    for shut, seconds in zip(closed.tolist(), lengths.tolist(), strict=True):
        run = run + seconds if shut else 0.0
        most = max(most, run)
    return most / 3600


def _common(signals: Mapping[str, Signal], span: TimeSpan) -> tuple[float, float]:
    """The part of ``span`` that all signals have. Raises SignalError for a live signal."""
    start, end = span.start, span.end
    for region, signal in signals.items():
        try:
            own = recorded(signal)
        except SignalError as e:
            raise SignalError(f"{region}: {e}") from None
        start, end = max(start, own.starts_at()), min(end, own.ends_at())
    return start, end
