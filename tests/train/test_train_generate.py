"""Text generation with keys and values kept: the same text, at the price of one token a token."""

from __future__ import annotations

import pytest
import torch

from windfall.errors import ConfigError
from windfall.train.generate import generate
from windfall.train.model import GPT, GPTConfig, KeyValueCache, build_model
from windfall.train.tokenizer import ByteTokenizer


class Data:
    """What generation needs of a manifest."""

    tokenizer = ByteTokenizer()


def lively(config: GPTConfig) -> GPT:
    """A model that is sure of nothing and never ends a document."""
    model, draw = build_model(config, seed=1), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("weight"):
                p.normal_(0.0, 0.1, generator=draw)
        model.x0_scalars.fill_(0.3)
        model.head.weight[256] = 0.0
        model.head.weight[:256] *= 4.0
    return model


@pytest.mark.parametrize("pattern", ["L", "SL"])
@pytest.mark.parametrize(("temperature", "top_k"), [(0.0, None), (0.8, 50), (1.5, None)])
def test_text_is_the_same_with_and_without_the_cache(temperature: float, top_k: int | None, pattern: str) -> None:
    model = lively(GPTConfig(depth=3, width=64, head_dim=32, sequence_length=64, window_pattern=pattern))

    def text(cached: bool) -> str:
        # 40 tokens of prompt and 100 more: the context overflows twice.
        return generate(model, Data, "wind " * 8, 100, temperature, top_k, seed=3, cached=cached)

    assert len(text(True).encode("utf-8", errors="replace")) >= 100
    assert text(True) == text(False)


def test_seed_temperature_and_top_k_decide_what_is_drawn() -> None:
    model = lively(GPTConfig(depth=2, width=64, head_dim=32, sequence_length=64))
    drawn = [generate(model, Data, "the ", 30, temperature=1.0, top_k=None, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    likeliest = generate(model, Data, "the ", 30, temperature=0.0)
    assert generate(model, Data, "the ", 30, temperature=1.0, top_k=1) == likeliest
    assert generate(model, Data, "the ", 30, temperature=1e-6, top_k=0) == likeliest
    assert drawn[0] != likeliest


def test_a_prompt_longer_than_the_context_is_seen_from_its_end() -> None:
    model = lively(GPTConfig(depth=2, width=64, head_dim=32, sequence_length=32))
    end = "and so the sites are on again."
    assert len(end) < 32
    long = generate(model, Data, "x" * 200 + "\n" * 2 + end, 1, temperature=0.0)
    assert long == generate(model, Data, "y" * 300 + "\n" * 2 + end, 1, temperature=0.0)


def test_a_token_costs_one_tokens_work_until_the_context_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = lively(GPTConfig(depth=2, width=64, head_dim=32, sequence_length=32)), []
    hidden = GPT.hidden

    def counted(self: GPT, tokens: torch.Tensor, cache: KeyValueCache | None = None) -> torch.Tensor:
        seen.append(tokens.size(1))
        return hidden(self, tokens, cache)

    monkeypatch.setattr(GPT, "hidden", counted)
    generate(model, Data, "123456789", 100, temperature=0.0)
    # Ten at once, one by one up to 32; then 16 older ones go, and the 17 that are left are read again.
    assert seen[:24] == [10] + [1] * 22 + [17]
    assert sum(seen) < 2 * 110


def test_logits_by_parts_equal_logits_at_once() -> None:
    model = lively(GPTConfig(depth=3, width=64, head_dim=32, sequence_length=64, window_pattern="SSL"))
    tokens = torch.randint(257, (2, 64), generator=torch.Generator().manual_seed(0))
    cache = KeyValueCache(model.config)
    with torch.no_grad():
        parts = [model.project(model.hidden(tokens[:, a:b], cache)) for a, b in ((0, 40), (40, 41), (41, 64))]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens), rtol=1e-4, atol=1e-4)
        with pytest.raises(ValueError, match="65 tokens in a model of sequence_length 64"):
            model.hidden(tokens[:, :1], cache)


def test_generation_leaves_the_model_in_the_mode_it_had_and_refuses_bad_numbers(small_model: GPT) -> None:
    small_model.train()
    assert isinstance(generate(small_model, Data, "x", 3, precision="bf16"), str)
    assert small_model.training
    with pytest.raises(ConfigError, match="give numbers from 0 on"):
        generate(small_model, Data, "x", 3, top_k=-1)
    with pytest.raises(ConfigError, match="temperature nan"):
        generate(small_model, Data, "x", 3, temperature=float("nan"))
    with pytest.raises(ConfigError, match="seed 99999999999999999999"):
        generate(small_model, Data, "x", 3, seed=99999999999999999999)
    other = build_model(GPTConfig(depth=1, width=64, head_dim=32, vocab_size=300), seed=1)
    with pytest.raises(ConfigError, match="300 tokens"):
        generate(other, Data, "x", 3)
