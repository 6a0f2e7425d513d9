"""What sites' regions said and what sites did over a time, thinned to so many points: the lanes of the dashboard."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from windfall.config.schema import Config, SiteTable
from windfall.energy.phases import of_state
from windfall.energy.tariff import level_of
from windfall.store.telemetry import Telemetry
from windfall.store.telemetry_states import StateRow
from windfall.units import UNITS
from windfall.view.moment import Moment

#: What a block of a lane may be. Of two at one instant the one that stands later here is shown.
BLOCKS = ("off", "missed", "held", "provisioning", "idle", "local", "federated", "draining", "failed")
#: Forecasts that the band is made of.
_FORECASTS = 8
_KEPT_DIGITS = 5


@dataclass(frozen=True, slots=True)
class SignalLine:
    """A stepped line: at ``t`` [n] (run time) the least and the greatest value; None where nothing is known from there on.

    ``high`` is empty where it is the same as ``low``.
    """

    t: list[float]
    low: list[float | None]
    high: list[float | None]


@dataclass(frozen=True, slots=True)
class Band:
    """The newest forecast ``value`` [n] at ``t`` [n], and the least and the greatest of what the newest few have said of it."""

    made_at: float
    t: list[float]
    value: list[float | None]
    low: list[float | None]
    high: list[float | None]


@dataclass(frozen=True, slots=True)
class Lane:
    """One site over a time.

    ``level``: the curtailment criterion, a window is under it (``under``) or at it and over it. ``blocks``: from, to (run time) and
    what, by its place in ``BLOCKS``; what is in none of them is before the run's begin or not known.
    """

    site: str
    region: str
    kind: str
    unit: str
    level: float
    under: bool
    signal: SignalLine
    forecast: Band | None
    blocks: list[tuple[float, float, int]]


def lanes(at: Moment, config: Config, t0: float, t1: float, points: int, sites: Sequence[str] = ()) -> list[Lane]:
    """Lanes over ``[t0, t1]`` of the configuration's sites (or of those named), each of about ``points`` points at most."""
    wanted = [s for s in config.site if not sites or s.name in sites]
    if at.telemetry is None or t1 <= t0:
        return [_empty(s, config) for s in wanted]
    states: dict[str, list[StateRow]] = {}
    for row in at.telemetry.states():
        states.setdefault(row.site, []).append(row)
    ends = now_of(at.telemetry)
    modes = [(m.t_run, m.mode) for m in at.telemetry.modes()]
    held = _held(at.telemetry, min(t1, ends))
    together = _parts([(t, m) for t, m in modes], ends, "federated")
    return [
        _lane(at.telemetry, s, config, t0, t1, points, states.get(s.name, []), held.get(s.name, []), together, ends) for s in wanted
    ]


def now_of(t: Telemetry) -> float:
    """Up to when telemetry tells of the run (run time)."""
    said = t.now().get("t_run")
    known = [float(said)] if said is not None else []
    known += [m.t_run for m in t.modes()[-1:]]
    return max([*known, t.booked_until()])


def merged(blocks: Iterable[tuple[float, float, int]], least_s: float) -> list[tuple[float, float, int]]:
    """Blocks in order, those that are shorter than ``least_s`` joined with their neighbours so that no part of time is lost.

    What a joined block is: what most of its time was.
    """
    found: list[tuple[float, float, int]] = []
    waiting: list[tuple[float, float, int]] = []

    def join() -> None:
        spent: dict[int, float] = {}
        for a, b, what in waiting:
            spent[what] = spent.get(what, 0.0) + b - a
        if waiting:
            add(waiting[0][0], waiting[-1][1], max(spent, key=lambda w: (spent[w], w)))
            waiting.clear()

    def add(a: float, b: float, what: int) -> None:
        if found and found[-1][2] == what and found[-1][1] >= a:
            found[-1] = (found[-1][0], b, what)
        else:
            found.append((a, b, what))

    for block in blocks:
        if waiting and (block[0] > waiting[-1][1] or block[1] - waiting[0][0] > 2 * least_s):
            join()
        if block[1] - block[0] >= least_s:
            join()
            add(*block)
        else:
            waiting.append(block)
    join()
    return found


def painted(layers: Sequence[tuple[float, float, int]], t0: float, t1: float) -> list[tuple[float, float, int]]:
    """Overlapping spans as blocks that don't overlap: at each instant the highest one, within ``[t0, t1]``."""
    marks: list[tuple[float, int, int]] = []
    for a, b, what in layers:
        a, b = max(a, t0), min(b, t1)
        if b > a:
            marks += [(a, 1, what), (b, -1, what)]
    marks.sort()
    open_: dict[int, int] = {}
    found: list[tuple[float, float, int]] = []
    since, shown = t0, -1
    for t, change, what in marks:
        if shown >= 0 and t > since:
            if found and found[-1][2] == shown and found[-1][1] == since:
                found[-1] = (found[-1][0], t, shown)
            else:
                found.append((since, t, shown))
        open_[what] = open_.get(what, 0) + change
        since, shown = t, max((w for w, n in open_.items() if n > 0), default=-1)
    return found


