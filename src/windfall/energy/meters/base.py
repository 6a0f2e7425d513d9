"""What a meter is, and how a counter that wraps, stands still or begins anew becomes joules that never fall."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

#: Between two readings of a power at most so many of its own intervals may pass, else what was in between is unknown.
_MOST_INTERVALS = 5.0
#: A counter that has begun anew so often is no counter.
_MOST_ANEW = 5


@dataclass(frozen=True, slots=True)
class PowerSample:
    """What a meter has seen by an instant of its machine's uptime.

    ``joules`` are cumulative since the meter was opened and never fall, ``measured_joules`` is the part of them that was measured
    and not modelled. Between two samples with different ``epoch`` nobody knows what was used: the meter began anew.
    """

    at: float
    watts: float
    joules: float
    measured_joules: float
    epoch: int = 0


class PowerMeter(Protocol):
    """Measures the power of a site, or of a part of it."""

    #: What it measures, in words: `NVML, 8 GPUs`.
    what: str

    def read(self) -> PowerSample:
        """The state now. Raises MeterError where it cannot be had; the next call may have it again."""
        ...

    def notes(self) -> list[str]:
        """What is odd about it, in words, each once."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class Counter:
    """A counter of energy, in joules, as what has been used since it was first read."""

    def __init__(self, wraps_at_j: float | None = None, most_w: float = float("inf")) -> None:
        """``wraps_at_j``: where it begins at 0 again. ``most_w``: more nothing takes, which says how often it may have wrapped."""
        self._wraps_at_j = wraps_at_j
        self._most_w = most_w
        self._last: tuple[float, float] | None = None
        self.joules = 0.0

    def add(self, at: float, value_j: float) -> bool:
        """Take a reading in (``at``: uptime, s). False if what was used since the last one is unknown: it began anew, or may have
        wrapped more than once."""
        last, self._last = self._last, (at, value_j)
        if last is None:
            return True
        used = value_j - last[1]
        if self._wraps_at_j is not None and (at - last[0]) * self._most_w >= self._wraps_at_j:
            return False
        if used < 0 and self._wraps_at_j is not None:
            used += self._wraps_at_j
        if used < 0 or used > (at - last[0]) * self._most_w + 1e-6 * abs(value_j):
            return False
        self.joules += used
        return True


class Integral:
    """The integral of a power that is only read now and then, by trapezoids."""

    def __init__(self, interval_s: float) -> None:
        """``interval_s``: how often it is read. Over much longer a power read at two instants says nothing."""
        self._most_s = _MOST_INTERVALS * interval_s
        self._last: tuple[float, float] | None = None
        self.joules = 0.0

    def add(self, at: float, watts: float) -> bool:
        """Take a reading in; False if too long has passed since the last one."""
        last, self._last = self._last, (at, watts)
        if last is None:
            return True
        if at - last[0] > self._most_s:
            return False
        self.joules += (at - last[0]) * (watts + last[1]) / 2.0
        return True


class Checked:
    """A counter beside the integral of the same thing's power: one that is frozen or reads far off is no longer believed.

    Over each window the two are compared. A counter that is off by more than ``apart`` has its windows counted by power from then
    on, that one too. Where a counter began anew, that one step is counted by power.
    """

    def __init__(self, counter: Counter, integral: Integral, what: str, *, window_s: float = 300.0, apart: float = 0.25) -> None:
        self._counter, self._integral, self._what = counter, integral, what
        self._window_s, self._apart = window_s, apart
        #: Instant, and what both had counted, at the beginning of the window; None before the first reading.
        self._begun: tuple[float, float, float] | None = None
        self._settled = 0.0
        self._anew = 0
        self.believed = True
        self.note = ""

    @property
    def joules(self) -> float:
        """What was used, by the counter as long as it is believed. Never falls."""
        if self._begun is None:
            return 0.0
        since = self._counter.joules - self._begun[1] if self.believed else self._integral.joules - self._begun[2]
        return self._settled + since

    def add(self, at: float, counted_j: float | None, watts: float | None) -> bool:
        """Take a reading in; None: counter or power was not to be had. False if what was used since the last is unknown."""
        integrated = self._integral.joules
        by_power = watts is not None and self._integral.add(at, watts)
        if self._begun is None:
            self.believed = counted_j is not None
            if counted_j is not None:
                self._counter.add(at, counted_j)
            self._settle(at)
            return True
        if not self.believed:
            return by_power
        # A counter that is not to be had this time has counted on, and tells the next time.
        if counted_j is not None and not self._counter.add(at, counted_j):
            self._settle(at)
            self._settled += self._integral.joules - integrated
            self._anew += 1
            if self._anew >= _MOST_ANEW:
                self._distrust("falls, or leaps, again and again")
            return by_power
        if watts is not None and not by_power:
            self._settle(at)  # a hole in the power: there is nothing to compare with
        elif watts is not None and at - self._begun[0] >= self._window_s:
            self._compare(at)
        return True

    def _compare(self, at: float) -> None:
        assert self._begun is not None
        counted, integrated = self._counter.joules - self._begun[1], self._integral.joules - self._begun[2]
        if integrated > 0 and abs(counted - integrated) > self._apart * integrated:
            self._distrust(f"counted {counted:,.0f} J where its power says {integrated:,.0f} J")
        self._settle(at)

    def _distrust(self, why: str) -> None:
        told = self.joules
        self.believed = False
        self._settled += max(0.0, told - self.joules)  # what has been told is not taken back
        self.note = f"the energy counter of {self._what} {why}; its power is integrated instead"

    def _settle(self, at: float) -> None:
        """Begin a window."""
        self._settled = self.joules
        self._begun = (at, self._counter.joules, self._integral.joules)


#: A machine's uptime (s), suspended time included.
Uptime = Callable[[], float]
