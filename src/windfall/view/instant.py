"""How a run stood at an instant, and why: the answer to a link to a moment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from windfall.config.schema import Config
from windfall.energy.tariff import level_of
from windfall.view.event_pages import ShownEvent, event_page
from windfall.view.moment import Moment
from windfall.view.text import safe

_EVENTS = 6


@dataclass(frozen=True, slots=True)
class SiteThen:
    """A site at that instant: its state, what was last decided of it and why, and its region's reading (None: unknown)."""

    site: str
    state: str
    wanted: bool | None
    reason: str
    decided_at: float | None
    value: float | None
    unit: str
    level: float
    inside: bool | None
    numbers: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Instant:
    """The run at run time ``t``. ``events``: the last few until then, newest first."""

    t: float
    mode: str
    version: int | None
    tokens: int
    sites: list[SiteThen]
    events: list[ShownEvent]


def instant(at: Moment, config: Config, t: float) -> Instant:
    """How things stood at run time ``t``."""
    mode, sites = "paused", []
    version, tokens = None, 0
    for v in at.ledger.versions():
        if v.t_run <= t:
            version, tokens = v.version, v.tokens_total
    states: dict[str, str] = {}
    if at.telemetry is not None:
        for m in at.telemetry.modes():
            mode = m.mode if m.t_run <= t else mode
        for row in at.telemetry.states():
            if row.t_run <= t:
                states[row.site] = row.state
    for s in config.site:
        level, under = level_of(s, config.run)
        bins = at.telemetry.reading_bins(s.name, t, t, 1) if at.telemetry is not None else []
        reading = bins[-1] if bins and (bins[-1].stale_at is None or bins[-1].stale_at > t) else None
        decided = at.telemetry.decision_at(s.name, t) if at.telemetry is not None else None
        value = reading.low if reading is not None else None
        inside = None if value is None else (value < level if under else value >= level)
        one = SiteThen(
            s.name, states.get(s.name, "off"), bool(decided[1]) if decided else None, safe(str(decided[2])) if decided else "",
            float(decided[0]) if decided else None, value, reading.unit if reading is not None else "", level, inside,
            dict(json.loads(decided[4])) if decided else {},
        )  # fmt: skip
        sites.append(one)
    return Instant(t, mode, version, tokens, sites, event_page(at, before=None, most=_EVENTS, upto=t).events)
