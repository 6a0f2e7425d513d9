"""The model: its size, its determinism, and what a token can see."""

from __future__ import annotations

import math

import pytest
import torch

from windfall.errors import ConfigError
from windfall.train.model import GPT, GPTConfig, build_model, empty_model, flops_per_token, parameter_count
from windfall.train.precision import autocast, default_precision

D20 = GPTConfig(depth=20, width=1280, head_dim=128, vocab_size=65_536, sequence_length=2048)


def test_d20_has_the_papers_parameters_and_flops() -> None:
    assert parameter_count(D20) == 560_988_200
    assert flops_per_token(D20) == pytest.approx(3.492e9, rel=1e-4)


def test_width_and_heads_follow_from_depth_where_they_are_left_out() -> None:
    assert GPTConfig(depth=20, width=None, vocab_size=65_536, sequence_length=2048) == D20
    assert (D20.heads, D20.head_dim) == (10, 128)
    demo = GPTConfig()
    assert (demo.depth, demo.width, demo.heads, demo.head_dim) == (4, 128, 4, 32)
    assert demo.padded_vocab_size == 320


@pytest.mark.parametrize("wrong", [{"depth": 0}, {"width": 100, "head_dim": 32}, {"heads": 3}, {"head_dim": 1}, {"vocab_size": -1}])
def test_a_config_that_does_not_fit_together_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="model: "):
        GPTConfig(**wrong)


def test_equal_seeds_give_equal_weights_and_other_seeds_others(small_model: GPT) -> None:
    again, other = build_model(small_model.config, seed=1), build_model(small_model.config, seed=2)
    mine = small_model.state_dict()
    assert all(torch.equal(mine[name], tensor) for name, tensor in again.state_dict().items())
    assert not torch.equal(mine["embedding.weight"], other.state_dict()["embedding.weight"])


def test_an_untrained_model_is_nearly_as_surprised_as_a_uniform_guess(small_model: GPT) -> None:
    tokens = torch.randint(257, (2, 64), generator=torch.Generator().manual_seed(0))
    assert small_model(tokens, tokens).item() == pytest.approx(math.log(257), abs=0.05)


def test_a_token_cannot_see_what_comes_after_it(small_model: GPT) -> None:
    _randomise(small_model)
    tokens = torch.randint(257, (1, 32), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 20] = (changed[0, 20] + 1) % 257
    before, after = small_model(tokens), small_model(changed)
    assert before.shape == (1, 32, 257)
    torch.testing.assert_close(before[:, :20], after[:, :20], rtol=0, atol=1e-5)
    assert not torch.allclose(before[:, 20:], after[:, 20:])


def test_attention_sees_distance_and_not_position() -> None:
    model = build_model(GPTConfig(depth=1, width=64, head_dim=32, sequence_length=64), seed=3)
    _randomise(model)
    # With the same tokens before it, a token's logits depend on what it sees: one token, repeated, everywhere alike.
    alike = model(torch.full((1, 16), 65))
    torch.testing.assert_close(alike[0, 1], alike[0, 15], rtol=1e-4, atol=1e-4)
    # But order matters: the same two tokens at other distances give other logits.
    near, far = model(torch.tensor([[1, 1, 1, 2, 3]])), model(torch.tensor([[2, 1, 1, 1, 3]]))
    assert not torch.allclose(near[0, -1], far[0, -1], atol=1e-4)


def test_ignored_targets_add_nothing_to_the_loss(small_model: GPT) -> None:
    tokens = torch.randint(257, (1, 16), generator=torch.Generator().manual_seed(0))
    targets = tokens.clone()
    targets[0, 8:] = -1
    first_half = small_model(tokens[:, :8], tokens[:, :8], reduction="sum")
    torch.testing.assert_close(small_model(tokens, targets, reduction="sum"), first_half)
    torch.testing.assert_close(small_model(tokens, targets), first_half / 8)


def test_logits_stay_under_the_softcap(small_model: GPT) -> None:
    with torch.no_grad():
        small_model.head.weight.fill_(1000.0)
    assert small_model(torch.zeros(1, 4, dtype=torch.long)).abs().max().item() <= 15.0


def test_a_state_dict_loaded_into_an_empty_model_gives_the_same_logits(small_model: GPT) -> None:
    copy = empty_model(small_model.config)
    copy.load_state_dict(small_model.state_dict())
    tokens = torch.arange(10).unsqueeze(0)
    assert torch.equal(copy(tokens), small_model(tokens))
    assert set(small_model.state_dict()) == {name for name, _ in small_model.named_parameters()}


def test_bf16_gives_nearly_the_same_loss_and_keeps_float32_logits(small_model: GPT) -> None:
    _randomise(small_model)
    tokens = torch.arange(32).view(2, 16)
    with autocast("cpu", "bf16"):
        logits = small_model(tokens)
        loss = small_model(tokens, tokens)
    assert logits.dtype == torch.float32
    assert loss.item() == pytest.approx(small_model(tokens, tokens).item(), rel=0.02)
    assert (default_precision("cpu"), default_precision("cuda")) == ("fp32", "bf16")


def _randomise(model: GPT) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight"):
                parameter.normal_(0.0, 0.1, generator=generator)
        model.x0_scalars.fill_(0.3)
