"""The ledger's tables, and opening the file: durability settings, schema versions and their migrations."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from windfall.errors import StoreError
from windfall.store.reading import open_for_reading

SCHEMA_VERSION = 7

_CONFIGURATIONS = """
CREATE TABLE configurations (
  number INTEGER PRIMARY KEY, t_run REAL, t_wall REAL NOT NULL, text TEXT NOT NULL, changes TEXT NOT NULL,
  budget_tokens INTEGER NOT NULL, from_tokens INTEGER NOT NULL, how TEXT NOT NULL, generations TEXT NOT NULL);
"""

#: Of a token nothing is kept but its SHA-256.
_TOKENS = """
CREATE TABLE tokens (site TEXT NOT NULL, generation INTEGER NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (site, generation));
"""

#: What operators have asked for and what became of it. ``id`` is the asker's own, so nothing is done twice.
_REQUESTS = """
CREATE TABLE requests (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, t_run REAL NOT NULL, t_wall REAL NOT NULL, asked TEXT NOT NULL,
  applied INTEGER NOT NULL, reason TEXT NOT NULL);
"""

SCHEMA = (
    """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE spans (
  start INTEGER PRIMARY KEY, end INTEGER NOT NULL, state TEXT NOT NULL,
  lease INTEGER, contribution INTEGER, version INTEGER, failures INTEGER NOT NULL DEFAULT 0,
  CHECK (end > start), CHECK (state IN ('free','leased','received','committed','skipped','quarantined')));
CREATE TABLE leases (
  epoch INTEGER PRIMARY KEY AUTOINCREMENT, site TEXT NOT NULL, generation INTEGER NOT NULL,
  start INTEGER NOT NULL, end INTEGER NOT NULL, t_run REAL NOT NULL, expires REAL NOT NULL, state TEXT NOT NULL);
CREATE TABLE contributions (
  id INTEGER PRIMARY KEY AUTOINCREMENT, site TEXT NOT NULL, generation INTEGER NOT NULL, cut INTEGER NOT NULL,
  base_version INTEGER NOT NULL, tokens INTEGER NOT NULL, header TEXT NOT NULL, file TEXT NOT NULL,
  state TEXT NOT NULL, version INTEGER, t_run REAL NOT NULL, UNIQUE (site, generation, cut));
CREATE TABLE versions (
  version INTEGER PRIMARY KEY, t_run REAL NOT NULL, t_wall REAL NOT NULL, file TEXT NOT NULL, sha256 TEXT NOT NULL,
  outer_file TEXT, mode TEXT NOT NULL, tokens INTEGER NOT NULL, tokens_total INTEGER NOT NULL,
  sites TEXT NOT NULL, retained INTEGER NOT NULL DEFAULT 1, detail TEXT NOT NULL DEFAULT '{}');
CREATE TABLE inner_states (
  site TEXT PRIMARY KEY, version INTEGER NOT NULL, tokens_total INTEGER NOT NULL, file TEXT NOT NULL, sha256 TEXT NOT NULL,
  generation INTEGER, cut INTEGER);
CREATE TABLE journal (
  id INTEGER PRIMARY KEY AUTOINCREMENT, t_run REAL NOT NULL, t_wall REAL NOT NULL, site TEXT NOT NULL,
  generation INTEGER NOT NULL, action TEXT NOT NULL, reason TEXT NOT NULL);
CREATE TABLE holds (
  site TEXT PRIMARY KEY, kind TEXT NOT NULL CHECK (kind IN ('hold', 'drain')), t_run REAL NOT NULL, until REAL,
  who TEXT NOT NULL, why TEXT NOT NULL);
CREATE INDEX contributions_by_version ON contributions (version);
CREATE INDEX contributions_by_state ON contributions (state);
CREATE INDEX leases_by_state ON leases (state);
CREATE INDEX journal_by_site ON journal (site);
"""
    + _CONFIGURATIONS
    + _TOKENS
    + _REQUESTS
)

#: What leads from a schema to the next one.
_MIGRATIONS = {
    1: """
CREATE TABLE holds (
  site TEXT PRIMARY KEY, kind TEXT NOT NULL CHECK (kind IN ('hold', 'drain')), t_run REAL NOT NULL, until REAL,
  who TEXT NOT NULL, why TEXT NOT NULL);
""",
    2: """
CREATE INDEX contributions_by_version ON contributions (version);
CREATE INDEX contributions_by_state ON contributions (state);
CREATE INDEX leases_by_state ON leases (state);
CREATE INDEX journal_by_site ON journal (site);
""",
    3: _CONFIGURATIONS,
    4: _TOKENS,
    5: """
ALTER TABLE inner_states ADD COLUMN generation INTEGER;
ALTER TABLE inner_states ADD COLUMN cut INTEGER;
""",
    6: _REQUESTS,
}


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open the file. Raises StoreError if that is impossible."""
    try:
        if read_only:
            return open_for_reading(path)
        db = sqlite3.connect(path, isolation_level=None, timeout=10.0, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        return db
    except sqlite3.Error as e:
        raise StoreError(f"{path}: cannot be opened: {e}; put the run's own file back, or name another run") from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say what a refused write means: a full or read-only disk, not a damaged ledger."""
    try:
        yield
    except sqlite3.OperationalError as e:
        raise StoreError(
            f"{path}: the ledger cannot be written ({e}); nothing committed is lost. Make room or give write access, "
            "then `windfall run` again with the same run directory"
        ) from None
    except sqlite3.IntegrityError:
        raise  # a mistake of ours, to be seen as one
    except sqlite3.DatabaseError as e:
        raise StoreError(f"{path}: the ledger is damaged ({e}); restore it from a copy of the run directory") from None


def check_schema(db: sqlite3.Connection, path: Path, *, read_only: bool) -> None:
    """Bring an older ledger up to this schema (a reader leaves it as it is).

    Raises:
        StoreError: not a ledger, or of a newer schema than this program knows.
    """
    try:
        row = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    except sqlite3.DatabaseError as e:
        if isinstance(e, sqlite3.OperationalError) and "no such table" not in str(e):
            raise StoreError(
                f"{path}: cannot be read ({e}); is the disk full, or of another user? Nothing committed is lost"
            ) from None
        raise StoreError(f"{path}: not a readable ledger ({e}); restore it from a copy") from None
    found = int(row[0]) if row else 0
    if found > SCHEMA_VERSION:
        raise StoreError(f"{path}: written by a newer Windfall (schema {found}, this one knows {SCHEMA_VERSION}); upgrade Windfall")
    if read_only:
        return
    for step in range(found, SCHEMA_VERSION):
        with writing(path), db:
            db.executescript(f"BEGIN;{_MIGRATIONS[step]}UPDATE meta SET value = '{step + 1}' WHERE key = 'schema';COMMIT;")
