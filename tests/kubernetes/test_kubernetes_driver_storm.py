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


@pytest.mark.slow
def test_a_hundred_sites_in_ten_clusters_flap_for_an_hour(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storm = Storm(tmp_path, 0, sites=100, clusters=10, calm=True, tick_s=10.0)
    flips = 0
    for step in range(360):
        changed = [name for i, name in enumerate(storm.wanted) if (step + 7 * i) % 30 == 0]
        for name in changed:
            storm.wanted[name] = not storm.wanted[name]
        flips += len(changed)
        storm.step()
        for name in changed:
            state = storm.fleet.sites[name].state
            assert (state in (State.PROVISIONING, State.READY, State.TRAINING)) == storm.wanted[name], f"{name}: {state}"
    calls = sum(d.cluster.requests for d in storm.drivers.values()) / 100
    with capsys.disabled():
        print(f"\n100 sites, 10 clusters, one hour, {flips} decisions: {calls:.0f} requests per site, a look every 10 s")
    assert calls < 700
    storm.clear_up()
