"""Puts the loop's story into telemetry, and takes it up again at resume."""

from __future__ import annotations

import json
from collections.abc import Mapping

from windfall import clock
from windfall.energy.account import Account, Interval, Total
from windfall.fleet.loop import Wanted
from windfall.fleet.machine import Site, State
from windfall.policy.base import Decision, FleetView
from windfall.store.ledger import Ledger
from windfall.store.telemetry import Telemetry


class LedgerJournal:
    """The controller's journal in the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def asked(self, t: float, site: str, generation: int, action: str, reason: str) -> None:
        self._ledger.asked(t, clock.wall(), site, generation, action, reason)


class TelemetryRecorder:
    """Decisions with their whole input, readings, states, modes and booked intervals."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._t = telemetry
        self._readings: dict[str, float] = {}
        self._open: dict[str, Interval] = {}
        self._mode = ""

    def decided(self, view: FleetView, decisions: Mapping[str, Decision]) -> None:
        wall = clock.wall()
        for name, d in decisions.items():
            s = view.sites[name]
            r = s.reading
            given = {
                "on": s.on, "since": s.since, "spin_up_s": s.spin_up_s, "memory": dict(s.memory),
                "reading": None if r is None else
                [r.value, r.unit, r.valid_from, r.known_at, r.fresh_until, r.stale_at, r.source, r.valid_until],
            }  # fmt: skip
            self._t.put(
                "INSERT OR REPLACE INTO decisions VALUES (?,?,?,?,?,?,?,?,?)",
                view.t, wall, name, d.on, d.reason, json.dumps(dict(d.numbers)), d.until, _dump(given), json.dumps(dict(d.memory)),
            )  # fmt: skip
            if r is not None and self._readings.get(name) != r.valid_from:
                self._readings[name] = r.valid_from
                self._t.put(
                    "INSERT OR REPLACE INTO readings VALUES (?,?,?,?,?,?,?,?)",
                    view.t, wall, name, r.value, r.unit, r.valid_from, r.known_at, r.source,
                )  # fmt: skip
            if d.on != s.on:
                self._t.event(view.t, "decision", site=name, wanted="on" if d.on else "off", reason=d.reason)

    def booked(self, entries: list[Interval]) -> None:
        for e in entries:
            last = self._open.get(e.site)
            if last and last.t1 == e.t0 and (last.phase, last.watts, last.g_per_kwh) == (e.phase, e.watts, e.g_per_kwh):
                e = Interval(
                    last.t0, e.t1, e.site, e.phase, e.watts, e.g_per_kwh, last.joules + e.joules, last.grams + e.grams, e.inside
                )
            self._open[e.site] = e
            self._t.put(
                "INSERT OR REPLACE INTO energy VALUES (?,?,?,?,?,?,?,?,?,?)",
                e.site, e.phase, e.t0, e.t1, clock.wall(), e.watts, e.g_per_kwh, e.joules, e.grams, e.inside,
            )  # fmt: skip

    def moved(self, t: float, site: Site, old: State, new: State) -> None:
        """A site has changed state."""
        self._t.put("INSERT INTO states VALUES (?,?,?,?,?)", site.name, t, clock.wall(), new.value, site.reason)
        self._t.event(t, "state", site=site.name, was=old.value, now=new.value, generation=site.generation, reason=site.reason)

    def mode(self, t: float, mode: str) -> bool:
        """Note the mode; True if it is a new one."""
        if mode == self._mode:
            return False
        was, self._mode = self._mode, mode
        self._t.put("INSERT INTO modes VALUES (?,?,?)", t, clock.wall(), mode)
        self._t.event(t, "mode", was=was, now=mode)
        return True


def position(telemetry: Telemetry) -> float | None:
    """The run time up to which a run has been booked, if it has run at all."""
    rows = telemetry.rows("SELECT value FROM meta WHERE key = 'now'")
    return float(json.loads(rows[0][0])["t_run"]) if rows else None


def restore(telemetry: Telemetry, account: Account, wanted: dict[str, Wanted]) -> None:
    """Take up sums and policy memory from a run's telemetry."""
    for site, phase, seconds, joules, grams, inside, unpriced in telemetry.rows(
        "SELECT site, phase, SUM(t1 - t0), SUM(joules), SUM(grams), SUM(CASE WHEN inside THEN joules ELSE 0 END),"
        " SUM(CASE WHEN g_per_kwh IS NULL THEN joules ELSE 0 END) FROM energy GROUP BY site, phase"
    ):
        account.restore(site, phase, Total(seconds, joules, grams, inside, unpriced))
    for site, t, on, memory, given in telemetry.rows("SELECT site, MAX(t_run), wanted, memory, input FROM decisions GROUP BY site"):
        if site in wanted:
            was = json.loads(given)
            same = bool(was["on"]) == bool(on)
            wanted[site] = Wanted(bool(on), float(was["since"]) if same else t, json.loads(memory))


def _dump(value: object) -> str:
    # Infinity (a reading that holds until the next row) is no JSON number; Python reads its own spelling back.
    return json.dumps(value)
