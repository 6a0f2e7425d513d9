"""What it cost: the table of the account."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from windfall import clock
from windfall.store.telemetry_file import TelemetryFile


class EnergyRow(NamedTuple):
    """An entry of the account. ``inside``: 1 inside a window, 0 outside, -1 where that is unknown."""

    site: str
    phase: str
    t0: float
    t1: float
    watts: float
    g_per_kwh: float | None
    joules: float
    grams: float
    inside: int
    average_grams: float | None
    money: float | None


@dataclass(frozen=True, slots=True)
class EnergySums:
    """Sums of one site and phase; joules of which intensity, window or price is unknown are part of ``joules``."""

    site: str
    phase: str
    seconds: float
    joules: float
    grams: float
    inside_joules: float
    unpriced_joules: float
    unjudged_joules: float
    uncosted_joules: float
    average_grams: float
    money: float


class EnergyTable(TelemetryFile):
    """Writes and reads the account."""

    def book(self, e: EnergyRow) -> None:
        """Queue an entry, in place of one of the same site and beginning."""
        self.put(
            "INSERT OR REPLACE INTO energy (site, phase, t0, t1, watts, g_per_kwh, joules, grams, inside, average_grams, money,"
            " t_wall) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
            *e, clock.wall(),
        )  # fmt: skip

    def energy(self, phase: str | None = None) -> list[EnergyRow]:
        """Entries in order of time and site, all or those of one phase."""
        where = ("",) if phase is None else ("WHERE phase = ?", phase)
        return [EnergyRow(*r) for r in self.select("energy", EnergyRow._fields, f"{where[0]} ORDER BY t0, site", *where[1:])]

    def energy_sums(self) -> list[EnergySums]:
        """Sums by site and phase."""
        there = {str(c[1]) for c in self.rows("PRAGMA table_info(energy)")}
        average, money = (c if c in there else "NULL" for c in ("average_grams", "money"))
        found = self.rows(
            "SELECT site, phase, SUM(t1 - t0), SUM(joules), SUM(grams), TOTAL(CASE WHEN inside = 1 THEN joules END),"
            " TOTAL(CASE WHEN g_per_kwh IS NULL THEN joules END), TOTAL(CASE WHEN inside = -1 THEN joules END),"
            f" TOTAL(CASE WHEN {money} IS NULL THEN joules END), TOTAL({average}), TOTAL({money}) FROM energy"
            " GROUP BY site, phase ORDER BY site, phase"
        )
        return [EnergySums(str(site), str(phase), *(float(x) for x in rest)) for site, phase, *rest in found]
