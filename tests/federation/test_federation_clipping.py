"""A contribution that moves the model far more than is usual counts for no more than the largest usual one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.harness import T0, Run
from federation.test_federation_replay import assert_replays
from windfall.federation.clipping import Clip, Weighed, scaled, squares, weigh
from windfall.federation.merge import Outer
from windfall.store.tensors import Tensors, load_file
from windfall.train.spec import TrainerSpec
from windfall.train.trainer import LocalTrainer


@pytest.mark.parametrize(
    ("norms", "recent", "scales"),
    [
        ([1.0, 1.0], [], [1.0, 1.0]),
        ([1.0, 4.0], [], [1.0, 0.75]),  # the smaller of two is the usual one
        ([4.0], [1.0, 1.0, 9.0], [0.75]),
        ([3.0], [1.0], [1.0]),  # as much as may be
        ([8.0], [], [1.0]),  # the first of all is all that is known
        ([8.0, 8.0, 1.0], [], [1.0, 1.0, 1.0]),  # two of three are usual
        ([6.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.5, 1.0]),  # who has not moved says nothing
        ([0.0], [], [1.0]),
        ([1e30, 1.0, 1.0], [], [3e-30, 1.0, 1.0]),
    ],
)
def test_what_is_far_from_usual_is_scaled_down_to_it(norms: list[float], recent: Sequence[float], scales: list[float]) -> None:
    found = weigh(dict(enumerate(norms)), Clip(3.0, recent))
    assert [found[n].scale for n in range(len(norms))] == pytest.approx(scales)
    assert [found[n].norm for n in range(len(norms))] == norms
    assert all(float(np.float32(w.scale)) == w.scale for w in found.values()), "it is a float32 value, so that it is the same again"


def test_what_counts_is_the_norm_after_it_and_the_squares_of_large_values_do_not_overflow() -> None:
    assert Weighed(8.0, 0.25).counted == 2.0
    big = np.full((3, 2**20), 3e38, np.float32)
    assert math.sqrt(squares([big, big])) == pytest.approx(3e38 * math.sqrt(6 * 2**20), rel=1e-6)
    values = np.array([1.0, -2.0], np.float32)
    assert scaled(values, 0.5) is values
    assert values.tolist() == [0.5, -1.0]


def loud(spec: TrainerSpec, site: str) -> LocalTrainer:
    """Of the site `b` the steps are thirty times as large as they should be."""
    return LocalTrainer(replace(spec, lr_scale=30 * spec.lr_scale) if site == "b" else spec)


def movement(run: Run, version: int) -> float:
    def weights(number: int) -> Tensors:
        found = run.ledger.version(number)
        assert found is not None
        return load_file(run.dir.checkpoints / found.file, found.sha256)

    before, after = weights(version - 1), weights(version)
    return math.sqrt(squares(after[n] - before[n] for n in before))


@pytest.mark.parametrize(
    ("outer", "how"),
    [
        (Outer(), {"codec": "int8"}),
        (Outer("nesterov"), {"codec": "int8", "overlap": True, "batch": "global"}),
        (Outer(), {"codec": "fp32", "overlap": True}),
    ],
)
def test_a_loud_site_is_clipped_alone_and_with_others_and_the_record_gives_the_weights_again(
    tmp_path: Path, data: Path, runs: list[Run], outer: Outer, how: dict[str, Any]
) -> None:
    run = Run(
        tmp_path / "r", data, {"a": [(2, 60)], "b": [(30, 200)]}, outer=outer, trainer=loud, clip_delta_norm=3.0, **how
    )  # fmt: skip
    runs.append(run)
    assert run.serve() == "done"
    clipped = [(e[2], e[3]) for e in run.events("clipped")]
    assert {site for site, _ in clipped} == {"b"}
    versions = run.ledger.versions()
    assert any(v.clipped and v.alone is None and len(v.sites) == 1 for v in versions), "one alone that is clipped is merged"
    assert any(v.clipped and len(v.sites) == 2 for v in versions)
    assert any(v.norms and v.alone is not None for v in versions), "one alone that is not is added as it was sent"
    assert all(v.norms for v in versions[1:])
    for _, said in clipped:
        assert said["scale"] < 1
        assert said["reason"].startswith("its movement for each step is ")
    assert_replays(run, outer, loud)


def test_a_damaged_version_that_was_clipped_is_made_again_bit_for_bit(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "r", data, {"a": [(2, 400)], "b": [(2, 400)]}, steps=80, trainer=loud, clip_delta_norm=3.0, codec="int8")
    runs.append(run)
    while not (run.ledger.head().clipped and len(run.ledger.head().sites) == 2):
        assert run.serve(until_min=(run.clock.now() - T0) / 60 + 2) == "until"
    head = run.ledger.head()
    file = run.dir.checkpoints / head.file
    whole = file.read_bytes()
    file.write_bytes(whole[:-7] + bytes(7))
    assert run.federation._intake.make_again(head)
    assert file.read_bytes() == whole


def test_without_the_option_nothing_is_measured(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "r", data, {"a": [(2, 60)], "b": [(2, 60)]}, steps=40, trainer=loud, codec="int8")
    runs.append(run)
    run.serve()
    assert run.events("clipped") == []
    assert all(v.norms == () and not v.clipped for v in run.ledger.versions())
