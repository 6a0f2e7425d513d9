"""Bit for bit: a killed run's weights are an unkilled one's, and a run's record gives its weights again."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.harness import MakeTrainer, Run
from federation.storm import Storm
from windfall.errors import DataError
from windfall.federation.merge import Outer
from windfall.federation.replay import Replay
from windfall.store.tensors import load_file
from windfall.train.trainer import LocalTrainer

ALWAYS = {"a": [(0.0, 100_000.0)], "b": [(0.0, 100_000.0)]}


def assert_replays(run: Run, outer: Outer | None = None, trainer: MakeTrainer = lambda spec, _: LocalTrainer(spec)) -> None:
    """Every retained version equals what its record gives when it is trained again."""
    initial = LocalTrainer(run.spec).weights()
    compared = 0
    for version, weights in Replay(run.ledger, initial, lambda site, _: trainer(run.spec, site), outer or Outer()).versions():
        if not version.retained:
            continue
        stored = load_file(run.dir.checkpoints / version.file, version.sha256)
        for name, value in stored.items():
            np.testing.assert_array_equal(value, weights[name], err_msg=f"version {version.version}: {name}")
        compared += 1
    assert compared >= 3


def last_weights(run: Run) -> dict[str, np.ndarray]:
    assert run.ledger.complete()
    return run.weights()


#: One thing after another, of every kind; each alone, where inner states are averaged every other time, is
#: `test_federation_inner_mean`.
BLOWS: dict[int, list[Any]] = {20: ["kill_coordinator"], 25: [("kill_agent", "b")], 33: ["blackout"], 45: [("cut_link", "a")]}


def outcome(folder: Path, data: Path, blows: dict[int, list[Any]]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The last weights of a run that was struck so, and what was told of the blows."""
    storm = Storm(
        folder, data, ALWAYS, trainer=lambda spec, _: LocalTrainer(spec), steps=120, round_steps=6, spin_up_s=0.0,
        steps_per_min=1.0, optimizer="normuon",
    )  # fmt: skip
    with storm.weather():
        for when, each in blows.items():
            for blow in each:
                storm.at(when, partial(_strike, storm, blow))
        storm.to_the_end()
        found = last_weights(storm.run)
    storm.close()
    return found, storm.told


def test_a_killed_run_gives_the_same_weights_as_an_unkilled_one(tmp_path: Path, data: Path) -> None:
    """Rounds of fixed tokens and no snapshots: who is killed begins the round again, with the inner state of its beginning."""
    unkilled, _ = outcome(tmp_path / "calm", data, {})
    struck, told = outcome(tmp_path / "struck", data, BLOWS)
    assert len(told) >= sum(map(len, BLOWS.values())), "they were struck"
    for name, value in unkilled.items():
        np.testing.assert_array_equal(value, struck[name], err_msg=name)


def _strike(storm: Storm, blow: Any) -> None:
    if isinstance(blow, tuple):
        getattr(storm, blow[0])(blow[1])
    else:
        getattr(storm, blow)()


@pytest.mark.parametrize(
    ("outer", "how"),
    [
        (Outer(), {"codec": "int8"}),
        (Outer("nesterov"), {"codec": "int8", "optimizer": "normuon"}),
        (Outer(), {"codec": "int2", "overlap": True, "transfer_s": 150.0}),
        (Outer(), {"codec": "fp32", "overlap": True, "batch": "global"}),
    ],
)
def test_the_record_of_a_calm_run_gives_its_weights_again(
    tmp_path: Path, data: Path, runs: list[Run], outer: Outer, how: dict[str, Any]
) -> None:
    run = Run(tmp_path / "r", data, {"a": [(2, 60)], "b": [(20, 200)]}, outer=outer, steps=60, steps_per_min=0.5, **how)
    runs.append(run)
    assert run.serve() == "done"
    assert_replays(run, outer)


@pytest.mark.parametrize(
    ("calendar", "how"),
    [(False, {"overlap": True, "codec": "int8", "batch": "global"}), (True, {})],
    ids=["gated-overlaps", "calendar-waits"],
)
def test_the_record_of_a_stormy_run_gives_its_weights_again(
    tmp_path: Path, data: Path, calendar: bool, how: dict[str, Any]
) -> None:
    storm = Storm(
        tmp_path / "r", data, {"a": [(0.0, 100_000.0)], "b": [(3.0, 40.0), (60.0, 100_000.0)]}, steps=120, snapshot_s=3.0,
        trainer=lambda spec, _: LocalTrainer(spec), calendar=calendar, steps_per_min=0.6 if calendar else 1.0,
        optimizer="normuon", **how,
    )  # fmt: skip
    with storm.weather():
        for when, blow in (
            (15, storm.kill_coordinator), (32, partial(storm.kill_trainer, "a")), (45, partial(storm.twist, "garble")),
            (60, partial(storm.cut_link, "a")), (70, partial(storm.twist, "lose")), (84, storm.blackout),
            (95, partial(storm.twist, "late")), (104, partial(storm.kill_agent, "b")), (110, partial(storm.twist, "corrupt")),
        ):  # fmt: skip
            storm.at(when, blow)
        storm.to_the_end()
    assert_replays(storm.run)
    storm.close()


def test_a_record_with_a_gap_is_said_and_a_changed_one_gives_other_weights(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "r", data, {"a": [(0, 500)]}, steps=40, solo_min=8)
    runs.append(run)
    run.serve()
    db = run.ledger._db
    (made_of,) = run.ledger.contributions(1)
    (used,) = made_of.header["consumed"]
    other = {**made_of.header, "consumed": [{**used, "start": used["start"] + 2, "end": used["end"] + 2}]}
    db.execute("UPDATE contributions SET header = ? WHERE version = 1", (json.dumps(other),))
    with pytest.raises(AssertionError, match="version"):
        assert_replays(run)
    db.execute("UPDATE contributions SET version = NULL WHERE version = 2")
    with pytest.raises(DataError, match="the record has a gap: a, generation 1"):
        assert_replays(run)
