"""What sites are lent and told: the sizes of their steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.fake import counting
from federation.harness import BATCH, BLOCK, Run
from windfall.federation.orders import shared

SPEEDS = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0.1, 1e6), min_size=1)


@given(st.integers(1, 300), SPEEDS, st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 64)))
def test_a_joint_steps_blocks_are_all_given_out_and_nobody_gets_none(
    blocks: int, speeds: dict[str, float], at_once: dict[str, int]
) -> None:
    sizes = shared(blocks, speeds, at_once)
    assert sizes.keys() == speeds.keys()
    assert min(sizes.values()) >= 1
    assert sum(sizes.values()) == max(blocks, len(speeds))


@pytest.mark.parametrize(
    ("blocks", "speeds", "at_once", "sizes"),
    [
        (8, {"a": 1.0, "b": 1.0}, {}, {"a": 4, "b": 4}),
        (8, {"a": 3.0, "b": 1.0}, {}, {"a": 6, "b": 2}),
        (8, {"a": 1.0, "b": 1.0, "c": 1.0}, {}, {"a": 3, "b": 3, "c": 2}),
        (8, {"a": 100.0, "b": 1.0}, {}, {"a": 7, "b": 1}),
        (2, {"a": 1.0, "b": 1.0, "c": 9.0}, {}, {"a": 1, "b": 1, "c": 1}),
        (64, {"a": 2.0, "b": 1.0}, {"a": 16, "b": 16}, {"a": 48, "b": 16}),
        (64, {"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 16, "b": 16, "c": 16}, {"a": 32, "b": 16, "c": 16}),
        (10, {"a": 1.0, "b": 1.0}, {"a": 4, "b": 4}, {"a": 6, "b": 4}),
    ],
)  # fmt: skip
def test_shares_follow_speed_in_whole_multiples_of_what_a_site_computes_at_once(
    blocks: int, speeds: dict[str, float], at_once: dict[str, int], sizes: dict[str, int]
) -> None:
    assert shared(blocks, speeds, at_once) == sizes


def test_sites_of_a_joint_round_share_each_step_and_one_alone_takes_all_of_it(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    """Half an hour of one site, then both: block counts are those of each site's own pace, and every block is trained once."""
    run = Run(
        tmp_path / "r", data, {"a": [(0.0, 1e5)], "b": [(30.0, 1e5)]}, steps=240, batch="global",
        trainer=counting(240 * BATCH // BLOCK), steps_per_min={"a": 2.0, "b": 1.0},
    )  # fmt: skip
    runs.append(run)
    assert run.serve() == "done"
    assert run.ledger.counts().committed == 240 * BATCH // BLOCK
    sizes: dict[int, set[int]] = {}
    for version in run.ledger.versions():
        for c in run.ledger.contributions(version.version):
            for op in c.header["lineage"]:
                if op[1] == "size":
                    sizes.setdefault(len(version.sites), set()).add(op[2])
    assert sizes[1] == {2}, "one alone takes both blocks of a step"
    assert 1 in sizes[2], "together they take one each"
