"""Signals and readings: what is known about a region, since when, and for how long it may be believed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of a signal.

    ``value`` in ``unit``; it describes the time from ``valid_from`` on and was known at ``known_at``. It is
    fresh before ``fresh_until`` and worthless from ``stale_at`` on (Unix seconds, all of them).
    """

    value: float
    unit: str
    valid_from: float
    known_at: float
    fresh_until: float
    stale_at: float
    source: str

    def age_s(self, t: float) -> float:
        """Seconds since ``valid_from``."""
        return t - self.valid_from

    def is_fresh(self, t: float) -> bool:
        """Whether the reading may turn a site on (invariant 5)."""
        return t < self.fresh_until

    def is_stale(self, t: float) -> bool:
        """Whether a site that is on because of this reading must go off (invariant 5)."""
        return t >= self.stale_at


@dataclass(frozen=True, slots=True)
class Columns:
    """A stretch of a signal as step-held intervals: ``values[i]`` holds over ``[starts[i], ends[i])``."""

    starts: npt.NDArray[np.float64]
    ends: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Forecast:
    """A prediction made at ``made_at``: ``values[i]`` expected from ``times[i]`` on."""

    made_at: float
    times: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]


class Signal(Protocol):
    """A time series about a region. Times are Unix seconds."""

    unit: str

    def at(self, t: float) -> Reading | None:
        """The newest reading known at ``t``, or None if nothing is known."""
        ...

    def between(self, t0: float, t1: float) -> Columns:
        """What really held over ``[t0, t1)``, published late or not. For accounts and backtests.

        Values are NaN where nothing is known.
        """
        ...

    def forecast(self, t: float, horizon_s: float) -> Forecast | None:
        """The newest forecast known at ``t``, if the source makes any."""
        ...

    def ends_at(self) -> float:
        """When the series ends; infinity for a live source."""
        ...


class StepSignal:
    """A signal held in memory: sorted instants, finite values, each valid until the next."""

    def __init__(
        self,
        times: npt.NDArray[np.float64],
        values: npt.NDArray[np.float64],
        *,
        unit: str,
        source: str,
        period_s: float = 300.0,
        until: float | None = None,
        publication_delay_s: float = 0.0,
        stale_periods: float = 3.0,
    ) -> None:
        self.unit = unit
        self.source = source
        self._times = times
        self._values = values
        self._period = period_s
        self._delay = publication_delay_s
        self._stale = stale_periods
        natural = float(times[-1]) + period_s if period_s > 0 else math.inf
        self._end = natural if until is None else until

    def ends_at(self) -> float:
        return self._end

    def starts_at(self) -> float:
        """First instant."""
        return float(self._times[0])

    def at(self, t: float) -> Reading | None:
        i = int(np.searchsorted(self._times, t - self._delay, side="right")) - 1
        if i < 0:
            return None
        valid = float(self._times[i])
        fresh = valid + self._period + self._delay if self._period > 0 else math.inf
        stale = valid + self._stale * self._period + self._delay if self._period > 0 else math.inf
        end = self._end + self._delay
        return Reading(float(self._values[i]), self.unit, valid, valid + self._delay, min(fresh, end), min(stale, end), self.source)

    def between(self, t0: float, t1: float) -> Columns:
        first = int(np.searchsorted(self._times, t0, side="right")) - 1
        last = int(np.searchsorted(self._times, t1, side="left"))
        inner = self._times[max(first, 0) : last]
        values = self._values[max(first, 0) : last]
        if first < 0:  # before the first row nothing is known
            inner = np.concatenate(([t0], inner))
            values = np.concatenate(([np.nan], values))
        starts = np.maximum(inner, t0)
        ends = np.append(starts[1:], t1)
        keep = ends > starts
        return Columns(starts[keep], ends[keep], values[keep])

    def forecast(self, t: float, horizon_s: float) -> Forecast | None:
        return None
