"""The signals of a microgrid: its surplus, and its battery's state of charge. Both know nothing newer than the simulation does."""

from __future__ import annotations

import bisect
import math
from array import array
from dataclasses import replace
from typing import Protocol

import numpy as np

from windfall.grid.signal import Columns, Forecast, Reading, Signal

#: So many steps after its instant a state of charge is fresh, and so many more until it is stale.
_STALE_STEPS = 3.0


class Simulated(Protocol):
    """What a signal asks of its microgrid: what is wrong with it, if anything is, until when it was simulated
    well, and how long its load is waited for."""

    trouble: str
    healthy_until: float
    lag_s: float


def _as_it_is(found: Reading | None, microgrid: Simulated) -> Reading | None:
    """A reading, which is stale from where on its microgrid is not simulated well."""
    if found is None or not microgrid.trouble:
        return found
    until = microgrid.healthy_until
    return replace(found, fresh_until=min(found.fresh_until, until), stale_at=min(found.stale_at, until))


class ChargeLog:
    """States of charge at instants. Between two of them that follow each other it went from one to the next."""

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s
        self.times = array("d")
        self.values = array("d")

    def note(self, t: float, soc: float) -> None:
        """Add the state at ``t``, which is not before the last one."""
        if self.times and self.times[-1] == t:
            self.values[-1] = soc
        else:
            self.times.append(t)
            self.values.append(soc)

    def by(self, t: float) -> tuple[float, float] | None:
        """The newest instant at or before ``t`` that is a whole number of steps (or the first of all), and the state then."""
        if not self.times or t < self.times[0]:
            return None
        step = max(self.times[0], math.floor(t / self.step_s) * self.step_s)
        return step, self.values[bisect.bisect_right(self.times, step) - 1]


class StateOfCharge:
    """The battery's state of charge (share, 0 to 1), a reading each step."""

    unit = "share"

    def __init__(self, log: ChargeLog, microgrid: Simulated) -> None:
        self._log, self._microgrid = log, microgrid

    def at(self, t: float) -> Reading | None:
        found = self._log.by(min(t, self._microgrid.healthy_until))
        if found is None:
            return None
        valid, soc = found
        # The next one is known once it is booked, which may take until the next tick, or until a meter has told.
        fresh = valid + 2.0 * self._log.step_s + self._microgrid.lag_s
        made = Reading(soc, self.unit, valid, valid, fresh, fresh + _STALE_STEPS * self._log.step_s, "microgrid")
        return _as_it_is(made, self._microgrid)

    def between(self, t0: float, t1: float) -> Columns:
        return self._columns(t0, t1)

    def history(self, t: float, span_s: float) -> Columns:
        return self._columns(t - span_s, min(t, self._microgrid.healthy_until)).known()

    def forecast(self, t: float, horizon_s: float) -> Forecast | None:
        return None

    def starts_at(self) -> float:
        return self._log.times[0]

    def ends_at(self) -> float:
        return math.inf

    def _columns(self, t0: float, t1: float) -> Columns:
        times, values = np.array(self._log.times), np.array(self._log.values)
        first = max(0, int(np.searchsorted(times, t0, side="right")) - 1)
        last = int(np.searchsorted(times, t1, side="left"))
        starts = np.maximum(times[first:last], t0)
        found = values[first:last]
        if not len(starts) or starts[0] > t0:
            starts, found = np.append(t0, starts), np.append(np.nan, found)
        ends = np.append(starts[1:], t1)
        keep = ends > starts
        return Columns(starts[keep], ends[keep], found[keep])


class Surplus:
    """What the plants deliver (W): the power that a site without other loads may have for nothing.

    While its microgrid cannot be balanced there is no newer reading, and the last one is stale.
    """

    def __init__(self, supply: Signal, microgrid: Simulated) -> None:
        self._supply, self._microgrid = supply, microgrid
        self.unit = supply.unit

    def at(self, t: float) -> Reading | None:
        return _as_it_is(self._supply.at(self._known(t)), self._microgrid)

    def between(self, t0: float, t1: float) -> Columns:
        return self._supply.between(t0, t1)

    def history(self, t: float, span_s: float) -> Columns:
        return self._supply.history(self._known(t), span_s)

    def forecast(self, t: float, horizon_s: float) -> Forecast | None:
        return self._supply.forecast(t, horizon_s)

    def starts_at(self) -> float:
        return self._supply.starts_at()

    def ends_at(self) -> float:
        return self._supply.ends_at()

    def _known(self, t: float) -> float:
        return min(t, self._microgrid.healthy_until) if self._microgrid.trouble else t
