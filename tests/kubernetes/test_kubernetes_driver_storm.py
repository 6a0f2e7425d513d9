"""The Kubernetes driver in storms: what a cluster and the way to it may do, by seed, and what must hold all the while."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kubernetes.storm import Storm
from windfall.fleet.machine import State

#: WINDFALL_LONG=1: a thousand storms, and a whole hour of a hundred sites, as the results say.
LONG = os.environ.get("WINDFALL_LONG") == "1"


@pytest.mark.parametrize("seed", range(2))  # a hundred of them: below
@pytest.mark.parametrize("queue", [None, "gpus"])
def test_nothing_runs_twice_or_is_left_and_off_is_off(tmp_path: Path, seed: int, queue: str | None) -> None:
    storm = Storm(tmp_path, seed, queue=queue)
    storm.blow(60)
    assert len(storm.moves) > 4, "it was a storm in which something happened"


@pytest.mark.parametrize("seed", range(2))  # a hundred of them: below
def test_what_goes_wrong_on_the_way_to_a_cluster_moves_no_site_that_trains(tmp_path: Path, seed: int) -> None:
    storm = Storm(tmp_path, 1000 + seed, calm=True, probability=0.6)
    storm.blow(60)
    for name, old, new, reason in storm.moves:
        if old in (State.READY, State.TRAINING) and new not in (State.READY, State.TRAINING):
            assert (new, reason) == (State.DRAINING, "out of it"), f"{name}: {reason}"


@pytest.mark.slow
def test_many_storms(tmp_path: Path) -> None:
    for seed in range(1000 if LONG else 100):
        Storm(tmp_path / str(seed), seed, queue="gpus" if seed % 2 else None, calm=seed % 5 == 0).blow(40)


@pytest.mark.slow
def test_a_hundred_sites_in_ten_clusters_that_flap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storm = Storm(tmp_path, 0, sites=100, clusters=10, calm=True, tick_s=10.0)
    flips, minutes = 0, 60 if LONG else 10
    for step in range(6 * minutes):
        changed = [name for i, name in enumerate(storm.wanted) if (step + 7 * i) % 30 == 0]
        for name in changed:
            storm.wanted[name] = not storm.wanted[name]
        flips += len(changed)
        storm.step()
        for name in changed:
            state = storm.fleet.sites[name].state
            assert (state in (State.PROVISIONING, State.READY, State.TRAINING)) == storm.wanted[name], f"{name}: {state}"
    per_h = sum(d.cluster.requests for d in storm.drivers.values()) / 100 * 60 / minutes
    with capsys.disabled():
        print(f"\n100 sites, 10 clusters, {minutes} min, {flips} decisions: {per_h:.0f} requests per site and hour")
    assert per_h < 800
    storm.clear_up()
