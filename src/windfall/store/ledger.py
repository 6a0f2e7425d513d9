"""The ledger: which blocks are free, leased, received, committed or quarantined, and which versions there are.

One table of spans partitions the budget: every block lies in exactly one span, and a span has one state. So "exactly once" is a
property of the table and not of the code that fills it. SQLite with synchronous=FULL; each public
method that changes something is one transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

from windfall import faults
from windfall.errors import Refused, StoreError, TakenOver
from windfall.store.configurations import Configurations
from windfall.store.ledger_schema import SCHEMA, SCHEMA_VERSION, check_schema, connect, writing
from windfall.store.records import Configured, Consumed, Counts, Hold, InnerMean, Lease, Received, StoredInner, Token, Version
from windfall.store.spans import Spans

#: Leases that may fail at a block before it is quarantined.
MAX_FAILURES = 3
#: Lives of a site whose tokens are still known for what they are.
_TOKENS_KEPT = 4


class TooLate(Refused):
    """Work that was real, and comes too late to be of use."""


class Ledger:
    """One run's ledger. Only the coordinator opens it for writing."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._spans = Spans(db)
        self._configurations = Configurations(db)
        self._path = path
        self.budget_blocks = int(self.meta("budget_blocks") or 0)
        self.tokens_per_block = int(self.meta("tokens_per_block") or 0)
        self._fence: int | None = None

    # -- opening ---------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: Path, *, run_id: str, fingerprint: str, budget_blocks: int, tokens_per_block: int) -> Ledger:
        """A new ledger with every block free."""
        db = connect(path)
        with writing(path), db:
            db.executescript("BEGIN;" + SCHEMA)
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
        db = connect(path, read_only=read_only)
        check_schema(db, path, read_only=read_only)
        return cls(db, path)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def meta(self, key: str) -> str | None:
        """A named value of the ledger's table `meta`; None if it is not set."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def set_meta(self, **values: Any) -> None:
        """Store named values in the table `meta`, durably."""
        with self._transaction() as db:
            for key, value in values.items():
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, str(value)))

    def new_fence(self) -> int:
        """Take the next fencing token. Each coordinator takes one; sites obey only the newest."""
        fence = int(self.meta("fence") or 0) + 1
        self.set_meta(fence=fence)
        self._fence = fence
        return fence

    @contextmanager
    def one_moment(self) -> Iterator[None]:
        """A context in which all reads see the state of its beginning, whatever the coordinator writes meanwhile. For readers."""
        self._db.execute("BEGIN")
        try:
            self._db.execute("SELECT 1 FROM meta LIMIT 1").fetchone()  # a transaction's moment is that of its first read
            yield
        finally:
            self._db.execute("COMMIT")

    # -- configurations --------------------------------------------------------------------------------------

    def configurations(self) -> list[Configured]:
        """Every configuration that the run has had, oldest first; none where they were not kept yet."""
        return self._configurations.all()

    def configure(
        self, text: str, fingerprint: str, *, changes: Sequence[dict[str, Any]] = (), budget_blocks: int, how: str = "warmdown",
        t_run: float | None = None, t_wall: float,
    ) -> None:  # fmt: skip
        """Go on under a new configuration (resolved, as TOML), in one transaction with what it changes in the ledger.

        A larger budget adds free blocks at the end; the other blocks stay as they are. Raises StoreError for a smaller one.
        """
        with self._transaction() as db:
            if budget_blocks < self.budget_blocks:
                raise StoreError(f"{self._path}: the budget has {self.budget_blocks} blocks and cannot shrink to {budget_blocks}")
            if budget_blocks > self.budget_blocks:
                row = (self.budget_blocks, budget_blocks)
                db.execute("INSERT INTO spans (start, end, state) VALUES (?, ?, 'free')", row)
                self._spans.coalesce()
            for key, value in {"budget_blocks": budget_blocks, "fingerprint": fingerprint}.items():
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, str(value)))
            done = db.execute("SELECT MAX(tokens_total) FROM versions").fetchone()[0]
            self._configurations.add(
                t_run=t_run, t_wall=t_wall, text=text, changes=changes, budget_tokens=budget_blocks * self.tokens_per_block,
                from_tokens=int(done or 0), how=how, generations=self.generations(),
            )  # fmt: skip
        self.budget_blocks = budget_blocks

    def begun_under(self, number: int, t_run: float) -> None:
        """Note that a coordinator has begun under a configuration, from which run time on."""
        with self._transaction():
            self._configurations.begun(number, t_run)

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
            self._spans.mark(start, end, "leased", lease=epoch)
            return Lease(epoch, site, generation, start, end, expires)

    def extend(self, epoch: int, expires: float) -> None:
        """Let a live lease run until ``expires``."""
        with self._transaction() as db:
            db.execute("UPDATE leases SET expires = MAX(expires, ?) WHERE epoch = ? AND state = 'live'", (expires, epoch))

    def release(self, epoch: int) -> None:
        """End a lease: what it still holds becomes free again."""
        with self._transaction() as db:
            db.execute("UPDATE leases SET state = 'ended' WHERE epoch = ? AND state = 'live'", (epoch,))
            db.execute("UPDATE spans SET state = 'free', lease = NULL WHERE lease = ? AND state = 'leased'", (epoch,))
            self._spans.coalesce()

    def fail(self, site: str, generation: int, blocks: Iterable[int]) -> list[int]:
        """Note that a site's last life failed at these blocks, as its life ``generation`` has found.

        A failure counts once for each life, and only for blocks that are free again. Returns the blocks that are quarantined by
        it, because ``MAX_FAILURES`` lives have failed at them.
        """
        key = f"failed:{site}"
        with self._transaction() as db:
            if int(self.meta(key) or 0) >= generation:
                return []
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, str(generation)))
            bad = []
            for block in blocks:
                row = db.execute(
                    "SELECT failures FROM spans WHERE start <= ? AND end > ? AND state = 'free'", (block, block)
                ).fetchone()
                if row is None:
                    continue
                self._spans.carve(block, block + 1)
                state = "quarantined" if int(row[0]) + 1 >= MAX_FAILURES else "free"
                db.execute("UPDATE spans SET failures = failures + 1, state = ? WHERE start = ?", (state, block))
                bad += [block] if state == "quarantined" else []
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
        """The block ranges of a lease that have not been handed in."""
        return self._spans.of_lease(epoch)

    # -- contributions ---------------------------------------------------------------------------------------

    def receive(
        self, site: str, generation: int, cut: int, base_version: int, tokens: int,
        consumed: Sequence[Consumed], header: dict[str, Any], file: str, t: float, oldest_base: int,
    ) -> Received:  # fmt: skip
        """Take a contribution in: it waits for a commit, and its blocks can no longer expire.

        Raises:
            TooLate: its base version is older than ``oldest_base``, or its blocks are no longer lent under its lease.
            Refused: it is known already; its base version does not exist; or its token count is not that of its blocks.
        """
        with self._transaction() as db:
            known = db.execute(
                "SELECT state FROM contributions WHERE site = ? AND generation = ? AND cut = ?", (site, generation, cut)
            ).fetchone()
            if known:
                raise Refused(f"{site} cut {generation}.{cut} is already {known[0]}")
            head = self.head().version
            if base_version > head:
                raise Refused(f"{site} cut {generation}.{cut} is based on version {base_version}; head is {head}")
            expected = sum((c.end - c.start) * self.tokens_per_block for c in consumed if not c.skipped)
            if tokens != expected or tokens < 0:
                raise Refused(f"{site} cut {generation}.{cut} claims {tokens} tokens for blocks worth {expected}")
            if base_version < oldest_base:
                raise TooLate(
                    f"{site} cut {generation}.{cut} is based on version {base_version}; head is {head}, and nothing is taken "
                    f"that is based on one before {oldest_base} (federation.base_max_age)"
                )
            cursor = db.execute(
                "INSERT INTO contributions (site, generation, cut, base_version, tokens, header, file, state, t_run)"
                " VALUES (?,?,?,?,?,?,?,'received',?)",
                (site, generation, cut, base_version, tokens, json.dumps(header), file, t),
            )
            number = int(cursor.lastrowid or 0)
            for c in consumed:
                if not self._held(c.start, c.end, c.epoch, site):
                    raise TooLate(
                        f"{site} cut {generation}.{cut} claims blocks {c.start}..{c.end - 1} under lease {c.epoch}, "
                        "which it does not hold"
                    )
                self._spans.mark(c.start, c.end, "received", lease=c.epoch, contribution=number)
            return Received(number, site, generation, cut, base_version, tokens, file, header)

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

    def discard(self, contribution: int, reason: str) -> None:
        """Give up a received contribution whose file is damaged. Its blocks are free again."""
        with self._transaction() as db:
            db.execute("UPDATE contributions SET state = ? WHERE id = ?", (f"discarded: {reason}", contribution))
            db.execute(
                "UPDATE spans SET state = 'free', lease = NULL, contribution = NULL WHERE contribution = ? AND state = 'received'",
                (contribution,),
            )
            self._spans.coalesce()

    # -- versions --------------------------------------------------------------------------------------------

    def commit(
        self, *, t_run: float, t_wall: float, file: str, sha256: str, mode: str, contributions: Sequence[Received],
        outer_file: str | None = None, inner: Sequence[tuple[Received, str, str]] = (), detail: dict[str, Any] | None = None,
    ) -> Version:  # fmt: skip
        """The atomic step: the contributions become the next version and their blocks are committed.

        ``file`` has been written, fsynced and renamed before. ``inner`` holds (contribution, file, sha256) of inner optimizer
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
                    self._spans.mark(used["start"], used["end"], state, version=number)
            for c, inner_file, digest in inner:
                self._keep_inner(StoredInner(c.site, number, before + tokens, inner_file, digest, c.generation, c.cut))
            db.execute(
                "UPDATE leases SET state = 'done' WHERE state = 'live' AND NOT EXISTS"
                " (SELECT 1 FROM spans WHERE spans.lease = leases.epoch AND spans.state IN ('leased','received'))"
            )
            self._spans.coalesce()
            faults.reach("during-commit")
        return self.head()

    def roll_back(self) -> Version:
        """Take back the newest version, whose weights are damaged. Its blocks are free again. Returns the new head.

        Raises:
            StoreError: it is version 0.
        """
        lost = self.head()
        if lost.version == 0:
            raise StoreError(f"{self._path}: version 0 cannot be taken back; restore {lost.file} from a copy")
        with self._transaction() as db:
            rows = db.execute("SELECT header FROM contributions WHERE version = ?", (lost.version,)).fetchall()
            for (header,) in rows:
                for used in json.loads(header)["consumed"]:
                    self._spans.mark(used["start"], used["end"], "free")
            db.execute("UPDATE contributions SET state = 'lost', version = NULL WHERE version = ?", (lost.version,))
            db.execute("DELETE FROM inner_states WHERE version = ?", (lost.version,))
            db.execute("DELETE FROM versions WHERE version = ?", (lost.version,))
            self._spans.coalesce()
        return self.head()

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

    def last_versions(self, most: int) -> list[Version]:
        """The newest versions, at most so many, oldest first."""
        return self._versions(f"ORDER BY version DESC LIMIT {int(most)}")[::-1]

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

    def forget_weights(self, version: int) -> None:
        """Note that a version's weights are no longer kept (before its file is removed)."""
        with self._transaction() as db:
            db.execute("UPDATE versions SET retained = 0 WHERE version = ?", (version,))

    def keep_inner(self, state: StoredInner) -> None:
        """Note a site's inner optimizer state, which takes the place of the one before."""
        with self._transaction():
            self._keep_inner(state)

    def _keep_inner(self, state: StoredInner) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO inner_states (site, version, tokens_total, file, sha256, generation, cut)"
            " VALUES (?,?,?,?,?,?,?)",
            astuple(state),
        )

    def inner_states(self) -> dict[str, StoredInner]:
        """By site: its newest inner state."""
        columns = {row[1] for row in self._db.execute("PRAGMA table_info(inner_states)")}
        taken = "generation, cut" if "cut" in columns else "NULL, NULL"  # a ledger of schema 5, opened for reading
        rows = self._db.execute(f"SELECT site, version, tokens_total, file, sha256, {taken} FROM inner_states")
        return {r[0]: StoredInner(*r) for r in rows.fetchall()}

    # -- counting --------------------------------------------------------------------------------------------

    def counts(self) -> Counts:
        """Blocks by state."""
        return self._spans.counts()

    def spans(self) -> list[tuple[int, int, str]]:
        """The partition of the budget."""
        return self._spans.all()

    def complete(self) -> bool:
        """Whether every block is committed or quarantined."""
        return self.counts().settled == self.budget_blocks

    # -- journal ---------------------------------------------------------------------------------------------

    def asked(self, t_run: float, t_wall: float, site: str, generation: int, action: str, reason: str) -> None:
        """Journal a request to a driver, which is about to be made."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO journal (t_run, t_wall, site, generation, action, reason) VALUES (?,?,?,?,?,?)",
                (t_run, t_wall, site, generation, action, reason),
            )

    def generations(self) -> dict[str, int]:
        """The highest generation ever asked for, by site. A generation is never used twice."""
        return dict(self._db.execute("SELECT site, MAX(generation) FROM journal GROUP BY site").fetchall())

    def keep_token(self, site: str, generation: int, sha256: str) -> None:
        """From now on this is what is known of a site's token; of lives before the last few nothing is kept."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO tokens VALUES (?, ?, ?)", (site, generation, sha256))
            db.execute("DELETE FROM tokens WHERE site = ? AND generation <= ?", (site, generation - _TOKENS_KEPT))

    def tokens(self) -> list[Token]:
        """Every site's token, and those of its last lives, so that one of them can be told what it is."""
        try:
            rows = self._db.execute("SELECT site, generation, sha256 FROM tokens").fetchall()
            newest = self.generations()
        except sqlite3.Error as e:
            raise StoreError(f"{self._path}: the tokens cannot be read ({e})") from None
        return [Token(str(s), int(g), str(h), newest.get(s) == g) for s, g, h in rows]

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

    # -- the operator's holds --------------------------------------------------------------------------------

    def hold(self, hold: Hold) -> None:
        """Keep a site off, durably. Replaces an earlier hold."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO holds VALUES (?,?,?,?,?,?)",
                (hold.site, hold.kind, hold.t_run, hold.until, hold.who, hold.why),
            )

    def unhold(self, site: str) -> None:
        """Give a site back to its policy."""
        with self._transaction() as db:
            db.execute("DELETE FROM holds WHERE site = ?", (site,))

    def holds(self) -> dict[str, Hold]:
        """Sites that an operator keeps off."""
        try:
            rows = self._db.execute("SELECT site, kind, t_run, until, who, why FROM holds").fetchall()
        except sqlite3.OperationalError:
            return {}  # a ledger of schema 1, opened for reading
        return {r[0]: Hold(*r) for r in rows}

    # -- inside ----------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with writing(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._check_fence()
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                # On a full disk SQLite has rolled back by itself, or cannot do even that. The first error is the one to tell.
                with suppress(sqlite3.Error):
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                raise

    def _check_fence(self) -> None:
        """Raise TakenOver if a newer coordinator has taken a fence: this one was taken for dead, and must not write any more."""
        if self._fence is None:
            return
        newest = int(self.meta("fence") or 0)
        if newest != self._fence:
            raise TakenOver(
                f"{self._path}: another coordinator has taken this run over (fencing token {newest}, ours is {self._fence}); "
                "this one stops, and nothing is lost"
            )

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

    def _held(self, start: int, end: int, epoch: int, site: str) -> bool:
        lease = self._db.execute("SELECT site, state FROM leases WHERE epoch = ?", (epoch,)).fetchone()
        if lease is None or lease[0] != site or lease[1] != "live" or end <= start:
            return False
        return self._spans.leased(epoch, start, end) == end - start


def _made(detail: dict[str, Any]) -> dict[str, Any]:
    """How a version was made, from what its row keeps of it."""
    alone, residual, mean = detail.get("alone"), detail.get("residual"), detail.get("inner_mean")
    return {
        "alone": tuple(alone) if alone else None,
        "residual": tuple(residual) if residual else None,
        "codec": detail.get("codec", "fp32"),
        "outer_sha256": detail.get("outer_sha256", ""),
        "inner_mean": InnerMean(mean["file"], mean["sha256"], tuple((s, g, c, n) for s, g, c, n in mean["cuts"])) if mean else None,
    }
