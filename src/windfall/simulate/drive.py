"""Drives the loop on the manual clock from event to event instead of from tick to tick.

A decision may promise (``Decision.quiet``) that nothing changes while the reading stays in a range. Its site is asked again only
when the reading leaves the range. Starts end, and the budget is done, at their exact instants and not at the next tick. With
``skip=False`` every site is asked at every tick; a test shows that the decisions are the same.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping

from windfall.clock import ManualClock
from windfall.fleet.loop import Loop
from windfall.fleet.machine import State
from windfall.grid.signal import StepSignal
from windfall.simulate.work import SimulatedWork


class Drive:
    """One simulation. ``exact``: a decision is due at the very instant that the policy named, not at the next tick."""

    def __init__(
        self, loop: Loop, work: SimulatedWork, clock: ManualClock, signals: Mapping[str, StepSignal], *, tick_s: float, whole: bool,
        skip: bool = True, exact: bool = False, before: Callable[[float], None] | None = None,
    ) -> None:  # fmt: skip
        """``before`` is called at each instant at which something is due, before that is done."""
        self._loop = loop
        self._work = work
        self._clock = clock
        self._signals = signals
        self._tick_s = tick_s
        self._whole = whole
        self._skip = skip
        self._exact = exact
        self._before = before
        self._start = clock.now()
        #: At how many instants something was due.
        self.steps = 0

    def run(self, end: float) -> float:
        """Run until the budget is trained, or to ``end``. Returns the run time then."""
        loop, work = self._loop, self._work
        names = list(loop.controller.sites)
        # (when, site): a decision is due, or a start will be over. Outdated entries are skipped.
        queue = [(self._start, n, True) for n in names]
        decide_at = dict.fromkeys(names, self._start)
        ready_at = dict.fromkeys(names, math.inf)
        heapq.heapify(queue)
        while True:
            t = queue[0][0] if queue else math.inf
            over = min(work.finishes_at(), end)
            if over <= t:
                self._clock.move_to(over)
                work.advance(over)
                return over
            deciding, moving = [], []
            while queue and queue[0][0] == t:
                _, name, decision = heapq.heappop(queue)
                if decision and decide_at[name] == t:
                    deciding.append(name)
                    decide_at[name] = -math.inf
                elif not decision and ready_at[name] == t:
                    moving.append(name)
                    ready_at[name] = math.inf
            if not deciding and not moving:
                continue
            self.steps += 1
            self._clock.move_to(t)
            work.advance(t)
            if self._before is not None:
                self._before(t)
            due = list(dict.fromkeys([*deciding, *moving]))
            if deciding:
                # A policy that sees the whole fleet decides for all sites at once.
                due = names if self._whole else due
                loop.tick(t, t, t, due)
            else:
                loop.settle(t, t, t, due)
            # A start that takes no time is over at once, and its site is given work at the same instant.
            while any(loop.controller.sites[n].state is State.READY and not work.working(n) for n in due):
                loop.settle(t, t, t, due)
            for name in due:
                if decide_at[name] == -math.inf:
                    decide_at[name] = self._next(name, t)
                    if decide_at[name] < math.inf:
                        heapq.heappush(queue, (decide_at[name], name, True))
                site = loop.controller.sites[name]
                if site.state is State.PROVISIONING and ready_at[name] != site.modelled_ready_at():
                    ready_at[name] = site.modelled_ready_at()
                    heapq.heappush(queue, (max(t, ready_at[name]), name, False))

    def _next(self, name: str, t: float) -> float:
        """The run time at which a site must be asked again."""
        d, levels = self._loop.decisions[name], self._loop.levels
        if self._whole or d.quiet is None or not self._skip:
            due = t + self._tick_s * 0.5
            return self._grid(due)
        low, high = d.quiet
        blind = low == -math.inf and high == math.inf
        due = math.inf if blind else self._signals[name].leaves(t, low, high)
        due = min(due, math.inf if d.until is None else d.until)
        if name in levels:
            due = min(due, levels.next_look(t, name, self._signals[name]))
        if due == math.inf:
            return math.inf
        return max(due, math.nextafter(t, math.inf)) if self._exact else self._grid(max(due, t + self._tick_s * 0.5))

    def _grid(self, due: float) -> float:
        """The first tick at or after ``due``."""
        return self._start + math.ceil((due - self._start) / self._tick_s - 1e-9) * self._tick_s
