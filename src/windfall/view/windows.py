"""Windows of each region, what a run made of them, which parts it missed and why, and when an operator held a site off."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from windfall.config.schema import Config
from windfall.energy.tariff import Tariff
from windfall.grid.build import Grid
from windfall.store.telemetry import Event, Telemetry
from windfall.store.telemetry_states import StateRow
from windfall.view.recorded import known_part

#: States in which a site is on, or is about to be.
_ON = ("provisioning", "ready", "training", "draining")
Times = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class HeldSpan:
    """A site was kept off by an operator over ``[t0, t1)`` (run time); ``words`` say by whom and why."""

    site: str
    t0: float
    t1: float
    words: str


@dataclass(frozen=True, slots=True)
class MissedWindow:
    """A part of a window in which the site was off, and why: a hold, a failure, or what the policy said then."""

    t0: float
    t1: float
    why: str
    #: hold, failed or policy
    by: str


@dataclass(frozen=True, slots=True)
class SiteWindows:
    """The windows of a site's region while the run went on: how many, and the seconds in them by what the site did."""

    site: str
    windows: int
    inside_s: float
    trained_s: float
    #: Starting, or with nothing to train on.
    on_s: float
    missed_s: float
    #: Parts of at least a tick.
    missed: tuple[MissedWindow, ...]


def held_spans(events: Sequence[Event], end: float) -> list[HeldSpan]:
    """When operators held sites off, from the run's events in order; a hold that has not ended ends at ``end``."""
    since: dict[str, Event] = {}
    found: list[HeldSpan] = []

    def over(site: str, t: float) -> None:
        e = since.pop(site, None)
        if e is not None and t > e.t_run:
            what = "held" if e.kind == "held" else "drained"
            why = str(e.detail.get("reason") or "")
            because = "" if why in ("", "no reason given") else f": {why}"
            found.append(HeldSpan(site, e.t_run, t, f"{what} by {e.detail.get('who')}{because}"))

    for e in events:
        if e.site and e.kind in ("held", "drain_asked", "released"):
            over(e.site, e.t_run)
            if e.kind != "released":
                since[e.site] = e
    for site in list(since):
        over(site, end)
    return sorted(found, key=lambda h: (h.t0, h.site))


def site_windows(
    config: Config, grid: Grid | None, t: Telemetry | None, holds: Sequence[HeldSpan], start: float, end: float
) -> list[SiteWindows]:  # fmt: skip
    """What each site made of its region's windows between ``start`` and ``end``; nothing without signals or telemetry."""
    if grid is None or t is None or end <= start:
        return []
    states = t.states()
    config, grid = known_part(config, grid)
    found = []
    for s in config.site:
        tariff = Tariff.of(s, grid.signals[s.name], config.run)
        c = tariff.first.between(start, end)
        inside = np.isfinite(c.values) & tariff.inside(np.nan_to_num(c.values, nan=math.inf))
        windows = _joined(zip(c.starts[inside].tolist(), c.ends[inside].tolist(), strict=True))
        own = [r for r in states if r.site == s.name]
        trained = _both(windows, _in_state(own, ("training",), end))
        on = _both(windows, _in_state(own, _ON, end))
        failed = _in_state(own, ("failed",), end)
        held = [(h.t0, h.t1) for h in holds if h.site == s.name]
        missed = _without(windows, _in_state(own, _ON, end))
        parts = [
            *(MissedWindow(a, b, _held_by(holds, s.name, a), "hold") for a, b in _both(missed, held)),
            *(MissedWindow(a, b, _failed_by(own, a), "failed") for a, b in _both(_without(missed, held), failed)),
            *(
                MissedWindow(a, b, _said(t, s.name, a, b), "policy")
                for a, b in _without(_without(missed, held), failed)
                if b - a >= config.run.tick_s
            ),
        ]
        found.append(
            SiteWindows(
                s.name, len(windows), _length(windows), _length(trained), _length(on) - _length(trained), _length(missed),
                tuple(sorted((p for p in parts if p.t1 - p.t0 >= config.run.tick_s), key=lambda p: p.t0)),
            )
        )  # fmt: skip
    return found


def _said(t: Telemetry, site: str, t0: float, t1: float) -> str:
    """What the policy said of a site in the middle of a time."""
    decided = t.decision_at(site, 0.5 * (t0 + t1))
    return str(decided[2]) if decided is not None else "nothing had been decided yet"


def _held_by(holds: Sequence[HeldSpan], site: str, at: float) -> str:
    return next(h.words for h in holds if h.site == site and h.t0 <= at < h.t1)


def _failed_by(own: Sequence[StateRow], at: float) -> str:
    return next((r.reason for r in reversed(own) if r.t_run <= at and r.state == "failed"), "failed")


def _in_state(own: Sequence[StateRow], names: Sequence[str], end: float) -> Times:
    ends = [*(r.t_run for r in own[1:]), end]
    return _joined((r.t_run, b) for r, b in zip(own, ends, strict=False) if r.state in names)


def _joined(spans: Iterator[tuple[float, float]]) -> Times:
    """Spans in order, those that meet made one, those without length left out."""
    found: Times = []
    for a, b in spans:
        if b <= a:
            continue
        if found and a <= found[-1][1]:
            found[-1] = (found[-1][0], max(b, found[-1][1]))
        else:
            found.append((a, b))
    return found


def _both(one: Times, two: Times) -> Times:
    """Where both are. Each is in order and has no overlaps."""
    found: Times = []
    i = j = 0
    while i < len(one) and j < len(two):
        a, b = max(one[i][0], two[j][0]), min(one[i][1], two[j][1])
        if b > a:
            found.append((a, b))
        if one[i][1] < two[j][1]:
            i += 1
        else:
            j += 1
    return found


def _without(one: Times, two: Times) -> Times:
    """Where ``one`` is and ``two`` is not."""
    if not one:
        return []
    borders = [one[0][0], *(x for span in two for x in span), max(one[-1][1], one[0][0])]
    gaps = [(a, b) for a, b in zip(borders[::2], borders[1::2], strict=True) if b > a]
    return _both(one, gaps)


def _length(spans: Times) -> float:
    return math.fsum(b - a for a, b in spans)
