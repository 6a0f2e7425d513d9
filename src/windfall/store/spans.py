"""The partition of the budget: spans of blocks, each in one state. Every block lies in exactly one of them.

All methods are called within a transaction of the ledger.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from windfall.store.records import Counts


class Spans:
    """The table of spans."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def counts(self) -> Counts:
        """Blocks by state."""
        rows = self._db.execute("SELECT state, SUM(end - start) FROM spans GROUP BY state")
        return Counts(**{str(s): int(n) for s, n in rows.fetchall()})

    def all(self) -> list[tuple[int, int, str]]:
        """Start, end and state of each span, in order."""
        rows = self._db.execute("SELECT start, end, state FROM spans ORDER BY start")
        return [(int(a), int(b), str(s)) for a, b, s in rows.fetchall()]

    def of_lease(self, epoch: int) -> list[tuple[int, int]]:
        """The ranges of a lease that have not been handed in."""
        rows = self._db.execute("SELECT start, end FROM spans WHERE lease = ? AND state = 'leased' ORDER BY start", (epoch,))
        return [(int(a), int(b)) for a, b in rows.fetchall()]

    def leased(self, epoch: int, start: int, end: int) -> int:
        """How many of the blocks ``[start, end)`` a lease still holds."""
        (held,) = self._db.execute(
            "SELECT COALESCE(SUM(MIN(end, ?) - MAX(start, ?)), 0) FROM spans"
            " WHERE lease = ? AND state = 'leased' AND end > ? AND start < ?",
            (end, start, epoch, start, end),
        ).fetchone()
        return int(held)

    def carve(self, start: int, end: int) -> None:
        """Split spans so that ``start`` and ``end`` are borders of spans."""
        for border in (start, end):
            row = self._db.execute(
                "SELECT start, end, state, lease, contribution, version, failures FROM spans WHERE start < ? AND end > ?",
                (border, border),
            ).fetchone()
            if row:
                self._db.execute("UPDATE spans SET end = ? WHERE start = ?", (border, row[0]))
                self._db.execute("INSERT INTO spans VALUES (?,?,?,?,?,?,?)", (border, *row[1:]))

    def mark(
        self, start: int, end: int, state: str, *, lease: int | None = None,
        contribution: int | None = None, version: int | None = None,
    ) -> None:  # fmt: skip
        """Put the blocks ``[start, end)`` into a state."""
        self.carve(start, end)
        self._db.execute(
            "UPDATE spans SET state = ?, lease = ?, contribution = ?, version = ? WHERE start >= ? AND end <= ?",
            (state, lease, contribution, version, start, end),
        )

    def coalesce(self) -> None:
        """Join neighbours that no longer differ, so that the table stays small over a long run."""
        rows = self._db.execute(
            "SELECT start, end, state, failures FROM spans WHERE state IN ('free','committed','skipped') ORDER BY start"
        ).fetchall()
        kept: list[Any] | None = None
        for start, end, state, failures in rows:
            if kept and kept[1] == start and kept[2:] == [state, failures]:
                self._db.execute("DELETE FROM spans WHERE start = ?", (start,))
                self._db.execute("UPDATE spans SET end = ? WHERE start = ?", (end, kept[0]))
                kept[1] = end
            else:
                kept = [start, end, state, failures]
