"""Sites that train on past their cut: nothing is waited for, and what they hold is always what it is said to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.fake import counting
from federation.harness import BATCH, BLOCK, T0, TOKENS_PER_STEP, Run
from windfall.site.worker import SiteWorker
from windfall.store.tensors import Tensors, load_file
from windfall.wire.codec import DifferenceReader

PAIR = {"a": [(0.0, 1e5)], "b": [(0.0, 1e5)]}
JOIN = {"a": [(2, 200)], "b": [(20, 200)]}
JOIN_AND_LEAVE = {"a": [(2, 34)], "b": [(20, 200)]}
#: Steps of a run in which one joins the other, and goes on when that leaves.
STEPS = 54


def counted(steps: int) -> Any:
    """Trainers that count: for tests of when things happen and what is sent."""
    return counting(steps * BATCH // BLOCK)


def hand_to(tensors: Tensors, move: DifferenceReader) -> Tensors:
    return {n: v + move.get(n) for n, v in tensors.items()}


class Checked(Run):
    """After everything that a site does: parameters - open work - the rest of rounding are the version that it holds."""

    def __init__(self, *given: Any, **options: Any) -> None:
        self.checked = 0
        #: By site: run time, round and version at each order taken in, and the run time of the step after.
        self.taken_in: list[tuple[str, float, int]] = []
        super().__init__(*given, **options)

    def pump(self, name: str, worker: SiteWorker) -> None:
        steps, cut, held = worker._steps, worker._cut, worker._held.number
        worker.pump()
        if worker._held.number != held:
            at = worker._pace.order
            assert at is not None
            self.taken_in.append((name, self.clock.now(), at.round))
        settled = not worker._work.steps and worker._background.idle and worker._when_written is None
        if worker._parameters.loaded and settled and (worker._cut, worker._steps) != (cut, steps):
            self.assert_holds(worker)

    def assert_holds(self, worker: SiteWorker) -> None:
        """Right after a cut, when there is no open work."""
        self.checked += 1
        expected: Tensors = dict(worker._held.tensors)
        shapes = {n: v.shape for n, v in expected.items()}
        for _, cut in sorted(worker._parameters.open.items()):
            assert cut.sent is not None
            with DifferenceReader(cut.sent.read(), shapes) as sent:
                expected = hand_to(expected, sent)
        newest = worker._outbox.last_rest()
        rest = worker._outbox.rest(*newest) if newest else None
        if rest is not None:
            with DifferenceReader(rest.path, shapes) as left:
                expected = hand_to(expected, left)
        for n, value in worker._trainer.weights().items():
            # To the rounding of float32 at the size of the parameters.
            np.testing.assert_allclose(value, expected[n], rtol=0, atol=4e-7 * max(1.0, float(np.abs(value).max())), err_msg=n)


@pytest.mark.parametrize("codec", ["fp32", "bf16", "int8", "int4", "int2"])
def test_parameters_less_open_work_and_the_rest_of_rounding_are_the_version_held(
    tmp_path: Path, data: Path, runs: list[Run], codec: str
) -> None:
    run = Checked(
        tmp_path / "r", data, JOIN_AND_LEAVE, steps=STEPS, codec=codec, overlap=True, batch="global", round_min=4, solo_min=5
    )
    runs.append(run)
    assert run.serve() == "done"
    assert run.checked > 10
    assert run.ledger.counts().committed == run.ledger.budget_blocks
    for site in run.workers.values():
        held = run.ledger.version(site._held.number or 0)
        assert held is not None
        assert held.sha256 == site._held.sha256, "and that is the version, bit for bit"


def test_a_merge_is_taken_in_at_the_first_step_boundary_after_its_transfer_and_never_earlier(
    tmp_path: Path, data: Path, runs: list[Run]
) -> None:
    """A step takes half a minute, a round ten, the transfer 75 s: five steps are owed at the boundary, no more and no fewer."""
    run = Run(
        tmp_path / "r", data, PAIR, steps=120, steps_per_min=1.0, round_min=10, overlap=True, transfer_s=75.0, spin_up_s=0.0,
        trainer=counted(120),
    )  # fmt: skip
    runs.append(run)
    assert run.serve() == "done"
    boundaries: list[tuple[str, int, int]] = []
    for version in run.ledger.versions():
        for c in run.ledger.contributions(version.version):
            boundaries += [(c.site, op[0], op[2]) for op in c.header["lineage"] if op[1] == "version"]
    steps = {(site, version): step for site, step, version in boundaries}
    # A cut every ten steps; of the next ten the first is done before the version counts (75 s are one step and a quarter).
    assert steps["a", 2] == 1
    assert steps["b", 2] == 1
    assert {v for _, v in steps} >= {1, 2, 3, 4}
    assert {step for (_, v), step in steps.items() if v not in (max(x for _, x in steps),)} == {1}


@pytest.mark.parametrize("join", range(16, 24))
def test_who_joins_right_after_a_cut_waits_until_the_others_have_taken_its_merge_in(
    tmp_path: Path, data: Path, runs: list[Run], join: int
) -> None:
    """Cuts at 10, 18 and 26 minutes and a transfer of four: the newcomer's cut may not come before a merge that is on its way."""
    run = Run(
        tmp_path / "r", data, {"a": [(0.0, 1e5)], "b": [(join - 2.0, 1e5)]}, steps=60, overlap=True, batch="global", solo_min=8,
        transfer_s=240.0, trainer=counted(60),
    )  # fmt: skip
    runs.append(run)
    assert run.serve() == "done"
    assert run.ledger.counts().committed == run.ledger.budget_blocks
    first = next(t for t, _, _, d in run.events("round") if d["sites"] == ["a", "b"])
    begun = 10 if join < 18 else 18
    assert first == max(join, begun + 4) if join != 18 else first == 18


