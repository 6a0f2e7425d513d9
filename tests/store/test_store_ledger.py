"""The ledger: exactly once, whatever is asked of it in whatever order."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from windfall.errors import Refused, StoreError
from windfall.store.configurations import extents
from windfall.store.ledger import MAX_FAILURES, Ledger
from windfall.store.records import Consumed, Received, StoredInner

#: What makes a new ledger one of schema 5.
OF_SCHEMA_5 = (
    "DROP TABLE requests; ALTER TABLE inner_states DROP COLUMN generation; ALTER TABLE inner_states DROP COLUMN cut;"
    "UPDATE meta SET value = '5' WHERE key = 'schema';"
)
BLOCKS = 24
PER_BLOCK = 10


def make(path: Path) -> Ledger:
    ledger = Ledger.create(path, run_id="r", fingerprint="f", budget_blocks=BLOCKS, tokens_per_block=PER_BLOCK)
    commit(ledger, [])
    return ledger


def commit(ledger: Ledger, contributions: list[Received]) -> None:
    ledger.commit(t_run=0, t_wall=0, file="v", sha256="s", mode="local", contributions=contributions)


def receive(ledger: Ledger, site: str, cut: int, consumed: list[Consumed], **changes: Any) -> Received:
    tokens = sum((c.end - c.start) * PER_BLOCK for c in consumed if not c.skipped)
    header = {"consumed": [{"epoch": c.epoch, "start": c.start, "end": c.end, "skipped": c.skipped} for c in consumed]}
    given = {
        "site": site, "generation": 1, "cut": cut, "base_version": ledger.head().version, "tokens": tokens,
        "consumed": consumed, "header": header, "file": f"{site}-{cut}", "t": 0.0, "oldest_base": ledger.head().version - 2,
    }  # fmt: skip
    return ledger.receive(**{**given, **changes})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return make(tmp_path / "ledger.db")


def test_a_lease_lends_the_lowest_free_blocks_to_one_site_only(ledger: Ledger) -> None:
    one, two = ledger.lease("a", 1, 10, 0, 9), ledger.lease("b", 1, 100, 0, 9)
    assert one
    assert two
    assert (one.start, one.end, two.start, two.end) == (0, 10, 10, BLOCKS)
    assert ledger.lease("c", 1, 1, 0, 9) is None


def test_a_commit_takes_the_blocks_of_its_contributions_and_leaves_the_rest_leased(ledger: Ledger) -> None:
    lease = ledger.lease("a", 1, 10, 0, 9)
    assert lease
    commit(ledger, [receive(ledger, "a", 1, [Consumed(lease.epoch, 0, 4)])])
    counts = ledger.counts()
    assert (counts.committed, counts.leased, counts.free) == (4, 6, BLOCKS - 10)
    assert ledger.head().tokens_total == 4 * PER_BLOCK
    assert ledger.remaining(lease.epoch) == [(4, 10)]


def test_a_version_without_contributions_is_refused(ledger: Ledger) -> None:
    with pytest.raises(StoreError, match="invariant 3"):
        commit(ledger, [])
    assert ledger.head().version == 0


@pytest.mark.parametrize(
    ("consumed", "changes", "why"),
    [
        ([Consumed(1, 0, 4)], {"tokens": 39}, "claims 39 tokens for blocks worth 40"),
        ([Consumed(1, 0, 4)], {"tokens": -40}, "claims -40 tokens"),
        ([Consumed(1, 8, 12)], {}, "does not hold"),
        ([Consumed(2, 0, 4)], {}, "does not hold"),
        ([Consumed(1, 0, 4), Consumed(1, 2, 6)], {}, "does not hold"),
        ([Consumed(1, 0, 4)], {"site": "b"}, "does not hold"),
        ([Consumed(1, 0, 4)], {"base_version": 1}, "based on version 1; head is 0"),
    ],
)
def test_a_contribution_that_breaks_a_rule_is_refused_and_changes_nothing(
    ledger: Ledger, consumed: list[Consumed], changes: dict[str, Any], why: str
) -> None:
    assert ledger.lease("a", 1, 10, 0, 9)
    before = ledger.spans()
    with pytest.raises(Refused, match=why):
        receive(ledger, changes.pop("site", "a"), 1, consumed, **changes)
    assert ledger.spans() == before
    assert ledger.pending() == []


def test_a_contribution_is_taken_once(ledger: Ledger) -> None:
    lease = ledger.lease("a", 1, 10, 0, 9)
    assert lease
    receive(ledger, "a", 1, [Consumed(lease.epoch, 0, 4)])
    with pytest.raises(Refused, match="already received"):
        receive(ledger, "a", 1, [Consumed(lease.epoch, 4, 8)])


def test_work_on_a_base_too_old_is_refused(ledger: Ledger) -> None:
    lease = ledger.lease("a", 1, 20, 0, 9)
    assert lease
    for i in range(3):
        commit(ledger, [receive(ledger, "a", i + 1, [Consumed(lease.epoch, 2 * i, 2 * i + 2)])])
    with pytest.raises(Refused, match="based on version 0; head is 3"):
        receive(ledger, "a", 9, [Consumed(lease.epoch, 10, 12)], base_version=0)
    receive(ledger, "a", 9, [Consumed(lease.epoch, 10, 12)], base_version=1)


def test_received_work_survives_the_end_of_its_lease(ledger: Ledger) -> None:
    lease = ledger.lease("a", 1, 10, 0, 9)
    assert lease
    receive(ledger, "a", 1, [Consumed(lease.epoch, 0, 4)])
    ledger.release(lease.epoch)
    assert ledger.counts().received == 4
    commit(ledger, ledger.pending())
    assert ledger.counts().committed == 4


def test_a_block_that_breaks_three_leases_is_quarantined_and_the_budget_still_completes(ledger: Ledger) -> None:
    for attempt in range(MAX_FAILURES):
        held = []
        while (lease := ledger.lease("a", attempt + 1, BLOCKS, 0, 9)) is not None:
            held.append(lease)
        for x in held:
            ledger.release(x.epoch)
        assert ledger.fail("a", attempt + 2, [7]) == ([7] if attempt == MAX_FAILURES - 1 else [])
        assert ledger.fail("a", attempt + 2, [7]) == [], "a life is counted once, however many coordinators hear of it"
    assert ledger.counts().quarantined == 1
    cut = 0
    while (lease := ledger.lease("b", 1, BLOCKS, 0, 9)) is not None:
        cut += 1
        commit(ledger, [receive(ledger, "b", cut, [Consumed(lease.epoch, lease.start, lease.end)])])
    assert ledger.complete()


def test_steps_skipped_by_a_guard_are_settled_and_counted_apart(ledger: Ledger) -> None:
    lease = ledger.lease("a", 1, 10, 0, 9)
    assert lease
    commit(ledger, [receive(ledger, "a", 1, [Consumed(lease.epoch, 0, 4), Consumed(lease.epoch, 4, 6, skipped=True)])])
    counts = ledger.counts()
    assert (counts.committed, counts.skipped, counts.settled) == (4, 2, 6)
    assert ledger.head().tokens_total == 4 * PER_BLOCK


def test_a_reopened_ledger_is_the_same(tmp_path: Path) -> None:
    ledger = make(tmp_path / "ledger.db")
    lease = ledger.lease("a", 1, 10, 0, 9)
    assert lease
    receive(ledger, "a", 1, [Consumed(lease.epoch, 0, 4)])
    spans, pending = ledger.spans(), ledger.pending()
    ledger.close()
    again = Ledger.open(tmp_path / "ledger.db")
    assert (again.spans(), again.pending(), again.live_leases()) == (spans, pending, [lease])


def test_a_newer_schema_is_refused_with_what_to_do(tmp_path: Path) -> None:
    make(tmp_path / "ledger.db").close()
    db = sqlite3.connect(tmp_path / "ledger.db")
    db.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    db.commit()
    db.close()
    with pytest.raises(StoreError, match=r"newer Windfall.*upgrade"):
        Ledger.open(tmp_path / "ledger.db")


def test_a_full_disk_stops_the_commit_and_loses_nothing(tmp_path: Path) -> None:
    ledger = make(tmp_path / "ledger.db")
    lease = ledger.lease("a", 1, 10, 0, 9)
    assert lease
    got = receive(ledger, "a", 1, [Consumed(lease.epoch, 0, 4)])
    pages = int(ledger._db.execute("PRAGMA page_count").fetchone()[0])
    ledger._db.execute(f"PRAGMA max_page_count = {pages}")  # what a full disk looks like to SQLite

    def fill() -> None:
        for _ in range(2000):
            ledger.asked(0, 0, "a", 1, "ensure_up", "x" * 500)

    with pytest.raises(StoreError, match=r"cannot be written.*nothing committed is lost"):
        fill()
    ledger._db.execute("PRAGMA max_page_count = 100000")
    commit(ledger, [got])
    assert ledger.counts().committed == 4


def test_a_transaction_that_a_full_disk_has_rolled_back_is_told_as_the_full_disk(tmp_path: Path) -> None:
    ledger = make(tmp_path / "ledger.db")

    def full() -> None:
        with ledger._transaction() as db:
            db.execute("ROLLBACK")  # SQLite does so by itself after some errors
            raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(StoreError, match=r"cannot be written \(database or disk is full\); nothing committed is lost"):
        full()
    assert ledger.lease("a", 1, 10, 0, 9)


class LedgerMachine(RuleBasedStateMachine):
    """Sites lease, send, resend, die; the coordinator commits, restarts; nothing is ever lost or counted twice."""

    @initialize()
    def start(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger.db"
        self.ledger = make(self.path)
        self.at: dict[int, int] = {}
        self.cut = 0
        self.failures = 0
        self.committed: set[int] = set()

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            self.folder.cleanup()

    @rule(site=st.sampled_from("abc"), blocks=st.integers(1, 9))
    def lend(self, site: str, blocks: int) -> None:
        lease = self.ledger.lease(site, 1, blocks, 0, 9)
        if lease:
            self.at[lease.epoch] = lease.start

    @precondition(lambda self: self.ledger.live_leases())
    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.ledger.live_leases()))
        left = self.ledger.remaining(lease.epoch)
        if not left:
            return
        start, end = left[0]
        to = data.draw(st.integers(start + 1, end))
        self.cut += 1
        receive(self.ledger, lease.site, self.cut, [Consumed(lease.epoch, start, to)])

    @rule(epoch=st.integers(0, 30), start=st.integers(0, BLOCKS - 1), length=st.integers(1, BLOCKS), site=st.sampled_from("abc"))
    def send_rubbish(self, epoch: int, start: int, length: int, site: str) -> None:
        end = min(BLOCKS, start + length)
        legal = any(
            x.epoch == epoch and x.site == site and any(a <= start and end <= b for a, b in self.ledger.remaining(epoch))
            for x in self.ledger.live_leases()
        )
        self.cut += 1
        try:
            receive(self.ledger, site, self.cut, [Consumed(epoch, start, end)])
            assert legal
        except Refused:
            assert not legal

    @rule(failed=st.booleans(), data=st.data())
    def end_lease(self, failed: bool, data: st.DataObject) -> None:
        live = self.ledger.live_leases()
        if live:
            lease = data.draw(st.sampled_from(live))
            self.ledger.release(lease.epoch)
            if failed:
                self.failures += 1
                self.ledger.fail("a", self.failures, [lease.start])

    @rule()
    def commit_all(self) -> None:
        pending = self.ledger.pending()
        if pending:
            blocks = [b for c in pending for u in c.header["consumed"] for b in range(u["start"], u["end"])]
            assert len(blocks) == len(set(blocks))
            assert not self.committed & set(blocks)
            commit(self.ledger, pending)
            self.committed |= set(blocks)

    @rule()
    def restart(self) -> None:
        self.ledger.close()
        self.ledger = Ledger.open(self.path)

    @invariant()
    def spans_partition_the_budget(self) -> None:
        if not hasattr(self, "ledger"):
            return
        at = 0
        for start, end, _ in self.ledger.spans():
            assert start == at
            at = end
        assert at == BLOCKS

    @invariant()
    def what_was_committed_stays_so(self) -> None:
        if not hasattr(self, "ledger"):
            return
        now = {b for s, e, state in self.ledger.spans() if state == "committed" for b in range(s, e)}
        assert now == self.committed
        assert self.ledger.head().tokens_total == len(now) * PER_BLOCK


LedgerMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=30, suppress_health_check=list(HealthCheck))
TestLedgerKeepsItsInvariants = LedgerMachine.TestCase


def test_a_larger_budget_adds_free_blocks_at_the_end_and_leaves_the_others_as_they_are(ledger: Ledger, tmp_path: Path) -> None:
    lease = ledger.lease("a", 1, 10, 0, 9)
    assert lease
    commit(ledger, [receive(ledger, "a", 1, [Consumed(lease.epoch, 0, 4)])])
    ledger.asked(0, 0, "a", 1, "ensure_up", "x")
    ledger.configure("first", "f", budget_blocks=BLOCKS, t_run=0.0, t_wall=0)
    before = ledger.spans()
    ledger.configure("second", "g", changes=[{"key": "k"}], budget_blocks=BLOCKS + 6, how="hold", t_wall=1)
    assert ledger.spans() == [*before[:-1], (10, BLOCKS + 6, "free")]
    assert (ledger.budget_blocks, ledger.counts().free) == (BLOCKS + 6, BLOCKS + 6 - 10)
    assert not ledger.complete()
    again = Ledger.open(tmp_path / "ledger.db", read_only=True)
    assert again.budget_blocks == BLOCKS + 6
    first, second = again.configurations()
    assert (first.number, first.text, first.t_run, first.budget_tokens, first.from_tokens) == (1, "first", 0.0, 240, 40)
    assert (second.number, second.t_run, second.changes, second.how) == (2, None, [{"key": "k"}], "hold")
    assert (second.budget_tokens, second.from_tokens, second.generations) == (300, 40, {"a": 1})
    assert extents([first, second]) == [(40, 240, "warmdown"), (40, 300, "hold")]
    assert extents([first, second], "a", 1) == [(40, 240, "warmdown")]
    assert extents([first, second], "a", 2) == extents([first, second], "new", 1) == extents([first, second])
    ledger.begun_under(2, 7.0)
    ledger.begun_under(2, 8.0)
    assert [c.t_run for c in ledger.configurations()] == [0.0, 7.0]


def test_a_budget_does_not_shrink_and_what_fails_half_way_changes_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="cannot shrink to 4"):
        ledger.configure("x", "f", budget_blocks=4, t_wall=0)

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("windfall.store.configurations.Configurations.add", dies)
    with pytest.raises(KeyboardInterrupt):
        ledger.configure("x", "new", budget_blocks=BLOCKS + 6, t_wall=0)
    assert (ledger.spans(), ledger.budget_blocks) == ([(0, BLOCKS, "free")], BLOCKS)
    assert (ledger.meta("budget_blocks"), ledger.meta("fingerprint")) == (str(BLOCKS), "f")


def test_of_tokens_only_hashes_are_kept_and_only_the_current_generations_are_current(ledger: Ledger, tmp_path: Path) -> None:
    for generation in range(1, 8):
        ledger.asked(0.0, 0.0, "a", generation, "ensure_up", "window")
        ledger.keep_token("a", generation, f"{generation:064x}")
    ledger.asked(0.0, 0.0, "b", 1, "ensure_up", "window")
    ledger.keep_token("b", 1, "b" * 64)
    reader = Ledger.open(tmp_path / "ledger.db", read_only=True)
    found = {(t.site, t.generation): t.current for t in reader.tokens()}
    assert found == {("a", 4): False, ("a", 5): False, ("a", 6): False, ("a", 7): True, ("b", 1): True}
    ledger.asked(0.0, 0.0, "b", 2, "ensure_up", "window")  # before the new one's token is made the old one is over
    assert not any(t.current for t in reader.tokens() if t.site == "b")
    ledger.keep_token("b", 2, "c" * 64)
    ledger.keep_token("b", 2, "d" * 64)  # made anew: who is started twice has the second one
    assert [t.sha256 for t in reader.tokens() if t.site == "b" and t.current] == ["d" * 64]
    reader.close()


def test_a_ledger_of_before_tokens_has_none_and_can_have_some(ledger: Ledger, tmp_path: Path) -> None:
    ledger.close()
    db = sqlite3.connect(tmp_path / "ledger.db")
    db.executescript(OF_SCHEMA_5 + "DROP TABLE tokens; UPDATE meta SET value = '4' WHERE key = 'schema';")
    db.close()
    with pytest.raises(StoreError, match="tokens cannot be read"):
        Ledger.open(tmp_path / "ledger.db", read_only=True).tokens()
    writable = Ledger.open(tmp_path / "ledger.db")
    writable.keep_token("a", 1, "a" * 64)
    assert [t.sha256 for t in writable.tokens()] == ["a" * 64]


def test_a_ledger_of_before_configurations_were_kept_has_none_and_can_have_some(ledger: Ledger, tmp_path: Path) -> None:
    ledger.close()
    db = sqlite3.connect(tmp_path / "ledger.db")
    older = "DROP TABLE configurations; DROP TABLE tokens; UPDATE meta SET value = '3' WHERE key = 'schema';"
    db.executescript(OF_SCHEMA_5 + older)
    db.close()
    assert Ledger.open(tmp_path / "ledger.db", read_only=True).configurations() == []
    writable = Ledger.open(tmp_path / "ledger.db")
    writable.configure("first", "f", budget_blocks=BLOCKS, t_run=0.0, t_wall=0)
    assert [c.text for c in writable.configurations()] == ["first"]


def test_a_ledger_of_before_cuts_were_known_of_inner_states_has_them_without(ledger: Ledger, tmp_path: Path) -> None:
    ledger.close()
    db = sqlite3.connect(tmp_path / "ledger.db")
    db.executescript(OF_SCHEMA_5 + "INSERT INTO inner_states VALUES ('a', 3, 70, 'inner-a', 'f');")
    db.close()
    old = StoredInner("a", 3, 70, "inner-a", "f", None, None)
    reader = Ledger.open(tmp_path / "ledger.db", read_only=True)
    assert reader.inner_states() == {"a": old}
    reader.close()
    writable = Ledger.open(tmp_path / "ledger.db")
    new = StoredInner("b", 4, 80, "inner-b", "f", 2, 9)
    writable.keep_inner(new)
    assert writable.inner_states() == {"a": old, "b": new}
    writable.keep_inner(replace(new, site="a"))
    assert set(writable.inner_states().values()) == {new, replace(new, site="a")}


def test_an_inner_state_is_known_by_the_cut_of_its_contribution(ledger: Ledger) -> None:
    lease = ledger.lease("a", 1, 10, 0, 9)
    assert lease
    got = receive(ledger, "a", 7, [Consumed(lease.epoch, 0, 4)], generation=2)
    ledger.commit(t_run=0, t_wall=0, file="v", sha256="s", mode="local", contributions=[got], inner=[(got, "inner-a", "f")])
    assert ledger.inner_states() == {"a": StoredInner("a", 1, 4 * PER_BLOCK, "inner-a", "f", 2, 7)}
