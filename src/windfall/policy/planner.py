"""The planner: what to run at several sites to train a budget by a deadline as cheaply as possible.

Each site has its dynamic programme (`programme`); sites are coupled by one worth per token: a Lagrange multiplier, found by
bisection. The schedules at both sides of it bound the optimum from below; what is over the budget is trimmed where it is dearest.
The oracle of backtests, `lookahead` and `budgeted` are these programmes on what will be, or on what is forecast.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from windfall.policy.programme import TICK_S, Programme, Stretch

#: Of a plan that is nearly right not more ends than this are moved; in one of many stretches a little of one is not worth a look.
_STEPS, _MANY = 100, 300


@dataclass(frozen=True, slots=True)
class Plan:
    """Schedules that train a budget. ``worth`` is the bound's level at the site with the least rate per kW; others' are higher."""

    stretches: dict[str, list[Stretch]]
    worth: float
    trained: float
    cost: float
    #: No schedule costs less (Lagrange's bound).
    bound: float
    reachable: bool


@dataclass(frozen=True, slots=True)
class Planned:
    """A site in a plan: its programme, tokens per second, and training power in kW."""

    programme: Programme
    rate: float
    kw: float


def seconds(stretches: Sequence[Stretch]) -> float:
    """Training time of a schedule."""
    return sum(s.stop - s.ready for s in stretches)


def cost_of(site: Planned, stretches: Sequence[Stretch]) -> float:
    """What a schedule costs: the signal's integral times power, starts included."""
    series, total = site.programme.series, 0.0
    for s in stretches:
        total += series.over(s.ready, s.stop)
        at = s.start
        if s.ready > s.start and abs(s.ready - s.start - site.programme.spin.seconds) < 2 * TICK_S:
            for length, share in site.programme.spin.parts:
                total += share * series.over(at, at + length)
                at += length
    return total * site.kw


def plan(sites: Mapping[str, Planned], target: float, *, beyond: float = 0.0, rounds: int = 40) -> Plan:
    """The cheapest way found to train ``target`` tokens at ``sites``, of which ``beyond`` will be trained elsewhere anyway."""
    need = target - beyond

    def at(worth: float) -> tuple[dict[str, list[Stretch]], float, float]:
        """Schedules at a worth per token, their tokens, and the Lagrangian's value."""
        found, tokens, value = {}, 0.0, 0.0
        for name, site in sites.items():
            v, stretches = site.programme.solve(worth * site.rate / site.kw)
            found[name] = stretches
            tokens += site.rate * seconds(stretches)
            value += v * site.kw
        return found, tokens, value

    scale = max((p.kw / p.rate for p in sites.values()), default=1.0)
    top = max((float(np.nanmax(np.abs(p.programme.series.values), initial=0.0)) for p in sites.values()), default=1.0)
    low, high = -(top + 1.0) * scale, (top + 1.0) * scale
    best = at(high)
    for _ in range(12):  # starts are paid for as well: the last stretch may be worth more than the dearest hour
        if best[1] >= need:
            break
        high *= 4.0
        best = at(high)
    if best[1] < need:
        cost = sum(cost_of(sites[n], s) for n, s in best[0].items())
        return Plan(best[0], math.inf, best[1] + beyond, cost, cost, False)
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
    return Plan(chosen, high / scale, trained + beyond, cost, bound, True)


def _mix(
    sites: Mapping[str, Planned], under: dict[str, list[Stretch]], over: dict[str, list[Stretch]], need: float
) -> dict[str, list[Stretch]]:
    """Between the schedules at both sides of the multiplier: site by site, one in part; then trimmed at the dearest edges."""

    def enough(schedule: Mapping[str, list[Stretch]]) -> bool:
        return sum(sites[n].rate * seconds(s) for n, s in schedule.items()) >= need

    tried: list[dict[str, list[Stretch]]] = []
    short: list[dict[str, list[Stretch]]] = []
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
            series = sites[pivot].programme.series
            bad, good = (series.start, series.end) if first is over else (series.end, series.start)
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


def _cost(sites: Mapping[str, Planned], schedule: Mapping[str, Sequence[Stretch]]) -> float:
    return sum(cost_of(sites[n], s) for n, s in schedule.items())


def _without_slivers(
    sites: Mapping[str, Planned], schedule: dict[str, list[Stretch]], need: float
) -> dict[str, list[Stretch]]:  # fmt: skip
    """Trimming may leave little of a stretch whose start is paid for: without it, if others can be longer for less."""
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


