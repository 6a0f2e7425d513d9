"""Telemetry: what happened, what was decided and why, what was measured and what it cost.

Views read it; nothing that must be right depends on it. A full disk stops telemetry and never a commit: rows that cannot be written
are counted, and the run goes on.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from windfall import clock
from windfall.errors import StoreError
from windfall.store.files import to_json
from windfall.store.reading import open_for_reading

SCHEMA_VERSION = 2

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (
  id INTEGER PRIMARY KEY, t_run REAL NOT NULL, t_wall REAL NOT NULL, kind TEXT NOT NULL, site TEXT, version INTEGER,
  detail TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS decisions (
  t_run REAL NOT NULL, t_wall REAL NOT NULL, site TEXT NOT NULL, wanted INTEGER NOT NULL, reason TEXT NOT NULL,
  numbers TEXT NOT NULL, until REAL, input TEXT NOT NULL, memory TEXT NOT NULL, PRIMARY KEY (site, t_run));
CREATE TABLE IF NOT EXISTS readings (
  t_run REAL NOT NULL, t_wall REAL NOT NULL, site TEXT NOT NULL, value REAL NOT NULL, unit TEXT NOT NULL,
  valid_from REAL NOT NULL, known_at REAL NOT NULL, source TEXT NOT NULL, stale_at REAL, PRIMARY KEY (site, valid_from));
CREATE TABLE IF NOT EXISTS metrics (
  id INTEGER PRIMARY KEY, t_run REAL NOT NULL, t_wall REAL NOT NULL, site TEXT NOT NULL, name TEXT NOT NULL,
  value REAL NOT NULL, tokens INTEGER, version INTEGER, detail TEXT);
-- energy.inside: 1 inside a window, 0 outside, -1 where the site's first signal was unknown.
CREATE TABLE IF NOT EXISTS energy (
  site TEXT NOT NULL, phase TEXT NOT NULL, t0 REAL NOT NULL, t1 REAL NOT NULL, t_wall REAL NOT NULL, watts REAL NOT NULL,
  g_per_kwh REAL, joules REAL NOT NULL, grams REAL NOT NULL, inside INTEGER NOT NULL, average_grams REAL, money REAL,
  PRIMARY KEY (site, t0));
CREATE TABLE IF NOT EXISTS forecasts (
  site TEXT NOT NULL, made_at REAL NOT NULL, times TEXT NOT NULL, vals TEXT NOT NULL, ends_at REAL NOT NULL,
  PRIMARY KEY (site, made_at));
CREATE TABLE IF NOT EXISTS states (
  site TEXT NOT NULL, t_run REAL NOT NULL, t_wall REAL NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS modes (t_run REAL NOT NULL, t_wall REAL NOT NULL, mode TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS metrics_by_name ON metrics (name, id);
"""


#: SQLite's errors that do not come from the row: every other row would fail with them too.
_OF_THE_DISK = {
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_NOTADB,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    t_run: float
    t_wall: float
    kind: str
    site: str | None
    version: int | None
    detail: dict[str, Any]


def _upgrade(db: sqlite3.Connection) -> None:
    """Add to an older telemetry what its schema lacks, and note the schema. A newer schema is left as it is."""
    db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),))
    row = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    if int(row[0]) < SCHEMA_VERSION:
        for table, column in (("energy", "average_grams"), ("energy", "money"), ("readings", "stale_at")):
            if column not in {str(c[1]) for c in db.execute(f"PRAGMA table_info({table})")}:
                db.execute(f"ALTER TABLE {table} ADD COLUMN {column} REAL")
        db.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (str(SCHEMA_VERSION),))


class Events(Protocol):
    """Where events and figures go (``Telemetry`` is one)."""

    def event(self, t_run: float, kind: str, *, site: str | None = None, version: int | None = None, **detail: Any) -> None: ...

    def metric(
        self, t_run: float, site: str, name: str, value: float, *, tokens: int | None = None,
        version: int | None = None, detail: dict[str, Any] | None = None,
    ) -> None: ...  # fmt: skip


