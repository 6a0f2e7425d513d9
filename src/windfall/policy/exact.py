"""The cheapest budget by enumeration, for few sites and steps, where the planner's multiplier leaves a gap to its bound.

With step-held signals some best schedule switches only where a signal changes or a start ends, except at one edge, which makes the
tokens come out right. A grid of seconds is chosen on which all these instants lie. On it a dynamic programme over (instant, off or
on, seconds trained) finds for each site the least cost of every amount of training; then the sites' amounts are chosen together.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from windfall.policy.planner import BudgetSchedule, PlannedSite, cost_of, seconds, trim
from windfall.policy.programme import TICK_S, OnPeriod, Programme

Array = npt.NDArray[np.float64]
#: With more states of one site, or more combinations of several sites' amounts, the enumeration would take too long.
_MOST_STATES, _MOST_PAIRS = 30_000_000, 10_000_000


@dataclass(frozen=True)
class _CostCurve:
    """Of one site: ``cost[g]`` is the least cost of training exactly g units of ``unit_s`` seconds (infinite: it is impossible)."""

    start: float
    unit_s: float
    spin_units: int
    cost: Array
    stopped: npt.NDArray[np.bool_]
    started: npt.NDArray[np.bool_]

    def on_periods(self, g: int) -> list[OnPeriod]:
        """The schedule that costs ``cost[g]``."""
        found: list[OnPeriod] = []
        i, on, stop = len(self.stopped) - 1, False, 0

        def at(k: int) -> float:
            return self.start + k * self.unit_s

        while i > 0 or on:
            if not on and self.stopped[i, g]:
                on, stop = True, i
            elif on and self.started[i, g]:
                found.append(OnPeriod(at(i - self.spin_units), at(i), at(stop)))
                i, on = i - self.spin_units, False
            else:
                g -= on
                i -= 1
        return found[::-1]


def exact(sites: Mapping[str, PlannedSite], target: float, made: BudgetSchedule) -> BudgetSchedule:
    """``made``, or a cheaper schedule if enumeration finds one. Of the two bounds it has the tighter one."""
    if not made.reachable or not 0 < len(sites) <= 3 or not math.isfinite(target):
        return made
    names = list(sites)
    # If no grid divides the horizon too, the schedule is sought on a horizon cut to whole units, the bound on a longer one.
    for fine in (True, False):
        curves = [c for c in (_curve(sites[n], target, fine=fine) for n in names) if c is not None]
        if len(curves) == len(names):
            break
    else:
        return made
    longer = curves if fine else [c for c in (_curve(sites[n], target, fine=False, longer=True) for n in names) if c is not None]
    if len(longer) < len(names):
        return made
    gains = [sites[n].rate * c.unit_s for n, c in zip(names, curves, strict=True)]
    chosen = _amounts(curves, gains, target)
    # All on-periods but one edge are whole units, so a schedule that meets the target has at least so many tokens in whole units.
    alike = max(gains) - min(gains) <= 1e-9 * max(gains)
    least = math.floor(target / gains[0] + 1e-9) * gains[0] if alike else target - max(gains)
    under = _amounts(longer, gains, least)
    if chosen is None or under is None:
        return made
    bound = max(made.bound, sum(float(c.cost[g]) for c, g in zip(longer, under, strict=True)))
    schedule = trim(sites, {n: c.on_periods(g) for n, c, g in zip(names, curves, chosen, strict=True)}, target)
    cost = sum(cost_of(sites[n], s) for n, s in schedule.items())
    if cost >= made.cost:
        return BudgetSchedule(made.on_periods, made.worth, made.trained, made.cost, min(bound, made.cost), True)
    trained = sum(sites[n].rate * seconds(s) for n, s in schedule.items())
    return BudgetSchedule(schedule, made.worth, trained, cost, min(bound, cost), True)


def _curve(site: PlannedSite, target: float, *, fine: bool, longer: bool = False) -> _CostCurve | None:
    """A site's costs; None if there are too many states or no grid fits.

    ``fine``: the grid divides the horizon too. Else the rest of the horizon is left out, or with ``longer`` made a whole unit.
    """
    programme = site.programme
    signal, spin = programme.signal, programme.spin
    unit = _unit(programme, fine)
    if unit is None:
        return None
    steps, spin_units = int((signal.end - signal.start) / unit + (1.0 - 1e-6 if longer else 1e-6)), round(spin.seconds / unit)
    levels = min(steps, math.ceil(target / (site.rate * unit)))
    if spin_units < 1 or steps * levels > _MOST_STATES:
        return None
    instants: Array = signal.start + np.arange(steps + 1, dtype=np.float64) * unit
    beyond = np.maximum(instants - signal.end, 0.0)
    until = signal.until(instants) + (beyond * signal.values[-1] if np.isfinite(signal.values[-1]) else 0.0)
    known = signal.known(instants[:-1], instants[1:])
    step_cost = np.where(known, np.diff(until), np.inf) * site.kw
    price, begins = np.zeros(steps + 1), instants
    for length, share in spin.parts:
        ends: Array = np.minimum(begins + length, signal.end)
        price += share * (signal.until(ends) - signal.until(begins))
        begins = ends
    price = np.where(signal.known(instants, begins), price, np.inf) * site.kw
    off, on = np.full(levels + 1, np.inf), np.full(levels + 1, np.inf)
    off[0] = 0.0
    stopped, started = np.zeros((steps + 1, levels + 1), bool), np.zeros((steps + 1, levels + 1), bool)
    begun: deque[Array] = deque(maxlen=spin_units)
    for i in range(steps + 1):
        if i >= spin_units:
            ready = begun[0] + price[i - spin_units]
            started[i] = ready < on
            on = np.where(started[i], ready, on)
        stopped[i] = on < off
        off = np.where(stopped[i], on, off)
        begun.append(off)
        if i < steps:
            on = np.append(np.inf, on[:-1] + step_cost[i])
    return _CostCurve(signal.start, unit, spin_units, off, stopped, started)


def _unit(programme: Programme, fine: bool) -> float | None:
    """The longest unit (whole seconds) that divides the signal's changes, the parts of a start and, if ``fine``, the horizon."""
    signal = programme.signal
    places = np.concatenate([signal.edges[1 : None if fine else -1] - signal.start, [length for length, _ in programme.spin.parts]])
    whole = np.rint(places)
    if not len(whole) or np.abs(places - whole).max() > TICK_S:
        return None
    unit = int(np.gcd.reduce(whole.astype(np.int64)))
    return float(unit) if unit > 0 else None


