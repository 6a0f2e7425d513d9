"""Microgrids: a site's own sun, wind and battery, stepped through run time by Vessim's own classes.

Every site with `[site.microgrid]` is a `vessim.microgrid.Microgrid` of a `ClcBattery` and a `GridConnection` under Vessim's
dispatch policy. Its load is what the account books, so it is told of each phase as that is booked: on every clock, and in
backtests. Power is balanced anew at each multiple of ``step_s`` (Unix time), and whenever load or generation changes; in between
setpoints hold. So the result does not depend on how time is cut into bookings. A battery that rests is not stepped until something
changes.

Where Vessim cannot balance, or nobody knows what the plants deliver, the site's load counts as taken from the grid, and both of the
microgrid's signals are stale until it balances again (invariant 5): a failure is never a surplus.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from windfall.config.microgrid import BatteryTable, MicrogridTable
from windfall.config.schema import SiteTable
from windfall.energy.charge import ChargeLog, StateOfCharge, Surplus
from windfall.grid.signal import Signal

Array = npt.NDArray[np.float64]

#: Capacity (Wh) of the cells that Vessim's battery has the parameters of.
_CELL_WH = 19.14
#: For so long (run time) it is remembered what loads were made of, for corrections of bookings.
_REMEMBERED_S = 86400.0


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

    def __init__(self, table: MicrogridTable, supply: Signal, start: float, *, remember: bool = False) -> None:
        """``supply``: what the plants deliver (W). ``remember``: keep what loads were made of, for corrections."""
        self.table = table
        self.supply = supply
        self.sums = Sums()
        #: What is wrong with it at this moment, in words; empty if nothing is.
        self.trouble = ""
        #: The last instant at which it balanced what was known: signals know nothing newer.
        self.healthy_until = start
        self.log = ChargeLog(float(table.step_s))
        self._step = float(table.step_s)
        self._remember: deque[tuple[float, float, float, float, float]] | None = deque() if remember else None
        self._begin(start, None if table.battery is None else table.battery.initial_soc)

    def _begin(self, t: float, soc: float | None) -> None:
        from vessim.dispatch_policy import DefaultDispatchPolicy
        from vessim.dispatchable import GridConnection
        from vessim.microgrid import Microgrid as VessimMicrogrid

        t_ = self.table
        self._t = self._origin = t
        self._held: _Held | None = None
        self._battery = None if t_.battery is None or soc is None else _battery(t_.battery, soc)
        self._connection = GridConnection("grid", max_import=t_.max_import_w, max_export=t_.max_export_w)
        # Vessim has no curtailment: what may not be exported would be an error. A connection that only takes is one.
        self._curtailed = None if t_.max_export_w is None else GridConnection("curtailed", max_import=0.0)
        order = [self._battery, self._connection] if t_.policy == "battery_first" else [self._connection, self._battery]
        parts = [d for d in (*order, self._curtailed) if d is not None]
        self._vessim = VessimMicrogrid(t_.step_s, [], parts, DefaultDispatchPolicy())
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

    def use(self, load_w: float, t0: float, t1: float) -> Flows:
        """The site takes ``load_w`` over ``[t0, t1)``. Time that was left out before is time without load.

        Of time that has been simulated already nothing can be changed: what is booked there later came from the grid.
        """
        found: list[tuple[float, float, float, float]] = []
        if t0 < self._t:
            found.append((t0, min(t1, self._t), 0.0, 0.0))
        elif t0 > self._t:
            self._go(0.0, t0, [])
        if t1 > self._t:
            self._go(load_w, t1, found)
        if self._remember is not None:
            self._remember += ((a, b, load_w, own, stored) for a, b, own, stored in found)
            while self._remember and self._remember[0][1] < t1 - _REMEMBERED_S:
                self._remember.popleft()
        return Flows(*np.array(found, np.float64).reshape(-1, 4).T)

    def shares(self, t0: float, t1: float) -> tuple[float, float]:
        """Which shares of the load over ``[t0, t1)`` were own and stored, for its corrections; none where that is forgotten."""
        load = own = stored = 0.0
        for a, b, watts, from_plants, from_battery in self._remember or ():
            length = max(0.0, min(b, t1) - max(a, t0))
            load += watts * length
            own += from_plants * length
            stored += from_battery * length
        return (own / load, stored / load) if load > 0 else (0.0, 0.0)

    def _go(self, load: float, t1: float, found: list[tuple[float, float, float, float]]) -> None:
        for a, b, supply in _runs(self.supply, self._t, t1):
            t = a
            while t < b:
                held = self._held
                if held is None or t >= held.until or held.load != load or held.supply != supply:
                    held = self._held = self._dispatch(t, load, supply)
                end = min(b, held.until)
                self._sum(held, end - t)
                found.append((t, end, held.own_w, held.stored_w))
                t = end
            self._t = b
        self._vessim.finish(t1 - self._origin)
        if not self.trouble:
            self.healthy_until = t1
            if t1 % self._step == 0.0:
                self.log.note(t1, self.soc)

    def _dispatch(self, t: float, load: float, supply: float) -> _Held:
        """Setpoints from ``t`` on."""
        ends = (math.floor(t / self._step) + 1.0) * self._step
        duration = ends - t
        known = math.isfinite(supply)
        try:
            self._vessim.advance(t - self._origin, supply - load if known else 0.0, duration)
        except (RuntimeError, ValueError) as e:
            return self._unbalanced(t, load, supply, ends, f"it cannot balance: {e}")
        if not known:
            return self._unbalanced(t, load, math.nan, ends, "what its plants deliver is not known")
        self.trouble = ""
        self.healthy_until = t
        self.log.note(t, self.soc)
        charge = 0.0 if self._battery is None else float(self._battery.current_power)
        if charge == 0.0 and duration == self._step:
            ends = math.inf  # nothing changes before load or supply does
        own = min(load, supply)
        grid = float(self._connection.current_power)
        curtail = 0.0 if self._curtailed is None else float(self._curtailed.current_power)
        return _Held(load, supply, ends, charge, own, max(0.0, min(-charge, load - own)), max(0.0, grid), curtail, True)

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
            "t": self._t, "soc": self.soc, "stored_j": self.stored_j, "lost_j": self.lost_j, "trouble": self.trouble,
            **asdict(self.sums),
        }  # fmt: skip

    def restore(self, said: Mapping[str, Any]) -> None:
        """Go on from what ``as_json`` gave."""
        self.sums = Sums(**{f.name: float(said.get(f.name, 0.0)) for f in fields(Sums)})
        self._begin(float(said["t"]), min(1.0, max(0.0, float(said["soc"]))))


def _battery(table: BatteryTable, soc: float) -> Any:
    from vessim.dispatchable import ClcBattery

    cells = max(1, round(table.capacity_wh / _CELL_WH))
    return ClcBattery(
        "battery", number_of_cells=cells, v_2=table.capacity_wh / cells, initial_soc=soc, min_soc=table.min_soc,
        alpha_c=table.charge_rate_c, alpha_d=-table.discharge_rate_c, eta_c=table.charge_efficiency,
        eta_d=1.0 / table.discharge_efficiency,
    )  # fmt: skip


def _runs(supply: Signal, t0: float, t1: float) -> list[tuple[float, float, float]]:
    """The supply over ``[t0, t1)`` as runs of equal values: (from, to, W); NaN where it is not known."""
    if t1 <= t0:
        return []
    c = supply.between(t0, t1)
    values = c.values
    same = (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
    first = np.append(True, ~same)
    starts = c.starts[first]
    return list(zip(starts.tolist(), np.append(starts[1:], t1).tolist(), np.maximum(values[first], 0.0).tolist(), strict=True))


def microgrids(
    sites: Sequence[SiteTable], supplies: Mapping[str, Signal], start: float, *, remember: bool = False
) -> dict[str, Microgrid]:
    """The microgrid of every site that has one, at the run's start; ``remember`` as `Microgrid` has it."""
    return {
        s.name: Microgrid(s.microgrid, supplies[s.name], start, remember=remember) for s in sites if s.microgrid is not None
    }  # fmt: skip
