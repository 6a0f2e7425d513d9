"""The Kubernetes driver in storms: what a cluster and the way to it may do, by seed, and what must hold all the while."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubernetes.storm import Storm
from windfall.fleet.machine import State


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("queue", [None, "gpus"])
def test_nothing_runs_twice_or_is_left_and_off_is_off(tmp_path: Path, seed: int, queue: str | None) -> None:
    storm = Storm(tmp_path, seed, queue=queue)
    storm.blow(60)
    assert len(storm.moves) > 4, "it was a storm in which something happened"


@pytest.mark.parametrize("seed", range(6))
def test_what_goes_wrong_on_the_way_to_a_cluster_moves_no_site_that_trains(tmp_path: Path, seed: int) -> None:
    storm = Storm(tmp_path, 1000 + seed, calm=True, probability=0.6)
    storm.blow(60)
    for name, old, new, reason in storm.moves:
        if old in (State.READY, State.TRAINING) and new not in (State.READY, State.TRAINING):
            assert (new, reason) == (State.DRAINING, "out of it"), f"{name}: {reason}"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_a_thousand_storms(tmp_path: Path, part: int) -> None:
    for seed in range(part * 250, part * 250 + 250):
        Storm(tmp_path / str(seed), seed, queue="gpus" if seed % 2 else None, calm=seed % 5 == 0).blow(40)
