"""A run that is resumed with a site more, a site fewer and a larger budget: every block of it once, the account whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.fake import counting
from federation.harness import BATCH, BLOCK, SEQ, Run
from windfall.federation.departed import departed

STEPS, MORE = 60, 120
#: A counting trainer has one parameter for each block, also of those that come later.
BLOCKS = MORE * BATCH // BLOCK
ALWAYS = [(0.0, 100_000.0)]


def life(root: Path, data: Path, sites: str, steps: int, earlier: Run | None = None, **options: Any) -> Run:
    given = {"trainer": counting(BLOCKS), "round_min": 6, "solo_min": 6, "snapshot_s": 0.0, **options}
    return Run(root, data, dict.fromkeys(sites, ALWAYS), steps=steps, earlier=earlier, **given)


def assert_once(run: Run) -> None:
    """By what each committed contribution says that it was trained on."""
    assert run.ledger.complete()
    times = np.zeros(run.ledger.budget_blocks, int)
    for v in run.ledger.versions():
        for c in run.ledger.contributions(v.version):
            for used in c.header["consumed"]:
                times[used["start"] : used["end"]] += 1
    assert (times == 1).all()
    assert run.ledger.head().tokens_total == run.ledger.budget_blocks * BLOCK * SEQ


@pytest.mark.parametrize("calendar", [False, True])
@pytest.mark.parametrize("round_steps", [None, 5])
def test_whoever_leaves_has_its_work_taken_and_its_leases_trained_by_others(
    tmp_path: Path, data: Path, calendar: bool, round_steps: int | None
) -> None:
    first = life(tmp_path / "r", data, "ab", STEPS, calendar=calendar, round_steps=round_steps)
    first.serve(until_min=9.5)
    assert first.ledger.live_leases("b")
    booked = first.loop.account.total("b").joules
    assert booked > 0
    generation = first.ledger.generations()["b"]
    worker = first.workers["b"]
    worker._take_snapshot()  # what it has trained and not handed in
    had = worker._work.tokens
    assert had or round_steps
    first.crash()
    first.world.kill("b")  # as `run.resume` has ended it
    second = life(tmp_path / "r", data, "ac", MORE, first, calendar=calendar, round_steps=round_steps)
    try:
        left = [(site, d) for _, _, site, d in second.events("site_left")]
        assert [site for site, _ in left] == ["b"]
        assert left[0][1]["contributions"] == (1 if had else 0)
        assert not second.ledger.live_leases("b")
        assert second.serve() == "done"
        assert_once(second)
        assert {s for v in second.ledger.versions() for s in v.sites} == {"a", "b", "c"}
        assert second.ledger.generations()["b"] == generation
        account = second.loop.account
        assert account.total("b").joules == pytest.approx(booked, rel=1e-12), "only the order of the sum is another"
        assert account.total("c").joules > 0
    finally:
        second.close()


def test_a_coordinator_that_dies_at_the_leave_taking_takes_it_at_the_next_start(tmp_path: Path, data: Path) -> None:
    first = life(tmp_path / "r", data, "ab", STEPS)
    first.serve(until_min=9.5)
    first.workers["b"]._take_snapshot()
    first.crash()
    first.world.kill("b")
    second = life(tmp_path / "r", data, "a", STEPS, first)
    assert departed(second.ledger, second.dir.sites, ["a"]) == ["b"], "its folder stays"
    second.crash()
    third = life(tmp_path / "r", data, "a", STEPS, second)
    try:
        assert len(third.events("site_left")) == 1, "what was taken is not taken twice"
        assert third.serve() == "done"
        assert_once(third)
    finally:
        third.close()


def test_a_site_that_left_and_comes_again_is_in_a_life_of_its_own(tmp_path: Path, data: Path) -> None:
    first = life(tmp_path / "r", data, "ab", STEPS)
    first.serve(until_min=9.5)
    first.crash()
    first.world.kill("b")
    second = life(tmp_path / "r", data, "a", STEPS, first)
    second.serve(until_min=20)
    second.crash()
    third = life(tmp_path / "r", data, "ab", MORE, second)
    try:
        assert third.serve() == "done"
        assert_once(third)
        assert third.ledger.generations()["b"] == 2
    finally:
        third.close()


def test_a_run_that_was_done_goes_on_when_it_is_made_longer(tmp_path: Path, data: Path) -> None:
    first = life(tmp_path / "r", data, "ab", STEPS)
    assert first.serve() == "done"
    before = first.ledger.head()
    spans = first.ledger.spans()
    first.crash()
    second = life(tmp_path / "r", data, "ab", MORE, first)
    try:
        assert second.ledger.spans() == [*spans, (STEPS * BATCH // BLOCK, BLOCKS, "free")]
        assert second.serve() == "done"
        assert second.ledger.head().version > before.version
        assert_once(second)
        assert second.weights()["count"].sum() >= 1
    finally:
        second.close()
