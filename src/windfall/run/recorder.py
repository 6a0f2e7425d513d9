"""Records what the loop does in telemetry, and restores the loop from it at resume."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from windfall import clock
from windfall.energy.account import Account, Interval, Total
from windfall.fleet.loop import Loop, SignalOutlook, Wanted
from windfall.fleet.machine import Site, State
from windfall.grid.signal import Forecast, Reading
from windfall.policy.base import Decision, FleetView, SiteView
from windfall.store.ledger import Ledger
from windfall.store.telemetry import Telemetry
from windfall.store.telemetry_energy import EnergyRow


class LedgerJournal:
    """The controller's journal in the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def asked(self, t: float, site: str, generation: int, action: str, reason: str) -> None:
        self._ledger.asked(t, clock.wall(), site, generation, action, reason)


class TelemetryRecorder:
    """Records decisions with their whole input, readings, states, modes and booked intervals."""

    def __init__(self, telemetry: Telemetry, configuration: int = 1) -> None:
        """``configuration``: the number, in the ledger, of the configuration in force."""
        self._t = telemetry
        self._configuration = configuration
        #: By site, what is stored already: the instants of readings, and the newest forecast.
        self._noted: dict[str, set[float]] = {}
        self._forecasts: dict[str, float] = {}
        self._alarm = ""
        #: By site, its newest booking, which may still go on, and its number in the account.
        self._open: dict[str, tuple[int, Interval]] = {}
        self._number = telemetry.next_entry()
        self._mode = ""

    def under(self, configuration: int) -> None:
        """From now on decisions are made under the configuration of this number."""
        self._configuration = configuration

    def decided(self, view: FleetView, decisions: Mapping[str, Decision]) -> None:
        for name, d in decisions.items():
            s = view.sites[name]
            self._t.decision(
                view.t, name, d.on, d.reason, numbers=d.numbers, until=d.until, given=self._given(view, s), memory=d.memory
            )
            if d.on != s.on:
                self._t.event(view.t, "decision", site=name, wanted="on" if d.on else "off", reason=d.reason)
        # An alarm is told when it begins, not at every tick.
        alarm = next((d.alarm for d in decisions.values() if d.alarm), "")
        if alarm and alarm != self._alarm:
            self._t.event(view.t, "warning", reason=alarm)
        self._alarm = alarm

    def _given(self, view: FleetView, s: SiteView) -> dict[str, Any]:
        """A decision's whole input, so that it can be made again (invariant 7).

        Forecasts and past values that the policy asked for go into tables of their own, each value once. Infinity (a reading
        without end) is no JSON number, but Python reads back what it writes.
        """
        given: dict[str, Any] = {
            "begun": view.begun, "left": view.left, "spent": view.spent, "tick_s": view.tick_s,
            "on": s.on, "since": s.since, "spin_up_s": s.spin_up_s,
            "memory": dict(s.memory), "state": s.state, "ready_in_s": s.ready_in_s, "rate": s.rate, "watts": s.watts,
            "starts": list(s.starts), "reading": _row(s.reading),
        }  # fmt: skip
        if self._configuration != 1:
            given["configuration"] = self._configuration
        if len(s.readings) > 1:
            given["readings"] = {label: _row(r) for label, r in s.readings.items()}
        if s.reading is not None:
            self._note(view.t, s.name, s.reading)
        if isinstance(s.outlook, SignalOutlook):
            past, forecast = s.outlook.asked_history, s.outlook.asked_forecast
            if past is not None:
                noted = self._noted.setdefault(s.name, set())
                known = past.known()
                for valid, end, value in zip(known.starts.tolist(), known.ends.tolist(), known.values.tolist(), strict=True):
                    if valid not in noted:
                        unit = s.reading.unit if s.reading else ""
                        self._note(view.t, s.name, Reading(value, unit, valid, view.t, end, end, "history"))
            if forecast is not None:
                given["forecast"] = forecast.made_at
                self._keep_forecast(s.name, forecast)
        return given

    def _note(self, t: float, site: str, r: Reading) -> None:
        noted = self._noted.setdefault(site, set())
        if r.valid_from not in noted:
            noted.add(r.valid_from)
            self._t.reading(
                t, site, r.value, r.unit, valid_from=r.valid_from, known_at=r.known_at, source=r.source, stale_at=r.stale_at
            )

    def _keep_forecast(self, site: str, f: Forecast) -> None:
        if self._forecasts.get(site) != f.made_at:
            self._forecasts[site] = f.made_at
            values = [None if math.isnan(v) else v for v in f.values.tolist()]
            self._t.forecast(site, f.made_at, f.times.tolist(), values, f.ends_at)

    def booked(self, entries: list[Interval]) -> None:
        """Append entries to the account. A booking that begins where the site's last one ended, with nothing changed, goes on."""
        for e in entries:
            number, last = self._open.get(e.site, (0, None))
            if e.t1 == e.t0:  # used at an instant: what the site is in goes on
                number, self._number = self._number, self._number + 1
            elif last is not None and not e.cause and last.t1 == e.t0 and _kind(last) == _kind(e):
                joules = last.joules + e.joules
                e = replace(
                    e, t0=last.t0, joules=joules, grams=last.grams + e.grams,
                    watts=joules / (e.t1 - last.t0) if e.measured_joules else e.watts,
                    average_grams=_sum(last.average_grams, e.average_grams), money=_sum(last.money, e.money),
                    measured_joules=last.measured_joules + e.measured_joules, own_joules=last.own_joules + e.own_joules,
                    stored_joules=last.stored_joules + e.stored_joules,
                )  # fmt: skip
            else:
                number, self._number = self._number, self._number + 1
            if not e.cause and e.t1 > e.t0:
                self._open[e.site] = (number, e)
            inside = -1 if e.inside is None else int(e.inside)
            row = EnergyRow(
                e.site, e.phase, e.t0, e.t1, e.watts, e.g_per_kwh, e.joules, e.grams, inside, e.average_grams, e.money,
                e.measured_joules, e.cause, e.booked_at, e.own_joules, e.stored_joules,
            )  # fmt: skip
            self._t.book(row, number)

    def moved(self, t: float, site: Site, old: State, new: State) -> None:
        """Record that a site has changed its state."""
        self._t.state(t, site.name, new.value, site.reason)
        self._t.event(t, "state", site=site.name, was=old.value, now=new.value, generation=site.generation, reason=site.reason)

    def mode(self, t: float, mode: str) -> bool:
        """Record the mode if it has changed; True if it has."""
        if mode == self._mode:
            return False
        was, self._mode = self._mode, mode
        self._t.mode(t, mode)
        self._t.event(t, "mode", was=was, now=mode)
        return True


