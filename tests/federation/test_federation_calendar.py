"""Runs on a calendar, which waits for nobody: no stall alone, late work, refused work that is shed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from federation.fake import CountingTrainer, counting
from federation.harness import BATCH, BLOCK, SEQ, TOKENS_PER_STEP, Run
from windfall.store.files import Envelope

#: Of 120 steps, which is what a run here has where it does not say otherwise.
COUNTING = counting(120 * BATCH // BLOCK)


def anchored(run: Run, site: str) -> bool:
    """What the site's parameters are built on is the newest version, bit for bit."""
    held, head = run.workers[site]._held, run.weights()
    return held.number == run.ledger.head().version and all((held.tensors[n] == head[n]).all() for n in head)


def test_a_run_on_the_calendar_joins_leaves_and_commits_every_block_once(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Run(
        tmp_path / "r", data, {"a": [(2, 40)], "b": [(15, 900)]}, steps_per_min=3, solo_min=5, round_min=8, calendar=True,
        trainer=COUNTING,
    )  # fmt: skip
    runs.append(run)
    assert run.serve() == "done"
    assert run.ledger.counts().committed == run.ledger.budget_blocks
    assert run.ledger.head().tokens_total == 120 * TOKENS_PER_STEP
    assert [m for m in run.modes() if m != "paused"][:2] == ["local", "federated"]
    assert not run.events("refused")


def test_a_site_alone_goes_on_training_while_its_cut_travels(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Run(
        tmp_path / "r", data, {"a": [(0, 900)]}, steps_per_min=3, solo_min=4, steps=60, calendar=True,
        trainer=counting(60 * BATCH // BLOCK),
    )  # fmt: skip
    runs.append(run)
    held: list[list[Envelope]] = [[], []]

    def delay(e: Envelope) -> list[Envelope]:
        # Each contribution arrives when the next thing is said, one long silence later.
        held[0].append(e)
        return []

    run.serve(until_min=3)
    run.transport.tamper = delay
    run.serve(until_min=8)
    assert len(held[0]) == 1, "it has cut, and nobody has answered"
    worker = run.workers["a"]
    assert worker._work.steps >= 5, "and it trains on"
    run.transport.tamper = lambda e: [e]
    run.workers["a"]._mailbox.outgoing.append(("m2", held[0][0]))  # type: ignore[attr-defined]
    assert run.serve() == "done"
    assert run.ledger.counts().committed == run.ledger.budget_blocks


def test_solo_versions_on_the_calendar_are_the_sites_own_parameters(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "r", data, {"a": [(0, 900)]}, steps_per_min=3, solo_min=4, calendar=True)
    runs.append(run)
    for minute in (12, 19, 26):
        run.serve(until_min=minute)
        if not run.workers["a"]._parameters.open:
            assert anchored(run, "a")
    assert run.serve() == "done"


def test_work_that_was_refused_leaves_the_parameters_again(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "r", data, {"a": [(0, 900)]}, steps_per_min=3, solo_min=4, calendar=True)
    runs.append(run)
    struck: list[int] = []

    def tamper(e: Envelope) -> list[Envelope]:
        if e.header.get("consumed") and not struck and run.ledger.head().version == 1:
            struck.append(1)
            return [replace(e, header={**e.header, "tokens": 3})]
        return [e]

    run.transport.tamper = tamper
    run.serve(until_min=22)
    assert struck
    assert len(run.events("refused")) == 1
    if not run.workers["a"]._parameters.open:
        assert anchored(run, "a")
    assert run.serve() == "done"
    assert run.ledger.counts().committed == run.ledger.budget_blocks


def test_a_site_stops_training_when_its_order_is_no_longer_valid(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    """Invariant 4: without an answer a site trains no longer than its message allows."""
    run = Run(
        tmp_path / "r", data, {"a": [(0, 900)]}, steps_per_min=3, solo_min=4, round_min=4, steps=600, calendar=True,
        trainer=counting(600 * BATCH // BLOCK),
    )  # fmt: skip
    runs.append(run)
    run.serve(until_min=3)
    run.transport.tamper = lambda e: []  # from now on nothing that the site says arrives
    run.serve(until_min=60)
    worker = run.workers["a"]
    done = sum(c.end - c.start for c in worker._work.consumed)
    assert worker._pace.order is not None
    assert worker._pace.order.valid_until < run.clock.now()
    run.serve(until_min=90)
    assert sum(c.end - c.start for c in worker._work.consumed) == done


def test_a_site_found_running_keeps_its_leases_however_long_the_coordinator_was_away(
    tmp_path: Path, data: Path, runs: list[Run]
) -> None:
    given = {"steps_per_min": 3, "solo_min": 4, "round_min": 4, "calendar": True, "trainer": COUNTING}
    first = Run(tmp_path / "r", data, {"a": [(0, 900)]}, **given)  # type: ignore[arg-type]
    first.serve(until_min=9)
    for _ in range(6):
        first.idle()  # it trains on
    first.crash()
    world = first.world
    assert world.workers["a"]._work.steps > 0, "work that nobody has heard of"
    world.clock.wall += 3600  # type: ignore[union-attr]
    second = Run(tmp_path / "r", data, {"a": [(0, 900)]}, earlier=first, **given)  # type: ignore[arg-type]
    runs.append(second)
    assert all(x.expires < second.clock.wall for x in second.ledger.live_leases()), "its leases are over"  # type: ignore[union-attr]
    assert second.serve() == "done"
    assert not second.events("lease_ended", "refused")
    assert second.ledger.counts().committed == second.ledger.budget_blocks


@pytest.mark.parametrize("calendar", [True, False])
def test_each_evaluation_brings_what_its_own_version_wrote(tmp_path: Path, data: Path, runs: list[Run], calendar: bool) -> None:
    run = Run(
        tmp_path / "r", data, {"a": [(0, 900)]}, steps_per_min=3, solo_min=4, steps=40, calendar=calendar,
        trainer=lambda spec, site: CountingTrainer(40 * BATCH // BLOCK),
    )  # fmt: skip
    runs.append(run)
    assert run.serve() == "done"
    run.telemetry.flush()
    wrote = {e.version: e.detail["sample"] for _, e in run.telemetry.events() if e.kind == "evaluation"}
    # The counting trainer writes how many blocks its parameters have been trained on.
    assert wrote == {v.version: f"{v.tokens_total // (SEQ * BLOCK)} blocks" for v in run.ledger.versions() if v.version in wrote}
    assert len(wrote) >= 3
    assert run.ledger.head().version in wrote


def test_a_version_is_evaluated_as_it_is_and_not_with_what_was_trained_since(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "r", data, {"a": [(0, 900)]}, steps_per_min=3, solo_min=4, steps=40, calendar=True)
    runs.append(run)
    run.serve(until_min=6)
    worker = run.workers["a"]
    assert worker._work.steps
    before = worker._trainer.weights()
    worker._evaluate(worker._held.number or 0)
    after = worker._trainer.weights()
    assert all((after[n] == before[n]).all() for n in before), "and training goes on from what was trained"
    (said,) = [e for e in run.bus.poll("a") if e["kind"] == "eval"]
    worker._trainer.load(run.weights())
    assert said["val_bpb"] == worker._trainer.evaluate().bits_per_byte
