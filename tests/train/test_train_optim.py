"""The inner optimizer: its arithmetic against independent references, and its state's round trip."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from patience import PATIENCE_S
from windfall.errors import ConfigError, DataError
from windfall.train.model import GPT, GPTConfig, build_model
from windfall.train.muon import NorMuonGroup, PlainMuonGroup, polar_express
from windfall.train.optim import AdamWGroup, InnerOptimizer, Kind, OptimConfig
from windfall.train.ranks import Alone
from windfall.train.schedule import ScheduleValues

KINDS: tuple[Kind, ...] = ("normuon", "muon_plain", "adamw")
SMALL = OptimConfig(batch_tokens=128)


def _train(model: GPT, optimizer: InnerOptimizer, steps: int, seed: int = 0) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        tokens = torch.randint(97, 105, (4, 33), generator=generator).cumsum(1) % 40 + 60
        loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        optimizer.step(ScheduleValues())
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def _kind(kind: Kind) -> OptimConfig:
    return OptimConfig(kind=kind, batch_tokens=128)


def test_adamw_agrees_with_a_float64_reference() -> None:
    draw = np.random.default_rng(0)
    start, gradients = draw.normal(size=(5, 3)), draw.normal(size=(20, 5, 3))
    parameter = nn.Parameter(torch.tensor(start, dtype=torch.float32))
    group = AdamWGroup("x", {"x": parameter}, lr=0.03, betas=(0.8, 0.95), epsilon=1e-10, weight_decay=0.1)

    w, m, v = start.copy(), np.zeros((5, 3)), np.zeros((5, 3))
    for step, gradient in enumerate(gradients, start=1):
        lr, decay = 0.03 * 0.5, 0.1 * 0.25
        parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        group.step(ScheduleValues(lr_multiplier=0.5, weight_decay_multiplier=0.25))
        w -= lr * decay * w
        m = 0.8 * m + 0.2 * gradient
        v = 0.95 * v + 0.05 * gradient**2
        w -= lr * (m / (1 - 0.8**step)) / (np.sqrt(v / (1 - 0.95**step)) + 1e-10)
    np.testing.assert_allclose(parameter.detach().numpy(), w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 48, 48), (2, 96, 24), (24, 96)])
def test_polar_express_brings_singular_values_near_one_and_keeps_directions(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = polar_express(matrices)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    values = torch.linalg.svdvals(result)
    assert float(values.min()) > 0.7
    assert float(values.max()) < 1.3
    cosine = torch.nn.functional.cosine_similarity(result.flatten(), (u @ vh).flatten(), dim=0)
    assert float(cosine) > 0.98
    assert torch.equal(polar_express(torch.zeros(4, 4)), torch.zeros(4, 4))


#: nanochat's table, written out once more: five odd quintics, made with a safety factor of 2e-2 and a cushion of 2e-2.
QUINTICS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
#: float64 arrays
Array = np.ndarray


def _polar(matrix: Array) -> Array:
    """The same quintics on the singular values, so that no product of matrices is shared with what is tested."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    s = s / (np.linalg.norm(matrix) * 1.02 + 1e-6)
    for a, b, c in QUINTICS:
        s = a * s + b * s**3 + c * s**5
    return np.asarray((u * s) @ vt)


