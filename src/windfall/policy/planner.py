"""The planner: when each of several sites runs, so that together they train a budget by a deadline as cheaply as possible.

Each site has its own dynamic programme (`programme`). The sites share one worth per token, a Lagrange multiplier, which is found by
bisection: at a higher worth they train more. The Lagrangian at any worth is a lower bound of the cost (weak duality; Boyd and
Vandenberghe, Convex Optimization, section 5.2). At the worth where the budget is just met, what the schedules train beyond it is
trimmed where it is dearest. The oracle of backtests plans on the signals as they came to be, `budgeted` on forecasts.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from windfall.policy.programme import TICK_S, OnPeriod, Programme

#: `_grow` moves at most `_STEPS` ends of on-periods, and leaves schedules of more than `_MANY` on-periods alone: what it could save
#: of so many is too little to be worth the time.
_STEPS, _MANY = 100, 300


@dataclass(frozen=True, slots=True)
class BudgetSchedule:
    """When each site runs to train a budget. ``cost`` is in the signal's unit × kW × seconds, ``trained`` in tokens.

    ``worth`` is the multiplier as a level of the signal, in the signal's unit: at that value it is just not worth while to train.
    It is stated for the site that trains the fewest tokens per second and kW. The level of another site is higher in proportion
    to its tokens per second and kW. Infinite where the budget cannot be met.
    """

    on_periods: dict[str, list[OnPeriod]]
    worth: float
    trained: float
    cost: float
    #: Lagrange's bound: no schedule that trains the budget costs less.
    bound: float
    reachable: bool


@dataclass(frozen=True, slots=True)
class PlannedSite:
    """A site that is planned for: its programme, tokens per second, and training power in kW."""

    programme: Programme
    rate: float
    kw: float


def seconds(on_periods: Sequence[OnPeriod]) -> float:
    """Training time of a site's schedule, in seconds."""
    return sum(s.stop - s.ready for s in on_periods)


def cost_of(site: PlannedSite, on_periods: Sequence[OnPeriod]) -> float:
    """What a site's schedule costs, starts included: the integral of signal × power (the signal's unit × kW × seconds)."""
    signal, total = site.programme.signal, 0.0
    for s in on_periods:
        total += signal.over(s.ready, s.stop)
        at = s.start
        if s.ready > s.start and abs(s.ready - s.start - site.programme.spin.seconds) < 2 * TICK_S:
            for length, share in site.programme.spin.parts:
                total += share * signal.over(at, at + length)
                at += length
    return total * site.kw


def plan_budget(sites: Mapping[str, PlannedSite], target: float, *, beyond: float = 0.0, rounds: int = 40) -> BudgetSchedule:
    """The cheapest schedules found that train ``target`` tokens, of which ``beyond`` are trained outside of these schedules anyway.

    ``rounds`` bounds the bisection. If the sites train too little even at any worth, the result is what they train then, and is not
    ``reachable``.
    """
    need = target - beyond

    def at(worth: float) -> tuple[dict[str, list[OnPeriod]], float, float]:
        """The best schedules at a worth per token, the tokens that they train, and the Lagrangian's value."""
        found, tokens, value = {}, 0.0, 0.0
        for name, site in sites.items():
            v, on_periods = site.programme.solve(worth * site.rate / site.kw)
            found[name] = on_periods
            tokens += site.rate * seconds(on_periods)
            value += v * site.kw
        return found, tokens, value

    scale = max((p.kw / p.rate for p in sites.values()), default=1.0)
    top = max((float(np.nanmax(np.abs(p.programme.signal.values), initial=0.0)) for p in sites.values()), default=1.0)
    low, high = -(top + 1.0) * scale, (top + 1.0) * scale
    best = at(high)
    for _ in range(12):  # an on-period must pay for its start too, so the worth may have to be above the dearest hour's value
        if best[1] >= need:
            break
        high *= 4.0
        best = at(high)
    if best[1] < need:
        cost = sum(cost_of(sites[n], s) for n, s in best[0].items())
        return BudgetSchedule(best[0], math.inf, best[1] + beyond, cost, cost, False)
    under = at(low)
    bound = -math.inf
    for _ in range(rounds):
        middle = 0.5 * (low + high)
        found = at(middle)
        bound = max(bound, middle * need - found[2])
        if found[1] >= need:
            high, best = middle, found
        else:
            low, under = middle, found
        if high - low <= 1e-9 * max(abs(high), abs(low)):
            break
    chosen = _mix(sites, under[0], best[0], need)
    cost = sum(cost_of(sites[n], s) for n, s in chosen.items())
    trained = sum(sites[n].rate * seconds(s) for n, s in chosen.items())
    return BudgetSchedule(chosen, high / scale, trained + beyond, cost, bound, True)


