"""Several ranks train what one would: the same sequences, the same losses within rounding, whatever their number."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import _set_pg_timeout

from patience import PATIENCE_S
from train.gloo import TESTS, ranked
from windfall.errors import DataError, RankError
from windfall.train.compiled import compiled
from windfall.train.inner import packed, unpacked
from windfall.train.ranked import RankedTrainer
from windfall.train.ranks import Alone, padded, slice_of
from windfall.train.spec import TrainerSpec
from windfall.train.trainer import Guard, LocalTrainer


def spec(prepared: Path, **changes: object) -> TrainerSpec:
    given = {
        "data_dir": str(prepared), "depth": 2, "width": 64, "head_dim": 32, "sequence_length": 64, "seed": 3, "batch_sequences": 6,
        "block_sequences": 2, "budget_tokens": 64 * 6 * 40, "optimizer": "normuon", "lr_scale": 0.5, "warmdown_fraction": 0.4,
        "lr_floor": 0.0, "reset_warmup_fraction": 0.05, "precision": "fp32", "eval_sequences": 4,
    }  # fmt: skip
    return TrainerSpec(**{**given, **changes})  # type: ignore[arg-type]


def story(trainer: LocalTrainer | RankedTrainer) -> tuple[list[float], dict[str, np.ndarray], bytes]:
    """Steps, another base, an inner state given away and taken back, a reset: losses, weights and inner state."""
    begun = trainer.weights()
    losses = [trainer.step([3 * i, 3 * i + 1, 3 * i + 2], 384.0 * i) for i in range(4)]
    delta = {n: w - begun[n] for n, w in trainer.weights().items()}
    losses.append(trainer.step([12, 13, 14], 1536.0))
    kept = trainer.inner(exact=True)
    losses.append(trainer.step([15], 1920.0))  # the last blocks of a budget: fewer sequences than ranks have had
    quarter = {n: np.float32(0.25) * d for n, d in delta.items()}
    trainer.rebase(begun.__getitem__, begun.__getitem__, [(-1.0, quarter.__getitem__)])
    trainer.load_inner(kept)
    losses.append(trainer.step([18, 19, 20], 2304.0))
    weights = trainer.weights()
    trainer.load({n: w + np.float32(1e-3) for n, w in weights.items()})
    trainer.reset_inner()
    losses.append(trainer.step([21, 22, 23], 2688.0))
    return losses, trainer.weights(), trainer.inner(exact=True)


def test_a_sample_is_the_models_own_and_changes_nothing(prepared: Path) -> None:
    trainer = LocalTrainer(spec(prepared, sample_prompt="x = ", sample_tokens=12))
    same = LocalTrainer(spec(prepared, sample_prompt="x = ", sample_tokens=12))
    first = trainer.sample()
    assert first == trainer.sample() == same.sample()
    assert 0 < len(first) <= 12
    losses = [trainer.step([3 * i, 3 * i + 1, 3 * i + 2], 384.0 * i) for i in range(4)]
    assert losses == [same.step([3 * i, 3 * i + 1, 3 * i + 2], 384.0 * i) for i in range(4)]
    assert trainer.model.training
    assert trainer.sample() != first
    assert LocalTrainer(spec(prepared, sample_tokens=0)).sample() == ""


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_train_what_one_would(prepared: Path, tmp_path: Path, size: int) -> None:
    alone = LocalTrainer(spec(prepared))
    expected, _, _ = story(alone)
    with ranked(spec(prepared, micro_batch_sequences=1), size, tmp_path) as (trainer, children):
        losses, _, _ = story(trainer)
        # The order of sums differs, and the sign of a gradient near zero is half of an optimizer's first step: trajectories
        # drift apart by parts in a thousand. Step by step, from equal states, nothing but rounding is left.
        assert losses[0] == pytest.approx(expected[0], rel=1e-6)
        np.testing.assert_allclose(losses, expected, rtol=1e-2)
        for i in range(6):
            trainer.load(alone.weights())
            trainer.load_inner(alone.inner(exact=True))
            blocks = [40 + 3 * i, 41 + 3 * i, 42 + 3 * i]
            assert trainer.step(blocks, 4000.0) == pytest.approx(alone.step(blocks, 4000.0), rel=2e-6)
            for name, value in alone.weights().items():
                # All but a few numbers, whose gradients are next to nothing, move alike.
                assert np.quantile(np.abs(trainer.weights()[name] - value), 0.98) < 2e-4, name
        got, state = trainer.weights(), trainer.inner(exact=True)
        # W may change between two lives of a site: the whole state, taken over by another number of ranks.
        one, many = LocalTrainer(spec(prepared)), trainer
        one.load(got)
        one.load_inner(state)
        assert many.step([24, 25, 26], 3072.0) == pytest.approx(one.step([24, 25, 26], 3072.0), rel=2e-5)
        assert many.step([27, 28, 29], 3456.0) == pytest.approx(one.step([27, 28, 29], 3456.0), rel=2e-3)
        # A mean of states: each rank takes its part of it.
        mine, mean = trainer.inner(), LocalTrainer(spec(prepared)).inner()
        moments = packed({n: t for n, t in unpacked(mean).items() if t.numel() > 1})
        for each in (one, many):
            each.shift_inner(moments, mine, 1)
        shared, whole = unpacked(many.inner(exact=True)), unpacked(one.inner(exact=True))
        for name, value in whole.items():
            if "moment" in name:
                assert float((shared[name] - value).abs().mean()) <= 0.05 * float(value.abs().mean()) + 1e-9, name
        # What does not fit is refused before anybody else hears of it.
        with pytest.raises(DataError):
            trainer.load_inner(b"no safetensors")
        with pytest.raises(DataError):
            trainer.shift_inner(moments, packed({"steps": torch.tensor(1.0)}), 0)
        # Each rank evaluates its part of the held-out text.
        one.load(trainer.weights())
        together, by_one = trainer.evaluate(), one.evaluate()
        assert (together.bytes, together.tokens) == (by_one.bytes, by_one.tokens)
        assert together.bits_per_byte == pytest.approx(by_one.bits_per_byte, rel=1e-6)
        assert many.step([30, 31, 32], 3840.0) == pytest.approx(one.step([30, 31, 32], 3840.0), rel=2e-3)
        trainer.close()
        assert [c.wait(timeout=PATIENCE_S) for c in children] == [0] * (size - 1)


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_round_with_an_error_and_not_with_a_hang(prepared: Path, tmp_path: Path) -> None:
    with ranked(spec(prepared), 2, tmp_path) as (trainer, (child,)):
        trainer.step([0, 1, 2], 0.0)
        child.kill()
        child.wait()
        with pytest.raises(RuntimeError):
            trainer.step([3, 4, 5], 384.0)


@pytest.mark.slow
def test_a_rank_that_hangs_is_an_error_in_a_step_and_at_the_next_word(prepared: Path, tmp_path: Path) -> None:
    with ranked(spec(prepared), 2, tmp_path) as (trainer, (child,)):
        trainer.step([0, 1, 2], 0.0)
        os.kill(child.pid, signal.SIGSTOP)
        # Only now: a step that both take may last as long as a busy machine wants.
        for group in (trainer._group._data, trainer._group._control):
            _set_pg_timeout(timedelta(seconds=2), group)
        with pytest.raises(RuntimeError):
            trainer.step([3, 4, 5], 384.0)
        with pytest.raises(RuntimeError):
            trainer.evaluate()


@pytest.mark.slow
def test_a_rank_that_dies_under_way_is_named_before_and_within_what_all_do_together(prepared: Path, tmp_path: Path) -> None:
    class Children:
        """The harness's children as a leader's `Followers` would see them."""

        def __init__(self, child: subprocess.Popen[bytes], known: bool) -> None:
            self.child, self.known = child, known

        def lost(self) -> str:
            return self.ending() if self.known else ""

        def ending(self) -> str:
            self.child.wait(PATIENCE_S)
            return "rank 1 was killed"

    for known in (False, True):
        folder = tmp_path / str(known)
        folder.mkdir()
        with ranked(spec(prepared), 2, folder) as (trainer, (child,)):
            trainer.step([0, 1, 2], 0.0)
            trainer._others = Children(child, known)
            child.kill()
            with pytest.raises(RankError, match="rank 1 was killed"):
                trainer.step([3, 4, 5], 384.0)


@pytest.mark.slow
def test_a_follower_ends_when_its_leader_is_gone(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(asdict(spec(prepared))))
    store = TCPStore("127.0.0.1", 0, 2, is_master=True, timeout=timedelta(seconds=PATIENCE_S), wait_for_workers=False)
    leader, follower = (
        subprocess.Popen(
            [sys.executable, "-m", "train.ranked_child", str(store.port), str(rank), "2", str(tmp_path / "spec.json")],
            cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        for rank in (0, 1)
    )  # fmt: skip
    assert leader.stdout is not None
    assert leader.stdout.readline() == b"taken\n"
    leader.kill()
    leader.communicate()
    assert follower.wait(PATIENCE_S) != 0
    follower.communicate()


@pytest.mark.slow
def test_a_step_that_is_no_number_at_one_rank_is_skipped_by_all(prepared: Path, tmp_path: Path) -> None:
    alone = LocalTrainer(spec(prepared))
    with ranked(spec(prepared, max_skips=2), 2, tmp_path) as (trainer, (child,)):
        for t in (alone, trainer):
            t.step([0, 1, 2], 0.0)
        head = trainer._local.model.head.weight
        kept = head.detach().clone()
        with torch.no_grad():
            head.fill_(float("nan"))  # the leader's alone: the other rank's part of the step is sound
        trainer.step([3, 4, 5], 384.0)
        assert "nan" in trainer.skipped
        with torch.no_grad():
            head.copy_(kept)
        # Had the other rank taken that step, its half of this one's gradient would be another.
        assert trainer.step([6, 7, 8], 768.0) == pytest.approx(alone.step([6, 7, 8], 768.0), rel=2e-3)
        assert trainer.skipped == ""
        with torch.no_grad():
            head.fill_(float("nan"))
        trainer.step([9, 10, 11], 1152.0)
        with pytest.raises(DataError, match="2 steps in a row had to be skipped"):
            trainer.step([12, 13, 14], 1152.0)
        assert child.wait(PATIENCE_S) != 0  # it has come to the same end


def test_micro_batches_add_up_to_the_step(prepared: Path) -> None:
    whole, parts = LocalTrainer(spec(prepared)), LocalTrainer(spec(prepared, micro_batch_sequences=2))
    for i in range(3):
        a, b = whole.step([3 * i, 3 * i + 1, 3 * i + 2], 384.0 * i), parts.step([3 * i, 3 * i + 1, 3 * i + 2], 384.0 * i)
        assert a == pytest.approx(b, rel=1e-6 if i == 0 else 2e-3)


def test_every_rank_has_its_slice_and_together_they_are_all() -> None:
    class Fake(Alone):
        def __init__(self, rank: int, size: int) -> None:
            self.rank, self.size = rank, size

    for count in range(1, 12):
        for size in range(1, 6):
            parts = [slice_of(count, Fake(r, size)) for r in range(size)]
            assert [i for first, end, _ in parts for i in range(first, end)] == list(range(count))
            assert all(end - first <= each for first, end, each in parts)
    assert padded(torch.ones(1, 2), 3).tolist() == [[1, 1], [0, 0], [0, 0]]


def test_a_guard_skips_what_is_no_number_and_what_is_far_too_long_and_gives_up_after_too_many() -> None:
    guard = Guard(spike_factor=10.0, max_skips=3)
    assert guard.judge(1.0, 2.0) == ""
    assert "the loss is nan" in guard.judge(float("nan"), 2.0)
    assert "30 times the usual" in guard.judge(1.0, 60.0)
    assert guard.judge(1.0, 19.0) == ""
    for _ in range(2):
        assert guard.judge(1.0, float("inf"))
    with pytest.raises(DataError, match=r"3 steps in a row.*lower train\.lr_scale"):
        guard.judge(1.0, float("inf"))


def test_a_step_that_is_skipped_changes_nothing(prepared: Path) -> None:
    trainer = LocalTrainer(spec(prepared))
    trainer.step([0, 1, 2], 0.0)
    before, inner = trainer.weights(), trainer.inner(exact=True)
    with torch.no_grad():
        kept = trainer.model.head.weight.clone()
        trainer.model.head.weight.fill_(float("nan"))
    trainer.step([3, 4, 5], 384.0)
    assert "no number" in trainer.skipped or "nan" in trainer.skipped
    with torch.no_grad():
        trainer.model.head.weight.copy_(kept)
    assert all(np.array_equal(before[n], w) for n, w in trainer.weights().items())
    assert trainer.inner(exact=True) == inner
    trainer.step([3, 4, 5], 384.0)
    assert trainer.skipped == ""


def test_a_trainer_compiles_once_for_a_full_step_and_never_again(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        frames.append(len(inputs))
        return graph.forward

    monkeypatch.setattr("windfall.train.trainer.compiled", lambda model: compiled(model, backend))
    trainer = LocalTrainer(spec(prepared, compile=True, micro_batch_sequences=2))
    plain = LocalTrainer(spec(prepared, micro_batch_sequences=2))
    assert len(frames) == 1  # before the site says that it is ready
    assert story(trainer)[0] == pytest.approx(story(plain)[0], rel=1e-6)
    trainer.step([40], 3072.0)
    trainer.evaluate()
    trainer.step([41, 42, 43], 3072.0)
    assert len(frames) == 1


def test_a_trainer_says_which_part_of_a_step_and_of_an_evaluation_begins(prepared: Path) -> None:
    trainer = LocalTrainer(spec(prepared, micro_batch_sequences=1, eval_sequences=4))
    parts: list[str] = []
    trainer.alive = parts.append
    trainer.step([0, 1, 2], 0.0)
    assert parts[:2] == ["gradients", "gradients of sequences 1 of 6"]
    assert any(part.startswith("polar factors") for part in parts)
    parts.clear()
    trainer.evaluate()
    assert parts == [f"{done} of 4 sequences" for done in range(1, 5)]
