"""How sites and run stood: the tables of states and modes, and the row that says how things stand now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from windfall import clock
from windfall.store.files import to_json
from windfall.store.telemetry_file import TelemetryFile


class StateRow(NamedTuple):
    """A site's state from an instant on."""

    site: str
    t_run: float
    t_wall: float
    state: str
    reason: str


class ModeRow(NamedTuple):
    """The run's mode from an instant on."""

    t_run: float
    t_wall: float
    mode: str


class StateTable(TelemetryFile):
    """Writes and reads states, modes and the present."""

    def state(self, t_run: float, site: str, state: str, reason: str) -> None:
        """Queue a site's new state."""
        self.put("INSERT INTO states VALUES (?,?,?,?,?)", site, t_run, clock.wall(), state, reason)

    def mode(self, t_run: float, mode: str) -> None:
        """Queue the run's new mode."""
        self.put("INSERT INTO modes VALUES (?,?,?)", t_run, clock.wall(), mode)

    def present(self, said: Mapping[str, Any]) -> None:
        """Queue how things stand now, in place of what was said before."""
        self.put("INSERT OR REPLACE INTO meta VALUES ('now', ?)", to_json(said))
        if self.dropped:
            self.put("INSERT OR REPLACE INTO meta VALUES ('dropped', ?)", str(self.dropped))

    def now(self) -> dict[str, Any]:
        """How things stood when the coordinator last said so; empty while it has not."""
        found = self._meta("now")
        return dict(json.loads(found)) if found else {}

    def lost_rows(self) -> int | None:
        """How many rows could not be written; None where nobody has said so."""
        found = self._meta("dropped")
        return int(found) if found.isdigit() else None

    def states(self, site: str | None = None) -> list[StateRow]:
        """States in the order in which they came, of all sites or of one."""
        where = ("",) if site is None else ("WHERE site = ?", site)
        return [StateRow(*r) for r in self.select("states", StateRow._fields, f"{where[0]} ORDER BY rowid", *where[1:])]

    def since(self) -> dict[str, float]:
        """By site, the instant of its last change of state."""
        return {str(s): float(t) for s, t in self.rows("SELECT site, MAX(t_run) FROM states GROUP BY site")}

    def failures(self) -> dict[str, int]:
        """By site, how often it has failed."""
        found = self.rows("SELECT site, COUNT(*) FROM states WHERE state = 'failed' GROUP BY site")
        return {str(site): int(n) for site, n in found}

    def modes(self) -> list[ModeRow]:
        """Modes in the order in which they came."""
        return [ModeRow(*r) for r in self.select("modes", ModeRow._fields, "ORDER BY rowid")]

    def _meta(self, key: str) -> str:
        found = self.rows("SELECT value FROM meta WHERE key = ?", key)
        return str(found[0][0]) if found else ""
