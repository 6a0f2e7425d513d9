"""Signals and readings: what is known about a region, since when, and for how long it may be used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

#: Bounds that a signal was asked about so often are looked for in all of it at once; before, only as far as need be.
_ASKED_OFTEN = 8


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of a signal.

    ``value`` is in ``unit``. It describes the time from ``valid_from`` to ``valid_until`` (infinity: until the next reading) and
    became known at ``known_at``. It is fresh before ``fresh_until`` and stale from ``stale_at`` on. All are Unix seconds.
    """

    value: float
    unit: str
    valid_from: float
    known_at: float
    fresh_until: float
    stale_at: float
    source: str
    valid_until: float = math.inf

    def age_s(self, t: float) -> float:
        """Seconds since ``valid_from``, or since ``known_at`` if that is earlier."""
        return t - min(self.valid_from, self.known_at)

    def is_fresh(self, t: float) -> bool:
        """Whether the reading may turn a site on (invariant 5)."""
        return t < self.fresh_until

    def is_stale(self, t: float) -> bool:
        """Whether a site that is on because of this reading must go off (invariant 5)."""
        return t >= self.stale_at


@dataclass(frozen=True, slots=True)
class Columns:
    """A signal over some time, as intervals: ``values[i]`` holds over ``[starts[i], ends[i])``; all [n], in order."""

    starts: npt.NDArray[np.float64]
    ends: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]

    def known(self) -> Columns:
        """The same without intervals of which nothing is known (NaN)."""
        keep = np.isfinite(self.values)
        return self if keep.all() else Columns(self.starts[keep], self.ends[keep], self.values[keep])


@dataclass(frozen=True, slots=True)
class Forecast:
    """A prediction made at ``made_at``: ``values[i]`` is expected from ``times[i]`` until the next, the last until ``ends_at``.

    A value of NaN says that there is no expectation for that time.
    """

    made_at: float
    times: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    ends_at: float


class Signal(Protocol):
    """A time series about a region. Times are Unix seconds."""

    unit: str

    def at(self, t: float) -> Reading | None:
        """The newest reading known at ``t``, or None if nothing is known."""
        ...

    def between(self, t0: float, t1: float) -> Columns:
        """What held over ``[t0, t1)``, also if it was published late. For accounts and backtests.

        The intervals cover the whole time; values are NaN where nothing is known.
        """
        ...

    def forecast(self, t: float, horizon_s: float) -> Forecast | None:
        """The newest forecast known at ``t``, from ``t`` to at most ``t + horizon_s``; None if the source makes none."""
        ...

    def history(self, t: float, span_s: float) -> Columns:
        """What was known at ``t`` of the ``span_s`` seconds before it; less if less is known."""
        ...

    def starts_at(self) -> float:
        """The first instant of which anything is known; infinity where nothing is."""
        ...

    def ends_at(self) -> float:
        """When the series ends; infinity for a live source."""
        ...


@dataclass(frozen=True, slots=True)
class Leads:
    """Forecasts that came with each reading: ``values[j][i]`` was expected, at instant i, for ``seconds[j]`` later."""

    seconds: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]