def _lane(
    t: Telemetry, site: SiteTable, config: Config, t0: float, t1: float, points: int, states: list[StateRow],
    held: list[tuple[float, float]], together: list[tuple[float, float]], ends: float,
) -> Lane:  # fmt: skip
    level, under = level_of(site, config.run)
    bins = t.reading_bins(site.name, t0, t1, points)
    unit = bins[-1].unit if bins else UNITS[site.signal.type]
    at, low, high = _steps([(b.t, b.low, b.high, b.stale_at) for b in bins], t0, min(t1, ends))
    upto = min(t1, ends)
    layers: list[tuple[float, float, int]] = []
    for i, row in enumerate(states):
        end = states[i + 1].t_run if i + 1 < len(states) else ends
        if end <= t0 or row.t_run >= upto:
            continue
        if row.state == "training":
            layers.append((row.t_run, end, BLOCKS.index("local")))
            layers += [
                (max(a, row.t_run), min(b, end), BLOCKS.index("federated")) for a, b in together if b > row.t_run and a < end
            ]
        elif row.state == "failed":
            layers.append((row.t_run, end, BLOCKS.index("failed")))
        else:
            layers += [(a, b, BLOCKS.index(phase)) for phase, a, b in of_state(row.state, row.t_run, end)]
    begun = states[0].t_run if states else ends
    layers.append((min(begun, _begin(t)), begun, BLOCKS.index("off")))
    layers += [(a, b, BLOCKS.index("held")) for a, b in held]
    layers += [(a, b, BLOCKS.index("missed")) for a, b in t.windows(site.name, level, under=under, t0=t0, t1=upto)]
    begin = _begin(t)
    blocks = merged(painted([x for x in layers if x[1] > begin], max(t0, begin), upto), (t1 - t0) / max(1, points))
    return Lane(
        site.name, site.region, site.signal.type, unit, level, under, SignalLine(at, low, [] if high == low else high),
        _forecast(t, site.name, t1), [(round(a, 1), round(b, 1), what) for a, b, what in blocks],
    )  # fmt: skip


def _empty(site: SiteTable, config: Config) -> Lane:
    level, under = level_of(site, config.run)
    return Lane(
        site.name, site.region, site.signal.type, UNITS[site.signal.type], level, under, SignalLine([], [], []), None, []
    )  # fmt: skip


def _begin(t: Telemetry) -> float:
    first = t.modes()[:1]
    return first[0].t_run if first else math.inf


def _steps(
    bins: Sequence[tuple[float, float, float, float | None]], t0: float, end: float
) -> tuple[list[float], list[float | None], list[float | None]]:
    """A stepped line, with a hole from where a reading is stale until the next one comes; it ends at ``end``."""
    at: list[float] = []
    low: list[float | None] = []
    high: list[float | None] = []
    last: tuple[float | None, float | None] = (None, None)
    for i, (t, a, b, stale_at) in enumerate(bins):
        following = bins[i + 1][0] if i + 1 < len(bins) else end
        last = (_short(a), _short(b))
        at.append(round(max(t, t0), 1))
        low.append(last[0])
        high.append(last[1])
        if stale_at is not None and stale_at < following:
            last = (None, None)
            at.append(round(max(stale_at, t0), 1))
            low.append(None)
            high.append(None)
    if at and end > at[-1]:
        at.append(round(end, 1))
        low.append(last[0])
        high.append(last[1])
    return at, low, high


def _short(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{_KEPT_DIGITS}g}")


def _parts(marks: Sequence[tuple[float, str]], end: float, what: str) -> list[tuple[float, float]]:
    found = []
    for i, (t, m) in enumerate(marks):
        after = marks[i + 1][0] if i + 1 < len(marks) else end
        if m == what and after > t:
            found.append((t, after))
    return found


def _held(t: Telemetry, end: float) -> dict[str, list[tuple[float, float]]]:
    """By site, when an operator kept it off."""
    since: dict[str, float] = {}
    found: dict[str, list[tuple[float, float]]] = {}
    for _, e in t.events_of("held", "drain_asked", "released"):
        if e.site is None:
            continue
        if e.kind == "released":
            if e.site in since:
                found.setdefault(e.site, []).append((since.pop(e.site), e.t_run))
        else:
            since.setdefault(e.site, e.t_run)
    for site, a in since.items():
        found.setdefault(site, []).append((a, end))
    return found


def _forecast(t: Telemetry, site: str, upto: float) -> Band | None:
    """The newest forecast, and what it and those before it said of the same instants."""
    kept = t.latest_forecasts(site, upto, _FORECASTS)
    if not kept:
        return None
    made_at, times_json, values_json = kept[0]
    times = [float(x) for x in json.loads(times_json)]
    values = [None if v is None else float(v) for v in json.loads(values_json)]
    said: list[list[float]] = [[v] if v is not None else [] for v in values]
    place = {x: i for i, x in enumerate(times)}
    for _, other_times, other_values in kept[1:]:
        for x, v in zip(json.loads(other_times), json.loads(other_values), strict=True):
            if v is not None and (i := place.get(float(x))) is not None:
                said[i].append(float(v))
    step = max(1, -(-len(times) // 400))
    return Band(
        made_at, [round(x, 1) for x in times[::step]], [_short(v) for v in values[::step]],
        [_short(min(s)) if s else None for s in said[::step]], [_short(max(s)) if s else None for s in said[::step]],
    )  # fmt: skip
