"""The ledger: which blocks are free, leased, received, committed or quarantined, and which versions there are.

One table of spans partitions the budget, so that "exactly once" is a property of the table and not of the code that
fills it: every block lies in exactly one span, and a span has one state. SQLite with synchronous=FULL; each public
method that changes something is one transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from windfall.errors import Refused, StoreError
from windfall.store.records import Consumed, Counts, Lease, Received, Version

SCHEMA_VERSION = 1
#: Leases that may fail at a block before it is quarantined (DESIGN 4).
MAX_FAILURES = 3

_SCHEMA = """
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
  site TEXT PRIMARY KEY, version INTEGER NOT NULL, tokens_total INTEGER NOT NULL, file TEXT NOT NULL, sha256 TEXT NOT NULL);
CREATE TABLE journal (
  id INTEGER PRIMARY KEY AUTOINCREMENT, t_run REAL NOT NULL, t_wall REAL NOT NULL, site TEXT NOT NULL,
  generation INTEGER NOT NULL, action TEXT NOT NULL, reason TEXT NOT NULL);
"""


class Ledger:
    """One run's ledger. Only the coordinator opens it for writing."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path
        self.budget_blocks = int(self.meta("budget_blocks") or 0)
        self.tokens_per_block = int(self.meta("tokens_per_block") or 0)

    # -- opening ---------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: Path, *, run_id: str, fingerprint: str, budget_blocks: int, tokens_per_block: int) -> Ledger:
        """A new ledger with every block free."""
        db = _connect(path)
        with _writing(path), db:
            db.executescript("BEGIN;" + _SCHEMA)
            for key, value in {
                "schema": SCHEMA_VERSION, "run_id": run_id, "fingerprint": fingerprint,
                "budget_blocks": budget_blocks, "tokens_per_block": tokens_per_block, "fence": 0,
            }.items():  # fmt: skip
                db.execute("INSERT INTO meta VALUES (?, ?)", (key, str(value)))
            db.execute("INSERT INTO spans (start, end, state) VALUES (0, ?, 'free')", (budget_blocks,))
        return cls(db, path)

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Ledger:
        """An existing ledger.

        Raises:
            StoreError: missing, not a ledger, or of a newer schema than this program knows.
        """
        if not path.is_file():
            raise StoreError(f"{path}: no ledger here; is this a run directory?")
        db = _connect(path, read_only=read_only)
        try:
            row = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        except sqlite3.DatabaseError as e:
            raise StoreError(f"{path}: not a readable ledger ({e}); restore it from a copy") from None
        found = int(row[0]) if row else 0
        if found > SCHEMA_VERSION:
            raise StoreError(
                f"{path}: written by a newer Windfall (schema {found}, this one knows {SCHEMA_VERSION}); upgrade Windfall"
            )
        return cls(db, path)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def meta(self, key: str) -> str | None:
        """A value of the ledger's own table of facts."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def set_meta(self, **values: Any) -> None:
        """Store facts, durably."""
        with self._transaction() as db:
            for key, value in values.items():
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, str(value)))

    def new_fence(self) -> int:
        """The next fencing token: each coordinator takes one, and sites obey only the newest."""
        fence = int(self.meta("fence") or 0) + 1
        self.set_meta(fence=fence)
        return fence

    # -- leases ----------------------------------------------------------------------------------------------

    def lease(self, site: str, generation: int, blocks: int, t: float, expires: float) -> Lease | None:
        """Lend up to ``blocks`` contiguous free blocks, lowest first; None if nothing is free."""
        with self._transaction() as db:
            row = db.execute("SELECT start, end FROM spans WHERE state = 'free' ORDER BY start LIMIT 1").fetchone()
            if row is None or blocks < 1:
                return None
            start, end = int(row[0]), min(int(row[1]), int(row[0]) + blocks)
            cursor = db.execute(
                "INSERT INTO leases (site, generation, start, end, t_run, expires, state) VALUES (?,?,?,?,?,?,'live')",
                (site, generation, start, end, t, expires),
            )
            epoch = int(cursor.lastrowid or 0)
            self._mark(start, end, "leased", lease=epoch)
            return Lease(epoch, site, generation, start, end, expires)

    def extend(self, epoch: int, expires: float) -> None:
        """Let a live lease run until ``expires``."""
        with self._transaction() as db:
            db.execute("UPDATE leases SET expires = MAX(expires, ?) WHERE epoch = ? AND state = 'live'", (expires, epoch))

    def release(self, epoch: int, *, failed_at: int | None = None) -> list[int]:
        """End a lease: what it still holds becomes free again.

        ``failed_at`` is the block at which the site failed; a block at which ``MAX_FAILURES`` leases failed is
        quarantined. Returns the blocks quarantined now.
        """
        with self._transaction() as db:
            db.execute("UPDATE leases SET state = 'ended' WHERE epoch = ? AND state = 'live'", (epoch,))
            held = db.execute("SELECT start, end FROM spans WHERE lease = ? AND state = 'leased'", (epoch,)).fetchall()
            bad: list[int] = []
            for start, end in held:
                db.execute("UPDATE spans SET state = 'free', lease = NULL WHERE start = ?", (start,))
                if failed_at is not None and start <= failed_at < end:
                    self._carve(failed_at, failed_at + 1)
                    db.execute("UPDATE spans SET failures = failures + 1 WHERE start = ?", (failed_at,))
                    (failures,) = db.execute("SELECT failures FROM spans WHERE start = ?", (failed_at,)).fetchone()
                    if failures >= MAX_FAILURES:
                        db.execute("UPDATE spans SET state = 'quarantined' WHERE start = ?", (failed_at,))
                        bad.append(failed_at)
            self._coalesce()
            return bad

    def live_leases(self, site: str | None = None) -> list[Lease]:
        """Leases that still hold blocks."""
        rows = self._db.execute(
            "SELECT epoch, site, generation, start, end, expires FROM leases WHERE state = 'live'"
            + (" AND site = ?" if site else "") + " ORDER BY epoch",
            (site,) if site else (),
        )  # fmt: skip
        return [Lease(*r) for r in rows.fetchall()]

    def remaining(self, epoch: int) -> list[tuple[int, int]]:
        """Block ranges that a lease still holds and nobody has handed in."""
        rows = self._db.execute("SELECT start, end FROM spans WHERE lease = ? AND state = 'leased' ORDER BY start", (epoch,))
        return [(int(a), int(b)) for a, b in rows.fetchall()]

    # -- contributions ---------------------------------------------------------------------------------------

    def receive(
        self, site: str, generation: int, cut: int, base_version: int, tokens: int,
        consumed: Sequence[Consumed], header: dict[str, Any], file: str, t: float, max_base_age: int,
    ) -> Received:  # fmt: skip
        """Take a contribution in: its blocks can no longer expire, and it waits for a commit.

        Raises:
            Refused: known already, based on a version too old or not there, or claiming blocks that it was not lent
                under a current epoch, or a token count that is not that of its blocks.
        """
        with self._transaction() as db:
            known = db.execute(
                "SELECT state FROM contributions WHERE site = ? AND generation = ? AND cut = ?", (site, generation, cut)
            ).fetchone()
            if known:
                raise Refused(f"{site} cut {generation}.{cut} is already {known[0]}")
            head = self.head().version
            if not head - max_base_age <= base_version <= head:
                raise Refused(f"{site} cut {generation}.{cut} is based on version {base_version}; head is {head}")
            expected = sum((c.end - c.start) * self.tokens_per_block for c in consumed if not c.skipped)
            if tokens != expected or tokens < 0:
                raise Refused(f"{site} cut {generation}.{cut} claims {tokens} tokens for blocks worth {expected}")
            cursor = db.execute(
                "INSERT INTO contributions (site, generation, cut, base_version, tokens, header, file, state, t_run)"
                " VALUES (?,?,?,?,?,?,?,'received',?)",
                (site, generation, cut, base_version, tokens, json.dumps(header), file, t),
            )
            number = int(cursor.lastrowid or 0)
            for c in consumed:
                if not self._held(c.start, c.end, c.epoch, site):
                    raise Refused(
                        f"{site} cut {generation}.{cut} claims blocks {c.start}..{c.end - 1} under lease {c.epoch}, "
                        "which it does not hold"
                    )
                self._mark(c.start, c.end, "received", lease=c.epoch, contribution=number)
            return Received(number, site, generation, cut, base_version, tokens, file, header)

    def fate(self, site: str, generation: int, cut: int) -> tuple[str, int | None] | None:
        """State and version of a contribution that was taken in, if it was."""
        row = self._db.execute(
            "SELECT state, version FROM contributions WHERE site = ? AND generation = ? AND cut = ?", (site, generation, cut)
        ).fetchone()
        return (str(row[0]), row[1]) if row else None

    def pending(self) -> list[Received]:
        """Contributions that wait for a commit, oldest first."""
        rows = self._db.execute(
            "SELECT id, site, generation, cut, base_version, tokens, file, header FROM contributions"
            " WHERE state = 'received' ORDER BY id"
        )
        return [Received(a, b, c, d, e, f, g, json.loads(h)) for a, b, c, d, e, f, g, h in rows.fetchall()]

    def discard(self, contribution: int, reason: str) -> None:
        """Give a received contribution up (its file is damaged): its blocks are free again."""
        with self._transaction() as db:
            db.execute("UPDATE contributions SET state = ? WHERE id = ?", (f"discarded: {reason}", contribution))
            db.execute(
                "UPDATE spans SET state = 'free', lease = NULL, contribution = NULL WHERE contribution = ? AND state = 'received'",
                (contribution,),
            )
            self._coalesce()

    # -- versions --------------------------------------------------------------------------------------------

    def commit(
        self, *, t_run: float, t_wall: float, file: str, sha256: str, mode: str, contributions: Sequence[Received],
        outer_file: str | None = None, inner: Sequence[tuple[str, str, str]] = (), detail: dict[str, Any] | None = None,
    ) -> Version:  # fmt: skip
        """The atomic step: the contributions become the next version and their blocks are committed.

        ``file`` has been written, fsynced and renamed before. ``inner`` holds (site, file, sha256) of inner optimizer
        states that came with the contributions.
        """
        with self._transaction() as db:
            row = db.execute("SELECT version, tokens_total FROM versions ORDER BY version DESC LIMIT 1").fetchone()
            number, before = (int(row[0]) + 1, int(row[1])) if row else (0, 0)
            if row and not contributions:
                raise StoreError("a version needs at least one contribution (invariant 3)")
            sites: dict[str, int] = {}
            for c in contributions:
                sites[c.site] = sites.get(c.site, 0) + c.tokens
            tokens = sum(sites.values())
            db.execute(
                "INSERT INTO versions (version, t_run, t_wall, file, sha256, outer_file, mode, tokens, tokens_total, sites, detail)"
                " VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                (number, t_run, t_wall, file, sha256, outer_file, mode, tokens, before + tokens, json.dumps(sites),
                 json.dumps(detail or {})),
            )  # fmt: skip
            for c in contributions:
                db.execute("UPDATE contributions SET state = 'committed', version = ? WHERE id = ?", (number, c.id))
                for used in c.header["consumed"]:
                    state = "skipped" if used["skipped"] else "committed"
                    self._mark(used["start"], used["end"], state, version=number)
            for site, inner_file, digest in inner:
                db.execute(
                    "INSERT OR REPLACE INTO inner_states VALUES (?,?,?,?,?)", (site, number, before + tokens, inner_file, digest)
                )
            db.execute(
                "UPDATE leases SET state = 'done' WHERE state = 'live' AND NOT EXISTS"
                " (SELECT 1 FROM spans WHERE spans.lease = leases.epoch AND spans.state IN ('leased','received'))"
            )
            self._coalesce()
        return self.head()

    def head(self) -> Version:
        """The newest version."""
        found = self._versions("ORDER BY version DESC LIMIT 1")
        if not found:
            raise StoreError(f"{self._path}: there is no version yet")
        return found[0]

    def has_version(self) -> bool:
        """Whether version 0 has been written."""
        return bool(self._db.execute("SELECT 1 FROM versions LIMIT 1").fetchone())

    def versions(self) -> list[Version]:
        """Every version, oldest first."""
        return self._versions("ORDER BY version")

    def forget_weights(self, version: int) -> None:
        """Note that a version's weights are no longer kept (before its file is removed)."""
        with self._transaction() as db:
            db.execute("UPDATE versions SET retained = 0 WHERE version = ?", (version,))

    def inner_states(self) -> dict[str, tuple[int, str, str]]:
        """By site: tokens committed when its inner state was stored, file, SHA-256."""
        rows = self._db.execute("SELECT site, tokens_total, file, sha256 FROM inner_states")
        return {r[0]: (int(r[1]), r[2], r[3]) for r in rows.fetchall()}

    # -- counting --------------------------------------------------------------------------------------------

    def counts(self) -> Counts:
        """Blocks by state."""
        rows = self._db.execute("SELECT state, SUM(end - start) FROM spans GROUP BY state")
        return Counts(**{str(s): int(n) for s, n in rows.fetchall()})

    def spans(self) -> list[tuple[int, int, str]]:
        """The partition of the budget."""
        rows = self._db.execute("SELECT start, end, state FROM spans ORDER BY start")
        return [(int(a), int(b), str(s)) for a, b, s in rows.fetchall()]

    def complete(self) -> bool:
        """Every block is committed or quarantined."""
        return self.counts().settled == self.budget_blocks

    # -- journal ---------------------------------------------------------------------------------------------

    def asked(self, t_run: float, t_wall: float, site: str, generation: int, action: str, reason: str) -> None:
        """Journal what is about to be asked of a driver."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO journal (t_run, t_wall, site, generation, action, reason) VALUES (?,?,?,?,?,?)",
                (t_run, t_wall, site, generation, action, reason),
            )

    def generations(self) -> dict[str, int]:
        """The highest generation ever asked for, by site. A generation is never used twice."""
        return dict(self._db.execute("SELECT site, MAX(generation) FROM journal GROUP BY site").fetchall())

    def starts(self) -> dict[str, int]:
        """How often each site was asked to come up."""
        rows = self._db.execute("SELECT site, COUNT(*) FROM journal WHERE action = 'ensure_up' GROUP BY site")
        return {str(s): int(n) for s, n in rows.fetchall()}

    # -- inside ----------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _writing(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _versions(self, tail: str) -> list[Version]:
        rows = self._db.execute(
            "SELECT version, t_run, t_wall, file, sha256, outer_file, mode, tokens, tokens_total, sites, retained FROM versions "
            + tail
        )
        return [
            Version(
                version=r[0],
                t_run=r[1],
                t_wall=r[2],
                file=r[3],
                sha256=r[4],
                outer_file=r[5],
                mode=r[6],
                tokens=r[7],
                tokens_total=r[8],
                sites=json.loads(r[9]),
                retained=bool(r[10]),
            )
            for r in rows.fetchall()
        ]

    def _held(self, start: int, end: int, epoch: int, site: str) -> bool:
        lease = self._db.execute("SELECT site, state FROM leases WHERE epoch = ?", (epoch,)).fetchone()
        if lease is None or lease[0] != site or lease[1] != "live" or end <= start:
            return False
        (held,) = self._db.execute(
            "SELECT COALESCE(SUM(MIN(end, ?) - MAX(start, ?)), 0) FROM spans"
            " WHERE lease = ? AND state = 'leased' AND end > ? AND start < ?",
            (end, start, epoch, start, end),
        ).fetchone()
        return int(held) == end - start

    def _carve(self, start: int, end: int) -> None:
        """Make ``start`` and ``end`` borders of spans."""
        for border in (start, end):
            row = self._db.execute(
                "SELECT start, end, state, lease, contribution, version, failures FROM spans WHERE start < ? AND end > ?",
                (border, border),
            ).fetchone()
            if row:
                self._db.execute("UPDATE spans SET end = ? WHERE start = ?", (border, row[0]))
                self._db.execute("INSERT INTO spans VALUES (?,?,?,?,?,?,?)", (border, *row[1:]))

    def _mark(
        self, start: int, end: int, state: str, *, lease: int | None = None,
        contribution: int | None = None, version: int | None = None,
    ) -> None:  # fmt: skip
        self._carve(start, end)
        self._db.execute(
            "UPDATE spans SET state = ?, lease = ?, contribution = ?, version = ? WHERE start >= ? AND end <= ?",
            (state, lease, contribution, version, start, end),
        )

    def _coalesce(self) -> None:
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


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    try:
        if read_only:
            db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, timeout=5.0)
        else:
            db = sqlite3.connect(path, isolation_level=None, timeout=10.0, check_same_thread=False)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
        return db
    except sqlite3.Error as e:
        raise StoreError(f"{path}: cannot be opened: {e}") from None


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as e:
        raise StoreError(
            f"{path}: the ledger cannot be written ({e}); nothing committed is lost. Make room or give write access, "
            "then `windfall run` again with the same run directory"
        ) from None
