"""The ledger: which blocks are free, leased, received, committed or quarantined, and which versions there are. What changes it is
here, what reads it in `store.ledger_reader`.

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
from windfall.store.ledger_reader import LedgerReader
from windfall.store.ledger_schema import SCHEMA, SCHEMA_VERSION, check_schema, connect, writing
from windfall.store.records import Consumed, Hold, Lease, Received, StoredInner, TakenRequest, Version

#: Leases that may fail at a block before it is quarantined.
MAX_FAILURES = 3
#: Lives of a site whose tokens are still known for what they are.
_TOKENS_KEPT = 4


class TooLate(Refused):
    """Work that was real, and comes too late to be of use."""


class Ledger(LedgerReader):
    """One run's ledger. Only the coordinator opens it for writing."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        super().__init__(db, path)
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

    # -- configurations --------------------------------------------------------------------------------------

    def configure(
        self, text: str, fingerprint: str, *, changes: Sequence[dict[str, Any]] = (), budget_blocks: int, how: str = "warmdown",
        t_run: float | None = None, t_wall: float, request: TakenRequest | None = None,
    ) -> None:  # fmt: skip
        """Go on under a new configuration (resolved, as TOML), in one transaction with what it changes in the ledger.

        ``request``: the operator's that asked for it. A larger budget adds free blocks at the end; the other blocks stay as they
        are. Raises StoreError for a smaller one.
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
            self._keep_request(request)
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

    # -- journal ---------------------------------------------------------------------------------------------

    def asked(self, t_run: float, t_wall: float, site: str, generation: int, action: str, reason: str) -> None:
        """Journal a request to a driver, which is about to be made."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO journal (t_run, t_wall, site, generation, action, reason) VALUES (?,?,?,?,?,?)",
                (t_run, t_wall, site, generation, action, reason),
            )

    def keep_token(self, site: str, generation: int, sha256: str) -> None:
        """From now on this is what is known of a site's token; of lives before the last few nothing is kept."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO tokens VALUES (?, ?, ?)", (site, generation, sha256))
            db.execute("DELETE FROM tokens WHERE site = ? AND generation <= ?", (site, generation - _TOKENS_KEPT))

    # -- what operators ask for ------------------------------------------------------------------------------

    def take(self, request: TakenRequest) -> None:
        """Note an operator's request and what became of it: one that is refused, or changes nothing here."""
        with self._transaction():
            self._keep_request(request)

    def hold(self, hold: Hold, request: TakenRequest | None = None) -> None:
        """Keep a site off, durably, and note the ``request`` for it. Replaces an earlier hold."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO holds VALUES (?,?,?,?,?,?)",
                (hold.site, hold.kind, hold.t_run, hold.until, hold.who, hold.why),
            )
            self._keep_request(request)

    def unhold(self, site: str, request: TakenRequest | None = None) -> None:
        """Give a site back to its policy, and note the ``request`` for it; without one its hold is over."""
        with self._transaction() as db:
            db.execute("DELETE FROM holds WHERE site = ?", (site,))
            self._keep_request(request)

    def _keep_request(self, r: TakenRequest | None) -> None:
        if r is None:
            return
        self._db.execute(
            "INSERT INTO requests (id, t_run, t_wall, asked, applied, reason) VALUES (?,?,?,?,?,?)",
            (r.id, r.t_run, r.t_wall, json.dumps(r.asked), int(r.applied), r.reason),
        )
        faults.reach("during-request")

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

    def _held(self, start: int, end: int, epoch: int, site: str) -> bool:
        lease = self._db.execute("SELECT site, state FROM leases WHERE epoch = ?", (epoch,)).fetchone()
        if lease is None or lease[0] != site or lease[1] != "live" or end <= start:
            return False
        return self._spans.leased(epoch, start, end) == end - start
