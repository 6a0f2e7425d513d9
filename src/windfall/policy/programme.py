"""One site's dynamic programme: when to run, given the signal to come. It is exact in continuous time.

A site is off or on. Being on earns ``worth − c`` a second and kW of training power, c being the signal's value. A start takes the
spin-up's time and costs the power used in it. Where the signal holds its values in steps, some best schedule switches only at
instants at which the signal changes, or at which a start begun at such an instant is over. The programme therefore visits these
instants, its nodes, and no others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
_NEVER = -1e300
#: Instants closer than this (s) count as one. As float64 Unix seconds have a resolution of a quarter of a microsecond.
TICK_S = 1e-3


@dataclass(frozen=True, slots=True)
class SpinUp:
    """A start in parts, in their order: (seconds, power as a share of the training power) each."""

    parts: tuple[tuple[float, float], ...]

    @property
    def seconds(self) -> float:
        """From the decision to the first step."""
        return sum(s for s, _ in self.parts)


@dataclass(frozen=True, slots=True)
class OnPeriod:
    """One on-period (Unix seconds): the start is decided at ``start``, and the site trains from ``ready`` to ``stop``.

    ``start`` equals ``ready`` if the site runs already. ``ready`` equals ``stop`` if the start is given up before the site trains.
    """

    start: float
    ready: float
    stop: float


class StepFunction:
    """A step-held signal over a bounded time: ``values[i]`` holds over ``[edges[i], edges[i+1])``.

    ``values`` [n] are in the signal's unit, ``edges`` [n + 1] in Unix seconds. A value of NaN says that nothing is known: no
    schedule trains or starts there.
    """

    def __init__(self, edges: Array, values: Array) -> None:
        # Equal neighbours are joined, so that there are fewer instants to visit.
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
        """The begin of the known time in which ``t`` lies, or which ends at ``t``."""
        before = self._hole_ends[self._hole_ends <= t + TICK_S]
        return float(before[-1]) if len(before) else self.start

    def over(self, a: float, b: float) -> float:
        """The integral from ``a`` to ``b``; unknown time adds nothing."""
        x = self.until(np.array([a, b]))
        return float(x[1] - x[0])


class Programme:
    """One site's dynamic programme, prepared once and solved for any worth.

    ``on``: the site runs at the signal's begin, or is starting then and will be ready ``ready_in_s`` later. ``tail``: the value
    (per kW) of being on at the signal's end, for plans that do not end there. ``gives_up``: a start may be given up half way; this
    pays only where the signal is negative, because there using power earns money.
    """

    def __init__(
        self,
        signal: StepFunction,
        spin: SpinUp,
        *,
        on: bool = False,
        ready_in_s: float = 0.0,
        tail: float = 0.0,
        gives_up: bool = False,
    ) -> None:
        self.signal = signal
        self.spin = spin
        self._tail = tail
        begun = signal.start + ready_in_s if on else math.inf
        offsets = [0.0]
        for seconds, _ in spin.parts:  # a best start may begin where the signal changes, or have a part end there
            offsets.append(offsets[-1] + seconds)
        nodes = np.unique(np.concatenate([signal.edges - x for x in offsets] + [signal.edges[:1]]))
        nodes = nodes[(nodes >= signal.start) & (nodes <= signal.end)]
        # A start begun at a node must end at a node.
        ends = nodes + spin.seconds
        extra = [ends[ends <= signal.end]] + ([np.array([begun])] if begun <= signal.end else [])
        nodes = np.unique(np.concatenate([nodes, *extra]))
        if len(nodes) > 1:  # rounding may have made two of one instant
            nodes = nodes[np.append(True, np.diff(nodes) > TICK_S)]
        self.nodes = nodes
        places = np.searchsorted(nodes, nodes + spin.seconds - TICK_S)
        ok = places < len(nodes)
        ok[ok] = np.abs(nodes[places[ok]] - (nodes[ok] + spin.seconds)) < TICK_S
        ok &= signal.known(nodes, nodes + spin.seconds)
        self._jump = np.where(ok, places, -1).tolist()
        integral = signal.until(nodes)
        # Unknown time costs so much that no schedule trains in it.
        self._cost = np.where(signal.known(nodes[:-1], nodes[1:]), np.diff(integral), -_NEVER).tolist()
        self._gives_up = gives_up and spin.seconds >= TICK_S and bool(np.nanmin(signal.values, initial=0.0) < 0)
        self._length = np.diff(nodes).tolist()
        price = np.zeros(len(nodes))
        at = nodes
        for seconds, share in spin.parts:
            price += share * (signal.until(np.minimum(at + seconds, signal.end)) - signal.until(np.minimum(at, signal.end)))
            at = at + seconds
        if spin.seconds < TICK_S:  # a start that takes no time costs nothing
            price[:] = 0.0
        self._price = price.tolist()
        self._begun = int(np.searchsorted(nodes, begun - TICK_S)) if begun <= signal.end else -1

    def solve(self, worth: float) -> tuple[float, list[OnPeriod]]:
        """The largest value (the worth's unit × seconds, per kW) at ``worth``, and the on-periods that have it.

        Of schedules with equal values it is the one with fewer starts.
        """
        if self._gives_up:
            return self._solve_giving_up(worth)
        cost, length, jump, price = self._cost, self._length, self._jump, self._price
        n = len(self.nodes)
        off, on = [_NEVER] * n, [_NEVER] * n
        # How each node's state was reached: off by a stop, on by a start at the node that `started` names (-1: it went on).
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
                    b = on[i]  # if the start takes no time, j is i
            if i + 1 < n:
                if a > off[i + 1]:
                    off[i + 1] = a
                v = b + worth * length[i] - cost[i]
                if v >= on[i + 1]:
                    on[i + 1], started[i + 1] = v, -1
        return self._back(off[n - 1], on[n - 1] + self._tail, stopped, started)

    def _back(self, off: float, on: float, stopped: bytearray, started: list[int]) -> tuple[float, list[OnPeriod]]:
        nodes = self.nodes
        i = len(nodes) - 1
        running = on > off and on > _NEVER / 2
        value = on if running else off
        found: list[OnPeriod] = []
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
                found.append(OnPeriod(float(nodes[begin]), float(nodes[i]), float(nodes[stop])))
                i, running = begin, False
                if stopped[begin] == 0:
                    i -= 1
                continue
            if i == self._begun or i == 0:
                found.append(OnPeriod(float(nodes[0]), float(nodes[i]), float(nodes[stop])))
                break
            i -= 1
        return value, [s for s in reversed(found) if s.stop > s.ready]

    def _solve_giving_up(self, worth: float) -> tuple[float, list[OnPeriod]]:
        """As ``solve``, with a third state: a start in vain, given up before the site is ready. Only for starts at full power.

        The state does not remember how long it has lasted, although a start cannot last longer than the spin-up. It need not: a
        second of it never has a greater value than one of training (a negative worth is charged to it too), so wherever it would
        last as long as the spin-up, a real start is at least as good.
        """
        cost, length, jump = self._cost, self._length, self._jump
        less = max(0.0, -worth)
        price = [p + less * self.spin.seconds for p in self._price]
        n = len(self.nodes)
        off, on, vain = [_NEVER] * n, [_NEVER] * n, [_NEVER] * n
        # How each node's state was reached. left: off, from on (1) or from a start in vain (2). started: on, by a start at that
        # node (-1: it went on). tried: a start in vain that began at this node.
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
        found: list[OnPeriod] = []
        stop = i
        while i > 0 or at == "on":
            if at == "off":
                if left[i]:
                    at, stop = ("on" if left[i] == 1 else "vain"), i
                else:
                    i -= 1
            elif at == "on":
                if started[i] >= 0:
                    found.append(OnPeriod(float(self.nodes[started[i]]), float(self.nodes[i]), float(self.nodes[stop])))
                    i, at = started[i], "off"
                elif i == self._begun or i == 0:
                    found.append(OnPeriod(float(self.nodes[0]), float(self.nodes[i]), float(self.nodes[stop])))
                    break
                else:
                    i -= 1
            else:
                i -= 1
                if tried[i]:
                    begin, end = float(self.nodes[i]), float(self.nodes[stop])
                    found.append(OnPeriod(begin, min(begin + self.spin.seconds, end), end))
                    at = "off"
        return value, list(reversed(found))