def position(telemetry: Telemetry) -> float | None:
    """The run time up to which a run has been booked, if it has run at all."""
    now = telemetry.now()
    return max(float(now["t_run"]), telemetry.booked_until()) if now else None


def begun(telemetry: Telemetry, now: float) -> float:
    """The run time at which a run began; ``now`` if this is its beginning."""
    started = telemetry.events_of("started")
    return started[0][1].t_run if started else now


@dataclass(frozen=True, slots=True)
class Carried:
    """Which parts of a site's last decision count now: that it was on, its policy's memory, the learned length of its starts."""

    on: bool = True
    memory: bool = True
    spin_up: bool = True


#: What of a decision counts, from the number of the configuration then in force and the site.
Carries = Callable[[int, str], Carried]


def restore(telemetry: Telemetry, account: Account, loop: Loop, carries: Carries = lambda *_: Carried()) -> None:
    """Restore the account's sums, policies' memory and the learned lengths of starts from a run's telemetry."""
    for sums in telemetry.energy_sums():
        account.restore(sums.site, sums.phase, Total(**{f.name: getattr(sums, f.name) for f in fields(Total)}))
    for site in loop.wanted:
        last = telemetry.newest_decision(site)
        if last is None:
            continue
        was = last.given
        same = bool(was["on"]) == last.wanted
        carried = carries(int(was.get("configuration", 1)), site)
        if carried.on:
            loop.wanted[site] = Wanted(
                last.wanted, float(was["since"]) if same else last.t_run, last.memory if carried.memory else {}
            )
        starts = loop.starts[site]
        learned = float(was["spin_up_s"]) if carried.spin_up else starts.spin_up_s
        recent = tuple(float(s) for s in was.get("starts", []))
        starts.restore(learned, int(learned != starts.spin_up_s), recent, loop.controller.sites[site].generation)


def _row(r: Reading | None) -> list[Any] | None:
    if r is None:
        return None
    return [r.value, r.unit, r.valid_from, r.known_at, r.fresh_until, r.stale_at, r.source, r.valid_until]


def _kind(e: Interval) -> tuple[object, ...]:
    """What neighbouring entries must have in common to be stored as one."""
    # What was measured is never quite the same: of several such entries the power is the mean.
    watts = None if e.measured_joules else e.watts
    # Nor are quotients of what was multiplied before.
    rates = (None if x is None or not e.joules else round(x / e.joules, 15) for x in (e.average_grams, e.money))
    # What sun and battery give is hardly ever the same for longer than a step. Rounded, because a share of a sum is not exact.
    lasts = e.t1 - e.t0
    supply = (round(j / lasts, 6) if lasts > 0 else j for j in (e.own_joules, e.stored_joules))
    return e.phase, watts, e.g_per_kwh, e.inside, e.average_grams is None, e.money is None, *rates, *supply


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None and b is None else (a or 0.0) + (b or 0.0)
