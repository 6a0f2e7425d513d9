"""Numbered sequences, blocks and the held-out split."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from windfall.errors import ConfigError, DataError
from windfall.train.data import TrainData, permutation
from windfall.train.prepare import prepare


@pytest.fixture
def data(prepared: Path) -> TrainData:
    return TrainData(prepared, seed=3)


def test_an_epoch_holds_every_sequence_once_and_the_next_one_in_another_order(data: TrainData) -> None:
    n = data.train_sequences
    first, _ = data.batch(range(n))
    second, _ = data.batch(range(n, 2 * n))
    rows = [{tuple(row.tolist()) for row in epoch} for epoch in (first, second)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == n
    assert not torch.equal(first, second)


def test_targets_are_the_tokens_one_further(data: TrainData) -> None:
    tokens, targets = data.batch([0, 5])
    assert tokens.shape == targets.shape == (2, 64)
    assert tokens.dtype == torch.long
    assert torch.equal(tokens[:, 1:], targets[:, :-1])
    one, its_targets = data.sequence(5)
    assert torch.equal(one, tokens[1])
    assert torch.equal(its_targets, targets[1])


def test_no_target_is_lost_between_sequences_and_shards(data: TrainData) -> None:
    split = data._train
    rows = [split.window(index) for index in range(split.count)]
    assert all(before[-1] == after[0] for before, after in pairwise(rows))


def test_a_block_is_its_range_of_the_global_sequence_over_an_epochs_end_too(data: TrainData) -> None:
    size = 8
    last = data.train_sequences // size
    tokens, targets = data.block_batch(last, 2, size)
    expected = data.batch(range(last * size, (last + 2) * size))
    assert torch.equal(tokens, expected[0])
    assert torch.equal(targets, expected[1])


def test_the_order_depends_on_the_seed_and_on_nothing_else(prepared: Path, data: TrainData) -> None:
    again, other = TrainData(prepared, seed=3), TrainData(prepared, seed=4)
    again.batch([10 * again.train_sequences])  # epochs may be visited in any order
    assert torch.equal(again.batch(range(20))[0], data.batch(range(20))[0])
    assert not torch.equal(other.batch(range(20))[0], data.batch(range(20))[0])


def test_the_permutation_is_pinned_because_sites_must_agree_across_versions() -> None:
    assert permutation(8, seed=0, epoch=0).tolist() == PINNED
    assert sorted(permutation(1000, 5, 2).tolist()) == list(range(1000))
    assert permutation(5, -1, 0).dtype == np.int64


PINNED = [0, 3, 7, 5, 1, 2, 6, 4]


def test_a_sequence_below_zero_is_an_error(data: TrainData) -> None:
    with pytest.raises(IndexError, match="-1"):
        data.sequence(-1)


def test_held_out_batches_are_the_same_each_time_and_ask_for_no_separator(data: TrainData) -> None:
    batches = list(data.val_batches(None, 4))
    assert sum(len(tokens) for tokens, _ in batches) == data.val_sequences
    targets = torch.cat([targets for _, targets in batches])
    assert int((targets == 256).sum()) == 0
    assert int((targets >= 0).sum()) == data.manifest.val_bytes == data.val_bytes()
    for (tokens, _), (again, _) in zip(batches, data.val_batches(None, 4), strict=True):
        assert torch.equal(tokens, again)


def test_a_few_held_out_sequences_are_spread_over_all(data: TrainData) -> None:
    (tokens, _), *rest = data.val_batches(3, 16)
    assert not rest
    everything = torch.cat([tokens for tokens, _ in data.val_batches(None, 16)])
    n = data.val_sequences
    assert torch.equal(tokens, everything[[0, n // 3, 2 * n // 3]])
    assert data.val_bytes(3) <= 3 * 64


def test_without_held_out_text_evaluating_is_an_error_that_says_so(text_folder: Path, tmp_path: Path) -> None:
    prepare(text_folder, tmp_path, sequence_length=64, held_out_fraction=0.0)
    with pytest.raises(DataError, match="nothing was held out"):
        next(TrainData(tmp_path).val_batches())


def test_no_sequences_or_empty_batches_are_refused(data: TrainData) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        next(data.val_batches(0))
    with pytest.raises(ConfigError, match="at least 1"):
        next(data.val_batches(1, 0))


def test_a_folder_without_its_shards_is_refused_when_it_is_opened(text_folder: Path, tmp_path: Path) -> None:
    prepare(text_folder, tmp_path, sequence_length=64)
    (tmp_path / "val-00000.bin").unlink()
    with pytest.raises(DataError, match="the shard is missing"):
        TrainData(tmp_path)
