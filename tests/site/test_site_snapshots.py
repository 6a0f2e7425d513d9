"""Snapshots are written beside the training: nothing else uses the outbox meanwhile, and what goes wrong there is not lost."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from federation.fake import CountingTrainer, counting
from federation.harness import BATCH, BLOCK, Run
from patience import PATIENCE_S
from windfall.site.outbox import Outbox
from windfall.store.background import Background
from windfall.store.files import Envelope
from windfall.wire.codec import decode

STEPS = 40


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as found:
        yield found


def test_without_a_thread_work_is_done_where_it_is_asked_for() -> None:
    done: list[int] = []
    Background().begin(lambda: done.append(1))
    assert done == [1]


def test_the_next_work_waits_for_the_last_and_hears_of_its_failure(executor: ThreadPoolExecutor) -> None:
    beside, go, done = Background(executor), Event(), []

    def slow() -> None:
        go.wait(PATIENCE_S)
        done.append("slow")
        raise OSError(28, "No space left on device")

    beside.begin(slow)
    beside.look()  # it is still under way
    assert done == []
    go.set()
    with pytest.raises(OSError, match="No space left"):
        beside.begin(lambda: done.append("never"))
    assert done == ["slow"]
    beside.begin(lambda: done.append("later"))
    beside.wait()
    assert done == ["slow", "later"]


class Slow:
    """A run whose site a trains, and whose next snapshot is not written before ``go``; what is written is noted in its order."""

    def __init__(self, run: Run, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run, self.go, self.order = run, Event(), list[str]()
        self.began = Event()
        run.serve(until_min=3)
        self.worker = run.workers["a"]
        self.worker._background = Background(executor)
        snapshot, save = Outbox.snapshot, Outbox.save

        def slowly(outbox: Outbox, *given: object) -> None:
            self.began.set()
            assert self.go.wait(PATIENCE_S)
            snapshot(outbox, *given)  # type: ignore[arg-type]
            self.order.append("snapshot")

        def saved(outbox: Outbox, *given: object, **how: object) -> None:
            self.order.append("cut")
            save(outbox, *given, **how)  # type: ignore[arg-type]

        monkeypatch.setattr(Outbox, "snapshot", slowly)
        monkeypatch.setattr(Outbox, "save", saved)

    def begin(self) -> None:
        """Begin the snapshot."""
        self.worker._snapshot_s = 0.0
        assert self.worker.pump()
        assert self.began.wait(PATIENCE_S)
        self.worker._snapshot_s = 1e9


@pytest.fixture
def slow(tmp_path: Path, data: Path, runs: list[Run], executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> Slow:
    run = Run(
        tmp_path / "r", data, {"a": [(0, 900)]}, steps=STEPS, solo_min=9, calendar=True, steps_per_min=3,
        trainer=lambda spec, site: CountingTrainer(STEPS * BATCH // BLOCK),
    )  # fmt: skip
    runs.append(run)
    return Slow(run, executor, monkeypatch)


def test_a_site_trains_on_while_its_snapshot_is_written_and_waits_before_it_cuts(slow: Slow) -> None:
    steps = slow.worker._work.steps
    slow.begin()
    slow.run.serve(until_min=5)
    assert slow.worker._work.steps > steps + 1, "it trains on"
    assert slow.order == []
    slow.go.set()
    slow.worker.park("the test says so")
    assert slow.order == ["snapshot", "cut"]
    assert not (slow.run.dir.sites / "a" / "snapshot.env").exists()


def test_a_cut_that_is_due_on_the_calendar_waits_for_the_snapshot_and_training_does_not(slow: Slow) -> None:
    slow.begin()
    slow.run.serve(until_min=12)
    assert slow.worker._pace.now() > slow.worker._pace.until(), "its cut is due"
    steps = slow.worker._work.steps
    assert slow.worker.pump()
    assert (slow.order, slow.worker._work.steps) == ([], steps + 1)
    slow.go.set()
    slow.worker._background.wait()
    slow.worker.pump()
    slow.worker._background.wait()
    assert slow.order == ["snapshot", "cut"]


def test_a_snapshot_is_of_the_moment_at_which_it_was_asked_for(
    tmp_path: Path, data: Path, runs: list[Run], executor: ThreadPoolExecutor
) -> None:
    """With the real trainer: what it trains meanwhile is not in it."""
    run = Run(tmp_path / "r", data, {"a": [(0, 900)]}, steps=STEPS, solo_min=90, calendar=True, steps_per_min=3)
    runs.append(run)
    run.serve(until_min=4)
    worker = run.workers["a"]
    trainer = worker._trainer
    expected, inner = trainer.weights(), trainer.inner(exact=True)
    later = trainer.snapshot()
    trainer.step([30, 31], 0.0)
    weights, state = later()
    assert all((weights[n] == expected[n]).all() for n in expected)
    assert not isinstance(state, bytes)
    assert state.read() == inner
    worker._background = Background(executor)
    worker._take_snapshot()
    worker._background.wait()
    kept = Envelope.load(run.dir.sites / "a" / "snapshot.env")
    stored = decode(kept.blobs["delta"], {n: w.shape for n, w in expected.items()})
    now = trainer.weights()
    assert all((stored[n] == now[n] - worker._held.tensors[n]).all() for n in now)


@pytest.fixture
def unwritten(tmp_path: Path, data: Path, runs: list[Run], executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose site a trains, and has begun a snapshot that cannot be written."""
    run = Run(tmp_path / "r", data, {"a": [(0, 900)]}, steps=STEPS, solo_min=90, calendar=True, steps_per_min=3)
    runs.append(run)
    run.serve(until_min=4)
    worker = run.workers["a"]
    worker._background = Background(executor)

    def full(self: Outbox, *given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Outbox, "snapshot", full)
    worker._take_snapshot()
    return run


