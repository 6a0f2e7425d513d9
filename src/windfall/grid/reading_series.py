"""The readings that a live signal has received, in order of the time that they are about.

A reading holds until the next one, and at most until ``stale_at``; after that, and before the first reading, nothing is known. If
several readings are about one instant, the one heard last counts, from when it was heard. A reading about a future time counts from
that time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from windfall.grid.signal import Columns, Reading

#: Readings older than this (s), counted from the newest one, are dropped. It is more than any policy looks back.
KEEP_S = 40 * 86400.0


class ReadingSeries:
    """An immutable, sorted set of readings; ``with_readings`` makes the next. Safe to read from any thread."""

    def __init__(self, readings: tuple[Reading, ...] = ()) -> None:
        #: By ``valid_from``, then by ``known_at``.
        self.readings = readings
        self._times = [r.valid_from for r in readings]
        self._from = np.array(self._times, np.float64)
        self._values = np.array([r.value for r in readings], np.float64)
        self._stale = np.array([r.stale_at for r in readings], np.float64)
        self._known = np.array([r.known_at for r in readings], np.float64)

    def with_readings(self, news: Iterable[Reading]) -> ReadingSeries:
        """This series with ``news``. A reading that repeats the last one about its instant is not added."""
        last: dict[float, Reading] = {r.valid_from: r for r in self.readings}
        rows = list(self.readings)
        for r in news:
            old = last.get(r.valid_from)
            if old is None or (old.value, old.stale_at) != (r.value, r.stale_at):
                rows.append(r)
                last[r.valid_from] = r
        if len(rows) == len(self.readings):
            return self
        rows.sort(key=lambda r: (r.valid_from, r.known_at))
        oldest = rows[-1].valid_from - KEEP_S
        return ReadingSeries(tuple(r for r in rows if r.valid_from >= oldest))

    def known_by(self, t: float) -> ReadingSeries:
        """This series for a clock that was set back to ``t``, so that no reading is known later than ``t``.

        A reading heard later than ``t`` and about a later time is dropped; the source will give it again.
        """
        if not (self._known > t).any():
            return self
        kept = (r if r.known_at <= t else replace(r, known_at=t) for r in self.readings if r.known_at <= t or r.valid_from <= t)
        return ReadingSeries(tuple(sorted(kept, key=lambda r: (r.valid_from, r.known_at))))

    def at(self, t: float) -> Reading | None:
        """The newest reading about ``t`` or before, known at ``t``."""
        i = bisect_right(self._times, t) - 1
        while i >= 0 and self._known[i] > t:
            i -= 1
        return self.readings[i] if i >= 0 else None

    def between(self, t0: float, t1: float, known_by: float | None = None) -> Columns:
        """What held over ``[t0, t1)``, NaN where nothing is known; only what was known at ``known_by``, if given."""
        if t1 <= t0:
            none = np.empty(0)
            return Columns(none, none, none)
        starts, values, stale = self._last_words(known_by, t1)
        ends = np.minimum(np.append(starts[1:], np.inf), stale)
        first = max(int(np.searchsorted(starts, t0, side="right")) - 1, 0)
        starts, ends, values = starts[first:], ends[first:], values[first:]
        # Between the end of one reading and the start of the next, nothing is known.
        marks = np.unique(np.concatenate(([t0, t1], starts, ends)))
        marks = marks[(marks >= t0) & (marks <= t1)]
        lows, highs = marks[:-1], marks[1:]
        i = np.searchsorted(starts, lows, side="right") - 1
        held = (i >= 0) & (lows < ends[i]) if len(starts) else np.zeros(len(lows), bool)
        found = np.where(held, values[i] if len(values) else np.nan, np.nan)
        return Columns(lows, highs, found)

    def history(self, t: float, span_s: float) -> Columns:
        """What was known at ``t`` of the ``span_s`` before it, from the first instant of which anything was."""
        known = self._from[self._known <= t]
        begin = max(t - span_s, float(known[0]) if len(known) else t)
        columns = self.between(begin, t, t)
        held = np.isfinite(columns.values)
        return Columns(columns.starts[held], columns.ends[held], columns.values[held])

    def starts_at(self) -> float:
        """The first instant of which anything is known; infinity where nothing is."""
        return self._times[0] if self._times else np.inf

    def _last_words(
        self, known_by: float | None, before: float
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Instants, values and ``stale_at`` of the last reading about each instant before ``before``."""
        end = bisect_left(self._times, before)
        mask = np.ones(end, bool) if known_by is None else self._known[:end] <= known_by
        starts = self._from[:end][mask]
        last = np.append(starts[1:] != starts[:-1], True)[: len(starts)]
        return starts[last], self._values[:end][mask][last], self._stale[:end][mask][last]