def _mix(
    sites: Mapping[str, PlannedSite], under: dict[str, list[OnPeriod]], over: dict[str, list[OnPeriod]], need: float
) -> dict[str, list[OnPeriod]]:
    """A schedule between ``under``, which trains too little, and ``over``, which trains too much: the cheapest of several tries.

    Each try gives sites one after the other the schedule of ``under``, as long as enough is trained. The first site at which that
    is too little, the pivot, has one schedule up to some instant and the other from then on. The rest over the budget is trimmed.
    """

    def enough(schedule: Mapping[str, list[OnPeriod]]) -> bool:
        return sum(sites[n].rate * seconds(s) for n, s in schedule.items()) >= need

    tried: list[dict[str, list[OnPeriod]]] = []
    short: list[dict[str, list[OnPeriod]]] = []
    names = list(sites)
    for order in (names, names[::-1]):
        mixed, pivot = dict(over), ""
        for name in order:
            less = {**mixed, name: under.get(name, [])}
            if enough(less):
                mixed = less
            else:
                pivot = pivot or name
        tried.append(mixed)
        if pivot:
            short.append({**mixed, pivot: under.get(pivot, [])})
        for first, then in ((over, under), (under, over)) if pivot else ():
            tried.append({**mixed, pivot: mixed[pivot]})
            signal = sites[pivot].programme.signal
            bad, good = (signal.start, signal.end) if first is over else (signal.end, signal.start)
            for _ in range(40):
                at = 0.5 * (bad + good)
                spliced = {**mixed, pivot: _splice(first.get(pivot, []), then.get(pivot, []), at)}
                if enough(spliced):
                    good, tried[-1] = at, spliced
                else:
                    bad = at
    made = [trim(sites, schedule, need) for schedule in tried] + [
        x for x in (_grow(sites, s, need) for s in short) if x is not None
    ]
    return _without_slivers(sites, min(made, key=lambda found: _cost(sites, found)), need)


def _cost(sites: Mapping[str, PlannedSite], schedule: Mapping[str, Sequence[OnPeriod]]) -> float:
    return sum(cost_of(sites[n], s) for n, s in schedule.items())


def _without_slivers(
    sites: Mapping[str, PlannedSite], schedule: dict[str, list[OnPeriod]], need: float
) -> dict[str, list[OnPeriod]]:  # fmt: skip
    """The schedule without its dearest on-period, if making others longer instead costs less; up to four times.

    Trimming may leave so little of an on-period that its start is not worth while any more.
    """
    best, cost = schedule, _cost(sites, schedule)
    for _ in range(4):
        dear = [
            (cost_of(sites[n], [s]) / (sites[n].rate * (s.stop - s.ready)), n, i) for n, x in best.items() for i, s in enumerate(x)
        ]
        if len(dear) < 2:
            break
        _, name, i = max(dear)
        grown = _grow(sites, {**best, name: best[name][:i] + best[name][i + 1 :]}, need)
        if grown is None or (less := _cost(sites, grown)) >= cost:
            break
        best, cost = grown, less
    return best


def _grow(
    sites: Mapping[str, PlannedSite], schedule: Mapping[str, list[OnPeriod]], need: float
) -> dict[str, list[OnPeriod]] | None:
    """``schedule`` with on-periods made longer, cheapest ends first, until it trains ``need`` tokens; None if that cannot be done.

    At most `_STEPS` ends are moved, and schedules of more than `_MANY` on-periods are not tried.
    """
    on_periods = {n: list(s) for n, s in schedule.items()}
    short = need - sum(sites[n].rate * seconds(s) for n, s in on_periods.items())
    if sum(map(len, on_periods.values())) > _MANY:
        return None
    for _ in range(_STEPS):
        if short <= 1e-9 * max(1.0, need):
            return on_periods
        offers = []
        for name, found in on_periods.items():
            signal, spin, per_token = sites[name].programme.signal, sites[name].programme.spin, sites[name].kw / sites[name].rate
            for i, s in enumerate(found):
                k = int(np.searchsorted(signal.edges, s.stop + TICK_S, side="right")) - 1
                if k < len(signal.values):
                    room = min(float(signal.edges[k + 1]), found[i + 1].start if i + 1 < len(found) else signal.end) - s.stop
                    offers.append((float(signal.values[k]) * per_token, name, i, "stop", room))
                k = int(np.searchsorted(signal.edges, s.ready - TICK_S, side="left")) - 1
                if k >= 0 and s.ready - s.start > spin.seconds - 2 * TICK_S:
                    since = max(found[i - 1].stop if i else signal.start, signal.known_since(s.start))
                    room = min(s.ready - float(signal.edges[k]), s.start - since)
                    offers.append((float(signal.values[k]) * per_token, name, i, "ready", room))
        # No on-period grows into unknown time.
        offers = [o for o in offers if o[4] > TICK_S and not math.isnan(o[0])]
        if not offers:
            break
        _, name, i, edge, room = min(offers)
        s, more = on_periods[name][i], min(room, short / sites[name].rate)
        longer = OnPeriod(s.start, s.ready, s.stop + more) if edge == "stop" else OnPeriod(s.start - more, s.ready - more, s.stop)
        on_periods[name][i] = longer
        short -= more * sites[name].rate
    return None


