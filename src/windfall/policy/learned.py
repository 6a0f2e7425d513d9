"""Learned: starts and stops at readings where that has paid in the site's own past.

The belief (`belief`) says what being on is worth at each reading: over one start, and a site starts; under nothing, and it stops.
It is learned anew from the trailing days as they grow, and between two times its two levels stand. So it learns what readings are
good for there: how long windows last, how soon they end, what the newest reading says of now if readings are late.

Break-even is its gate. It decides while less than a day of the past is known. Then both rules are carried out on what is known, and
later, each time the levels are learned anew, on what has come since the last time; whichever leads over the trailing weeks decides.
Where no level says what a reading is worth (a trigger of several signals), break-even decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from windfall.grid.signal import Columns
from windfall.policy.base import Criterion, Decision, Judged, Memory, SiteView
from windfall.policy.belief import Array, Chain, cadence_s, stepped
from windfall.policy.breakeven import Breakeven
from windfall.policy.criterion import Level, distances
from windfall.units import duration_text

_DAY_S = 86400.0
#: The past that is learned from, and how fast the gate forgets.
_PAST_S = 28 * _DAY_S
#: Levels are learned anew when the past has grown by half, but no sooner and no later than this.
_SOONEST_S, _LATEST_S = 6 * 3600.0, 7 * _DAY_S
#: One rule takes over when it is ahead by so many starts.
_MARGIN = 2.0
#: A reading that holds until the next one is taken in this often (s).
_STEP_S = 300.0
#: What it remembers of its levels, besides what break-even remembers.
_KEYS = ("start", "stop", "due", "learned_at", "late", "restart", "share", "step", "lead", "leads")


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
        m = {k: site.memory[k] for k in _KEYS if k in site.memory}
        row_s = judged.valid_until - judged.valid_from if math.isfinite(judged.valid_until) else _STEP_S
        step_s = m.get("step", row_s)
        # How late readings are is told by the newest: from the instant that it is about to when it was heard.
        late = float(max(0, math.floor((site.reading.known_at - judged.valid_from) / step_s + 0.5)))
        restart = max(site.spin_up_s, 1e-9) / step_s
        stands = len(m) == len(_KEYS) and t < m["due"] and m["late"] == late and abs(m["restart"] - restart) <= 0.1 * restart
        if not stands:
            m = self._learn(t, site, level, m, row_s)
        if m["leads"] <= 0:
            own = replace(site, memory={k: v for k, v in site.memory.items() if k in ("acc", "to", "gain")})
            d = self._breakeven.decide_site(t, own, judged)
            until = m["due"] if d.until is None else min(d.until, m["due"])
            why = "break-even has done better" if m["leads"] else "too little of the past is known to learn from"
            return replace(d, reason=f"{d.reason} ({why})", until=until, memory={**d.memory, **m})
        distance = 1.0 - judged.gain / judged.scale
        on = distance < (m["stop"] if site.on else m["start"])
        levels = {k: judged.level + (m[k] - 1.0) * judged.scale for k in ("start", "stop")}
        bound = levels["stop" if on else "start"]
        verb = ("start" if on else "stop") if on != site.on else ("on" if on else "off")
        how = "" if not late else f"; readings are {duration_text(late * step_s)} late"
        what = f"stops at {levels['stop']:.0f}" if on else f"starts under {levels['start']:.0f}"
        reason = f"{verb}: {judged.text}; here it {what}, by what has paid{how}"
        quiet = ((-math.inf, bound) if on else (bound, math.inf)) if judged.single and math.isfinite(bound) else None
        numbers = {"value": judged.value, "worth": judged.level, **{f"{k}_at": v for k, v in levels.items() if math.isfinite(v)}}
        return Decision(on, reason, numbers, m["due"], m, quiet)

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
        start, stop = Chain(d, step_s).levels(max(restart * share, 1e-9), int(late))
        span = t - float(times[0]) if len(times) else 0.0
        now = {"start": start, "stop": stop, "late": late, "restart": restart, "share": share, "step": step_s, "learned_at": t}
        lead, leads = was.get("lead", 0.0), was.get("leads", 0.0)
        if leads == 0.0 and span >= _DAY_S:
            lead = self._ahead(d, now)
            leads = math.copysign(1.0, lead)
        elif leads != 0.0 and was["step"] == step_s:
            new = np.append(np.full(int(was["late"]), np.nan), d[times >= was["learned_at"]])
            lead = lead * 0.5 ** ((t - was["learned_at"]) / _PAST_S) + self._ahead(new, was)
            leads = math.copysign(1.0, lead) if abs(lead) > _MARGIN else leads
        due = t + min(max(0.5 * span, _SOONEST_S), _LATEST_S)
        return {**now, "due": due, "lead": lead, "leads": leads}

    def _ahead(self, d: Array, was: Mapping[str, float]) -> float:
        """By how many starts the levels did better than break-even over ``d``, both off at its begin."""
        late, restart = int(was["late"]), was["restart"]
        told, real = d[: len(d) - late], d[late:]
        if not len(real):
            return 0.0
        rules = (on_by_levels(told, was["start"], was["stop"]), on_by_breakeven(told, restart, self._breakeven))
        one, two = (value_of(on, real, restart, was["share"]) for on in rules)
        return (one - two) / restart


def on_by_levels(d: Array, start: float, stop: float) -> npt.NDArray[np.bool_]:
    """Whether a site is on at each step, if it starts under one distance and stops at or over another; off where d is NaN."""
    steps = np.arange(len(d))
    gone = np.isnan(d)
    off = np.maximum.accumulate(np.where(gone | (d >= stop), steps, -1))
    return np.asarray(np.maximum.accumulate(np.where(d < start, steps, -1)) > off)


def on_by_breakeven(d: Array, restart: float, breakeven: Breakeven) -> npt.NDArray[np.bool_]:
    """The same by break-even; its accumulator is in steps of full gain."""
    found = np.zeros(len(d), bool)
    on, acc, starts, stops = False, 0.0, breakeven.a_on * restart, breakeven.a_off * restart
    for i, distance in enumerate(d.tolist()):
        if distance != distance:
            on, acc = False, 0.0
        elif on:
            acc = max(0.0, acc + distance - 1.0)
            on = distance < 1.0 or acc < stops
        else:
            acc = max(0.0, acc + 1.0 - distance)
            on = distance < 1.0 and acc >= starts
        if on != bool(i and found[i - 1]):
            acc = 0.0
        found[i] = on
    return found


def start_share(level: Level) -> float:
    """What a second of a start costs, in seconds of full gain: it uses the energy that training would, and brings no worth."""
    return 1.0 if level.scale is None else max(0.0, level.level / level.scale)


def value_of(on: npt.NDArray[np.bool_], d: Array, restart: float, share: float = 1.0) -> float:
    """The value of a schedule, in steps of full gain: what training gains, less what starts of ``restart`` steps cost."""
    steps = np.arange(len(on))
    since = steps - np.maximum.accumulate(np.where(on, -1, steps))
    starting = np.clip(restart - (since - 1.0), 0.0, 1.0)
    return float(np.nansum(np.where(on, 1.0 - d - share * starting, 0.0)))