@pytest.mark.parametrize("shape", [(12, 6), (6, 12), (8, 8)])
def test_polar_express_agrees_with_its_quintics_on_singular_values_in_float64(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(2).normal(size=shape)
    np.testing.assert_allclose(polar_express(torch.tensor(matrix)).numpy(), _polar(matrix), atol=1e-10)
    np.testing.assert_allclose(polar_express(torch.tensor(matrix, dtype=torch.float32)).numpy(), _polar(matrix), atol=1e-5)


@pytest.mark.parametrize("shape", [(12, 6), (6, 12), (8, 8)])
def test_normuon_agrees_with_a_float64_reference(shape: tuple[int, int]) -> None:
    rows, cols = shape
    draw = np.random.default_rng(1)
    start, gradients = draw.normal(size=shape), draw.normal(size=(6, *shape))
    parameter = nn.Parameter(torch.tensor(start, dtype=torch.float32))
    group = NorMuonGroup({"x": parameter}, lr=0.02, weight_decay=0.3, beta2=0.95)

    # One second moment for each row, or in a wide matrix for each column.
    axis = 1 if rows >= cols else 0
    w, momentum, second = start.copy(), np.zeros(shape), np.zeros((rows, 1) if rows >= cols else (1, cols))
    for i, gradient in enumerate(gradients):
        values = ScheduleValues(lr_multiplier=1.0 - 0.1 * i, momentum=0.85 + 0.01 * i, weight_decay_multiplier=0.5 + 0.1 * i)
        parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        group.step(values)
        momentum = values.momentum * momentum + (1 - values.momentum) * gradient
        update = _polar((1 - values.momentum) * gradient + values.momentum * momentum)
        second = 0.95 * second + 0.05 * (update**2).mean(axis=axis, keepdims=True)
        scaled = update / np.sqrt(second)
        scaled *= np.linalg.norm(update) / np.linalg.norm(scaled)
        lr = 0.02 * values.lr_multiplier * np.sqrt(max(1.0, rows / cols))
        w = w - lr * scaled - lr * 0.3 * values.weight_decay_multiplier * w * (scaled * w >= 0)
    # Six steps of float32: rounding alone. A wrong axis, factor or table is a hundred times as far off.
    np.testing.assert_allclose(parameter.detach().numpy(), w, rtol=0, atol=3e-6)


def test_a_weight_that_the_update_leaves_alone_decays() -> None:
    parameter = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    parameter.grad = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    NorMuonGroup({"x": parameter}, lr=0.1, weight_decay=0.5, beta2=0.95).step(ScheduleValues())
    torch.testing.assert_close(parameter.detach()[1], torch.tensor([3.0, 4.0]) * (1 - 0.05))


class _OneOf(Alone):
    """A rank that hears from nobody else."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@pytest.mark.parametrize("kind", ["normuon", "muon_plain"])
def test_each_rank_has_its_share_of_the_matrices_and_no_other(kind: Kind, small_model: GPT) -> None:
    def matrices(rank: int, size: int) -> int:
        rules = InnerOptimizer(small_model, _kind(kind), _OneOf(rank, size)).rules
        return sum(rule.momentum.size(0) for rule in rules if isinstance(rule, NorMuonGroup | PlainMuonGroup))

    whole = matrices(0, 1)
    shares = [matrices(rank, 3) for rank in range(3)]
    assert sum(shares) == whole == 6 * small_model.config.depth
    assert max(shares) < whole


class _Together(Alone):
    """One of several ranks that are threads of this process."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, shares: list[torch.Tensor]) -> None:
        self.rank, self.size = rank, size
        self._barrier, self._shares = barrier, shares

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        self._shares[self.rank] = own.clone()
        self._barrier.wait(PATIENCE_S)
        whole = torch.cat(self._shares)
        self._barrier.wait(PATIENCE_S)
        return whole


@pytest.mark.parametrize("kind", ["normuon", "muon_plain"])
def test_ranks_update_together_what_one_would_and_each_is_told_the_whole_state(kind: Kind) -> None:
    # Of three ranks the last has one of the five square matrices, and only the first has a tall and a wide one.
    shapes = {**{f"square{i}": (6, 6) for i in range(5)}, "tall": (12, 6), "wide": (6, 12)}
    draw = torch.Generator().manual_seed(0)
    starts = {n: torch.randn(shape, generator=draw) for n, shape in shapes.items()}
    gradients = [{n: torch.randn(shape, generator=draw) for n, shape in shapes.items()} for _ in range(4)]

    def trained(ranks: Alone) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Weights and state after two steps, a state taken back into new groups, and two more."""
        weights = {n: nn.Parameter(start.clone()) for n, start in starts.items()}
        kept: dict[str, torch.Tensor] = {}
        for part in (gradients[:2], gradients[2:]):
            groups = [_group(kind, {n: p for n, p in weights.items() if p.shape == shape}, ranks) for shape in set(shapes.values())]
            for group in groups:
                if kept:
                    group.load(kept)
            for gradient in part:
                for n, p in weights.items():
                    p.grad = gradient[n].clone()
                for group in groups:
                    group.step(ScheduleValues())
            kept = {name: tensor.clone() for group in groups for name, tensor in group.state().items()}
        return {n: p.detach() for n, p in weights.items()}, kept

    weights, state = trained(Alone())
    barrier, shares = threading.Barrier(3), [torch.empty(0)] * 3
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda rank: trained(_Together(rank, 3, barrier, shares)), range(3)))
    for others_weights, others_state in found:
        torch.testing.assert_close(others_weights, weights)
        torch.testing.assert_close(others_state, state)


def _group(kind: Kind, named: dict[str, nn.Parameter], ranks: Alone) -> NorMuonGroup | PlainMuonGroup:
    if kind == "normuon":
        return NorMuonGroup(named, 0.02, 0.3, 0.95, ranks)
    return PlainMuonGroup(named, 0.02, 0.3, ranks)


def test_the_factor_of_a_tall_matrix_is_in_its_decay_too() -> None:
    def moved(decay: float) -> torch.Tensor:
        parameter = nn.Parameter(torch.ones(8, 2))
        parameter.grad = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
        NorMuonGroup({"x": parameter}, lr=0.1, weight_decay=decay, beta2=0.95).step(ScheduleValues())
        return parameter.detach()

    plain, decayed = moved(0.0), moved(0.5)
    shrinking = plain <= 1
    assert bool(shrinking.any())
    assert not bool(shrinking.all())
    torch.testing.assert_close(plain - decayed, 2.0 * 0.1 * 0.5 * shrinking)  # sqrt(8 / 2)


def test_weights_decay_only_where_the_update_shrinks_them_anyway() -> None:
    def moved(decay: float) -> torch.Tensor:
        parameter = nn.Parameter(torch.tensor([[2.0, -2.0], [2.0, 2.0]]))
        parameter.grad = torch.tensor([[1.0, 0.2], [0.3, -1.0]])
        NorMuonGroup({"x": parameter}, lr=0.1, weight_decay=decay, beta2=0.95).step(ScheduleValues())
        return parameter.detach()

    plain, decayed = moved(0.0), moved(0.5)
    start = torch.tensor([[2.0, -2.0], [2.0, 2.0]])
    shrinking = (start - plain) * start > 0
    assert bool(shrinking.any())
    assert not bool(shrinking.all())
    torch.testing.assert_close(plain - decayed, 0.05 * start * shrinking)


def test_a_stack_of_matrices_is_updated_as_each_would_be_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(8, 4, generator=generator) for _ in range(3)]
    gradients = [torch.randn(8, 4, generator=generator) for _ in range(3)]
    together = {str(i): nn.Parameter(start.clone()) for i, start in enumerate(starts)}
    for parameter, gradient in zip(together.values(), gradients, strict=True):
        parameter.grad = gradient
    NorMuonGroup(together, 0.02, 0.1, 0.95).step(ScheduleValues())
    for start, gradient, stacked in zip(starts, gradients, together.values(), strict=True):
        alone = nn.Parameter(start.clone())
        alone.grad = gradient
        NorMuonGroup({"x": alone}, 0.02, 0.1, 0.95).step(ScheduleValues())
        torch.testing.assert_close(alone, stacked)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_a_pattern(kind: Kind, small_model: GPT) -> None:
    losses = _train(small_model, InnerOptimizer(small_model, OptimConfig(kind=kind, batch_scaling=False)), 30)
    assert losses[-1] < 0.75 * losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_stored_and_loaded_goes_on_bit_by_bit(kind: Kind, small_model: GPT) -> None:
    optimizer = InnerOptimizer(small_model, _kind(kind))
    _train(small_model, optimizer, 3)
    stored = safetensors.torch.load(safetensors.torch.save(optimizer.state_tensors()))
    weights = {name: tensor.clone() for name, tensor in small_model.state_dict().items()}
    expected = _train(small_model, optimizer, 3, seed=9)

    other = build_model(small_model.config, seed=99)
    other.load_state_dict(weights)
    resumed = InnerOptimizer(other, _kind(kind))
    resumed.load_state_tensors(stored)
    assert _train(other, resumed, 3, seed=9) == expected
    for name, tensor in small_model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    ours = optimizer.state_tensors()
    assert all(torch.equal(ours[name], tensor) for name, tensor in resumed.state_tensors().items())
    assert {tensor.dtype for tensor in ours.values()} == {torch.float32}


def test_a_stored_state_is_a_copy_that_later_steps_leave_alone(small_model: GPT) -> None:
    optimizer = InnerOptimizer(small_model, SMALL)
    _train(small_model, optimizer, 1)
    stored = optimizer.state_tensors()
    before = {name: tensor.clone() for name, tensor in stored.items()}
    _train(small_model, optimizer, 1)
    assert all(torch.equal(before[name], tensor) for name, tensor in stored.items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_reset_optimizer_is_a_new_one(kind: Kind, small_model: GPT) -> None:
    optimizer = InnerOptimizer(small_model, _kind(kind))
    fresh = optimizer.state_tensors()
    _train(small_model, optimizer, 2)
    optimizer.reset()
    assert all(torch.equal(fresh[name], tensor) for name, tensor in optimizer.state_tensors().items())


def test_a_state_of_another_model_or_kind_is_refused_and_changes_nothing(small_model: GPT) -> None:
    optimizer = InnerOptimizer(small_model, SMALL)
    _train(small_model, optimizer, 1)
    before = optimizer.state_tensors()
    larger = build_model(GPTConfig(depth=2, width=128, sequence_length=64), seed=0)
    deeper = build_model(GPTConfig(depth=3, width=64, sequence_length=64), seed=0)
    with pytest.raises(DataError, match=r"has shape .* expected"):
        optimizer.load_state_tensors(InnerOptimizer(larger, SMALL).state_tensors())
    with pytest.raises(DataError, match="unknown"):
        optimizer.load_state_tensors(InnerOptimizer(deeper, SMALL).state_tensors())
    with pytest.raises(DataError, match="lacks"):
        optimizer.load_state_tensors(InnerOptimizer(small_model, _kind("adamw")).state_tensors())
    assert all(torch.equal(before[name], tensor) for name, tensor in optimizer.state_tensors().items())


def test_a_learning_rate_of_zero_leaves_the_weights_alone(small_model: GPT) -> None:
    weights = {name: tensor.clone() for name, tensor in small_model.state_dict().items()}
    optimizer = InnerOptimizer(small_model, SMALL)
    tokens = torch.zeros(1, 8, dtype=torch.long)
    small_model(tokens, tokens).backward()
    optimizer.step(ScheduleValues(lr_multiplier=0.0))
    assert all(torch.equal(weights[name], tensor) for name, tensor in small_model.state_dict().items())
    optimizer.zero_grad()
    with pytest.raises(RuntimeError, match="no gradient"):
        optimizer.step(ScheduleValues())


def test_rates_follow_width_depth_and_batch_as_the_recipe_says() -> None:
    model = build_model(GPTConfig(depth=3, width=192, head_dim=32, sequence_length=16), seed=0)
    rules = InnerOptimizer(model, OptimConfig(batch_tokens=2**17)).rules
    embedding, head, residual, x0, matrices = (rules[i] for i in (0, 1, 2, 3, -1))
    assert isinstance(embedding, AdamWGroup)
    assert isinstance(head, AdamWGroup)
    assert isinstance(matrices, NorMuonGroup)
    assert embedding.lr == pytest.approx(0.3 * 2 * 0.5)
    assert head.lr == pytest.approx(0.004 * 2 * 0.5)
    assert isinstance(residual, AdamWGroup)
    assert isinstance(x0, AdamWGroup)
    assert (residual.lr, x0.lr) == (pytest.approx(0.005 * 0.5), pytest.approx(0.5 * 0.5))  # by the width they are not scaled
    assert matrices.lr == pytest.approx(0.02 * 0.5)
    assert matrices.weight_decay == pytest.approx(0.2 * 16)


def test_the_demos_rates_leave_the_batch_out_and_can_be_overridden() -> None:
    model = build_model(GPTConfig(), seed=0)
    for batch_tokens in (2048, 4096):
        matrices = InnerOptimizer(model, OptimConfig.demo(batch_tokens, lr_scale=0.5)).rules[-1]
        assert isinstance(matrices, NorMuonGroup)
        assert matrices.lr == pytest.approx(0.03)
    assert OptimConfig.demo(2048, matrix_lr=0.01).matrix_lr == 0.01


@pytest.mark.parametrize("wrong", [{"kind": "sgd"}, {"matrix_lr": -1.0}, {"batch_tokens": 0}, {"beta1": 1.0}])
def test_a_config_out_of_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        OptimConfig(**wrong)  # type: ignore[arg-type]