class Telemetry:
    """One run's telemetry. Writes are queued; ``flush`` stores them."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._queue: list[tuple[str, tuple[Any, ...]]] = []
        #: Rows that could not be written.
        self.dropped = 0
        self._closed = False

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Telemetry:
        """Open, creating what is missing unless ``read_only``.

        Raises:
            StoreError: missing or not a database (read only), or of a newer schema.
        """
        try:
            if read_only:
                if not path.is_file():
                    raise StoreError(f"{path}: no telemetry here; is this a run directory?")
                db = open_for_reading(path)
            else:
                db = sqlite3.connect(path, isolation_level=None, timeout=10.0)
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = NORMAL")
                db.executescript(_SCHEMA)
                _upgrade(db)
            row = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        except sqlite3.Error as e:
            raise StoreError(f"{path}: cannot be opened: {e}") from None
        if row and int(row[0]) > SCHEMA_VERSION:
            raise StoreError(f"{path}: written by a newer Windfall (schema {row[0]}); upgrade Windfall")
        return cls(db)

    @classmethod
    def open_or_begin(cls, path: Path) -> tuple[Telemetry, str]:
        """Open for writing. A damaged file is set aside and a new one begun; the second value says so, or is empty.

        Raises:
            StoreError: it cannot be written at all, or is of a newer schema.
        """
        try:
            found = cls.open(path)
            damage = found.rows("PRAGMA quick_check(1)")[0][0]
            if damage == "ok":
                return found, ""
            found.close()
        except StoreError as e:
            if not isinstance(e.__cause__ or e.__context__, sqlite3.DatabaseError) or isinstance(
                e.__cause__ or e.__context__, sqlite3.OperationalError
            ):
                raise
            damage = str(e)
        aside = path.with_name(f"damaged-{int(clock.wall())}-{path.name}")
        path.replace(aside)
        for part in ("-wal", "-shm"):
            path.with_name(path.name + part).unlink(missing_ok=True)
        return cls.open(path), f"telemetry was damaged ({damage}); it is set aside as {aside.name} and begins anew"

    # -- writing ---------------------------------------------------------------------------------------------

    def put(self, sql: str, *values: Any) -> None:
        """Queue one statement."""
        self._queue.append((sql, values))

    def event(self, t_run: float, kind: str, *, site: str | None = None, version: int | None = None, **detail: Any) -> None:
        """Queue an event."""
        self.put(
            "INSERT INTO events (t_run, t_wall, kind, site, version, detail) VALUES (?,?,?,?,?,?)",
            t_run, clock.wall(), kind, site, version, to_json(detail),
        )  # fmt: skip

    def metric(
        self, t_run: float, site: str, name: str, value: float, *, tokens: int | None = None,
        version: int | None = None, detail: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Queue one figure."""
        self.put(
            "INSERT INTO metrics (t_run, t_wall, site, name, value, tokens, version, detail) VALUES (?,?,?,?,?,?,?,?)",
            t_run, clock.wall(), site, name, value, tokens, version, to_json(detail) if detail else None,
        )  # fmt: skip

    def flush(self) -> None:
        """Write what is queued. A row that cannot be stored is left out and counted; if the disk refuses, all rows are."""
        if not self._queue:
            return
        queue, self._queue = self._queue, []
        bad = 0
        try:
            self._db.execute("BEGIN")
            for sql, values in queue:
                try:
                    self._db.execute(sql, values)
                except (sqlite3.Error, OverflowError, UnicodeError) as e:
                    if getattr(e, "sqlite_errorcode", 0) & 0xFF in _OF_THE_DISK or not self._db.in_transaction:
                        raise
                    bad += 1
            self._db.execute("COMMIT")
        except sqlite3.Error:
            bad = len(queue)
            if self._db.in_transaction:
                with contextlib.suppress(sqlite3.Error):  # SQLite has done so by itself
                    self._db.execute("ROLLBACK")
        self.dropped += bad

    def close(self) -> None:
        """Flush and close."""
        if not self._closed:
            self.flush()
            self._db.close()
            self._closed = True

    # -- reading ---------------------------------------------------------------------------------------------

    @contextmanager
    def one_moment(self) -> Iterator[None]:
        """A context in which all reads see the state of its beginning, whatever the coordinator writes meanwhile."""
        self.rows("BEGIN")
        try:
            self.rows("SELECT 1 FROM sqlite_master LIMIT 1")  # a transaction's moment is that of its first read
            yield
        finally:
            self.rows("COMMIT")

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of a query, for views."""
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as e:
            raise StoreError(f"telemetry cannot be read: {e}") from None

    def events(self, after_id: int = 0) -> Iterator[tuple[int, Event]]:
        """Events in order, with their ids."""
        for r in self.rows("SELECT id, t_run, t_wall, kind, site, version, detail FROM events WHERE id > ? ORDER BY id", after_id):
            yield int(r[0]), Event(r[1], r[2], r[3], r[4], r[5], json.loads(r[6]))
