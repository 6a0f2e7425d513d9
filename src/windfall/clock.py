"""The three clocks. This is the only module that reads the machine's clock.

Run time is Unix seconds (UTC) on the run's own clock. Wall time is the machine's monotonic clock (for
processes, sockets, heartbeats) or its calendar (for stored rows). The loop asks ``reached(t)`` whether wall
time allows run time ``t`` yet, sees for itself that the real work owed by ``t`` is done, then calls
``move_to(t)``. That second condition is what makes a scaled run repeat itself on a loaded machine.
"""

from __future__ import annotations

import time
from typing import Protocol


def wall() -> float:
    """Unix seconds on the machine's calendar."""
    return time.time()


def monotonic() -> float:
    """Seconds on the machine's monotonic clock."""
    return time.monotonic()


def pause(seconds: float) -> None:
    """Give the processor away for a moment."""
    time.sleep(seconds)


class Clock(Protocol):
    """Run time. ``gated`` says whether run time waits for real work."""

    gated: bool

    def now(self) -> float: ...
    def reached(self, t: float) -> bool: ...
    def move_to(self, t: float) -> None: ...


class ManualClock:
    """Moves when told, at once. For backtests, plans and tests."""

    gated = True

    def __init__(self, start: float) -> None:
        self._t = start

    def now(self) -> float:
        return self._t

    def reached(self, t: float) -> bool:
        return True

    def move_to(self, t: float) -> None:
        if t < self._t:
            raise ValueError(f"run time cannot go back from {self._t} to {t}")
        self._t = t


class ScaledClock:
    """Replayed time: at most ``speed`` run seconds per wall second, and never past work that is owed.

    The position belongs to the run (it is stored and given back as ``start`` at resume).
    """

    gated = True

    def __init__(self, start: float, speed: float) -> None:
        self._t = start
        self.speed = speed
        self._anchor = monotonic()

    def now(self) -> float:
        return self._t

    def reached(self, t: float) -> bool:
        return (t - self._t) <= (monotonic() - self._anchor) * self.speed

    def move_to(self, t: float) -> None:
        if t < self._t:
            raise ValueError(f"run time cannot go back from {self._t} to {t}")
        # Re-anchored at every move: time lost waiting for work is not caught up at more than `speed`.
        self._t = t
        self._anchor = monotonic()


class RealClock:
    """The calendar. Waits for nothing and nobody.

    Run time never goes back. Where the calendar has been set back it goes on at half its pace until the calendar has come up to
    it: ticks go on, and readings look older than they are meanwhile, which turns sites off and never on.
    """

    gated = False

    def __init__(self) -> None:
        self._t = wall()
        self._anchor = monotonic()

    def now(self) -> float:
        return self._t

    def reached(self, t: float) -> bool:
        return wall() >= t or (monotonic() - self._anchor) * 0.5 >= t - self._t

    def move_to(self, t: float) -> None:
        # A late loop goes on from the calendar, so that a suspended machine does not replay missed ticks.
        self._t = max(t, self._t, wall())
        self._anchor = monotonic()
