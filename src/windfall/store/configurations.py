"""The configurations that a run has had, in order. Each decision, budget and rate is read under the configuration of its time.

All methods use the ledger's connection. Those that change something are called within a transaction of the ledger.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from windfall.store.records import Configured

#: Stands in the place of a value: one of the two configurations does not have the site or signal at all.
THERE = "there"


class Configurations:
    """The table of configurations. Numbers begin at 1."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def all(self) -> list[Configured]:
        """All configurations, oldest first; none in a ledger made before they were kept."""
        try:
            rows = self._db.execute(
                "SELECT number, t_run, t_wall, text, changes, budget_tokens, from_tokens, how, generations"
                " FROM configurations ORDER BY number"
            ).fetchall()
        except sqlite3.OperationalError:
            return []  # of an older schema, opened for reading
        return [Configured(a, b, c, d, json.loads(e), f, g, h, json.loads(i)) for a, b, c, d, e, f, g, h, i in rows]

    def add(
        self, *, t_run: float | None, t_wall: float, text: str, changes: Sequence[dict[str, Any]], budget_tokens: int,
        from_tokens: int, how: str, generations: dict[str, int],
    ) -> None:  # fmt: skip
        """Add the next configuration."""
        self._db.execute(
            "INSERT INTO configurations (t_run, t_wall, text, changes, budget_tokens, from_tokens, how, generations)"
            " VALUES (?,?,?,?,?,?,?,?)",
            (t_run, t_wall, text, json.dumps(list(changes)), budget_tokens, from_tokens, how, json.dumps(generations)),
        )

    def begun(self, number: int, t_run: float) -> None:
        """Note the run time from which a configuration holds."""
        self._db.execute("UPDATE configurations SET t_run = ? WHERE number = ? AND t_run IS NULL", (t_run, number))


def extents(configurations: Sequence[Configured], site: str = "", generation: int = 0) -> list[tuple[int, int, str]]:
    """A run's budgets, (from progress, budget, how) each, in tokens. For one life of a site: those under which it was begun."""
    found: list[tuple[int, int, str]] = []
    for c in configurations:
        if found and site and c.generations.get(site, 0) >= generation:
            break
        if not found or c.budget_tokens != found[-1][1]:
            found.append((c.from_tokens, c.budget_tokens, c.how))
    return found


def change_text(key: str, old: Any, new: Any) -> str:
    """A stored change in words."""
    match old, new:
        case None, str(there) if there == THERE:
            return f"{key}: added"
        case str(there), None if there == THERE:
            return f"{key}: removed"
    return f"{key}: {_shown(old)} -> {_shown(new)}"


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
