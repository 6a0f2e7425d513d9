"""What it cost: the table of the account."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from windfall import clock
from windfall.store.telemetry_file import TelemetryFile
from windfall.units import from_grid

#: Columns that older schemas lack.
_LATER = ("average_grams", "money", "measured_joules", "cause", "own_joules", "stored_joules")


class EnergyRow(NamedTuple):
    """An entry of the account. ``inside``: 1 inside a window, 0 outside, -1 where that is unknown.

    With a ``cause`` it corrects what was booked before over the same time, and its figures are signed. ``measured_joules`` of its
    joules were measured. ``booked_at``: run time of a booking that had waited for a meter. ``own_joules`` came from the site's own
    plants and ``stored_joules`` out of its battery; grams and money are of the rest, which came from the grid.
    """

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
    measured_joules: float = 0.0
    cause: str = ""
    booked_at: float | None = None
    own_joules: float = 0.0
    stored_joules: float = 0.0

    @property
    def grid_joules(self) -> float:
        """Joules from the grid."""
        return from_grid(self.joules, self.own_joules, self.stored_joules)


@dataclass(frozen=True, slots=True)
class EnergySums:
    """Sums of one site and phase, corrections in them. Joules of which intensity, window or price is unknown, those that were
    measured, and those of own plants and out of a battery, are part of ``joules``."""

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
    measured_joules: float
    own_joules: float
    stored_joules: float


@dataclass(frozen=True, slots=True)
class EnergyCounts:
    """Sums of one site and phase of which none falls as long as nothing is corrected: what fell below zero is summed apart.

    ``avoided_grams``: at negative intensities; ``earned``: at negative prices. All are positive.
    """

    site: str
    phase: str
    seconds: float = 0.0
    joules: float = 0.0
    measured_joules: float = 0.0
    unpriced_joules: float = 0.0
    grams: float = 0.0
    avoided_grams: float = 0.0
    average_grams: float = 0.0
    avoided_average_grams: float = 0.0
    money: float = 0.0
    earned: float = 0.0


class EnergyTable(TelemetryFile):
    """Writes and reads the account."""

    def book(self, e: EnergyRow, number: int | None = None) -> None:
        """Queue an entry. ``number``: its own, with which the newest booking of a site is written again while it goes on."""
        self.put(
            "INSERT OR REPLACE INTO energy (site, phase, t0, t1, watts, g_per_kwh, joules, grams, inside, average_grams, money,"
            " measured_joules, cause, booked_at, own_joules, stored_joules, t_wall, number)"
            " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            *e, clock.wall(), number,
        )  # fmt: skip

    def next_entry(self) -> int:
        """The number that the next entry may have."""
        return int(self.rows("SELECT COALESCE(MAX(number), 0) + 1 FROM energy")[0][0])

    def booked_until(self) -> float:
        """The latest end of any entry; minus infinity without one."""
        found = self.rows("SELECT MAX(t1) FROM energy")[0][0]
        return float("-inf") if found is None else float(found)

    def energy(self, phase: str | None = None) -> list[EnergyRow]:
        """Entries in order of time and site, all or those of one phase; a correction after what it corrects."""
        where = ("",) if phase is None else ("WHERE phase = ?", phase)
        found = self.select("energy", EnergyRow._fields, f"{where[0]} ORDER BY t0, site, rowid", *where[1:])
        return [
            EnergyRow(*r)._replace(
                measured_joules=float(r[11] or 0.0), cause=str(r[12] or ""), own_joules=float(r[14] or 0.0),
                stored_joules=float(r[15] or 0.0),
            )
            for r in found
        ]  # fmt: skip

    def energy_until(self, t: float) -> tuple[float, float, float | None]:
        """Joules, grams and money (None where nothing has a price) of the time up to ``t``, corrections in them.

        Power and reading are constant within an entry, so that one which goes on at ``t`` counts by its part.
        """
        there = {str(c[1]) for c in self.rows("PRAGMA table_info(energy)")}
        money = "money" if "money" in there else "NULL"
        part = f"MIN(1.0, ({float(t)!r} - t0) / MAX(t1 - t0, 1e-9))"
        joules, grams, cost = self.rows(
            f"SELECT TOTAL(joules * {part}), TOTAL(grams * {part}), SUM({money} * {part}) FROM energy WHERE t0 < ?", t
        )[0]
        return float(joules), float(grams), None if cost is None else float(cost)

    def grid_joules_between(self, t0: float, t1: float) -> dict[str, float]:
        """By site, what was taken from the grid in ``[t0, t1)``, corrections in it; an entry across a border by its share."""
        share = "(CASE WHEN t1 > t0 THEN (MIN(t1, ?2) - MAX(t0, ?1)) / (t1 - t0) ELSE 1.0 END)"
        found = self.rows(
            f"SELECT site, TOTAL((joules - own_joules - stored_joules) * {share}) FROM energy"
            " WHERE t0 < ?2 AND (t1 > ?1 OR t0 = t1 AND t0 >= ?1) GROUP BY site",
            t0, t1,
        )  # fmt: skip
        return {str(site): float(joules) for site, joules in found}

    def energy_counts(self) -> list[EnergyCounts]:
        """The same sums as counters."""
        there = {str(c[1]) for c in self.rows("PRAGMA table_info(energy)")}
        average, money, measured, cause, own, stored = (c if c in there else "NULL" for c in _LATER)
        grid = f"joules - COALESCE({own}, 0) - COALESCE({stored}, 0)"
        # A correction is signed, and so is what it corrects: the sign of a quotient tells intensity and price.
        split = ", ".join(
            f"TOTAL(CASE WHEN {x} * joules >= 0 THEN {x} END), -TOTAL(CASE WHEN {x} * joules < 0 THEN {x} END)"
            for x in ("grams", average, money)
        )
        found = self.rows(
            f"SELECT site, phase, TOTAL(CASE WHEN COALESCE({cause}, '') = '' THEN t1 - t0 END), TOTAL(joules), TOTAL({measured}),"
            f" TOTAL(CASE WHEN g_per_kwh IS NULL THEN {grid} END), {split} FROM energy GROUP BY site, phase ORDER BY site, phase"
        )
        return [EnergyCounts(str(site), str(phase), *(float(x) for x in rest)) for site, phase, *rest in found]

    def newest_entry(self, site: str) -> EnergyRow | None:
        """A site's newest booking that takes time."""
        found = self.select("energy", EnergyRow._fields, "WHERE site = ? AND t1 > t0 ORDER BY t0 DESC LIMIT 20", site)
        return next((r for r in (EnergyRow(*x) for x in found) if not r.cause), None)

    def energy_sums(self) -> list[EnergySums]:
        """Sums by site and phase."""
        there = {str(c[1]) for c in self.rows("PRAGMA table_info(energy)")}
        average, money, measured, cause, own, stored = (c if c in there else "NULL" for c in _LATER)
        grid = f"joules - COALESCE({own}, 0) - COALESCE({stored}, 0)"
        found = self.rows(
            f"SELECT site, phase, TOTAL(CASE WHEN COALESCE({cause}, '') = '' THEN t1 - t0 END), SUM(joules), SUM(grams),"
            " TOTAL(CASE WHEN inside = 1 THEN joules END), "
            f" TOTAL(CASE WHEN g_per_kwh IS NULL THEN {grid} END), TOTAL(CASE WHEN inside = -1 THEN joules END),"
            f" TOTAL(CASE WHEN {money} IS NULL THEN {grid} END), TOTAL({average}), TOTAL({money}), TOTAL({measured}),"
            f" TOTAL({own}), TOTAL({stored}) FROM energy GROUP BY site, phase ORDER BY site, phase"
        )
        return [EnergySums(str(site), str(phase), *(float(x) for x in rest)) for site, phase, *rest in found]
