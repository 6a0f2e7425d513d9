"""Microgrids: a site's own sun, wind and battery, simulated beside the run as Vessim does.

The load is what the account books, so a microgrid is told of each phase as that is booked: on every clock, and in backtests. Power
is balanced anew at each multiple of ``step_s`` (Unix time), and whenever load or generation changes; in between setpoints hold. So
the result does not depend on how time is cut into bookings.

The battery is Vessim's own `ClcBattery`, stepped here. How power is shared out is Vessim's `DefaultDispatchPolicy` over battery and
`GridConnection` in a few lines: its own loop takes three times as long, too long for a year of minutes. A battery that rests is not
stepped until something changes, for the same reason. A test compares with an `Environment` of Vessim on the same traces and load.

Where power cannot be balanced, or nobody knows what the plants deliver, what is lacking counts as taken from the grid, and both
of the microgrid's signals are stale until it balances again (invariant 5): a failure is never a surplus.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from windfall.config.microgrid import MicrogridBatteryTable, MicrogridTable
from windfall.config.schema import SiteTable
from windfall.energy.charge import ChargeLog, StateOfCharge, Surplus
from windfall.grid.signal import Signal, StepSignal

Array = npt.NDArray[np.float64]

#: Capacity (Wh) of the cells that Vessim's battery has the parameters of.
_CELL_WH = 19.14
#: Less power than this is rounding.
_NOTHING_W = 1e-6


@dataclass
class Sums:
    """What became of a microgrid's energy since the run's start, in joules.

    generated = own + charged + exported + curtailed; charged = discharged + change of what is stored + lost in the battery. What
    the site took is own + discharged + imported. ``unserved``: of what was imported, more than the connection lets through.
    """

    generated: float = 0.0
    own: float = 0.0
    charged: float = 0.0
    discharged: float = 0.0
    imported: float = 0.0
    exported: float = 0.0
    curtailed: float = 0.0
    unserved: float = 0.0
    #: Joules of the load for which nobody knew what the plants delivered.
    unknown: float = 0.0


@dataclass(frozen=True, slots=True)
class Flows:
    """Where a load's power came from: over ``[starts[i], ends[i])``, ``own_w[i]`` from the plants, ``stored_w[i]`` out of the
    battery, the rest from the grid; all [n], in order."""

    starts: Array
    ends: Array
    own_w: Array
    stored_w: Array


@dataclass(slots=True)
class _Held:
    """Setpoints, and until when they hold. ``known``: whether they balance what is known."""

    load: float
    supply: float
    until: float
    charge_w: float
    own_w: float
    stored_w: float
    export_w: float
    curtail_w: float
    known: bool


class Microgrid:
    """One site's microgrid. It is told what the site takes, in order of time, and says where that came from."""

    def __init__(self, table: MicrogridTable, supply: Signal, start: float, lag_s: float = 0.0) -> None:
        """``supply``: what the plants deliver (W). ``lag_s``: how long the load is waited for, where it is measured."""
        self.table = table
        self.supply = supply
        self.sums = Sums()
        #: What is wrong with it at this moment, in words; empty if nothing is.
        self.trouble = ""
        #: The last instant at which it balanced what was known: signals know nothing newer.
        self.healthy_until = start
        self.log = ChargeLog(float(table.step_s))
        self.lag_s = lag_s
        self._step = float(table.step_s)
        #: Where loads came from that have not been booked yet: (from, to, own W, stored W).
        self._waiting: deque[tuple[float, float, float, float]] = deque()
        self._begin(start, None if table.battery is None else table.battery.initial_soc)

    def _begin(self, t: float, soc: float | None) -> None:
        #: Run time up to which it has been simulated, and up to which its battery has been stepped.
        self.t = self._stepped = t
        self._held: _Held | None = None
        #: Runs of equal supply from now on: (from, to, W).
        self._ahead: deque[tuple[float, float, float]] = deque()
        self._battery = None if self.table.battery is None or soc is None else _battery(self.table.battery, soc)
        self.healthy_until = t
        self.log.note(t, self.soc)

    @property
    def soc(self) -> float:
        """State of charge (0 to 1); 0 without a battery."""
        return 0.0 if self._battery is None else float(self._battery.soc())

    @property
    def stored_j(self) -> float:
        """What the battery's cells hold (J)."""
        return 0.0 if self.table.battery is None else self.soc * self.table.battery.capacity_wh * 3600.0

    @property
    def lost_j(self) -> float:
        """What the battery has lost since the run's start (J)."""
        table = self.table.battery
        begun = 0.0 if table is None else table.initial_soc * table.capacity_wh * 3600.0
        return self.sums.charged - self.sums.discharged - (self.stored_j - begun)

    def signals(self, site: SiteTable, signals: Mapping[str, Signal]) -> dict[str, Signal]:
        """A site's signals as its policy sees them: those of the microgrid are its own, of this simulation."""
        charge = StateOfCharge(self.log, self)
        seen: dict[str, Signal] = {}
        for t in site.all_signals:
            seen[t.label] = charge if t.simulated else signals[t.label]
            if t.kind == "microgrid" and not t.simulated:
                seen[t.label] = Surplus(signals[t.label], self)
        return seen

    # -- stepping

    def advance(self, load_w: float, t0: float, t1: float) -> None:
        """The site takes ``load_w`` over ``[t0, t1)``, which will be booked later. Time that is left out is time without load."""
        if t0 > self.t:
            self._go(0.0, t0)
        if t1 > self.t:
            self._go(load_w, t1)

    def use(self, load_w: float, t0: float, t1: float) -> Flows:
        """The site's load ``load_w`` over ``[t0, t1)`` is booked now: where it came from.

        Of time that was booked before nothing can be changed: what is booked there again came from the grid.
        """
        self.advance(load_w, t0, t1)
        found: list[tuple[float, float, float, float]] = []
        waiting = self._waiting
        while waiting and waiting[0][0] < t1:
            a, b, own, stored = waiting.popleft()
            if b > t1:
                waiting.appendleft((t1, b, own, stored))
                b = t1
            if b > t0:
                found.append((max(a, t0), b, own, stored))
        if not found or found[0][0] > t0:
            found.insert(0, (t0, found[0][0] if found else t1, 0.0, 0.0))
        return Flows(*np.array(found, np.float64).reshape(-1, 4).T)

    def _go(self, load: float, t1: float) -> None:
        waiting = self._waiting
        while self.t < t1:
            t, (b, supply) = self.t, self._delivers(t1)
            while t < b:
                held = self._held
                if held is None or t >= held.until or held.load != load or held.supply != supply:
                    held = self._held = self._dispatch(t, load, supply)
                end = min(b, held.until)
                self._sum(held, end - t)
                last = waiting[-1] if waiting else None
                if last is not None and last[1] == t and last[2] == held.own_w and last[3] == held.stored_w:
                    waiting[-1] = (last[0], end, last[2], last[3])
                else:
                    waiting.append((t, end, held.own_w, held.stored_w))
                t = end
            self.t = b
        self._step_battery(t1)
        if not self.trouble:
            self.healthy_until = t1
            if t1 % self._step == 0.0:
                self.log.note(t1, self.soc)

    def _delivers(self, t1: float) -> tuple[float, float]:
        """What the plants deliver now (W), and until when, at most until ``t1``. Of a trace a day is looked up at once."""
        if not self._ahead or self._ahead[-1][1] <= self.t:
            whole = isinstance(self.supply, StepSignal)
            self._ahead = deque(_runs(self.supply, self.t, max(t1, self.t + 86400.0) if whole else t1))
        while self._ahead[0][1] <= self.t:
            self._ahead.popleft()
        return min(self._ahead[0][1], t1), self._ahead[0][2]

    def _step_battery(self, t: float) -> None:
        if self._battery is not None and t > self._stepped:
            self._battery.step(t - self._stepped)
        self._stepped = t

    def _dispatch(self, t: float, load: float, supply: float) -> _Held:
        """Setpoints from ``t`` on."""
        self._step_battery(t)
        ends = (math.floor(t / self._step) + 1.0) * self._step
        if not math.isfinite(supply):
            return self._unbalanced(t, load, math.nan, ends, "what its plants deliver is not known")
        table, battery = self.table, self._battery
        least, most = (0.0, 0.0) if battery is None else battery.feasible_range(ends - t)
        imports = -math.inf if table.max_import_w is None else -table.max_import_w
        exports = math.inf if table.max_export_w is None else table.max_export_w
        over = supply - load
        if table.policy == "battery_first":
            charge = float(min(max(over, least), most))
            grid = min(max(over - charge, imports), exports)
        else:
            grid = min(max(over, imports), exports)
            charge = float(min(max(over - grid, least), most))
        left = over - charge - grid
        if left < -_NOTHING_W:
            return self._unbalanced(t, load, supply, ends, f"it cannot be balanced: {-left:,.0f} W are lacking")
        if battery is not None:
            battery.current_power = charge
        self.trouble = ""
        self.healthy_until = t
        self.log.note(t, self.soc)
        if charge == 0.0 and ends - t == self._step:
            ends = math.inf  # nothing changes before load or supply does
        own = min(load, supply)
        return _Held(load, supply, ends, charge, own, max(0.0, min(-charge, load - own)), max(0.0, grid), max(0.0, left), True)

    def _unbalanced(self, t: float, load: float, supply: float, ends: float, why: str) -> _Held:
        """Setpoints where there are none that balance: the battery rests, and what is lacking counts as taken from the grid."""
        if not self.trouble:
            self.healthy_until = min(self.healthy_until, t)
        self.trouble = why
        if self._battery is not None:
            self._battery.current_power = 0.0
        known = math.isfinite(supply)
        own = min(load, supply) if known else 0.0
        return _Held(load, supply, ends, 0.0, own, 0.0, 0.0, max(0.0, supply - own) if known else 0.0, known)

    def _sum(self, h: _Held, seconds: float) -> None:
        s = self.sums
        imported = h.load - h.own_w - h.stored_w
        s.own += h.own_w * seconds
        s.discharged += h.stored_w * seconds
        s.imported += imported * seconds
        s.charged += max(0.0, h.charge_w) * seconds
        s.exported += h.export_w * seconds
        s.curtailed += h.curtail_w * seconds
        if h.known:
            s.generated += h.supply * seconds
        else:
            s.unknown += h.load * seconds
        if self.table.max_import_w is not None:
            s.unserved += max(0.0, imported - self.table.max_import_w) * seconds

    # -- going on after a restart

    def as_json(self) -> dict[str, Any]:
        """What views show of it, and what the next coordinator needs to go on."""
        return {
            "t": self.t, "soc": self.soc, "stored_j": self.stored_j, "lost_j": self.lost_j, "trouble": self.trouble,
            **asdict(self.sums),
        }  # fmt: skip

    def restore(self, said: Mapping[str, Any]) -> None:
        """Go on from what ``as_json`` gave."""
        self.sums = Sums(**{f.name: float(said.get(f.name, 0.0)) for f in fields(Sums)})
        self._begin(float(said["t"]), min(1.0, max(0.0, float(said["soc"]))))


