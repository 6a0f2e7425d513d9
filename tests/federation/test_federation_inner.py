"""Whose inner optimizer state a site begins with: its own, one that was stored, or that of a peer which cuts for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from federation.fake import CountingTrainer
from federation.harness import BATCH, BLOCK, Run
from federation.test_federation_replay import assert_replays
from windfall.errors import DataError
from windfall.site.worker import SiteWorker
from windfall.store.files import Envelope
from windfall.train.spec import TrainerSpec
from windfall.wire import messages
from windfall.wire.fields import Fields

STEPS = 120
#: The second site comes when the first has trained for a while, alone.
JOINS = {"a": [(0.0, 1e5)], "b": [(18.0, 1e5)]}


class Counting(Run):
    """A run of counting trainers that can be looked at afterwards."""

    def __init__(self, root: Path, data: Path, windows: dict[str, list[tuple[float, float]]], **options: Any) -> None:
        self.trainers: dict[str, CountingTrainer] = {}

        def make(spec: TrainerSpec, site: str) -> CountingTrainer:
            return self.trainers.setdefault(site, CountingTrainer(STEPS * BATCH // BLOCK))

        super().__init__(root, data, windows, trainer=make, **{"steps": STEPS, **options})

    def begins(self) -> list[tuple[str | None, str, str | None]]:
        """By start of a site: the choice of its inner state, and who gave it."""
        return [(site, d["choice"], d.get("giver")) for _, _, site, d in self.events("inner_state")]

    def asked(self) -> list[str | None]:
        """By cut that was brought forward: who was asked for its inner state."""
        return [d.get("inner_of") for _, _, _, d in self.events("cut_forward")]


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("calendar", [False, True])
def test_who_joins_begins_with_the_inner_state_that_a_peer_has_at_its_cut(
    tmp_path: Path, data: Path, runs: list[Run], overlap: bool, calendar: bool
) -> None:
    run = Counting(tmp_path / "r", data, JOINS, overlap=overlap, calendar=calendar)
    runs.append(run)
    had: list[int] = []
    load = run.world.ensure_up

    def noting(site: str, generation: int) -> None:
        load(site, generation)
        trainer = run.trainers[site]

        def load_inner(data: bytes) -> None:
            CountingTrainer.load_inner(trainer, data)
            had.append(trainer._steps)

        trainer.load_inner = load_inner  # type: ignore[method-assign]

    run.world.ensure_up = noting  # type: ignore[method-assign]
    assert run.serve() == "done"
    assert run.begins() == [("a", "reset", None), ("b", "sent", "a")]
    assert run.asked() == ["a"]
    joined = next(v for v in run.ledger.versions() if "b" in v.sites).version
    before = [c for v in range(1, joined) for c in run.ledger.contributions(v)]
    assert had == [before[-1].header["last_step"]], "that of the cut with which the version was made, and of no other"
    assert run.ledger.counts().committed == run.ledger.budget_blocks


@pytest.mark.parametrize("how", [{}, {"overlap": True}, {"overlap": True, "codec": "int8", "transfer_s": 150.0}])
def test_a_replay_trains_the_giver_up_to_the_cut_that_it_was_asked_at(
    tmp_path: Path, data: Path, runs: list[Run], how: dict[str, Any]
) -> None:
    run = Run(tmp_path / "r", data, {**JOINS, "c": [(30.0, 1e5)]}, steps=80, solo_min=8, **how)
    runs.append(run)
    assert run.serve() == "done"
    given = {c.site: op for v in run.ledger.versions() for c in run.ledger.contributions(v.version)
             for op in c.header["lineage"] if op[1:3] == ["inner", "sent"]}  # fmt: skip
    assert given["b"][3] == given["c"][3] == "a"
    cuts = [c.cut for v in run.ledger.versions() for c in run.ledger.contributions(v.version) if c.site == "a"]
    assert given["b"][6] < given["c"][6] < max(cuts), "the giver has gone on since"
    assert_replays(run)


def test_the_fastest_peer_is_asked_and_of_equals_the_first_by_name(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    windows = {"a": [(0.0, 1e5)], "b": [(0.0, 1e5)], "c": [(14.0, 1e5)]}
    for speeds, giver in (({"a": 1.0, "b": 2.0, "c": 0.5}, "b"), ({"a": 1.0, "b": 1.0, "c": 2.0}, "a")):
        run = Counting(tmp_path / giver, data, windows, steps_per_min=speeds, batch="global")
        runs.append(run)
        assert run.serve() == "done"
        assert run.asked()[-1] == giver
        assert run.begins()[-1] == ("c", "sent", giver)


def test_nobody_is_asked_where_what_there_is_is_fresh(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Counting(tmp_path / "own", data, {"a": [(0.0, 1e5)], "b": [(0.0, 10.0), (14.0, 1e5)]}, inner_max_age=1.0)
    runs.append(run)
    assert run.serve() == "done"
    assert run.begins()[-1][:2] in [("b", "own"), ("b", "sent")]
    assert run.asked() == [None]
    run = Counting(tmp_path / "stored", data, {"a": [(0.0, 1e5)], "b": [(0.0, 10.0)], "c": [(14.0, 1e5)]}, inner_max_age=1.0)
    runs.append(run)
    assert run.serve() == "done"
    assert run.begins()[-1] == ("c", "sent", "b"), "that of the one that has left"
    assert run.asked() == [None]


def test_a_large_inner_state_is_not_asked_for(tmp_path: Path, data: Path, runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_INNER_WITH_WORK", STEPS * BATCH // BLOCK * 2 - 1)
    run = Counting(tmp_path / "r", data, JOINS)
    runs.append(run)
    assert run.serve() == "done"
    assert run.asked() == [None]
    assert run.begins() == [("a", "reset", None), ("b", "reset", None)]


def test_a_site_that_does_not_know_that_it_is_asked_hands_in_its_work_all_the_same(
    tmp_path: Path, data: Path, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    obey = SiteWorker._obey

    def older(self: SiteWorker, command: Fields) -> None:
        obey(self, Fields({k: v for k, v in command._raw.items() if k != "inner"}))

    monkeypatch.setattr(SiteWorker, "_obey", older)
    run = Counting(tmp_path / "r", data, JOINS)
    runs.append(run)
    assert run.serve() == "done"
    assert run.asked() == ["a"]
    assert run.begins() == [("a", "reset", None), ("b", "reset", None)]
    assert run.ledger.counts().committed == run.ledger.budget_blocks


def test_an_inner_state_travels_with_the_cut_that_was_asked_for_and_with_no_other(
    tmp_path: Path, data: Path, runs: list[Run]
) -> None:
    run = Counting(tmp_path / "r", data, JOINS, overlap=True)
    runs.append(run)
    carried: list[tuple[str, int]] = []
    poll = run.transport.poll

    def noting() -> list[Any]:
        found = poll()
        for reply in found:
            envelope = reply.envelope or Envelope({})
            if "inner" in envelope.blobs and not envelope.header["drained"]:
                carried.append((envelope.header["site"], envelope.header["cut"]))
        return found

    run.transport.poll = noting  # type: ignore[method-assign]
    assert run.serve() == "done"
    (state,) = [s for s in carried if s[0] == "a"]
    version = next(v for v in run.ledger.versions() if v.alone and (v.alone[0], v.alone[2]) == state)
    (forward,) = run.events("cut_forward")
    assert version.t_run == pytest.approx(forward[0] * 60 + 1_000_000.0), "and the site trains on"
    assert carried == [state]


def test_a_record_that_does_not_name_the_cut_of_an_inner_state_is_read_too(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    """As runs were recorded before, by version or by file: the site that gave it had left."""
    run = Run(tmp_path / "r", data, {"a": [(0, 30)], "b": [(32, 300)]}, steps=60)
    runs.append(run)
    assert run.serve() == "done"
    ((c, op),) = [
        (c, op) for v in run.ledger.versions() for c in run.ledger.contributions(v.version) for op in c.header["lineage"]
        if op[1:3] == ["inner", "sent"]
    ]  # fmt: skip
    version = op[4]
    assert len(op) > 5, "it names the cut"
    for named in (version, f"inner-a-v{version:06d}-0a1b2c.safetensors"):
        op[4:] = [named]
        run.ledger._db.execute("UPDATE contributions SET header = ? WHERE id = ?", (json.dumps(c.header), c.id))
        assert_replays(run)
    run.ledger._db.execute("UPDATE contributions SET header = REPLACE(header, '-v', '-w')")
    with pytest.raises(DataError, match="an inner state that is not known: inner-a-w"):
        assert_replays(run)
