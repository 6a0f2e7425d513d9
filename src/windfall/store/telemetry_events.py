"""What happened: the table of events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from windfall import clock
from windfall.store.files import to_json
from windfall.store.telemetry_file import TelemetryFile

COLUMNS = "id, t_run, t_wall, kind, site, version, detail"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    t_run: float
    t_wall: float
    kind: str
    site: str | None
    version: int | None
    detail: dict[str, Any]


class EventTable(TelemetryFile):
    """Writes and reads events."""

    def event(self, t_run: float, kind: str, *, site: str | None = None, version: int | None = None, **detail: Any) -> None:
        """Queue an event."""
        self.put(
            "INSERT INTO events (t_run, t_wall, kind, site, version, detail) VALUES (?,?,?,?,?,?)",
            t_run, clock.wall(), kind, site, version, to_json(detail),
        )  # fmt: skip

    def events(self, after_id: int = 0) -> Iterator[tuple[int, Event]]:
        """Events in order, with their ids."""
        yield from map(event_of, self.rows(f"SELECT {COLUMNS} FROM events WHERE id > ? ORDER BY id", after_id))

    def events_of(self, *kinds: str) -> list[tuple[int, Event]]:
        """Events of some kinds in order, with their ids."""
        marks = ",".join("?" * len(kinds))
        return [event_of(r) for r in self.rows(f"SELECT {COLUMNS} FROM events WHERE kind IN ({marks}) ORDER BY id", *kinds)]

    def event_count(self) -> int:
        """How many events there are."""
        return int(self.rows("SELECT COUNT(*) FROM events")[0][0])

    def last_event_id(self) -> int:
        """The id of the newest event; 0 if there is none."""
        return int(self.rows("SELECT COALESCE(MAX(id), 0) FROM events")[0][0])

    def wall_span(self, first_id: int = 0, before_id: int | None = None) -> tuple[float, float] | None:
        """Wall times of the first and the last event among those from ``first_id`` to before ``before_id``; None without any.

        By the table's key, because a long run has a million events. Where the calendar was set back the last is the first.
        """
        until = "" if before_id is None else f" AND id < {int(before_id)}"
        first, last = (
            self.rows(f"SELECT t_wall FROM events WHERE id >= ?{until} ORDER BY id {way} LIMIT 1", first_id) for way in ("", "DESC")
        )
        return None if not first else (float(first[0][0]), max(float(first[0][0]), float(last[0][0])))


def event_of(r: tuple[Any, ...]) -> tuple[int, Event]:
    """An id and an event of a row of all columns."""
    return int(r[0]), Event(r[1], r[2], r[3], r[4], r[5], json.loads(r[6]))
