"""The three clocks. This is the only module that reads the machine's clock.

Run time is Unix seconds (UTC) on the run's own clock. Wall time is the machine's monotonic clock (for processes, sockets and
heartbeats; in a run's processes it leaves out the time in which they were stopped) or its calendar (for stored rows).

The loop asks ``reached(t)`` whether wall time allows run time ``t`` yet, makes sure that the real work owed by ``t`` is done, and
then calls ``move_to(t)``. Because the loop waits for the work, a scaled run has the same course on a loaded machine.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

#: A process that watches others reads its clock at least this often (s). In any time beyond it the process was stopped.
_TICK_S = 0.5
_LONGEST_S = 5.0


def wall() -> float:
    """Unix seconds on the machine's calendar."""
    return time.time()


class _Lived:
    """The monotonic clock without the time in which this process was stopped. Thread-safe; it never goes back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = time.monotonic()
        self._left_out_s = 0.0

    def now(self) -> float:
        with self._lock:
            now = time.monotonic()
            if now - self._last > _LONGEST_S:
                self._left_out_s += now - self._last
            self._last = now
            return now - self._left_out_s

    def tick(self) -> None:
        while True:
            time.sleep(_TICK_S)
            self.now()


_lived: _Lived | None = None


def monotonic() -> float:
    """Seconds on the machine's monotonic clock; see `leave_out_stops`."""
    return _lived.now() if _lived is not None else time.monotonic()


def uptime() -> float:
    """Seconds since this machine was started, time in which it was suspended included where the system counts it."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def leave_out_stops() -> None:
    """From now on leave out of this process's monotonic clock the time in which the process was stopped or suspended.

    It is for processes that wait for others. If that time counted, every time-out would be over as soon as the process goes on,
    although the others were stopped too, or gave signs of life that it could not see.
    """
    global _lived
    if _lived is None:
        _lived = _Lived()
        threading.Thread(target=_lived.tick, name="clock", daemon=True).start()


def pause(seconds: float) -> None:
    """Sleep for ``seconds``."""
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
    """Replayed time: at most ``speed`` run seconds per wall second. It waits for work that is owed, because the loop does.

    Its position belongs to the run: it is stored, and given as ``start`` at resume.
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
        # Anchored anew at each move, so that time lost by waiting for work is not made up for at more than `speed`.
        self._t = t
        self._anchor = monotonic()


class RealClock:
    """The calendar. It waits for nothing.

    Run time never goes back. If the calendar has been set back, run time goes on at half its pace until the calendar has caught up.
    Ticks go on meanwhile, and readings look older than they are, which may turn sites off but never on.
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
        # A late loop goes on at the calendar's time: after a suspension missed ticks are not made up for.
        self._t = max(t, self._t, wall())
        self._anchor = monotonic()