def test_overlap_takes_no_longer_and_commits_at_the_cuts_own_time(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    ends = {}
    for overlap in (False, True):
        run = Run(tmp_path / str(overlap), data, PAIR, steps=80, overlap=overlap, batch="global", round_min=5, trainer=counted(80))
        runs.append(run)
        assert run.serve() == "done"
        assert run.ledger.head().tokens_total == 80 * TOKENS_PER_STEP
        ends[overlap] = (run.clock.now() - T0, [(t, d["sites"]) for t, _, _, d in run.events("commit")])
    assert ends[True] == ends[False], "run time models no stall: what overlaps changes weights, not when things happen"


def test_the_same_happens_on_a_machine_that_gives_one_site_less(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    class Uneven(Run):
        turns = 0

        def pump(self, name: str, worker: SiteWorker) -> None:
            self.turns += 1
            if name != "b" or self.turns % 5 == 0:
                super().pump(name, worker)

    found = []
    for kind in (Run, Uneven):
        run = kind(
            tmp_path / kind.__name__, data, JOIN_AND_LEAVE, steps=STEPS, codec="int8", overlap=True, batch="global", round_min=4,
            transfer_s=40.0,
        )  # fmt: skip
        runs.append(run)
        assert run.serve() == "done"
        events = run.events("state", "mode", "round", "commit", "cut_forward", "decision")
        found.append((events, run.weights()))
    assert found[0][0] == found[1][0]
    for name, value in found[0][1].items():
        np.testing.assert_array_equal(value, found[1][1][name])


def test_sites_are_sent_what_made_a_version_and_not_the_model(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    """One and the same file for all; a whole model only for who holds none, and nothing for whose own cut it is."""
    run = Run(tmp_path / "r", data, JOIN_AND_LEAVE, steps=STEPS, codec="int8", overlap=True, round_min=4, solo_min=5)
    runs.append(run)
    push, sent = run.transport.push, []

    def noting(node: str, envelope: Any) -> str:
        if envelope.header.get("kind") == "round" and envelope.header["leases"]:
            sizes = {n: b.size for n, b in envelope.all_blobs().items()}
            sent.append((node.split("#")[0], envelope.header["model"], envelope.header["chain"], sizes))
        return push(node, envelope)

    run.transport.push = noting  # type: ignore[method-assign]
    assert run.serve() == "done"
    models = {site: [m for s, m, _, _ in sent if s == site] for site in "ab"}
    assert models["a"][0] == models["b"][0] == "full"
    assert set(models["a"][1:]) | set(models["b"][1:]) == {"chain"}
    alone = [chain for s, _, chain, sizes in sent if chain and not sizes]
    assert alone, "its own cut needs nothing sent"
    assert all(link["cut"] for chain in alone for link in chain)
    head = run.ledger.head()
    load_file(run.dir.checkpoints / head.file, head.sha256)


def test_a_new_life_of_a_site_is_sent_what_its_disk_lacks_and_not_the_model(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "r", data, {**PAIR, "c": PAIR["a"]}, steps=80, codec="int8", overlap=True, round_min=4, solo_min=5)
    runs.append(run)
    push, sent = run.transport.push, []

    def noting(node: str, envelope: Any) -> str:
        if envelope.header.get("kind") == "round" and envelope.header["leases"]:
            sent.append((node, envelope.header["model"], envelope.header["version"]))
        return push(node, envelope)

    run.transport.push = noting  # type: ignore[method-assign]
    run.serve(until_min=18)
    held = run.world.workers["a"]._held
    before, digest = held.number, held.sha256
    run.kill("a")
    assert before is not None
    assert run.serve() == "done"
    again = [(model, version) for node, model, version in sent if node == "a#2"]
    assert again[0] in [("none", before), ("chain", again[0][1])]
    assert "full" not in [model for model, _ in again]
    assert run.ledger.version(before).sha256 == digest  # type: ignore[union-attr]