def _splice(first: Sequence[OnPeriod], then: Sequence[OnPeriod], at: float) -> list[OnPeriod]:
    """The schedule ``first`` until ``at`` and the schedule ``then`` from ``at`` on.

    An on-period of ``then`` that started before ``at`` is left out, unless one of ``first`` trains at ``at`` and so goes on in it.
    """
    found = [s for s in first if s.stop <= at]
    cut = next((s for s in first if s.ready < at < s.stop), None)
    if cut is not None:
        goes_on = next((s.stop for s in then if s.start < at and s.ready <= at < s.stop), at)
        found.append(OnPeriod(cut.start, cut.ready, goes_on))
    return found + [s for s in then if s.start >= at]


def trim(sites: Mapping[str, PlannedSite], schedule: dict[str, list[OnPeriod]], need: float) -> dict[str, list[OnPeriod]]:
    """``schedule`` without what it trains over ``need`` tokens: dearest ends first, or a whole on-period where that is dearer."""
    surplus = sum(sites[n].rate * seconds(s) for n, s in schedule.items()) - need
    on_periods = {n: list(s) for n, s in schedule.items()}
    queue: list[tuple[float, str, int, str]] = []
    least = 1e-9 * max(1.0, need)

    def offer(name: str, i: int) -> None:
        s, signal = on_periods[name][i], sites[name].programme.signal
        if s.stop - s.ready <= TICK_S:
            return
        per_token = sites[name].kw / sites[name].rate
        last = signal.values[max(0, int(np.searchsorted(signal.edges, s.stop - TICK_S, side="right")) - 1)]
        heapq.heappush(queue, (-float(last) * per_token, name, i, "stop"))
        # A start that is under way already cannot be moved to a later time.
        if s.ready > signal.start and s.ready - s.start > sites[name].programme.spin.seconds - 2 * TICK_S:
            place = int(np.searchsorted(signal.edges, s.ready + TICK_S, side="right")) - 1
            first = signal.values[min(len(signal.values) - 1, place)]
            heapq.heappush(queue, (-float(first) * per_token, name, i, "ready"))
        whole = cost_of(sites[name], [s]) / (sites[name].rate * (s.stop - s.ready))
        heapq.heappush(queue, (-whole, name, i, "whole"))

    for name, found in on_periods.items():
        for i in range(len(found)):
            offer(name, i)
    while surplus > least and queue:
        _, name, i, edge = heapq.heappop(queue)
        s, site = on_periods[name][i], sites[name]
        room = surplus / site.rate
        length = s.stop - s.ready
        if length <= TICK_S:
            continue
        if edge == "whole":
            if length * site.rate <= surplus + least:
                on_periods[name][i] = OnPeriod(s.start, s.ready, s.ready)
                surplus -= length * site.rate
            continue
        edges = site.programme.signal.edges
        if edge == "stop":
            inner = float(edges[max(0, int(np.searchsorted(edges, s.stop - TICK_S, side="right")) - 1)])
            cut = min(room, s.stop - max(inner, s.ready))
            on_periods[name][i] = OnPeriod(s.start, s.ready, s.stop - cut)
        else:
            outer = float(edges[min(len(edges) - 1, int(np.searchsorted(edges, s.ready + TICK_S, side="right")))])
            cut = min(room, min(outer, s.stop) - s.ready)
            on_periods[name][i] = OnPeriod(s.start + cut, s.ready + cut, s.stop)
        surplus -= cut * site.rate
        # The offers for this on-period are out of date, so new ones take their place.
        queue = [q for q in queue if (q[1], q[2]) != (name, i)]
        heapq.heapify(queue)
        offer(name, i)
    return {n: [s for s in found if s.stop > s.ready + TICK_S] for n, found in on_periods.items()}