def _grow(sites: Mapping[str, Planned], schedule: Mapping[str, list[Stretch]], need: float) -> dict[str, list[Stretch]] | None:
    """Stretches made longer at their ends, where it is cheapest first, until they train ``need``; None if that takes too much."""
    stretches = {n: list(s) for n, s in schedule.items()}
    short = need - sum(sites[n].rate * seconds(s) for n, s in stretches.items())
    if sum(map(len, stretches.values())) > _MANY:
        return None
    for _ in range(_STEPS):
        if short <= 1e-9 * max(1.0, need):
            return stretches
        offers = []
        for name, found in stretches.items():
            series, spin, per_token = sites[name].programme.series, sites[name].programme.spin, sites[name].kw / sites[name].rate
            for i, s in enumerate(found):
                k = int(np.searchsorted(series.edges, s.stop + TICK_S, side="right")) - 1
                if k < len(series.values):
                    room = min(float(series.edges[k + 1]), found[i + 1].start if i + 1 < len(found) else series.end) - s.stop
                    offers.append((float(series.values[k]) * per_token, name, i, "stop", room))
                k = int(np.searchsorted(series.edges, s.ready - TICK_S, side="left")) - 1
                if k >= 0 and s.ready - s.start > spin.seconds - 2 * TICK_S:
                    since = max(found[i - 1].stop if i else series.start, series.known_since(s.start))
                    room = min(s.ready - float(series.edges[k]), s.start - since)
                    offers.append((float(series.values[k]) * per_token, name, i, "ready", room))
        # Nobody trains longer into time of which nothing is known.
        offers = [o for o in offers if o[4] > TICK_S and not math.isnan(o[0])]
        if not offers:
            break
        _, name, i, edge, room = min(offers)
        s, more = stretches[name][i], min(room, short / sites[name].rate)
        longer = Stretch(s.start, s.ready, s.stop + more) if edge == "stop" else Stretch(s.start - more, s.ready - more, s.stop)
        stretches[name][i] = longer
        short -= more * sites[name].rate
    return None


def _splice(first: Sequence[Stretch], then: Sequence[Stretch], at: float) -> list[Stretch]:
    """One schedule until ``at``, and from then on another: as far as it need not have started before."""
    found = [s for s in first if s.stop <= at]
    cut = next((s for s in first if s.ready < at < s.stop), None)
    if cut is not None:
        goes_on = next((s.stop for s in then if s.start < at and s.ready <= at < s.stop), at)
        found.append(Stretch(cut.start, cut.ready, goes_on))
    return found + [s for s in then if s.start >= at]


def trim(sites: Mapping[str, Planned], schedule: dict[str, list[Stretch]], need: float) -> dict[str, list[Stretch]]:
    """Take away what is over ``need`` tokens, dearest first, from the ends of stretches (and whole ones where that is dearer)."""
    surplus = sum(sites[n].rate * seconds(s) for n, s in schedule.items()) - need
    stretches = {n: list(s) for n, s in schedule.items()}
    queue: list[tuple[float, str, int, str]] = []
    least = 1e-9 * max(1.0, need)

    def offer(name: str, i: int) -> None:
        s, series = stretches[name][i], sites[name].programme.series
        if s.stop - s.ready <= TICK_S:
            return
        per_token = sites[name].kw / sites[name].rate
        last = series.values[max(0, int(np.searchsorted(series.edges, s.stop - TICK_S, side="right")) - 1)]
        heapq.heappush(queue, (-float(last) * per_token, name, i, "stop"))
        # A site that is starting already cannot be made to start later.
        if s.ready > series.start and s.ready - s.start > sites[name].programme.spin.seconds - 2 * TICK_S:
            place = int(np.searchsorted(series.edges, s.ready + TICK_S, side="right")) - 1
            first = series.values[min(len(series.values) - 1, place)]
            heapq.heappush(queue, (-float(first) * per_token, name, i, "ready"))
        whole = cost_of(sites[name], [s]) / (sites[name].rate * (s.stop - s.ready))
        heapq.heappush(queue, (-whole, name, i, "whole"))

    for name, found in stretches.items():
        for i in range(len(found)):
            offer(name, i)
    while surplus > least and queue:
        _, name, i, edge = heapq.heappop(queue)
        s, site = stretches[name][i], sites[name]
        room = surplus / site.rate
        length = s.stop - s.ready
        if length <= TICK_S:
            continue
        if edge == "whole":
            if length * site.rate <= surplus + least:
                stretches[name][i] = Stretch(s.start, s.ready, s.ready)
                surplus -= length * site.rate
            continue
        edges = site.programme.series.edges
        if edge == "stop":
            inner = float(edges[max(0, int(np.searchsorted(edges, s.stop - TICK_S, side="right")) - 1)])
            cut = min(room, s.stop - max(inner, s.ready))
            stretches[name][i] = Stretch(s.start, s.ready, s.stop - cut)
        else:
            outer = float(edges[min(len(edges) - 1, int(np.searchsorted(edges, s.ready + TICK_S, side="right")))])
            cut = min(room, min(outer, s.stop) - s.ready)
            stretches[name][i] = Stretch(s.start + cut, s.ready + cut, s.stop)
        surplus -= cut * site.rate
        # Old offers of this stretch are out of date; new ones replace them.
        queue = [q for q in queue if (q[1], q[2]) != (name, i)]
        heapq.heapify(queue)
        offer(name, i)
    return {n: [s for s in found if s.stop > s.ready + TICK_S] for n, found in stretches.items()}