def test_a_snapshot_that_cannot_be_written_ends_the_site_with_its_reason(unwritten: Run, executor: ThreadPoolExecutor) -> None:
    worker = unwritten.workers["a"]
    executor.submit(lambda: None).result()  # the one before has ended
    with pytest.raises(OSError, match="No space left"):
        worker.pump()
    # There was room for the cut that it made of its work instead.
    assert [f.name for f in (unwritten.dir.sites / "a" / "outbox").glob("*.env")] == ["000001-000001.env"]


def test_a_cut_is_made_although_the_snapshot_before_it_was_not(unwritten: Run) -> None:
    worker = unwritten.workers["a"]
    worker.park("told to end")
    assert [f.name for f in (unwritten.dir.sites / "a" / "outbox").glob("*.env")] == ["000001-000001.env"]
    assert any("is cut instead" in e.get("note", "") for e in unwritten.bus.poll("a"))


class CutBeside:
    """A site that has cut, whose cut is worked out by a thread that waits for ``go``, and that trains on meanwhile."""

    def __init__(self, run: Run, executor: ThreadPoolExecutor) -> None:
        run.serve(until_min=4)
        self.worker, self._executor, go = run.workers["a"], executor, Event()
        self.worker._background = Background(executor)
        executor.submit(go.wait, 60)
        assert self.worker._work.steps
        self.worker._make_cut()
        self.go = go

    def step_once_it_is_worked_out(self) -> None:
        """A step during which the thread has done its work, which the site has not looked at."""
        self.go.set()
        self._executor.submit(lambda: None).result()
        assert self.worker._step_if_allowed()
        self._executor.submit(lambda: None).result()


@pytest.fixture
def cut_beside(tmp_path: Path, data: Path, runs: list[Run], executor: ThreadPoolExecutor) -> CutBeside:
    run = Run(
        tmp_path / "r", data, {"a": [(0, 900)]}, steps=STEPS, solo_min=90, calendar=True, steps_per_min=3,
        trainer=counting(STEPS * BATCH // BLOCK), snapshot_s=1e9,
    )  # fmt: skip
    runs.append(run)
    return CutBeside(run, executor)


def test_a_snapshot_right_after_a_cut_has_none_of_the_cuts_work(cut_beside: CutBeside, tmp_path: Path) -> None:
    worker = cut_beside.worker
    worker._snapshot_s, worker._pace.cut_made = 0.0, True
    cut_beside.step_once_it_is_worked_out()
    kept = Envelope.load(tmp_path / "r" / "sites" / "a" / "snapshot.env")
    moved = decode(kept.blobs["delta"], {"count": (STEPS * BATCH // BLOCK,)})["count"]
    own = {b for c in kept.header["consumed"] for b in range(c["start"], c["end"])}
    assert len(own) == BATCH // BLOCK
    assert {i for i, count in enumerate(moved) if count} == own


def test_a_cut_that_cannot_be_written_is_not_handed_in_without_its_blocks(
    cut_beside: CutBeside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Outbox, *given: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(Outbox, "save", full)
        cut_beside.step_once_it_is_worked_out()
    with pytest.raises(OSError, match="No space left"):
        cut_beside.worker.pump()
    assert not list((tmp_path / "r" / "sites" / "a" / "outbox").glob("*.env"))
