"""Rounds of fixed tokens: done as begun by those who began them, whoever joins, dies or never comes back meanwhile."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.fake import counting
from federation.harness import Run
from federation.storm import Storm
from federation.test_federation_storm import BLOW, SITES, strike
from patience import examples
from windfall.fleet.machine import Observed

#: Steps of one site in a round; at one step a minute so many minutes, and ten times that is a round's longest.
ROUND_STEPS = 4
#: c's spin-up is over five minutes into the first round.
LATE = {"a": [(0.0, 100_000.0)], "b": [(0.0, 100_000.0)], "c": [(1.0, 100_000.0)]}


def storm_of(root: Path, data: Path, windows: dict[str, list[tuple[float, float]]], **options: object) -> Storm:
    return Storm(root, data, windows, **{"round_steps": ROUND_STEPS, "snapshot_s": 1e9, "steps_per_min": 1.0, **options})


def test_who_joins_waits_for_the_next_round(tmp_path: Path, data: Path) -> None:
    storm = storm_of(tmp_path / "r", data, LATE, spin_up_s=60.0)
    with storm.weather():
        storm.to_the_end()
        run = storm.run
        assert not run.events("cut_forward")
        first, second = run.events("round")[:2]
        assert (first[3]["sites"], second[3]["sites"]) == (["a", "b"], ["a", "b", "c"])
        assert second[0] == first[0] + ROUND_STEPS
        (made,) = [v for v in run.ledger.versions() if v.version == 1]
        assert made.sites.keys() == {"a", "b"}
        storm.assert_exactly_once()
    storm.close()


def test_who_joins_while_a_dead_site_is_waited_for_ends_no_coordinator(tmp_path: Path, data: Path) -> None:
    """a dies in the first round, and c is ready before a is back."""
    storm = storm_of(tmp_path / "r", data, LATE, spin_up_s=60.0)
    with storm.weather():
        run = storm.run
        run.serve(until_min=3)
        storm.kill_agent("a")
        storm.to_the_end()
        assert storm.run is run, "no coordinator has died"
        first, second = run.events("round")[:2]
        assert first[3]["sites"] == ["a", "b"]
        (made,) = [v for v in run.ledger.versions() if v.version == 1]
        assert made.sites == {"a": made.tokens // 2, "b": made.tokens // 2}, "a has done its part again"
        assert second[3]["sites"] == ["a", "b", "c"]
        storm.assert_exactly_once()
    storm.close()


class Doomed(Storm):
    """A storm in which one site never starts again once it is ``broken``."""

    broken = False

    def break_site(self, site: str) -> None:
        self.kill_agent(site)
        world = self.run.world
        ensure_up = world.ensure_up

        def fails(name: str, generation: int) -> None:
            if name != site:
                ensure_up(name, generation)
                return
            world.up[name] = generation
            world.override[name] = Observed.FAILED

        world.ensure_up = fails  # type: ignore[method-assign]


@pytest.mark.parametrize("restart", [False, True])
def test_a_site_that_never_comes_back_is_waited_for_ten_rounds_once_and_the_others_go_on(
    tmp_path: Path, data: Path, restart: bool
) -> None:
    storm = Doomed(tmp_path / "r", data, LATE, round_steps=ROUND_STEPS, snapshot_s=1e9, steps_per_min=1.0, spin_up_s=60.0)
    with storm.weather():
        storm.run.serve(until_min=3)
        storm.break_site("a")
        if restart:
            storm.restart()
        storm.to_the_end()
        first, second, third = storm.run.events("round")[:3]
        assert second[0] - first[0] == 10 * ROUND_STEPS
        assert (second[3]["sites"], third[3]["sites"]) == (["b", "c"], ["b", "c"])
        assert third[0] - second[0] == ROUND_STEPS, "it is not waited for again"
        storm.assert_exactly_once()
    storm.close()


def test_a_site_that_dies_between_two_rounds_is_waited_for_ten_rounds_and_no_longer(tmp_path: Path, data: Path) -> None:
    """It has handed in, and then never starts again: those who are ready must not wait for ever."""
    speeds = {"a": 2.0, "b": 1.0, "c": 1.0}
    storm = Doomed(tmp_path / "r", data, LATE, round_steps=ROUND_STEPS, snapshot_s=1e9, steps_per_min=speeds, spin_up_s=60.0)
    with storm.weather():
        while storm.run.ledger.pending() == []:
            storm.run.serve(until_min=(storm.run.clock.now() - storm.run.loop.begun) / 60 + 1)
        assert storm.run.ledger.pending()[0].site == "a"
        storm.break_site("a")
        storm.to_the_end()
        first, second = storm.run.events("round")[:2]
        assert "a" not in second[3]["sites"]
        assert second[0] - first[0] <= 11 * ROUND_STEPS
        storm.assert_exactly_once()
    storm.close()


def test_a_round_that_a_coordinator_left_is_gone_on_with_without_sites_that_the_run_no_longer_has(
    tmp_path: Path, data: Path, runs: list[Run]
) -> None:
    options: dict[str, Any] = {"round_steps": ROUND_STEPS, "steps": 40, "spin_up_s": 60.0, "trainer": counting(80)}
    first = Run(tmp_path / "r", data, {"a": LATE["a"], "b": LATE["b"]}, **options)
    first.serve(until_min=3)
    assert not first.ledger.pending()
    first.close()
    second = Run(tmp_path / "r", data, {"a": LATE["a"]}, **options)
    runs.append(second)
    assert second.serve() == "done"
    assert second.ledger.complete()


#: Who joins late, leaves for a while, or is there from the beginning.
COMINGS = st.fixed_dictionaries(
    {site: st.sampled_from([[(0.0, 1e5)], [(3.0, 1e5)], [(7.0, 1e5)], [(0.0, 9.0), (15.0, 1e5)]]) for site in SITES[1:]}
)


@settings(max_examples=examples(4), suppress_health_check=list(HealthCheck))
@given(blows=st.lists(st.tuples(st.integers(1, 220), BLOW), max_size=10), comings=COMINGS, broken=st.booleans())
def test_joins_deaths_and_restarts_in_any_order_end_in_a_run_that_is_done(
    data: Path, blows: list[tuple[int, tuple[str, str, int]]], comings: dict[str, list[tuple[float, float]]], broken: bool
) -> None:
    folder = Path(tempfile.mkdtemp())
    storm = Doomed(
        folder / "r", data, {"a": [(0.0, 1e5)], **comings}, round_steps=6, snapshot_s=1e9, steps_per_min=2.0, spin_up_s=60.0
    )
    try:
        with storm.weather():
            for when, blow in blows:
                storm.at(when, partial(strike, storm, blow))
            if broken:
                storm.at(60, partial(storm.break_site, "c"))
            storm.to_the_end()
            storm.assert_exactly_once()
    finally:
        storm.close()
        shutil.rmtree(folder)
