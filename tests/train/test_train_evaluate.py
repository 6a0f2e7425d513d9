"""Evaluation and text generation."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from windfall.errors import ConfigError
from windfall.train.data import TrainData
from windfall.train.evaluate import evaluate
from windfall.train.generate import generate
from windfall.train.manifest import Manifest
from windfall.train.model import GPT, GPTConfig, build_model
from windfall.train.optim import InnerOptimizer, OptimConfig
from windfall.train.schedule import ScheduleValues


def test_a_uniform_guess_costs_log2_of_the_vocabulary_per_byte(small_model: GPT, prepared: Path) -> None:
    with torch.no_grad():
        small_model.head.weight.zero_()
    result = evaluate(small_model, TrainData(prepared), batch_sequences=4)
    assert result.bits_per_byte == pytest.approx(math.log2(257), abs=1e-4)
    assert result.nats_per_byte == pytest.approx(math.log(257), abs=1e-4)
    assert result.bytes == result.tokens == Manifest.load(prepared).val_bytes


def test_the_result_does_not_depend_on_the_batch_and_leaves_the_mode_alone(small_model: GPT, prepared: Path) -> None:
    data = TrainData(prepared)
    small_model.train()
    one, many = evaluate(small_model, data, 5, 1), evaluate(small_model, data, 5, 3)
    assert one.bits_per_byte == pytest.approx(many.bits_per_byte, rel=1e-5)
    assert one.bytes == many.bytes == data.val_bytes(5)
    assert small_model.training
    assert all(parameter.grad is None for parameter in small_model.parameters())


def test_training_on_the_corpus_lowers_the_bits_per_byte_of_text_never_seen(small_model: GPT, prepared: Path) -> None:
    data = TrainData(prepared)
    before = evaluate(small_model, data, 8).bits_per_byte
    _train(small_model, data, 40)
    assert evaluate(small_model, data, 8).bits_per_byte < 0.6 * before


def test_greedy_text_repeats_and_seeded_text_depends_on_its_seed(small_model: GPT, prepared: Path) -> None:
    manifest = Manifest.load(prepared)
    _train(small_model, TrainData(prepared), 5)

    def text(temperature: float, seed: int, top_k: int | None = 50) -> str:
        return generate(small_model, manifest, "the wind", 30, temperature, top_k, seed)

    assert text(0.0, 1) == text(0.0, 2)
    assert text(1.0, 1) == text(1.0, 1)
    assert text(1.0, 1) != text(1.0, 2)
    assert text(1.0, 1, top_k=1) == text(0.0, 1) == text(1e-300, 1)


def test_text_longer_than_the_context_and_bytes_that_are_no_text_come_out_as_text(small_model: GPT, prepared: Path) -> None:
    manifest = Manifest.load(prepared)
    long = generate(small_model, manifest, "größe " * 30, 100, temperature=5.0, top_k=None)
    assert "\N{REPLACEMENT CHARACTER}" in long  # an untrained model draws bytes at random
    assert isinstance(generate(small_model, manifest, "", 3), str)
    assert generate(small_model, manifest, "x", 0) == ""


def test_generation_stops_at_a_documents_end(small_model: GPT, prepared: Path) -> None:
    with torch.no_grad():
        small_model.embedding.weight.fill_(1.0)
        small_model.head.weight.zero_()
        small_model.head.weight[256] = 1.0
    assert generate(small_model, Manifest.load(prepared), "x", 50, temperature=0.0) == ""


def test_numbers_below_zero_and_a_model_of_another_vocabulary_are_refused(small_model: GPT, prepared: Path) -> None:
    manifest = Manifest.load(prepared)
    with pytest.raises(ConfigError, match="temperature -1"):
        generate(small_model, manifest, "x", 5, temperature=-1)
    other = build_model(GPTConfig(depth=1, width=64, vocab_size=300, sequence_length=64), seed=0)
    with pytest.raises(ConfigError, match="300 tokens"):
        generate(other, manifest, "x", 5)


def _train(model: GPT, data: TrainData, steps: int) -> None:
    optimizer = InnerOptimizer(model, OptimConfig.demo(batch_tokens=512))
    for step in range(steps):
        model(*data.block_batch(step, 1, 8)).backward()
        optimizer.step(ScheduleValues())
        optimizer.zero_grad()
