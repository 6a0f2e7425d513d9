"""The planner: when to run, if the signal to come were known. A two-state dynamic programme, exact in continuous time.

For one site, off and on: running earns ``worth − c`` a second (per kW of training power), a start costs its spin-up, which
takes its time and uses power. With a step-held signal an optimum switches only where the signal changes, or where a start
begun there would be done; so the programme visits these instants and no others. The oracle of backtests, `lookahead` and
`budgeted` are this programme on what will be, or on what is forecast.

For a budget by a deadline, sites are coupled by one worth per token: a Lagrange multiplier, found by bisection. The schedules
at both sides of it bound the optimum from below; what is over the budget is trimmed where it is dearest.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
_NEVER = -1e300
#: Unix seconds have room for a quarter of a microsecond: instants closer than this are one.
_TICK_S = 1e-3
#: Of a plan that is nearly right not more ends than this are moved; in one of many stretches a little of one is not worth a look.
_STEPS, _MANY = 100, 300


@dataclass(frozen=True, slots=True)
class SpinUp:
    """A start in parts: seconds, and power as a share of the training power."""

    parts: tuple[tuple[float, float], ...]

    @property
    def seconds(self) -> float:
        """From the decision to the first step."""
        return sum(s for s, _ in self.parts)


@dataclass(frozen=True, slots=True)
class Stretch:
    """One on-period: decided at ``start``, training from ``ready`` to ``stop``. ``start`` is ``ready`` where it runs already.

    Where ``ready`` is ``stop`` the start was given up before it came to work.
    """

    start: float
    ready: float
    stop: float


class Series:
    """A step-held signal over a time, ready to be planned on: ``values[i]`` holds over ``[edges[i], edges[i+1])``.

    Where a value is NaN nothing is known: no schedule trains or starts there.
    """

    def __init__(self, edges: Array, values: Array) -> None:
        # Equal neighbours are one: fewer instants to visit.
        gone = np.isnan(values)
        same = (values[1:] == values[:-1]) | (gone[1:] & gone[:-1])
        keep = np.append(True, ~same)
        self.values = values[keep]
        self.edges = np.append(edges[:-1][keep], edges[-1])
        lengths = np.diff(self.edges)
        gone = np.isnan(self.values)
        self.integral = np.append(0.0, np.cumsum(np.where(gone, 0.0, self.values) * lengths))
        #: Seconds of which nothing is known, from the start to each edge.
        self._unknown = np.append(0.0, np.cumsum(np.where(gone, lengths, 0.0)))
        self.whole = not gone.any()
        self._hole_ends = self.edges[1:][gone]

    @property
    def start(self) -> float:
        """First instant."""
        return float(self.edges[0])

    @property
    def end(self) -> float:
        """Last instant."""
        return float(self.edges[-1])

    def until(self, t: Array) -> Array:
        """The integral from the start to each of ``t``; unknown time adds nothing."""
        return np.asarray(np.interp(t, self.edges, self.integral), np.float64)

    def known(self, a: Array, b: Array) -> npt.NDArray[np.bool_]:
        """Whether each of the times from ``a`` to ``b`` is known from end to end."""
        if self.whole:
            return np.ones(len(a), bool)
        unknown = np.interp(b, self.edges, self._unknown) - np.interp(a, self.edges, self._unknown)
        return np.asarray(unknown < _TICK_S)

    def known_since(self, t: float) -> float:
        """Where the known time that ``t`` lies in, or ends at, begins."""
        before = self._hole_ends[self._hole_ends <= t + _TICK_S]
        return float(before[-1]) if len(before) else self.start

    def over(self, a: float, b: float) -> float:
        """The integral over one stretch."""
        x = self.until(np.array([a, b]))
        return float(x[1] - x[0])


class Programme:
    """One site's dynamic programme, prepared once and solved for any worth.

    ``on`` and ``ready_in_s``: the site runs at the start, or will be ready that much later. ``tail`` is what being on at the
    end is worth (per kW), for horizons beyond which life goes on. ``gives_up``: a start may be given up half way, which is worth
    something where the signal is negative and using power earns money.
    """

    def __init__(
        self, series: Series, spin: SpinUp, *, on: bool = False, ready_in_s: float = 0.0, tail: float = 0.0, gives_up: bool = False
    ) -> None:
        self.series = series
        self.spin = spin
        self._tail = tail
        begun = series.start + ready_in_s if on else math.inf
        offsets = [0.0]
        for seconds, _ in spin.parts:  # a start may begin, or any part of it end, where the signal changes
            offsets.append(offsets[-1] + seconds)
        nodes = np.unique(np.concatenate([series.edges - x for x in offsets] + [series.edges[:1]]))
        nodes = nodes[(nodes >= series.start) & (nodes <= series.end)]
        # The ends of starts begun at a node must be nodes too.
        ends = nodes + spin.seconds
        extra = [ends[ends <= series.end]] + ([np.array([begun])] if begun <= series.end else [])
        nodes = np.unique(np.concatenate([nodes, *extra]))
        if len(nodes) > 1:  # what rounding has split is one instant
            nodes = nodes[np.append(True, np.diff(nodes) > _TICK_S)]
        self.nodes = nodes
        places = np.searchsorted(nodes, nodes + spin.seconds - _TICK_S)
        ok = places < len(nodes)
        ok[ok] = np.abs(nodes[places[ok]] - (nodes[ok] + spin.seconds)) < _TICK_S
        ok &= series.known(nodes, nodes + spin.seconds)
        self._jump = np.where(ok, places, -1).tolist()
        integral = series.until(nodes)
        # Nobody trains through time of which nothing is known.
        self._cost = np.where(series.known(nodes[:-1], nodes[1:]), np.diff(integral), -_NEVER).tolist()
        self._gives_up = gives_up and spin.seconds >= _TICK_S and bool(np.nanmin(series.values, initial=0.0) < 0)
        self._length = np.diff(nodes).tolist()
        price = np.zeros(len(nodes))
        at = nodes
        for seconds, share in spin.parts:
            price += share * (series.until(np.minimum(at + seconds, series.end)) - series.until(np.minimum(at, series.end)))
            at = at + seconds
        if spin.seconds < _TICK_S:  # a start that takes no time costs nothing
            price[:] = 0.0
        self._price = price.tolist()
        self._begun = int(np.searchsorted(nodes, begun - _TICK_S)) if begun <= series.end else -1

    def solve(self, worth: float) -> tuple[float, list[Stretch]]:
        """The best value (worth x seconds, per kW) at ``worth``, and the stretches that bring it.

        Equal values: the schedule with fewer starts.
        """
        if self._gives_up:
            return self._solve_giving_up(worth)
        cost, length, jump, price = self._cost, self._length, self._jump, self._price
        n = len(self.nodes)
        off, on = [_NEVER] * n, [_NEVER] * n
        # Where each state came from: off from on (a stop), on from a start at that node.
        stopped, started = bytearray(n), [-1] * n
        off[0] = 0.0
        if self._begun >= 0:
            on[self._begun] = 0.0
        for i in range(n):
            a, b = off[i], on[i]
            if b > a:
                off[i] = a = b
                stopped[i] = 1
            j = jump[i]
            if j >= 0:
                v = a - price[i]
                if v > on[j]:
                    on[j], started[j] = v, i
                    b = on[i]  # a start that takes no time
            if i + 1 < n:
                if a > off[i + 1]:
                    off[i + 1] = a
                v = b + worth * length[i] - cost[i]
                if v >= on[i + 1]:
                    on[i + 1], started[i + 1] = v, -1
        return self._back(off[n - 1], on[n - 1] + self._tail, stopped, started)

    def _back(self, off: float, on: float, stopped: bytearray, started: list[int]) -> tuple[float, list[Stretch]]:
        nodes = self.nodes
        i = len(nodes) - 1
        running = on > off and on > _NEVER / 2
        value = on if running else off
        found: list[Stretch] = []
        stop = i
        while i >= 0:
            if not running:
                if stopped[i]:
                    running, stop = True, i
                else:
                    i -= 1
                    continue
            if started[i] >= 0:
                begin = started[i]
                found.append(Stretch(float(nodes[begin]), float(nodes[i]), float(nodes[stop])))
                i, running = begin, False
                if stopped[begin] == 0:
                    i -= 1
                continue
            if i == self._begun or i == 0:
                found.append(Stretch(float(nodes[0]), float(nodes[i]), float(nodes[stop])))
                break
            i -= 1
        return value, [s for s in reversed(found) if s.stop > s.ready]

    def _solve_giving_up(self, worth: float) -> tuple[float, list[Stretch]]:
        """The same with a third state: starting, and never to be ready. Only for starts at full power.

        A second of it is never worth more than one of training, also at a negative worth: where it lasts as long as a start
        takes, the start may as well come to work, so nothing needs to be known of how long it has lasted.
        """
        cost, length, jump = self._cost, self._length, self._jump
        less = max(0.0, -worth)
        price = [p + less * self.spin.seconds for p in self._price]
        n = len(self.nodes)
        off, on, vain = [_NEVER] * n, [_NEVER] * n, [_NEVER] * n
        # Where each state came from: off from on (1) or from a start in vain (2); on, and a start in vain, from off at a node.
        left, started, tried = bytearray(n), [-1] * n, bytearray(n)
        off[0] = 0.0
        if self._begun >= 0:
            on[self._begun] = 0.0
        for i in range(n):
            for came, state in ((1, on), (2, vain)):
                if state[i] > off[i]:
                    off[i], left[i] = state[i], came
            j = jump[i]
            if j >= 0 and off[i] - price[i] > on[j]:
                on[j], started[j] = off[i] - price[i], i
            if i + 1 < n:
                off[i + 1] = max(off[i + 1], off[i])
                v = on[i] + worth * length[i] - cost[i]
                if v >= on[i + 1]:
                    on[i + 1], started[i + 1] = v, -1
                tried[i] = off[i] > vain[i]
                vain[i + 1] = max(off[i], vain[i]) - less * length[i] - cost[i]
        value, i = off[n - 1], n - 1
        at = "off"
        if on[i] + self._tail > value:
            value, at = on[i] + self._tail, "on"
        found: list[Stretch] = []
        stop = i
        while i > 0 or at == "on":
            if at == "off":
                if left[i]:
                    at, stop = ("on" if left[i] == 1 else "vain"), i
                else:
                    i -= 1
            elif at == "on":
                if started[i] >= 0:
                    found.append(Stretch(float(self.nodes[started[i]]), float(self.nodes[i]), float(self.nodes[stop])))
                    i, at = started[i], "off"
                elif i == self._begun or i == 0:
                    found.append(Stretch(float(self.nodes[0]), float(self.nodes[i]), float(self.nodes[stop])))
                    break
                else:
                    i -= 1
            else:
                i -= 1
                if tried[i]:
                    begin, end = float(self.nodes[i]), float(self.nodes[stop])
                    found.append(Stretch(begin, min(begin + self.spin.seconds, end), end))
                    at = "off"
        return value, list(reversed(found))


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
        if s.ready > s.start and abs(s.ready - s.start - site.programme.spin.seconds) < 2 * _TICK_S:
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
                k = int(np.searchsorted(series.edges, s.stop + _TICK_S, side="right")) - 1
                if k < len(series.values):
                    room = min(float(series.edges[k + 1]), found[i + 1].start if i + 1 < len(found) else series.end) - s.stop
                    offers.append((float(series.values[k]) * per_token, name, i, "stop", room))
                k = int(np.searchsorted(series.edges, s.ready - _TICK_S, side="left")) - 1
                if k >= 0 and s.ready - s.start > spin.seconds - 2 * _TICK_S:
                    since = max(found[i - 1].stop if i else series.start, series.known_since(s.start))
                    room = min(s.ready - float(series.edges[k]), s.start - since)
                    offers.append((float(series.values[k]) * per_token, name, i, "ready", room))
        # Nobody trains longer into time of which nothing is known.
        offers = [o for o in offers if o[4] > _TICK_S and not math.isnan(o[0])]
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
        if s.stop - s.ready <= _TICK_S:
            return
        per_token = sites[name].kw / sites[name].rate
        last = series.values[max(0, int(np.searchsorted(series.edges, s.stop - _TICK_S, side="right")) - 1)]
        heapq.heappush(queue, (-float(last) * per_token, name, i, "stop"))
        # A site that is starting already cannot be made to start later.
        if s.ready > series.start and s.ready - s.start > sites[name].programme.spin.seconds - 2 * _TICK_S:
            place = int(np.searchsorted(series.edges, s.ready + _TICK_S, side="right")) - 1
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
        if length <= _TICK_S:
            continue
        if edge == "whole":
            if length * site.rate <= surplus + least:
                stretches[name][i] = Stretch(s.start, s.ready, s.ready)
                surplus -= length * site.rate
            continue
        edges = site.programme.series.edges
        if edge == "stop":
            inner = float(edges[max(0, int(np.searchsorted(edges, s.stop - _TICK_S, side="right")) - 1)])
            cut = min(room, s.stop - max(inner, s.ready))
            stretches[name][i] = Stretch(s.start, s.ready, s.stop - cut)
        else:
            outer = float(edges[min(len(edges) - 1, int(np.searchsorted(edges, s.ready + _TICK_S, side="right")))])
            cut = min(room, min(outer, s.stop) - s.ready)
            stretches[name][i] = Stretch(s.start + cut, s.ready + cut, s.stop)
        surplus -= cut * site.rate
        # Old offers of this stretch are out of date; new ones replace them.
        queue = [q for q in queue if (q[1], q[2]) != (name, i)]
        heapq.heapify(queue)
        offer(name, i)
    return {n: [s for s in found if s.stop > s.ready + _TICK_S] for n, found in stretches.items()}
