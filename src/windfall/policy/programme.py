"""One site's dynamic programme: when to run, if the signal to come were known. Two states, exact in continuous time.

Off and on: running earns ``worth − c`` a second (per kW of training power), a start costs its spin-up, which takes its time and
uses power. With a step-held signal an optimum switches only where the signal changes, or where a start begun there would be
done; so the programme visits these instants and no others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
_NEVER = -1e300
#: Unix seconds have room for a quarter of a microsecond: instants closer than this are one.
TICK_S = 1e-3


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
        return np.asarray(unknown < TICK_S)

    def known_since(self, t: float) -> float:
        """Where the known time that ``t`` lies in, or ends at, begins."""
        before = self._hole_ends[self._hole_ends <= t + TICK_S]
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
            nodes = nodes[np.append(True, np.diff(nodes) > TICK_S)]
        self.nodes = nodes
        places = np.searchsorted(nodes, nodes + spin.seconds - TICK_S)
        ok = places < len(nodes)
        ok[ok] = np.abs(nodes[places[ok]] - (nodes[ok] + spin.seconds)) < TICK_S
        ok &= series.known(nodes, nodes + spin.seconds)
        self._jump = np.where(ok, places, -1).tolist()
        integral = series.until(nodes)
        # Nobody trains through time of which nothing is known.
        self._cost = np.where(series.known(nodes[:-1], nodes[1:]), np.diff(integral), -_NEVER).tolist()
        self._gives_up = gives_up and spin.seconds >= TICK_S and bool(np.nanmin(series.values, initial=0.0) < 0)
        self._length = np.diff(nodes).tolist()
        price = np.zeros(len(nodes))
        at = nodes
        for seconds, share in spin.parts:
            price += share * (series.until(np.minimum(at + seconds, series.end)) - series.until(np.minimum(at, series.end)))
            at = at + seconds
        if spin.seconds < TICK_S:  # a start that takes no time costs nothing
            price[:] = 0.0
        self._price = price.tolist()
        self._begun = int(np.searchsorted(nodes, begun - TICK_S)) if begun <= series.end else -1

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