def _amounts(curves: list[_CostCurve], gains: list[float], need: float) -> list[int] | None:
    """How many units each site trains for ``need`` tokens at the least cost; None if it is impossible, or too much to try."""
    last, gain = curves[-1], gains[-1]
    # least[g]: the least cost of training at least g units at the last site.
    least = np.minimum.accumulate(last.cost[::-1])[::-1]
    others = np.zeros(1)
    tokens = np.zeros(1)
    if math.prod(len(c.cost) for c in curves[:-1]) > _MOST_PAIRS:
        return None
    for c, own in zip(curves[:-1], gains[:-1], strict=True):
        others = np.add.outer(others, c.cost).ravel()
        tokens = np.add.outer(tokens, own * np.arange(len(c.cost))).ravel()
    units = np.maximum(0, np.ceil((need - tokens) / gain - 1e-9)).astype(np.int64)
    possible = units < len(least)
    total = np.where(possible, others + least[np.minimum(units, len(least) - 1)], np.inf)
    best = int(np.argmin(total))
    if not math.isfinite(total[best]):
        return None
    found, rest = [], best
    for c in reversed(curves[:-1]):
        rest, g = divmod(rest, len(c.cost))
        found.append(g)
    wanted = int(units[best])
    return [*reversed(found), wanted + int(np.argmin(last.cost[wanted:]))]
