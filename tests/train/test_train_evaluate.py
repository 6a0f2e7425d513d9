"""Evaluation and text generation."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from windfall.cli import eval as verb
from windfall.errors import ConfigError
from windfall.run import versions
from windfall.store.rundir import RunDir
from windfall.train.data import TrainData
from windfall.train.evaluate import evaluate
from windfall.train.generate import generate
from windfall.train.manifest import Manifest
from windfall.train.model import GPT, GPTConfig, build_model
from windfall.train.optim import InnerOptimizer, OptimConfig
from windfall.train.prepare import prepare
from windfall.train.schedule import ScheduleValues


def test_a_uniform_guess_costs_log2_of_the_vocabulary_per_byte(small_model: GPT, prepared: Path) -> None:
    with torch.no_grad():
        small_model.head.weight.zero_()
    result = evaluate(small_model, TrainData(prepared), batch_sequences=4)
    assert result.bits_per_byte == pytest.approx(math.log2(257), abs=1e-4)
    assert result.nats_per_byte == pytest.approx(math.log(257), abs=1e-4)
    assert result.bytes == result.tokens == Manifest.load(prepared).val_bytes


def test_bytes_are_counted_alike_by_every_tokenizer_and_so_are_bits_per_byte(text_folder: Path, tmp_path: Path) -> None:
    results = {}
    for kind, vocabulary in (("bytes", None), ("bpe", 300)):
        out = tmp_path / kind
        manifest = prepare(
            text_folder, out, sequence_length=16, held_out_fraction=0.2, tokenizer=kind, vocab_size=vocabulary
        )  # fmt: skip
        size = manifest.tokenizer.vocab_size
        model = build_model(GPTConfig(depth=1, width=64, head_dim=32, sequence_length=16, vocab_size=size), seed=0)
        with torch.no_grad():
            model.head.weight.zero_()
        data = TrainData(out)
        result = evaluate(model, data)
        # A uniform guess: every token that stands for text costs log2 of the vocabulary, separators nothing.
        assert result.bits_per_byte == pytest.approx(result.tokens * math.log2(size) / result.bytes, rel=1e-5)
        assert result.nats_per_byte == pytest.approx(result.bits_per_byte * math.log(2))
        targets = [token for _, batch in data.val_batches() for token in batch[batch >= 0].tolist()]
        text = manifest.tokenizer.decode(targets)
        assert result.bytes == len(text.encode()) == manifest.val_bytes == data.val_bytes()
        assert manifest.tokenizer.bos_id not in targets
        results[kind] = (text, result)
    (text, by_bytes), (other, by_pairs) = results["bytes"], results["bpe"]
    # The same held-out documents, but for the end, which is cut to whole sequences.
    assert text.startswith(other) or other.startswith(text)
    assert abs(by_bytes.bytes - by_pairs.bytes) < 16 * 10
    assert by_bytes.tokens == by_bytes.bytes > 2 * by_pairs.tokens


def test_the_result_does_not_depend_on_the_batch_and_leaves_the_mode_alone(small_model: GPT, prepared: Path) -> None:
    data = TrainData(prepared)
    small_model.train()
    one, many = evaluate(small_model, data, 5, 1), evaluate(small_model, data, 5, 3)
    assert one.bits_per_byte == pytest.approx(many.bits_per_byte, rel=1e-5)
    assert one.bytes == many.bytes == data.val_bytes(5)
    assert small_model.training
    assert all(parameter.grad is None for parameter in small_model.parameters())


def test_progress_ends_with_every_sequence_done(small_model: GPT, prepared: Path) -> None:
    data = TrainData(prepared)
    told: list[tuple[int, int]] = []
    evaluate(small_model, data, 5, 2, progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 5), (4, 5), (5, 5)]
    told.clear()
    evaluate(small_model, data, 10**6, 10**6, progress=lambda done, total: told.append((done, total)))
    assert told == [(data.val_sequences, data.val_sequences)]


@pytest.fixture
def a_run(monkeypatch: pytest.MonkeyPatch, small_model: GPT, prepared: Path) -> list[int]:
    """A run whose newest version is the small model; the list has how many sequences each forward pass took."""
    sizes: list[int] = []
    small_model.register_forward_pre_hook(lambda _, args: sizes.append(args[0].size(0)))
    version = SimpleNamespace(version=3, tokens_total=1000)
    monkeypatch.setattr(versions, "held_model", lambda *_: (small_model, prepared, version))
    return sizes


def a_config(eval_sequences: int) -> Any:
    return SimpleNamespace(run=SimpleNamespace(seed=0), data=SimpleNamespace(eval_sequences=eval_sequences))


def test_a_version_is_evaluated_on_the_text_that_its_run_was_evaluated_on(
    a_run: list[int], small_model: GPT, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = TrainData(prepared), RunDir(prepared)
    result, _ = versions.evaluated(a_config(3), run, None, None)
    assert sum(a_run) == 3
    assert result == evaluate(small_model, data, 3)
    a_run.clear()
    result, _ = versions.evaluated(a_config(3), run, None, 10**6)
    assert sum(a_run) == data.val_sequences
    assert result.bytes == data.val_bytes()
    for tokens, sequences in ((2 * 64 + 63, 2), (63, 1)):
        monkeypatch.setattr(versions, "_BATCH_TOKENS", tokens)
        a_run.clear()
        versions.evaluated(a_config(4), run, None, None)
        assert a_run == [sequences] * (4 // sequences)


@pytest.mark.parametrize("terminal", [True, False])
def test_the_verb_shows_how_far_it_is_on_a_terminal_and_keeps_its_output_clean(
    terminal: bool, a_run: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = SimpleNamespace(config=None)
    monkeypatch.setattr(verb, "RunDir", lambda _: SimpleNamespace(open_existing=lambda: run))
    monkeypatch.setattr(verb, "load", lambda _: a_config(4))
    monkeypatch.setattr(verb, "text_from", lambda *_, **__: ("text", None))
    monkeypatch.setattr(versions, "_BATCH_TOKENS", 64)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    verb.evaluate(Path("run"), None, None, "def ", True)
    out, err = capsys.readouterr()
    assert json.loads(out)["version"] == 3
    if terminal:
        shown = [each.strip() for each in err.split("\r")]
        assert shown == ["", *(f"evaluating: {n:3}% of 4 held-out sequences" for n in (25, 50, 75, 100)), "", ""]
    else:
        assert err == ""


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
