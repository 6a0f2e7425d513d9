"""Stored inner states: safetensors that are written and read without a copy."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from windfall.errors import DataError
from windfall.store.files import Envelope
from windfall.train.inner import packed, unpacked
from windfall.train.schedule import schedule
from windfall.train.spec import TrainerSpec
from windfall.train.trainer import LocalTrainer

STATE = {
    "steps": torch.tensor(7.0),
    "since": torch.tensor(1.5, dtype=torch.float64),
    "momentum": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "second": torch.arange(5).to(torch.bfloat16),
    "none": torch.zeros((0, 4)),
}


def assert_equal(found: dict[str, torch.Tensor]) -> None:
    assert found.keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_others_read_what_is_written_and_its_checksum_is_that_of_the_bytes() -> None:
    blob = packed(STATE)
    assert_equal(load(blob.read()))
    assert (len(blob.read()), b"".join(blob.parts())) == (blob.size, blob.read())
    assert_equal(unpacked(blob))
    assert_equal(unpacked(blob.read()))


def test_a_part_of_a_file_is_read_where_it_lies(tmp_path: Path) -> None:
    for filler in (b"", b"x", b"xyz"):  # at places of all kinds
        Envelope.of({}, {"before": filler, "inner": packed(STATE)}).save(tmp_path / "f.env")
        assert_equal(unpacked(Envelope.load(tmp_path / "f.env", in_memory_up_to=0).blob("inner")))


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: b"",
        lambda d: d[:20],
        lambda d: d[:-1],
        lambda d: b"\xff" * 8 + d[8:],
        lambda d: d.replace(b'"F32"', b'"I64"', 1),
        lambda d: d.replace(b"[3,4]", b"[9,4]"),
        lambda d: d.replace(b"[3,4]", b"[-3,"[:3] + b"4]"),
    ],
)
def test_what_is_no_inner_state_is_refused(damage: object) -> None:
    with pytest.raises(DataError, match="not readable as safetensors"):
        unpacked(damage(packed(STATE).read()))  # type: ignore[operator]


KINDS = ["normuon", "muon_plain", "adamw"]


def trainer(prepared: Path, kind: str) -> LocalTrainer:
    spec = TrainerSpec(
        data_dir=str(prepared), depth=2, width=64, head_dim=32, sequence_length=64, seed=3, batch_sequences=4, block_sequences=2,
        budget_tokens=64 * 4 * 400, optimizer=kind, lr_scale=0.5, warmdown_fraction=0.4, lr_floor=0.0, reset_warmup_fraction=0.05,
        precision="fp32", eval_sequences=4,
    )  # fmt: skip
    return LocalTrainer(spec)


def moments(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n: t for n, t in state.items() if t.numel() > 1}


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_of_a_difference_is_added_by_the_betas_really_used(prepared: Path, kind: str, steps: int) -> None:
    one, other = trainer(prepared, kind), trainer(prepared, kind)
    for i in range(4):
        one.step([2 * i, 2 * i + 1], 256.0 * i)
        other.step([20 + 2 * i, 21 + 2 * i], 256.0 * i)
    mine = one.inner()
    ours, theirs = unpacked(mine), unpacked(other.inner())
    mean = {n: ((ours[n].float() + theirs[n].float()) / 2).bfloat16() for n in moments(ours)}
    progress = [1024.0 + 256.0 * i for i in range(steps)]
    used = [schedule(p, one._budget, one._schedule).momentum for p in progress]
    assert steps == 0 or len(set(used)) == steps, "momentum warms up meanwhile"
    for i, p in enumerate(progress):
        one.step([8 + 2 * i, 9 + 2 * i], p)
    before = unpacked(one.inner(exact=True))
    weights = one.weights()
    one.shift_inner(packed(mean), mine, steps)
    after = unpacked(one.inner(exact=True))
    for name, value in after.items():
        if name not in mean:
            torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True, msg=name)
            continue
        second = "second_moment" in name
        beta = 0.95**steps if second else 0.8**steps if name.startswith("adamw") else math.prod(used)
        expected = before[name] + beta * (mean[name].float() - ours[name].float())
        torch.testing.assert_close(value, expected.clamp(min=0.0) if second else expected, rtol=1e-6, atol=1e-9, msg=name)
    assert all((value == weights[name]).all() for name, value in one.weights().items()), "the parameters stay as they are"
    assert any(not torch.equal(after[n], before[n]) for n in mean)


def test_a_second_moment_stays_at_least_zero(prepared: Path) -> None:
    one = trainer(prepared, "normuon")
    one.step([0, 1], 0.0)
    ours = unpacked(one.inner())
    less = {n: torch.full_like(t, -1.0) for n, t in moments(ours).items()}
    one.shift_inner(packed(less), packed(ours), 0)
    state = unpacked(one.inner(exact=True))
    assert all(float(t.min()) == 0.0 for n, t in state.items() if "second_moment" in n)
    assert any(float(t.min()) < 0.0 for n, t in state.items() if "momentum" in n)


def test_nothing_is_left_of_what_was_before_a_reset(prepared: Path) -> None:
    one = trainer(prepared, "normuon")
    one.step([0, 1], 0.0)
    mine = one.inner()
    one.step([2, 3], 256.0)
    one.reset_inner()
    one.step([4, 5], 512.0)
    before = one.inner(exact=True)
    one.shift_inner(packed({n: torch.zeros_like(t) for n, t in moments(unpacked(mine)).items()}), mine, 2)
    assert one.inner(exact=True) == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: {}, "the mean of inner states is of another model: it has no adamw"),
        (lambda m: {**m, "more": torch.zeros(2)}, "of another model: it has more as [2]"),
        (lambda m: {n: t.reshape(-1) for n, t in m.items()}, "the mean of inner states is of another model: it has adamw"),
    ],
)
def test_a_mean_of_another_model_changes_nothing(prepared: Path, change: Any, says: str) -> None:
    one = trainer(prepared, "normuon")
    one.step([0, 1], 0.0)
    mine, before = one.inner(), one.inner(exact=True)
    with pytest.raises(DataError, match=re.escape(says)):
        one.shift_inner(packed(change(moments(unpacked(mine)))), mine, 0)
    with pytest.raises(DataError, match="the inner state that was sent is of another model"):
        one.shift_inner(packed(moments(unpacked(mine))), packed({"steps": torch.tensor(1.0)}), 0)
    assert one.inner(exact=True) == before