class StepSignal:
    """A signal in memory: sorted instants [n] and finite values [n], a row each.

    A value holds until the next row, but at most ``stale_periods`` periods; after that the time is unknown until the next row.
    Without a period (0) it holds until the next row, however late. After ``until`` (default: one period after the last row) nothing
    is known.

    ``periods`` [n]: each row's own period (s), if the resolution changes; None: all have ``period_s``. ``leads``: the source's own
    forecasts. ``perfect``: every forecast is what will really be (for backtests).
    """

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
        leads: Leads | None = None,
        perfect: bool = False,
        periods: npt.NDArray[np.float64] | None = None,
    ) -> None:
        self.unit = unit
        self.source = source
        self._times = times
        self._values = values
        self._period = self.period_s = period_s
        self._delay = self.delay_s = publication_delay_s
        self._stale = stale_periods
        self._leads = leads
        self._perfect = self.perfect = perfect
        self._leaving: dict[tuple[float, float], npt.NDArray[np.float64]] = {}
        self._asked: dict[tuple[float, float], int] = {}
        # A row without a period holds until the next row, so it has no end of its own.
        each = np.full(len(times), float(period_s)) if periods is None or period_s == 0 else periods
        self._periods = np.where(each > 0, each, np.inf)
        self._end = float(times[-1] + self._periods[-1]) if until is None else until
        self._edges, self._held = self._holding()

    def ends_at(self) -> float:
        return self._end

    def starts_at(self) -> float:
        return float(self._times[0])

    def last_row_at(self) -> float:
        """The instant of the last row."""
        return float(self._times[-1])

    def delayed(self, publication_delay_s: float) -> StepSignal:
        """The same signal with each reading known ``publication_delay_s`` after its instant."""
        return StepSignal(
            self._times, self._values, unit=self.unit, source=self.source, period_s=self._period, until=self._end,
            publication_delay_s=publication_delay_s, stale_periods=self._stale, leads=self._leads, perfect=self._perfect,
            periods=self._periods if self._period > 0 else None,
        )  # fmt: skip

    def rows(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The instants and the values of its rows, [n] each."""
        return self._times, self._values

    def with_values(self, values: npt.NDArray[np.float64]) -> StepSignal:
        """The same rows with other values [n]; forecasts that came with it are left out."""
        return StepSignal(
            self._times, values, unit=self.unit, source=self.source, period_s=self._period, until=self._end,
            publication_delay_s=self._delay, stale_periods=self._stale, perfect=self._perfect,
            periods=self._periods if self._period > 0 else None,
        )  # fmt: skip

    def _holding(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Instants from which on a value holds, and the values: NaN where nothing is known from then on."""
        nexts = np.append(self._times[1:], np.inf)
        holds = np.minimum(np.minimum(nexts, self._times + self._stale * self._periods), self._end)
        lapse = holds < nexts
        if not lapse.any():
            return self._times, self._values
        # The instant at which a row lapses lies after it and before the next row.
        places = np.flatnonzero(lapse) + 1
        return np.insert(self._times, places, holds[lapse]), np.insert(self._values, places, np.nan)

    def holes(self, t0: float, t1: float) -> list[tuple[float, float]]:
        """The times within ``[t0, t1)`` of which nothing is known, in order."""
        c = self.between(t0, t1)
        found: list[tuple[float, float]] = []
        for a, b in zip(c.starts[np.isnan(c.values)].tolist(), c.ends[np.isnan(c.values)].tolist(), strict=True):
            if found and found[-1][1] == a:
                found[-1] = (found[-1][0], b)
            else:
                found.append((a, b))
        return found

    def _known(self, t: float) -> int:
        """Index of the newest row known at ``t``; -1 if there is none."""
        return int(np.searchsorted(self._times, t - self._delay, side="right")) - 1

    def at(self, t: float) -> Reading | None:
        i = self._known(t)
        return None if i < 0 else self.reading(i)

    def reading(self, i: int) -> Reading:
        """Row ``i`` as a reading."""
        valid, period = float(self._times[i]), float(self._periods[i])
        until = valid + period
        if i + 1 < len(self._times) and until < math.inf:
            until = min(until, float(self._times[i + 1]))
        end = self._end + self._delay
        return Reading(
            float(self._values[i]), self.unit, valid, valid + self._delay, min(valid + period + self._delay, end),
            min(valid + self._stale * period + self._delay, end), self.source, min(until, self._end) if until < math.inf else until,
        )  # fmt: skip

    def leaves(self, t: float, low: float, high: float) -> float:
        """The first instant after ``t`` at which the newest reading known is not in [low, high), or is not fresh."""
        bounds = (low, high)
        found = self._leaving.get(bounds)
        if found is None:
            self._asked[bounds] = asked = self._asked.get(bounds, 0) + 1
            if asked < _ASKED_OFTEN:
                return self._leaves_soon(t, low, high)
            found = self._leaving[bounds] = self._leaving_from(0, len(self._times), low, high)
        i = int(np.searchsorted(found, t, side="right"))
        return float(found[i]) if i < len(found) else self._leaves_at_last(t)

    def _leaves_soon(self, t: float, low: float, high: float) -> float:
        """The same, looked for from ``t`` on."""
        first, rows, length = max(0, self._known(t)), len(self._times), 64
        while first < rows:
            found = self._leaving_from(first, min(rows, first + length), low, high)
            i = int(np.searchsorted(found, t, side="right"))
            if i < len(found):
                return float(found[i])
            first, length = first + length, 8 * length
        return self._leaves_at_last(t)

    def _leaving_from(self, a: int, b: int, low: float, high: float) -> npt.NDArray[np.float64]:
        """When rows ``a`` to ``b`` (left out) are known that are not in [low, high), and when the others cease to be fresh."""
        outside = ~((self._values[a:b] >= low) & (self._values[a:b] < high))
        known = self._times[a:b] + self._delay
        if self._period <= 0:
            return np.asarray(known[outside])
        fresh_until = np.minimum(known + self._periods[a:b], self._end + self._delay)
        following = np.append(known[1:], self._times[b] + self._delay if b < len(self._times) else np.inf)
        return np.asarray(np.where(outside, known, fresh_until)[outside | (following > fresh_until)])

    def _leaves_at_last(self, t: float) -> float:
        """What no row leads to: a reading without a period is fresh until the signal ends."""
        end = self._end + self._delay
        return end if self._period <= 0 and end > t else math.inf

    def between(self, t0: float, t1: float) -> Columns:
        first = int(np.searchsorted(self._edges, t0, side="right")) - 1
        last = int(np.searchsorted(self._edges, t1, side="left"))
        inner = self._edges[max(first, 0) : last]
        values = self._held[max(first, 0) : last]
        if first < 0:  # before the first row nothing is known
            inner = np.concatenate(([t0], inner))
            values = np.concatenate(([np.nan], values))
        starts = np.maximum(inner, t0)
        ends = np.append(starts[1:], t1)
        keep = ends > starts
        return Columns(starts[keep], ends[keep], values[keep])

    def history(self, t: float, span_s: float) -> Columns:
        last = self._known(t)
        first = max(0, int(np.searchsorted(self._times, t - span_s, side="right")) - 1)
        valid = self._times[first : last + 1]
        starts = np.maximum(valid, t - span_s)
        # If no reading came for so long that the last one was stale, nothing was known. One is believed until its ``stale_at``.
        limit = np.minimum(valid + self._stale * self._periods[first : last + 1], self._end) + self._delay
        ends = np.minimum(np.minimum(np.append(starts[1:], t)[: len(starts)], limit), t)
        keep = ends > starts
        return Columns(starts[keep], ends[keep], self._values[first : last + 1][keep])

    def forecast(self, t: float, horizon_s: float) -> Forecast | None:
        end = min(t + horizon_s, self._end)
        if self._perfect:
            c = self.between(t, end) if end > t else None
            return Forecast(t, c.starts, c.values, end) if c is not None and np.isfinite(c.values).any() else None
        i = self._known(t)
        if self._leads is None or i < 0:
            return None
        made = float(self._times[i])
        known = np.isfinite(self._leads.values[:, i])
        points = np.concatenate(([0.0], self._leads.seconds[known]))
        values = np.concatenate(([self._values[i]], self._leads.values[known, i]))
        if len(points) < 2:
            return None
        step = float(self._periods[i]) if self._period > 0 else 300.0
        steps = np.arange(0.0, min(points[-1], t + horizon_s - made) + step, step)
        steps = steps[steps <= points[-1]]
        # The leads are minutes to hours apart. In between the expectation is interpolated linearly.
        times = made + steps
        keep = times + step > t
        if not keep.any():
            return None
        return Forecast(made + self._delay, times[keep], np.interp(steps, points, values)[keep], float(times[-1]) + step)
