"""The model: its size, its determinism, and what a token can see."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch

from windfall.errors import ConfigError
from windfall.train.compiled import compiled
from windfall.train.model import (
    GPT,
    LOSS_CHUNKS,
    GPTConfig,
    Reduction,
    build_model,
    empty_model,
    flops_per_token,
    parameter_count,
    rotary_tables,
)
from windfall.train.precision import autocast, precision_on
from windfall.train.trainer import load_weights

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


@pytest.mark.parametrize(
    "wrong",
    [
        {"depth": 0}, {"width": 100, "head_dim": 32}, {"heads": 3}, {"head_dim": 1}, {"vocab_size": -1},
        {"attention_scale": 0.0}, {"attention_scale": math.nan}, {"window_pattern": ""}, {"window_pattern": "SLX"},
    ],
)  # fmt: skip
def test_a_config_that_does_not_fit_together_is_refused(wrong: dict[str, Any]) -> None:
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
    assert (precision_on("cpu"), precision_on("cuda"), precision_on("cuda:1", "auto")) == ("fp32", "bf16", "bf16")
    assert (precision_on("cpu", "bf16"), precision_on("cuda", "fp32")) == ("bf16", "fp32")


def test_the_rotary_tables_are_torchs_own_in_float32_rounded_to_bfloat16() -> None:
    cos, sin = rotary_tables(2048, 128)
    angle = torch.outer(torch.arange(2048.0), 1.0 / 10_000 ** (torch.arange(0, 128, 2).float() / 128))
    # A processor's float32 cosine may be a unit off in the last place, which may turn a rounding.
    assert (cos != angle.cos().bfloat16().float()).sum() + (sin != angle.sin().bfloat16().float()).sum() <= 4
    assert torch.equal(cos, cos.bfloat16().float())
    assert not torch.equal(cos[1:], angle.cos()[1:])


def test_every_tensor_begins_as_the_recipe_says() -> None:
    model = build_model(GPTConfig(depth=2, width=256, head_dim=128, vocab_size=1000), seed=3)
    bound = math.sqrt(3 / 256)
    for name, p in model.named_parameters():
        if name in ("embedding.weight", "head.weight"):
            assert p.std().item() == pytest.approx(1.0 if name.startswith("emb") else 0.001, rel=0.02)
        elif name == "residual_scalars":
            assert torch.equal(p, torch.ones(2))
        elif name == "x0_scalars" or "output" in name or "down" in name:
            assert not p.any()
        else:
            assert p.std().item() == pytest.approx(256**-0.5, rel=0.02)
            assert 0.99 * bound < p.abs().max().item() <= bound


def test_heads_of_128_have_the_usual_scale_and_small_heads_a_sharper_one() -> None:
    assert D20.attention_scale == pytest.approx(128**-0.5)
    assert GPTConfig(head_dim=32).attention_scale == pytest.approx(4 * 128**-0.5)
    assert GPTConfig(head_dim=32, attention_scale=0.25).attention_scale == 0.25


def test_windows_follow_the_pattern_and_the_last_layer_sees_everything() -> None:
    assert GPTConfig(depth=6, sequence_length=64, window_pattern="SSL").windows == (32, 32, 64, 32, 32, 64)
    assert GPTConfig(depth=2, sequence_length=64, window_pattern="S").windows == (32, 64)
    model = build_model(GPTConfig(depth=2, width=64, head_dim=32, sequence_length=32, window_pattern="S"), seed=1)
    _randomise(model)
    tokens = torch.randint(257, (1, 32), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 0] = (changed[0, 0] + 1) % 257
    seen: list[torch.Tensor] = []
    model.blocks[0].register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    model(tokens), model(changed)
    # The first layer sees the token itself and 16 before it: the change at 0 reaches 16, and not 17.
    assert not torch.equal(seen[0][0, 16], seen[1][0, 16])
    torch.testing.assert_close(seen[0][0, 17:], seen[1][0, 17:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_checkpointing_activations_changes_neither_loss_nor_gradients(small_model: GPT, reduction: Reduction) -> None:
    _randomise(small_model)
    tokens = torch.randint(257, (3, 40), generator=torch.Generator().manual_seed(0))
    targets = tokens.roll(-1, 1)
    targets[1, 5:] = -1
    losses, gradients = [], []
    for small_model.checkpoint_activations in (False, True):
        small_model.zero_grad()
        loss = small_model(tokens, targets, reduction)
        loss.backward()
        losses.append(loss.detach())
        gradients.append([p.grad.clone() for p in small_model.parameters() if p.grad is not None])
    torch.testing.assert_close(losses[0], losses[1])
    assert len(gradients[0]) == len(list(small_model.parameters()))
    torch.testing.assert_close(gradients[0], gradients[1])
    assert torch.isnan(small_model(tokens, torch.full_like(tokens, -1)))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(3, 41), (1, 5), (2, 64)])  # pieces of unequal size, fewer tokens than pieces, and equal pieces
def test_the_loss_without_gradients_is_the_loss_with_them(small_model: GPT, reduction: Reduction, shape: tuple[int, int]) -> None:
    _randomise(small_model)
    tokens = torch.randint(257, shape, generator=torch.Generator().manual_seed(0))
    targets = tokens.roll(-1, 1)
    targets[0, 1:4] = -1
    for small_model.checkpoint_activations in (False, True):
        with torch.no_grad():
            in_pieces = small_model(tokens, targets, reduction)
        torch.testing.assert_close(in_pieces, small_model(tokens, targets, reduction).detach(), rtol=2e-6, atol=0)
    with torch.no_grad():
        nothing = torch.full_like(tokens, -1)
        assert torch.isnan(small_model(tokens, nothing))
        assert small_model(tokens, nothing, "sum") == 0


def test_without_gradients_only_one_pieces_logits_exist_at_a_time(small_model: GPT) -> None:
    rows: list[int] = []
    small_model.head.register_forward_hook(lambda _, __, out: rows.append(out.numel() // out.size(-1)))
    tokens = torch.zeros(4, 64, dtype=torch.long)
    with torch.no_grad():
        small_model(tokens, tokens)
    assert rows == [4 * 64 // LOSS_CHUNKS] * LOSS_CHUNKS
    rows.clear()
    small_model(tokens, tokens)
    assert rows == [4 * 64]


def test_in_bf16_the_stream_is_bf16_and_parameters_and_gradients_float32(small_model: GPT) -> None:
    tokens = torch.arange(32).view(2, 16)
    with autocast("cpu", "bf16"):
        assert small_model.hidden(tokens).dtype == torch.bfloat16
        small_model(tokens, tokens).backward()
    assert {p.grad.dtype for p in small_model.parameters() if p.grad is not None} == {torch.float32}


def test_a_compiled_model_is_compiled_once_whatever_happens_in_a_trainers_life(small_model: GPT) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    # The compiler of kernels (inductor) takes about a minute on two cores, so only what decides about compiling runs here.
    counter = CompileCounterWithBackend("eager")
    _randomise(small_model)
    loss_of = compiled(small_model, counter)
    tokens = torch.randint(257, (2, 64), generator=torch.Generator().manual_seed(0))
    weights = {name: p.detach().clone() for name, p in small_model.named_parameters()}
    optimizer = torch.optim.SGD(small_model.parameters(), lr=0.01)
    with torch.no_grad():  # evaluated before it ever trains
        loss_of(tokens, tokens)
    assert counter.frame_count == 0
    for _ in range(3):
        optimizer.zero_grad()
        loss = loss_of(tokens, tokens, reduction="sum")
        torch.testing.assert_close(loss, small_model(tokens, tokens, reduction="sum"))
        loss.backward()
        optimizer.step()
        small_model.eval()
        with torch.no_grad():
            loss_of(tokens[:1, :30], tokens[:1, :30])  # an evaluation's batch
        small_model.train()
    loss_of(tokens[:1], tokens[:1], reduction="sum").backward()  # a last, short batch
    with autocast("cpu", "bf16"):
        loss_of(tokens, tokens, reduction="sum").backward()
    load_weights(small_model, {name: w.numpy() for name, w in weights.items()})  # a correction, another version
    torch.testing.assert_close(loss_of(tokens, tokens, "sum"), small_model(tokens, tokens, "sum"))
    assert counter.frame_count == 1
    assert set(small_model.state_dict()) == set(weights)


def _randomise(model: GPT) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight"):
                parameter.normal_(0.0, 0.1, generator=generator)
        model.x0_scalars.fill_(0.3)


@pytest.mark.slow
def test_a_trainer_begins_to_train_without_importing_torchs_compiler() -> None:
    """With its algebra (sympy) that is half of what the start of a trainer costs: torch needs it wherever shapes have no values."""
    code = """
import sys, torch
from windfall.train.model import GPTConfig, build_model
from windfall.train.optim import InnerOptimizer, OptimConfig
from windfall.train.schedule import schedule
model = build_model(GPTConfig(depth=1, width=32, sequence_length=32), seed=1)
optimizer = InnerOptimizer(model, OptimConfig())
optimizer.reset()
tokens = torch.zeros((2, 32), dtype=torch.int64)
model(tokens, tokens.clone()).backward()
optimizer.step(schedule(0.0, 1e6))
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch._dynamo", "sympy"} & set(done.stdout.split())
