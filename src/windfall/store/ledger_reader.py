"""What a ledger says. Views open one to read it, and never need more than this; only the coordinator writes (`store.ledger`)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from windfall.errors import StoreError
from windfall.store.configurations import Configurations
from windfall.store.records import Configured, Counts, Hold, InnerMean, Lease, Received, StoredInner, TakenRequest, Token, Version
from windfall.store.spans import Spans


class LedgerReader:
    """One run's ledger, to be read."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._spans = Spans(db)
        self._configurations = Configurations(db)
        self._path = path
        self.budget_blocks = int(self.meta("budget_blocks") or 0)
        self.tokens_per_block = int(self.meta("tokens_per_block") or 0)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def meta(self, key: str) -> str | None:
        """A named value of the ledger's table `meta`; None if it is not set."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    @contextmanager
    def one_moment(self) -> Iterator[None]:
        """A context in which all reads see the state of its beginning, whatever the coordinator writes meanwhile. For readers."""
        self._db.execute("BEGIN")
        try:
            self._db.execute("SELECT 1 FROM meta LIMIT 1").fetchone()  # a transaction's moment is that of its first read
            yield
        finally:
            self._db.execute("COMMIT")

    # -- versions --------------------------------------------------------------------------------------------

    def head(self) -> Version:
        """The newest version."""
        found = self._versions("ORDER BY version DESC LIMIT 1")
        if not found:
            raise StoreError(f"{self._path}: there is no version yet")
        return found[0]

    def version(self, number: int) -> Version | None:
        """The version of that number; None if there is none."""
        return next(iter(self._versions(f"WHERE version = {int(number)}")), None)

    def has_version(self) -> bool:
        """Whether version 0 has been written."""
        return bool(self._db.execute("SELECT 1 FROM versions LIMIT 1").fetchone())

    def versions(self) -> list[Version]:
        """Every version, oldest first."""
        return self._versions("ORDER BY version")

    def last_versions(self, most: int, upto: int | None = None) -> list[Version]:
        """The newest versions (up to the one of number ``upto``), at most so many, oldest first."""
        where = f"WHERE version <= {int(upto)} " if upto is not None else ""
        return self._versions(f"{where}ORDER BY version DESC LIMIT {int(most)}")[::-1]

    def retained(self) -> list[Version]:
        """Versions whose weights are kept, oldest first."""
        return self._versions("WHERE retained = 1 ORDER BY version")

    def contributions(self, version: int) -> list[Received]:
        """The contributions that a version was made of."""
        rows = self._db.execute(
            "SELECT id, site, generation, cut, base_version, tokens, file, header FROM contributions WHERE version = ? ORDER BY id",
            (version,),
        )
        return [Received(a, b, c, d, e, f, g, json.loads(h)) for a, b, c, d, e, f, g, h in rows.fetchall()]

    def inner_states(self) -> dict[str, StoredInner]:
        """By site: its newest inner state."""
        columns = {row[1] for row in self._db.execute("PRAGMA table_info(inner_states)")}
        taken = "generation, cut" if "cut" in columns else "NULL, NULL"  # a ledger of schema 5, opened for reading
        rows = self._db.execute(f"SELECT site, version, tokens_total, file, sha256, {taken} FROM inner_states")
        return {r[0]: StoredInner(*r) for r in rows.fetchall()}

    # -- blocks, leases, contributions -----------------------------------------------------------------------

    def counts(self) -> Counts:
        """Blocks by state."""
        return self._spans.counts()

    def spans(self) -> list[tuple[int, int, str]]:
        """The partition of the budget."""
        return self._spans.all()

    def complete(self) -> bool:
        """Whether every block is committed or quarantined."""
        return self.counts().settled == self.budget_blocks

    def live_leases(self, site: str | None = None) -> list[Lease]:
        """Leases that still hold blocks."""
        rows = self._db.execute(
            "SELECT epoch, site, generation, start, end, expires FROM leases WHERE state = 'live'"
            + (" AND site = ?" if site else "") + " ORDER BY epoch",
            (site,) if site else (),
        )  # fmt: skip
        return [Lease(*r) for r in rows.fetchall()]

    def remaining(self, epoch: int) -> list[tuple[int, int]]:
        """The block ranges of a lease that have not been handed in."""
        return self._spans.of_lease(epoch)

    def fate(self, site: str, generation: int, cut: int) -> tuple[str, int | None] | None:
        """State and version of a contribution; None if it was never taken in."""
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

    # -- configurations, journal, holds ----------------------------------------------------------------------

    def configurations(self) -> list[Configured]:
        """Every configuration that the run has had, oldest first; none where they were not kept yet."""
        return self._configurations.all()

    def generations(self) -> dict[str, int]:
        """The highest generation ever asked for, by site. A generation is never used twice."""
        return dict(self._db.execute("SELECT site, MAX(generation) FROM journal GROUP BY site").fetchall())

    def last_asked(self) -> dict[str, tuple[int, str, float]]:
        """By site: generation, action and run time of what was last asked of its driver."""
        rows = self._db.execute(
            "SELECT site, generation, action, t_run FROM journal WHERE id IN (SELECT MAX(id) FROM journal GROUP BY site)"
        )
        return {str(s): (int(g), str(a), float(t)) for s, g, a, t in rows.fetchall()}

    def started_at(self, site: str, generation: int) -> float | None:
        """Run time at which a generation was first asked to come up."""
        (t,) = self._db.execute(
            "SELECT MIN(t_run) FROM journal WHERE site = ? AND generation = ? AND action = 'ensure_up'", (site, generation)
        ).fetchone()
        return None if t is None else float(t)

    def starts(self) -> dict[str, int]:
        """How often each site was asked to come up."""
        rows = self._db.execute("SELECT site, COUNT(*) FROM journal WHERE action = 'ensure_up' GROUP BY site")
        return {str(s): int(n) for s, n in rows.fetchall()}

    def tokens(self) -> list[Token]:
        """Every site's token, and those of its last lives, so that one of them can be told what it is."""
        try:
            rows = self._db.execute("SELECT site, generation, sha256 FROM tokens").fetchall()
            newest = self.generations()
        except sqlite3.Error as e:
            raise StoreError(f"{self._path}: the tokens cannot be read ({e})") from None
        return [Token(str(s), int(g), str(h), newest.get(s) == g) for s, g, h in rows]

    def holds(self) -> dict[str, Hold]:
        """Sites that an operator keeps off."""
        try:
            rows = self._db.execute("SELECT site, kind, t_run, until, who, why FROM holds").fetchall()
        except sqlite3.OperationalError:
            return {}  # a ledger of schema 1, opened for reading
        return {r[0]: Hold(*r) for r in rows}

    def request(self, id: str) -> TakenRequest | None:
        """An operator's request that has been taken up; None if it has not (yet)."""
        return next(iter(self._requests("WHERE id = ?", id)), None)

    def last_requests(self, most: int) -> list[TakenRequest]:
        """The operators' requests that were taken up last, at most so many, oldest first."""
        return self._requests("ORDER BY number DESC LIMIT ?", most)[::-1]

    def _requests(self, tail: str, *values: Any) -> list[TakenRequest]:
        try:
            rows = self._db.execute(f"SELECT id, t_run, t_wall, asked, applied, reason FROM requests {tail}", values).fetchall()
        except sqlite3.OperationalError:
            return []  # a ledger of schema 6, opened for reading
        return [TakenRequest(a, b, c, json.loads(d), bool(e), f) for a, b, c, d, e, f in rows]

    def _versions(self, tail: str) -> list[Version]:
        rows = self._db.execute(
            "SELECT version, t_run, t_wall, file, sha256, outer_file, mode, tokens, tokens_total, sites, retained, detail"
            " FROM versions " + tail
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
                **_made(json.loads(r[11])),
            )
            for r in rows.fetchall()
        ]


def _made(detail: dict[str, Any]) -> dict[str, Any]:
    """How a version was made, from what its row keeps of it."""
    alone, residual, mean = detail.get("alone"), detail.get("residual"), detail.get("inner_mean")
    return {
        "alone": tuple(alone) if alone else None,
        "residual": tuple(residual) if residual else None,
        "codec": detail.get("codec", "fp32"),
        "outer_sha256": detail.get("outer_sha256", ""),
        "norms": tuple((s, g, c, n, scale) for s, g, c, n, scale in detail.get("norms", ())),
        "inner_mean": InnerMean(mean["file"], mean["sha256"], tuple((s, g, c, n) for s, g, c, n in mean["cuts"])) if mean else None,
    }
