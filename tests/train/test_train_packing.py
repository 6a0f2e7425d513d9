"""Packing: rows that begin with a document, few crops, and every token accounted for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windfall.train.manifest import Manifest
from windfall.train.packing import Array, BestFitPacker, ShardWriter, packer
from windfall.train.tokenizer import ByteTokenizer

BOS = 256
ROW = 16


def document(number: int, length: int) -> Array:
    """A separator and length - 1 tokens that name the document."""
    return np.array([BOS, *[number % 256] * (length - 1)], dtype="<u2")


def packed(lengths: list[int], waiting: int) -> tuple[list[list[int]], BestFitPacker]:
    """Rows of documents of these lengths."""
    rows: list[list[int]] = []
    best = BestFitPacker(lambda row: rows.append(row.tolist()), lambda: 0, ROW, "<u2", waiting)
    tokens = [document(number, length) for number, length in enumerate(lengths)]
    for at in range(0, len(lengths), 3):
        best.add(np.concatenate(tokens[at : at + 3]), np.array(lengths[at : at + 3], dtype="<u4"))
    best.finish()
    return rows, best


@settings(max_examples=200)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=60), st.integers(1, 20))
def test_every_row_is_full_begins_with_a_document_and_every_token_is_counted(lengths: list[int], waiting: int) -> None:
    rows, best = packed(lengths, waiting)
    assert all(len(row) == ROW and row[0] == BOS for row in rows)
    assert sum(lengths) == len(rows) * ROW + best.cropped_tokens + best.dropped_tokens
    assert best.dropped_tokens < ROW
    assert (best.cropped_tokens > 0) == (best.cropped_documents > 0)
    # No more than one document of a row is cropped, and only what ends it.
    assert best.cropped_documents <= len(rows)


def test_the_longest_that_fits_is_taken_and_the_shortest_is_cropped_when_none_does() -> None:
    rows, best = packed([9, 3, 7, 5, 12, 4], waiting=100)
    # 12 + 4 fills one row; 9 + 7 the next; 5 + 3 is not a row.
    assert rows == [
        [BOS, *[4] * 11, BOS, *[5] * 3],
        [BOS, *[0] * 8, BOS, *[2] * 6],
    ]
    assert (best.cropped_tokens, best.dropped_tokens) == (0, 8)
    rows, best = packed([10, 9, 8], waiting=100)
    assert rows == [[BOS, *[0] * 9, BOS, *[2] * 5]]
    assert (best.cropped_documents, best.cropped_tokens, best.dropped_tokens) == (1, 2, 9)


def test_a_document_longer_than_a_row_is_a_row_and_what_is_over_is_counted() -> None:
    rows, best = packed([40, 16], waiting=1)
    assert [row[1] for row in rows] == [0, 1]
    assert (best.cropped_documents, best.cropped_tokens) == (1, 24)


def test_more_documents_waiting_lose_less() -> None:
    draw = np.random.default_rng(1)
    lengths = draw.integers(2, ROW, 600).tolist()
    few, many = (packed(lengths, waiting)[1].cropped_tokens for waiting in (2, 300))
    assert many < 0.6 * few


@pytest.mark.parametrize(("packing", "kept"), [("stream", 2 * 48 + 4 * 1), ("best_fit", 5 * 17)])
def test_shards_hold_whole_sequences_and_count_the_bytes_of_their_targets(tmp_path: Path, packing: str, kept: int) -> None:
    way = "stream" if packing == "stream" else "best_fit"
    counts = ByteTokenizer().token_bytes()
    writer = ShardWriter(tmp_path, "train", 16, way, 40, "<u2", counts)
    pack = packer(writer, way, 16, "<u2")
    tokens = np.concatenate([document(number, 17) for number in range(5)] + [document(9, 13)])
    pack.add(tokens, np.array([17] * 5 + [13], dtype="<u4"))
    pack.finish()
    manifest = Manifest(16, 0, 0.0, writer.sequences, 0, writer.bytes, 0, 6, tuple(writer.shards), packing=packing)
    data = [np.fromfile(tmp_path / shard.file, "<u2") for shard in writer.shards]
    assert sum(map(len, data)) + pack.dropped_tokens >= len(tokens)
    assert sum(manifest.sequences(shard) for shard in writer.shards) == writer.sequences
    assert [len(each) for each in data] == ([33, 33, 33] if packing == "stream" else [34, 34, 17])
    targets = (
        np.concatenate([each[1:] for each in data]) if packing == "stream" else np.concatenate(data).reshape(-1, 17)[:, 1:].ravel()
    )
    assert writer.bytes == int((targets != BOS).sum())
    assert pack.dropped_tokens == (len(tokens) - 97 if packing == "stream" else 13)
