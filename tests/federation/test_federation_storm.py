"""Invariants 1 to 3 under everything that can happen to sites, links, messages and coordinators, in any order."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.storm import BLOCKS, Storm
from patience import examples

SITES = ("a", "b", "c")
ALWAYS = {"a": [(0.0, 100_000.0)], "b": [(3.0, 100_000.0)], "c": [(8.0, 60.0), (75.0, 100_000.0)]}

#: (kind, site, how long)
BLOW = st.one_of(
    st.tuples(st.sampled_from(["kill_agent", "kill_trainer", "freeze", "cut_link"]), st.sampled_from(SITES), st.integers(5, 120)),
    st.tuples(st.sampled_from(["kill_coordinator", "blackout"]), st.just(""), st.just(0)),
    st.tuples(st.just("twist"), st.sampled_from(["lose", "twice", "late", "corrupt", "garble"]), st.just(0)),
)


def strike(storm: Storm, blow: tuple[str, str, int]) -> None:
    kind, whom, units = blow
    match kind:
        case "freeze":
            storm.freeze(whom, units)
        case "twist":
            storm.twist(whom)
        case "kill_coordinator" | "blackout":
            getattr(storm, kind)()
        case _:
            getattr(storm, kind)(whom)


#: Steps per minute of run time.
SPEEDS = st.fixed_dictionaries(dict.fromkeys(SITES, st.sampled_from([0.5, 1.0, 2.0])))


def weather(
    root: Path, data: Path, blows: list[tuple[int, tuple[str, str, int]]], *, calendar: bool, snapshot_s: float,
    speeds: dict[str, float] | None = None, **options: Any,
) -> None:  # fmt: skip
    # On the calendar a site does a unit of work in 20 s of run time, whatever it is configured to: some leases run dry.
    storm = Storm(root, data, ALWAYS, calendar=calendar, snapshot_s=snapshot_s, steps_per_min=speeds or 1.0, **options)
    try:
        with storm.weather():
            for when, blow in blows:
                storm.at(when, partial(strike, storm, blow))
            storm.to_the_end()
            storm.assert_exactly_once()
    finally:
        storm.close()


@pytest.mark.parametrize("calendar", [False, True])
@settings(max_examples=examples(6), suppress_health_check=list(HealthCheck))
@given(
    blows=st.lists(st.tuples(st.integers(1, 220), BLOW), max_size=12), snapshot_s=st.sampled_from([3.0, 1e9]), speeds=SPEEDS,
    how=st.sampled_from([
        {}, {"overlap": True, "batch": "global"}, {"overlap": True, "codec": "int8"}, {"codec": "int4", "batch": "global"},
        {"average_inner_every": 1}, {"overlap": True, "average_inner_every": 2},
    ]),
)  # fmt: skip
def test_every_block_is_committed_exactly_once_whatever_happens(
    data: Path, calendar: bool, blows: list[tuple[int, tuple[str, str, int]]], snapshot_s: float, speeds: dict[str, float],
    how: dict[str, Any],
) -> None:  # fmt: skip
    folder = Path(tempfile.mkdtemp())
    try:
        weather(folder / "r", data, blows, calendar=calendar, snapshot_s=snapshot_s, speeds=speeds, **how)
    finally:
        shutil.rmtree(folder)


def test_alone_each_block_has_moved_the_model_exactly_once(tmp_path: Path, data: Path) -> None:
    """The model itself counts: with one site every parameter of the counting trainer ends at one."""
    storm = Storm(tmp_path / "r", data, {"a": [(0.0, 100_000.0)]}, snapshot_s=3.0, calendar=True, steps_per_min=0.6)
    with storm.weather():
        for when, blow in (
            (10, storm.kill_coordinator), (25, partial(storm.kill_trainer, "a")), (60, partial(storm.twist, "garble")),
            (95, partial(storm.cut_link, "a")), (110, partial(storm.twist, "lose")), (130, storm.blackout),
            (150, partial(storm.twist, "twice")), (170, partial(storm.kill_agent, "a")), (190, partial(storm.twist, "corrupt")),
        ):  # fmt: skip
            storm.at(when, blow)
        storm.to_the_end()
        storm.assert_exactly_once()
        assert storm.run.weights()["count"].tolist() == [1.0] * BLOCKS
    storm.close()
