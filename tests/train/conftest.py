"""A small prepared corpus and a small model for the tests of `windfall.train`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from windfall.train.model import GPT, GPTConfig, build_model
from windfall.train.prepare import prepare

SMALL = GPTConfig(depth=2, width=64, head_dim=32, sequence_length=64)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def small_model() -> GPT:
    return build_model(SMALL, seed=1)


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty documents of seeded words."""
    folder = tmp_path_factory.mktemp("text")
    draw = random.Random(7)
    words = ["wind", "sun", "grid", "surplus", "curtail", "größe", "watt", "night", "noon", "the", "a"]
    for number in range(40):
        text = " ".join(draw.choice(words) for _ in range(150))
        (folder / f"{number:03d}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def prepared(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder above as shards of sequences of 64, more than one training shard."""
    out = tmp_path_factory.mktemp("prepared")
    prepare(text_folder, out, sequence_length=64, held_out_fraction=0.1, shard_tokens=8_000)
    return out
