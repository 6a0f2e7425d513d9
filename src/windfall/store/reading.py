"""Opens a database for reading, wherever it lies."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from pathlib import Path


def open_for_reading(path: Path) -> sqlite3.Connection:
    """A read-only connection that sees what the writer has committed.

    SQLite shares small files with the writer. On a read-only disk nobody writes, so the database is read as it lies; where they
    cannot be made for another reason (another user's folder), or something of it is not in the main file, it is copied into memory
    as it is now. Raises sqlite3.Error if it cannot be read at all.
    """
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=5.0)
    try:
        db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
        return db
    except sqlite3.OperationalError:
        db.close()
    if _lies_still(path):
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
        db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
        return db
    copy = sqlite3.connect(":memory:", isolation_level=None)
    with tempfile.TemporaryDirectory() as folder:
        for part in ("", "-wal"):  # the second has what is committed and not yet in the main file
            source = path.with_name(path.name + part)
            if source.is_file():
                shutil.copyfile(source, Path(folder) / (path.name + part))
        whole = sqlite3.connect(Path(folder) / path.name, isolation_level=None)
        try:
            whole.backup(copy)
        finally:
            whole.close()
    return copy


def _lies_still(path: Path) -> bool:
    """Whether it is on a read-only disk, and whole in its main file."""
    log = path.with_name(path.name + "-wal")
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY) and not (log.is_file() and log.stat().st_size)
    except OSError:
        return False
