"""The file that telemetry is in: opening, queued writing, reading at one moment. What its tables hold is said in `telemetry_*`.

A full disk stops telemetry and never a commit: rows that cannot be written are counted, and the run goes on.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from windfall import clock
from windfall.errors import StoreError
from windfall.store.reading import open_for_reading
from windfall.store.telemetry_schema import SCHEMA, SCHEMA_VERSION, upgrade

#: SQLite's errors that do not come from the row: every other row would fail with them too.
_OF_THE_DISK = {
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_NOTADB,
}  # fmt: skip


class TelemetryFile:
    """One run's telemetry as rows. Writes are queued; ``flush`` stores them."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._queue: list[tuple[str, tuple[Any, ...]]] = []
        #: Rows that could not be written.
        self.dropped = 0
        self._closed = False

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Self:
        """Open, creating what is missing unless ``read_only``.

        Raises:
            StoreError: missing or not a database (read only), or of a newer schema.
        """
        db: sqlite3.Connection | None = None
        try:
            if read_only:
                if not path.is_file():
                    raise StoreError(f"{path}: no telemetry here; is this a run directory?")
                db = open_for_reading(path)
            else:
                db = sqlite3.connect(path, isolation_level=None, timeout=10.0)
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = NORMAL")
                # All tables at once: who looks meanwhile finds either none or each of them.
                db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
                upgrade(db)
            row = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        except sqlite3.Error as e:
            if db is not None:
                db.close()
            told = "put the run's own file back, or let `windfall run` set it aside and begin anew (no work is in it)"
            raise StoreError(f"{path}: cannot be opened: {e}; {told}") from None
        if row and int(row[0]) > SCHEMA_VERSION:
            raise StoreError(f"{path}: written by a newer Windfall (schema {row[0]}); upgrade Windfall")
        return cls(db)

    @classmethod
    def open_or_begin(cls, path: Path) -> tuple[Self, str]:
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
        """Queue one statement. Statements stand in this package alone."""
        self._queue.append((sql, values))

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
        """Rows of a query."""
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as e:
            raise StoreError(f"telemetry cannot be read: {e}") from None

    def select(self, table: str, columns: Sequence[str], rest: str = "", *values: Any) -> list[tuple[Any, ...]]:
        """Rows of a table; None for columns, and nothing for tables, that an older schema does not have."""
        there = {str(c[1]) for c in self.rows(f"PRAGMA table_info({table})")}
        if not there:
            return []
        names = ", ".join(c if c in there else "NULL" for c in columns)
        return self.rows(f"SELECT {names} FROM {table} {rest}", *values)
