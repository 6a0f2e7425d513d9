"""Whole runs in one process, on a manual clock."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from federation.fake import counting
from federation.harness import BATCH, BLOCK, T0, TOKENS_PER_STEP, Run
from windfall.errors import StoreError
from windfall.federation.merge import Outer
from windfall.grid.signal import Reading
from windfall.policy.base import FleetView, PerSite, SiteView
from windfall.policy.criterion import under
from windfall.policy.threshold import Threshold
from windfall.store.files import Envelope
from windfall.store.tensors import load_file
from windfall.train.trainer import LocalTrainer
from windfall.units import clock_text
from windfall.wire.transport import Reply

JOIN_AND_LEAVE = {"a": [(2, 60)], "b": [(20, 200)]}
#: Where what is trained does not matter, only that it is trained once.
COUNTED = counting(120 * BATCH // BLOCK)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[Run]:
    """A run of real training that is done, for tests that only look at it."""
    run = Run(tmp_path_factory.mktemp("whole") / "r", data, JOIN_AND_LEAVE)
    assert run.serve() == "done"
    yield run
    run.close()


def test_a_run_pauses_trains_locally_federates_and_commits_every_block_once(whole: Run) -> None:
    run = whole
    assert run.modes() == ["paused", "local", "federated", "local", "paused"]
    counts = run.ledger.counts()
    assert counts.committed == run.ledger.budget_blocks
    assert [(a, b) for a, b, _ in run.ledger.spans()] == [(0, run.ledger.budget_blocks)]
    assert run.ledger.head().tokens_total == 120 * TOKENS_PER_STEP
    sites: dict[str, int] = {}
    for v in run.ledger.versions():
        for s, n in v.sites.items():
            sites[s] = sites.get(s, 0) + n
    assert set(sites) == {"a", "b"}
    assert sum(sites.values()) == 120 * TOKENS_PER_STEP


def test_joining_brings_the_running_cut_forward_and_the_joint_round_starts_from_that_version(whole: Run) -> None:
    run = whole
    (forward,) = run.events("cut_forward")
    joint = next(e for e in run.events("round") if e[3]["mode"] == "federated")
    commit = [e for e in run.events("commit") if e[0] == forward[0]]
    assert forward[0] == joint[0] == 22  # b is wanted at 20 and its spin-up is modelled with two minutes
    assert len(commit) == 1
    assert commit[0][3]["sites"].keys() == {"a"}


def test_a_site_that_leaves_in_a_round_hands_in_its_work_and_the_rest_goes_on(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "r", data, {"a": [(0, 25)], "b": [(0, 300)]}, round_min=15, trainer=COUNTED)
    runs.append(run)
    run.serve()
    left = next(e for e in run.events("contribution") if e[3]["drained"] and e[2] == "a")
    merged = next(e for e in run.events("commit") if e[0] > left[0])
    assert left[0] == 25
    assert set(merged[3]["sites"]) == {"a", "b"}
    # It left after 8 of the round's 15 minutes: its weight is that of the work it did.
    assert merged[3]["sites"]["a"] < merged[3]["sites"]["b"]
    assert run.ledger.counts().committed == run.ledger.budget_blocks


def test_a_standing_clock_says_which_site_it_waits_for_and_for_what(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    class Looking(Run):
        """Notes what the clock stands for, and where it stands."""

        def idle(self) -> None:
            seen.setdefault(self.loop.waiting, (self.clock.now() - T0) / 60)
            super().idle()

    seen: dict[str, float] = {}
    run = Looking(tmp_path / "r", data, {"a": [(2, 200)]}, steps=30, solo_min=20)
    runs.append(run)
    assert run.serve() == "done"
    assert run.loop.waiting == ""
    assert seen["a: its processes are starting"] == 4  # its modelled spin-up of two minutes is over
    assert seen[f"a: its optimizer steps until {clock_text(T0 + 5 * 60)}"] == 4
    assert seen["a: the work of round 1"] == 24
    assert "a: it hands in its work" in seen or "a: its processes are stopping" in seen


def test_equal_runs_give_equal_events_and_equal_weights(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    class Slow(Run):
        """The same run on a machine where site b gets a fifth of the processor."""

        def pump(self, name, worker):  # type: ignore[no-untyped-def]
            if name == "a" or self.idles % 5 == 0:
                worker.pump()

    told = []
    for name, kind in (("one", Run), ("two", Slow)):
        run = kind(tmp_path / name, data, JOIN_AND_LEAVE)
        runs.append(run)
        run.serve()
        story = list(run.events("state", "mode", "round", "commit", "cut_forward", "decision"))
        run.telemetry.flush()
        story += run.telemetry.rows("SELECT site, phase, SUM(t1 - t0), SUM(joules), SUM(grams) FROM energy GROUP BY 1, 2")
        told.append((story, run.weights()))
    assert told[0][0] == told[1][0]
    for tensor in told[0][1]:
        np.testing.assert_array_equal(told[0][1][tensor], told[1][1][tensor])


def test_solo_training_is_plain_training(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    """Cuts, commits and messages leave no trace in the weights of a site that trains alone."""
    often = Run(tmp_path / "often", data, {"a": [(0, 500)]}, steps=40, solo_min=5)
    once = Run(tmp_path / "once", data, {"a": [(0, 500)]}, steps=40, solo_min=1000)
    runs += [often, once]
    often.serve()
    once.serve()
    assert len(often.ledger.versions()) > 5
    assert len(once.ledger.versions()) == 2
    a, b = often.weights(), once.weights()
    for tensor in a:
        # previous + delta is rounded once per cut, at the site as in the version, and training goes on from there
        np.testing.assert_allclose(a[tensor], b[tensor], atol=2e-4)


def test_a_killed_site_costs_only_itself_and_the_run_finishes(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "r", data, {"a": [(0, 400)], "b": [(0, 400)]}, trainer=COUNTED)
    runs.append(run)
    run.serve(until_min=15)
    run.kill("a")
    assert run.serve() == "done"
    assert run.ledger.counts().committed == run.ledger.budget_blocks
    assert any(d["now"] == "failed" and s == "a" for _, _, s, d in run.events("state"))
    later = [v for v in run.ledger.versions() if "a" in v.sites]
    assert later, "the killed site came back and contributed"


def test_the_work_of_a_snapshot_is_offered_after_a_crash(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "r", data, {"a": [(0, 400)]}, solo_min=60, snapshot_s=0.0, trainer=COUNTED)
    runs.append(run)
    run.serve(until_min=30)
    trained = 27  # ready at 2, so 28 minutes of one step each, the last of them possibly not snapshotted
    run.kill("a")
    assert run.serve() == "done"
    offered = [e for e in run.events("contribution") if e[3]["generation"] == 1]
    assert len(offered) == 1
    assert offered[0][3]["tokens"] >= trained * TOKENS_PER_STEP
    assert run.ledger.counts().committed == run.ledger.budget_blocks


def test_a_coordinator_that_dies_goes_on_from_its_last_commit(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    first = Run(tmp_path / "r", data, JOIN_AND_LEAVE, trainer=COUNTED)
    first.serve(until_min=45)
    at = first.ledger.head()
    first.close()  # everything of this life is gone but the run directory
    second = Run(tmp_path / "r", data, JOIN_AND_LEAVE, trainer=COUNTED)
    runs.append(second)
    assert second.ledger.head() == at
    assert second.serve() == "done"
    assert second.ledger.counts().committed == second.ledger.budget_blocks
    assert second.fence == 2


def test_stopping_drains_and_resuming_finishes(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    first = Run(tmp_path / "r", data, {"a": [(0, 400)], "b": [(0, 400)]}, trainer=COUNTED)
    first.serve(until_min=17)
    first.stop = "stopped by the operator"
    assert first.serve() == "interrupted"
    done = first.ledger.counts()
    assert done.leased == done.received == 0
    assert done.committed == 2 * 15 * 2  # both were ready at 2; 15 steps of 2 blocks each
    first.close()
    second = Run(tmp_path / "r", data, {"a": [(0, 400)], "b": [(0, 400)]}, trainer=COUNTED)
    runs.append(second)
    assert second.serve() == "done"
    assert second.ledger.counts().committed == second.ledger.budget_blocks


def test_a_returning_site_gets_the_stored_inner_state_while_it_is_fresh(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "r", data, {"a": [(0, 30)], "b": [(32, 300)]}, trainer=COUNTED)
    runs.append(run)
    run.serve()
    choices = [(s, d["choice"]) for _, _, s, d in run.events("inner_state")]
    assert choices == [("a", "reset"), ("b", "sent")]


def test_every_version_on_the_way_is_evaluated_on_a_site(whole: Run) -> None:
    run = whole
    seen = dict(run.telemetry.rows("SELECT version, value FROM metrics WHERE name = 'val_bpb'"))
    assert set(seen) == {v.version for v in run.ledger.versions()}
    assert seen[max(seen)] < seen[0] - 1


@pytest.mark.parametrize(("outer", "codec"), [(Outer("nesterov"), "fp32"), (Outer(), "int8")])
def test_outer_nesterov_and_int8_deltas_train_too(tmp_path: Path, data: Path, runs: list[Run], outer: Outer, codec: str) -> None:
    run = Run(tmp_path / "r", data, JOIN_AND_LEAVE, outer=outer, codec=codec)
    runs.append(run)
    assert run.serve() == "done"
    run.telemetry.flush()
    values = [v for (v,) in run.telemetry.rows("SELECT value FROM metrics WHERE name = 'val_bpb' ORDER BY version")]
    assert values[-1] < values[0] - 1
    assert not run.events("refused")


def test_a_full_disk_at_a_commit_stops_the_run_cleanly_and_it_resumes_with_room(
    tmp_path: Path, data: Path, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Run(tmp_path / "r", data, JOIN_AND_LEAVE, trainer=COUNTED)
    first.serve(until_min=30)
    at = first.ledger.head()
    with monkeypatch.context() as full:

        def no_room(*_: object) -> str:
            raise OSError(28, "No space left on device")

        full.setattr("windfall.federation.merger.TensorWriter.put", no_room)
        with pytest.raises(StoreError, match=r"No space left on device.*nothing is lost"):
            first.serve()
    assert first.ledger.head() == at
    assert first.ledger.counts().received > 0, "what had arrived waits for its commit"
    first.weights()
    first.close()
    second = Run(tmp_path / "r", data, JOIN_AND_LEAVE, trainer=COUNTED)
    runs.append(second)
    assert second.serve() == "done"
    assert second.ledger.counts().committed == second.ledger.budget_blocks
    assert second.ledger.head().tokens_total == 120 * TOKENS_PER_STEP


def test_a_recorded_run_replayed_through_its_policy_repeats_its_decisions(whole: Run) -> None:
    run = whole
    policy = PerSite(Threshold(100.0), {"a": under(100.0), "b": under(100.0)})
    rows = run.telemetry.rows("SELECT t_run, site, wanted, reason, memory, input FROM decisions ORDER BY t_run")
    assert len(rows) > 100
    for t, site, wanted, reason, memory, given in rows:
        was = json.loads(given)
        reading = Reading(*was["reading"]) if was["reading"] else None
        view = SiteView(site, reading, was["on"], was["since"], was["spin_up_s"], was["memory"])
        decision = policy.decide(FleetView(t, {site: view}))[site]
        assert (decision.on, decision.reason, dict(decision.memory)) == (bool(wanted), reason, json.loads(memory))


def test_old_weights_are_let_go_of_and_every_retained_version_can_be_read(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "r", data, {"a": [(0, 500)]}, solo_min=6, trainer=COUNTED)
    runs.append(run)
    run.serve()
    found = run.ledger.versions()
    kept = [v.version for v in found if v.retained]
    newest = found[-1].version
    assert kept == sorted({v for v in range(newest + 1) if v % 5 == 0} | set(range(newest - 2, newest + 1)))
    for v in found:
        assert (run.dir.checkpoints / v.file).exists() == v.retained
        if v.retained:
            load_file(run.dir.checkpoints / v.file, v.sha256)
    # The newest version's contributions stay, so that it can be made again should its file be damaged.
    assert [p.name for p in run.dir.spool.iterdir()] == [c.file for c in run.ledger.contributions(newest)]


def test_an_error_about_an_earlier_life_does_not_fail_the_present_one(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "r", data, {"a": [(0, 400)]}, trainer=COUNTED)
    runs.append(run)
    run.serve(until_min=10)
    old = run.federation.members["a"].message
    assert old
    run.kill("a")
    run.serve(until_min=20)
    # Flower tells of the dead node's message up to a minute later; by then the site is back under another node.
    run.transport._lost.append(Reply(old, "a#1", None, "Node Unavailable"))
    assert run.serve() == "done"
    assert [s for _, _, s, d in run.events("state") if d["now"] == "failed"] == ["a"], "it failed once, when it was killed"


def test_a_hello_that_fails_is_asked_again(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "r", data, {"a": [(0, 400)]}, steps=20)
    runs.append(run)
    push, failed = run.transport.push, []

    def flaky(node: str, envelope: Envelope) -> str:
        if envelope.header["kind"] == "hello" and len(failed) < 2:
            failed.append(node)
            run.transport._lost.append(Reply(f"lost{len(failed)}", node, None, "no inbox yet"))
            return f"lost{len(failed)}"
        return push(node, envelope)

    run.transport.push = flaky  # type: ignore[method-assign]
    assert run.serve() == "done"
    assert failed == ["a#1", "a#1"]
    assert not run.events("stranger")


def test_a_site_that_is_back_frees_what_its_earlier_life_still_held(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "r", data, {"a": [(0, 400)]}, solo_min=200, trainer=COUNTED)
    runs.append(run)
    run.serve(until_min=10)
    assert run.ledger.counts().free == 0, "one lease holds the whole budget"
    run.kill("a")
    assert run.serve() == "done"
    ended = run.events("lease_ended")
    back = [t for t, _, _, _ in run.events("hello")][1]
    assert [t for t, _, _, _ in ended] == [back]


@pytest.mark.parametrize("calendar", [False, True])
def test_what_a_version_is_said_to_be_worth_is_what_its_file_is_worth_after_deaths_too(
    tmp_path: Path, data: Path, runs: list[Run], calendar: bool
) -> None:
    """A life that begins anew holds nothing, whatever version its last life's snapshot alone has become."""
    run = Run(tmp_path / "r", data, {"a": [(0, 400)]}, solo_min=20, snapshot_s=0.0, calendar=calendar)
    runs.append(run)
    for minute in (35, 61):
        run.serve(until_min=minute)
        run.kill("a")
    assert run.serve() == "done"
    run.telemetry.flush()
    rows = run.telemetry.rows("SELECT version, detail FROM events WHERE kind = 'evaluation'")
    offline = LocalTrainer(run.spec)
    seen = 0
    for version, detail in rows:
        found = run.ledger.version(int(version))
        if found is None or not (run.dir.checkpoints / found.file).exists():
            continue
        offline.load(run.checkpoints.weights(found))
        figures = json.loads(detail)
        assert figures["val_bpb"] == pytest.approx(offline.evaluate().bits_per_byte, abs=1e-4), version
        seen += 1
    assert seen >= 2
