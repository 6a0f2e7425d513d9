"""A site whose platform tells it to end hands in what it has, and its next life begins at once: that is no failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.fake import counting
from federation.harness import BATCH, BLOCK, Run
from windfall.fleet.machine import State


@pytest.mark.parametrize("calendar", [False, True])
def test_a_site_that_is_told_to_end_is_drained_and_started_again_at_once(
    tmp_path: Path, data: Path, runs: list[Run], calendar: bool
) -> None:
    run = Run(
        tmp_path / "r", data, {"a": [(0, 500)], "b": [(0, 500)]}, steps=120, calendar=calendar, round_min=6, solo_min=6,
        trainer=counting(120 * BATCH // BLOCK),
    )  # fmt: skip
    runs.append(run)
    run.serve(until_min=12)
    site = run.loop.controller.sites["a"]
    assert (site.state, site.generation) == (State.TRAINING, 1)
    if calendar:
        run.workers["a"].leave()  # as `site.notice` does it
    run.bus.site("a", 1).emit({"kind": "leaving", "reason": "its platform has told it to end", "within_s": 120.0})
    run.serve(until_min=24)
    assert (site.generation, site.failures) == (2, 0)
    told = [e[3] for e in run.events("state") if e[2] == "a" and e[0] >= 12]
    assert [d["now"] for d in told][:4] == ["draining", "off", "provisioning", "ready"]
    assert told[0]["reason"] == "its platform has told it to end within 120 s: it hands in what it has"
    last = [e[3] for e in run.events("contribution") if e[2] == "a" and e[3]["generation"] == 1][-1]
    assert last["drained"]
    assert run.serve() == "done"
    assert run.events("work_lost", "refused", "discarded") == []


def test_an_earlier_life_says_nothing_of_this_one_and_malformed_words_are_refused(
    tmp_path: Path, data: Path, runs: list[Run]
) -> None:
    run = Run(tmp_path / "r", data, {"a": [(0, 500)]}, steps=60, trainer=counting(60 * BATCH // BLOCK))
    runs.append(run)
    run.serve(until_min=10)
    run.bus.site("a", 0).emit({"kind": "leaving", "reason": "it", "within_s": 1.0})
    run.bus.site("a", 1).emit({"kind": "leaving", "reason": "it", "within_s": "soon"})
    run.serve(until_min=14)
    assert run.loop.controller.sites["a"].generation == 1
    assert run.events("refused")[-1][3]["reason"].startswith("malformed leaving on the bus")


def test_what_a_sites_own_starts_have_taken_is_what_policies_are_told(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Run(
        tmp_path / "r", data, {"a": [(0, 20), (40, 500)]}, steps=400, calendar=True, spin_up_s=300.0,
        trainer=counting(400 * BATCH // BLOCK),
    )  # fmt: skip
    runs.append(run)
    assert run.loop.view(run.clock.now()).sites["a"].spin_up_s == 300.0
    run.serve(until_min=60)
    moved = [(t, d["now"]) for t, _, _, d in run.events("state")]
    begun, ready = ([60 * t for t, now in moved if now == state] for state in ("provisioning", "ready"))
    took = [b - a for a, b in zip(begun, ready, strict=True)]
    assert len(took) == 2
    assert run.loop.view(run.clock.now()).sites["a"].spin_up_s == pytest.approx(0.7 * took[0] + 0.3 * took[1])
    assert run.loop.starts["a"].seen == 2