def _battery(table: MicrogridBatteryTable, soc: float) -> Any:
    from vessim.dispatchable import ClcBattery

    cells = max(1, round(table.capacity_wh / _CELL_WH))
    return ClcBattery(
        "battery", number_of_cells=cells, v_2=table.capacity_wh / cells, initial_soc=soc, min_soc=table.min_soc,
        alpha_c=table.charge_rate_c, alpha_d=-table.discharge_rate_c, eta_c=table.charge_efficiency,
        eta_d=1.0 / table.discharge_efficiency,
    )  # fmt: skip


def _runs(supply: Signal, t0: float, t1: float) -> list[tuple[float, float, float]]:
    """The supply over ``[t0, t1)`` as runs of equal values: (from, to, W); NaN where it is not known."""
    c = supply.between(t0, t1)
    values = c.values
    same = (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
    first = np.append(True, ~same)
    starts = c.starts[first]
    return list(zip(starts.tolist(), np.append(starts[1:], t1).tolist(), np.maximum(values[first], 0.0).tolist(), strict=True))


def microgrids(
    sites: Sequence[SiteTable], supplies: Mapping[str, Signal], start: float, lags_s: Mapping[str, float] | None = None
) -> dict[str, Microgrid]:
    """The microgrid of every site that has one, at the run's start; ``lags_s``: by site, how long its meter is waited for."""
    return {
        s.name: Microgrid(s.microgrid, supplies[s.name], start, (lags_s or {}).get(s.name, 0.0))
        for s in sites if s.microgrid is not None
    }  # fmt: skip
