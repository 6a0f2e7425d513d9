"""Learned: starts and stops at readings where that has paid in the site's own past.

The belief (`belief`) says what being on is worth at each reading and hour of the day: over one start, and a site starts; under
nothing, and it stops. It is learned anew from the trailing days as they grow, and between two times its two levels an hour stand.
So it learns what readings are good for there: how long windows last, how soon they end and when, what the newest reading says of
now if readings are late. Where windows begin and end by the clock, late readings are so made up for: it starts before it hears that
one is open, and stops before it hears that it is not.

Before a day of the past is known, break-even decides when to start, because then a gain has been seen at least, and a prior decides
when to stop (the chain of a year of California), because break-even would first let a loss add up that the prior foresees. Of
prices and powers there is no prior, so break-even decides both.

Then break-even is its gate. Both rules are carried out on what is known, and the levels decide if they did no worse. Later, each
time the levels are learned anew, both are carried out on what has come since the last time. Their lead is counted no further than
`_MARGIN` starts either way, and the rule that reaches it decides. So twice that, and what comes within two days, is the most that
is lost to break-even before it takes over, however well the levels did before (a cumulative sum test; Page 1954). Where no level
says what a reading is worth (a trigger of several signals), break-even decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from windfall.grid.signal import Columns
from windfall.policy.base import Criterion, Decision, Judged, Memory, SiteView
from windfall.policy.belief import HOURS, Array, Belief, cadence_s, hours_of, stepped
from windfall.policy.breakeven import Breakeven
from windfall.policy.criterion import Level, distances, intensity
from windfall.units import duration_text

_DAY_S = 86400.0
#: The past that is learned from.
_PAST_S = 56 * _DAY_S
#: Levels are learned anew when the past has grown by half, but no sooner and no later than this.
_SOONEST_S, _LATEST_S = 6 * 3600.0, 2 * _DAY_S
#: One rule takes over when it is ahead by so many starts, and no more are counted.
_MARGIN = 2.0
#: A start costs at least this, in steps of full gain.
_LEAST_COST = 1e-9
#: A reading that holds until the next one is taken in this often (s).
_STEP_S = 300.0
#: What it remembers, besides what break-even remembers. The levels have an hour each; `lead` is how far they are ahead, in starts;
#: `leads` is 1 while the levels decide, −1 while break-even does, and 0 before a day is known.
_STARTS, _STOPS = (tuple(f"{what}_{h:02}" for h in range(HOURS)) for what in ("start", "stop"))
_KEYS = frozenset((*_STARTS, *_STOPS, "due", "learned_at", "late", "restart", "share", "step", "lead", "leads"))
_OWN = ("acc", "to", "gain")


class Learned:
    """The learned levels, with break-even as their gate."""

    name = "learned"

    def __init__(self, breakeven: Breakeven, criteria: Mapping[str, Criterion]) -> None:
        self._breakeven = breakeven
        self._criteria = criteria

    def decide_site(self, t: float, site: SiteView, judged: Judged) -> Decision:
        level = self._criteria[site.name]
        if not isinstance(level, Level) or not level.first or site.reading is None:
            return self._breakeven.decide_site(t, site, judged)
        m = {k: v for k, v in site.memory.items() if k in _KEYS}
        row_s = judged.valid_until - judged.valid_from if math.isfinite(judged.valid_until) else _STEP_S
        step_s = m.get("step", row_s)
        # How late readings are is told by the newest: from the instant that it is about to when it was heard.
        delay_s = max(0.0, site.reading.known_at - judged.valid_from)
        late = float(math.floor(delay_s / step_s + 0.5))
        restart = max(site.spin_up_s, 1e-9) / step_s
        stands = len(m) == len(_KEYS) and t < m["due"] and m["late"] == late and abs(m["restart"] - restart) <= 0.1 * restart
        if not stands:
            m = self._learn(t, site, level, m if len(m) == len(_KEYS) else {}, row_s)
        hour = int((t - delay_s) // 3600) % HOURS
        if m["leads"] > 0 or (m["leads"] == 0 and site.on and intensity(level.kind)):
            return self._by_levels(site, judged, m, hour, (math.floor((t - delay_s) / 3600.0) + 1) * 3600.0 + delay_s)
        own = replace(site, memory={k: v for k, v in site.memory.items() if k in _OWN})
        d = self._breakeven.decide_site(t, own, judged)
        until = m["due"] if d.until is None else min(d.until, m["due"])
        why = "too little of the past is known to learn from"
        if m["leads"]:
            why = "break-even has done better" if m["lead"] < 0.0 else "its levels have not regained their lead"
        return replace(d, reason=f"{d.reason} ({why})", until=until, memory={**d.memory, **m})

    def _by_levels(self, site: SiteView, judged: Judged, m: dict[str, float], hour: int, hour_ends: float) -> Decision:
        """What the levels in ``m`` say; readings of ``hour`` are known until ``hour_ends``."""
        distance = 1.0 - judged.gain / judged.scale
        on = distance < m[(_STOPS if site.on else _STARTS)[hour]]
        levels = {k: judged.level + (m[f"{k}_{hour:02}"] - 1.0) * judged.scale for k in ("start", "stop")}
        verb = ("start" if on else "stop") if on != site.on else ("on" if on else "off")
        late = "" if not m["late"] else f"; readings are {duration_text(m['late'] * m['step'])} late"
        what = f"stops at {levels['stop']:.0f}" if on or not m["leads"] else f"starts under {levels['start']:.0f}"
        how = f"between {hour} and {hour + 1} h UTC, by what has paid"
        if not m["leads"]:
            how = "by what usually follows (too little of the past is known to learn from)"
        reason = f"{verb}: {judged.text}; here it {what} {how}{late}"
        numbers = {"value": judged.value, "worth": judged.level, **{f"{k}_at": v for k, v in levels.items() if math.isfinite(v)}}
        quiet, until = None, m["due"]
        if judged.single and (on or m["leads"]):
            # What the same reading would bring at any hour is promised until the levels are learned anew, else until the hour ends.
            bound = min(m[k] for k in _STOPS) if on else max(m[k] for k in _STARTS)
            if (distance < bound) != on:
                bound, until = m[(_STOPS if on else _STARTS)[hour]], min(until, hour_ends)
            edge = judged.level + (bound - 1.0) * judged.scale
            quiet = (-math.inf, edge) if on else (edge, math.inf)
        return Decision(on, reason, numbers, until, m, quiet)

    def hold_site(self, t: float, site: SiteView, stale: bool) -> Memory:
        return {k: v for k, v in site.memory.items() if k in _KEYS or (not stale and k in ("acc", "to"))}

    def _learn(self, t: float, site: SiteView, level: Level, was: Mapping[str, float], row_s: float) -> dict[str, float]:
        """The levels anew, from the past that is known at ``t``; and who leads."""
        assert site.reading is not None
        none = np.empty(0)
        past = site.outlook.history(_PAST_S).known() if site.outlook else Columns(none, none, none)
        step_s = cadence_s(past, row_s)
        times, values = stepped(past, step_s)
        d = distances(level, values)
        late = float(max(0, math.floor((site.reading.known_at - site.reading.valid_from) / step_s + 0.5)))
        restart = max(site.spin_up_s, 1e-9) / step_s
        share = start_share(level)
        starts, stops = Belief(times, d, step_s).levels(max(restart * share, _LEAST_COST), int(late))
        span = t - float(times[0]) if len(times) else 0.0
        now = {"late": late, "restart": restart, "share": share, "step": step_s, "learned_at": t}
        now |= dict(zip((*_STARTS, *_STOPS), (*starts.tolist(), *stops.tolist()), strict=True))
        lead, leads = was.get("lead", 0.0), was.get("leads", 0.0)
        if leads == 0.0 and span >= _DAY_S:
            lead = self._ahead(times, d, now)
            leads = 1.0 if lead >= 0.0 else -1.0
        elif leads != 0.0 and was["step"] == step_s:
            new = times >= was["learned_at"] - was["late"] * step_s
            lead += self._ahead(times[new], d[new], was)
        if leads != 0.0 and abs(lead) >= _MARGIN:
            leads = math.copysign(1.0, lead)
        due = t + min(max(0.5 * span, _SOONEST_S), _LATEST_S)
        return {**now, "due": due, "lead": min(max(lead, -_MARGIN), _MARGIN), "leads": leads}

    def _ahead(self, times: Array, d: Array, was: Mapping[str, float]) -> float:
        """By how many starts the levels did better than break-even over ``d`` at ``times``, both off at its begin."""
        late, restart = int(was["late"]), was["restart"]
        told, real = d[: len(d) - late], d[late:]
        if not len(real):
            return 0.0
        hours = hours_of(times[: len(told)])
        start, stop = (np.array([was[k] for k in keys])[hours] for keys in (_STARTS, _STOPS))
        rules = (on_by_levels(told, start, stop), on_by_breakeven(told, restart, self._breakeven))
        one, two = (value_of(on, real, restart, was["share"]) for on in rules)
        # Counted in what a start costs: where that is next to nothing (prices judged against zero), any lead is one of many starts.
        return (one - two) / max(restart * was["share"], _LEAST_COST)


def on_by_levels(d: Array, start: Array | float, stop: Array | float) -> npt.NDArray[np.bool_]:
    """Whether a site is on at each step, if it starts under one distance and stops at or over another; off where d is NaN.

    ``start`` and ``stop``: the same for all of ``d`` [n], or [n].
    """
    steps = np.arange(len(d))
    gone = np.isnan(d)
    off = np.maximum.accumulate(np.where(gone | (d >= stop), steps, -1))
    return np.asarray(np.maximum.accumulate(np.where(d < start, steps, -1)) > off)


def on_by_breakeven(d: Array, restart: float, breakeven: Breakeven) -> npt.NDArray[np.bool_]:
    """The same by break-even; its accumulator is in steps of full gain."""
    found: list[bool] = []
    on, acc, starts, stops = False, 0.0, breakeven.a_on * restart, breakeven.a_off * restart
    for distance in d.tolist():
        if distance != distance:
            on, acc = False, 0.0
        elif on:
            acc += distance - 1.0
            if acc < 0.0:
                acc = 0.0
            if distance >= 1.0 and acc >= stops:
                on, acc = False, 0.0
        else:
            acc += 1.0 - distance
            if acc < 0.0:
                acc = 0.0
            if distance < 1.0 and acc >= starts:
                on, acc = True, 0.0
        found.append(on)
    return np.array(found, bool)


def start_share(level: Level) -> float:
    """What a second of a start costs, in seconds of full gain: it uses the energy that training would, and brings no worth."""
    return 1.0 if level.scale is None else max(0.0, level.level / level.scale)


def value_of(on: npt.NDArray[np.bool_], d: Array, restart: float, share: float = 1.0) -> float:
    """The value of a schedule, in steps of full gain: what training gains, less what starts of ``restart`` steps cost."""
    return float(np.nansum(gains_of(on, d, restart, share)))


def gains_of(on: npt.NDArray[np.bool_], d: Array, restart: float, share: float = 1.0) -> Array:
    """What each step adds to that [n]; NaN where a site is on and ``d`` is."""
    steps = np.arange(len(on))
    since = steps - np.maximum.accumulate(np.where(on, -1, steps))
    starting = np.clip(restart - (since - 1.0), 0.0, 1.0)
    return np.where(on, 1.0 - d - share * starting, 0.0)
