"""How large a model is, before anything is allocated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from windfall.cli.model import model as print_model
from windfall.errors import ConfigError
from windfall.train import sizes
from windfall.train.model import GPTConfig, build_model, empty_model, flops_per_token, parameter_count
from windfall.train.muon import NorMuonGroup, PlainMuonGroup
from windfall.train.optim import AdamWGroup, InnerOptimizer, Kind, OptimConfig
from windfall.train.precision import Precision, autocast
from windfall.train.ranks import Alone, Group, padded
from windfall.train.sizes import largest_micro_batch, memory_bytes, require_memory

SMALL = GPTConfig(depth=4, width=256, head_dim=128, vocab_size=1024, sequence_length=128)


def of_depth(depth: int, **more: int) -> GPTConfig:
    return GPTConfig(depth=depth, width=None, vocab_size=65_536, sequence_length=2048, **more)


@pytest.mark.parametrize(
    ("depth", "parameters", "flops"),
    [(12, 185_597_976, 1_038_090_240), (20, 560_988_200, 3_491_758_080), (26, 1_081_999_412, 6_900_940_800)],
)
def test_each_depth_has_its_exact_parameters_and_flops(depth: int, parameters: int, flops: int) -> None:
    config = of_depth(depth)
    assert parameter_count(config) == parameters
    assert flops_per_token(config) == flops
    assert memory_bytes(config).weights == 4 * parameters


@pytest.mark.parametrize("vocab_size", [65_536, 1000])
def test_parameters_are_counted_as_the_model_has_them(vocab_size: int) -> None:
    config = GPTConfig(depth=3, width=256, head_dim=128, vocab_size=vocab_size, sequence_length=128)
    assert parameter_count(config) == sum(p.numel() for p in empty_model(config, "meta").parameters())


def test_windows_cost_fewer_flops() -> None:
    windowed = GPTConfig(depth=20, width=1280, vocab_size=65_536, sequence_length=2048, window_pattern="SSSL")
    # 15 of 20 layers see half of what the others see.
    assert flops_per_token(of_depth(20)) - flops_per_token(windowed) == 15 * 12 * 1280 * 1024


@pytest.mark.parametrize("kind", ["normuon", "muon_plain", "adamw"])
def test_weights_gradients_and_optimizer_state_are_counted_to_the_byte(kind: str) -> None:
    model = build_model(SMALL, seed=1)
    state = InnerOptimizer(model, OptimConfig(kind=kind)).state_tensors()
    memory = memory_bytes(SMALL, optimizer=kind)
    assert memory.weights == memory.gradients == sum(p.nbytes for p in model.parameters())
    tensors = sum(t.nbytes for t in state.values() if t.numel() > 1)
    assert memory.optimizer == tensors


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_activations_are_what_autograd_keeps(precision: Precision, checkpointed: bool) -> None:
    kept = _kept_for_backward(precision, checkpointed)
    estimate = memory_bytes(SMALL, 4, precision=precision, checkpoint_activations=checkpointed).activations
    tokens = 4 * 128
    # Not kept but there during backward: two gradients of the logits; or one piece's logits or one layer again.
    size = 4 if precision == "fp32" else 2
    passing = max(tokens * 1024 * 4 * 4 // 8, 20 * tokens * 256 * size) if checkpointed else 2 * tokens * 1024 * 4
    if checkpointed and precision == "bf16":
        passing += 2 * (4 * 12 * 256**2 + 1024 * 256)  # what autocast casts lasts for the forward pass alone
    # On a CPU bf16's norms keep float32 copies, which a GPU's do not: hence the wider bound.
    assert kept + passing == pytest.approx(estimate, rel=0.06 if precision == "fp32" else 0.2)


def _kept_for_backward(precision: Precision, checkpointed: bool) -> int:
    model = build_model(SMALL, seed=1, checkpoint_activations=checkpointed)
    lasting = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in lasting:
            kept[storage.data_ptr()] = storage
        return tensor

    tokens = torch.zeros(4, 128, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast("cpu", precision):
        loss = model(tokens, tokens)
    del loss
    return sum(storage.nbytes() for storage in kept.values())


# Of its memory the logits are the most, as they are of a small model with a large vocabulary.
MANY_WORDS = GPTConfig(depth=2, width=128, head_dim=128, vocab_size=8192, sequence_length=128)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_evaluation_takes_no_more_memory_than_training_on_the_same_batch(precision: Precision, checkpointed: bool) -> None:
    model = build_model(MANY_WORDS, seed=1, checkpoint_activations=checkpointed)
    tokens = torch.zeros(4, 128, dtype=torch.long)

    def training() -> None:
        with autocast("cpu", precision):
            loss = model(tokens, tokens, "sum")
        loss.backward()

    def evaluating() -> None:
        with torch.no_grad(), autocast("cpu", precision):
            model(tokens, tokens, "sum")

    training()  # from the second on, gradients are no new memory
    taken = peak(evaluating)
    assert 4 * 128 * 8192 * 4 / 8 < taken < peak(training)
    assert taken < memory_bytes(MANY_WORDS, 4, precision=precision, checkpoint_activations=checkpointed).activations


def peak(work: Callable[[], object]) -> int:
    """Bytes that torch's CPU allocator has handed out at most during `work`, beyond what there was before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    assert profiler.profiler is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


class _First(Alone):
    """The first of several ranks, which says nothing to the others."""

    def __init__(self, size: int) -> None:
        self.size = size


@pytest.mark.parametrize("kind", ["normuon", "muon_plain", "adamw"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
def test_of_several_ranks_the_optimizer_state_of_one_is_counted(kind: Kind, ranks: int) -> None:
    rules = InnerOptimizer(build_model(SMALL, seed=1), OptimConfig(kind=kind), _First(ranks)).rules
    held: list[torch.Tensor] = []
    for rule in rules:
        if isinstance(rule, AdamWGroup):
            held += [*rule.first, *rule.second]
        elif isinstance(rule, NorMuonGroup | PlainMuonGroup):
            held += rule._stacks().values()
    own = sum(t.nbytes for t in held)
    counted = memory_bytes(SMALL, optimizer=kind, ranks=ranks).optimizer
    if 4 % ranks == 0:
        assert counted == own
    elif kind == "adamw":
        assert own <= counted <= own + 4 * 2 * 3 * 4 * 256  # `up` may have three rows fewer than counted, in each of 4 layers
    else:
        assert own <= counted <= own + 4 * 3 * (256 * 256 + 256)  # and there may be three matrices of attention fewer


def test_gradients_on_their_way_between_ranks_are_counted_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group.__new__(Group)  # without the others, of which the collectives below know nothing
    group.size, group._data = 4, None  # type: ignore[assignment]
    monkeypatch.setattr("windfall.train.ranks.dist.all_reduce", lambda *_, **__: None)
    monkeypatch.setattr("windfall.train.ranks.dist.all_gather_single", lambda *_, **__: None)
    gradients = [torch.zeros_like(p) for p in build_model(SMALL, seed=1).parameters()]
    memory = memory_bytes(SMALL, ranks=4)
    assert peak(lambda: group.sum([*gradients, torch.zeros(2)])) == pytest.approx(memory.exchange, rel=1e-4)
    assert memory.exchange == memory.gradients + 8
    # With a large vocabulary, gathering the embedding takes more; what gloo has besides the whole is not seen here.
    own = torch.zeros(8192 // 4, 128)
    assert memory_bytes(MANY_WORDS, ranks=4).exchange == (2 * 4 + 2) * own.nbytes
    assert peak(lambda: group.gather(padded(own, 8192 // 4))) == pytest.approx(4 * own.nbytes, rel=0.01)


def test_ranks_exchange_when_activations_are_gone_so_the_larger_of_both_counts() -> None:
    small, large = memory_bytes(SMALL, 1, ranks=2), memory_bytes(SMALL, 32, ranks=2)
    assert small.total == small.weights + small.gradients + small.optimizer + small.exchange
    assert large.total == large.weights + large.gradients + large.optimizer + large.activations
    assert memory_bytes(SMALL, 1).exchange == 0
    with pytest.raises(ConfigError, match="0 ranks"):
        memory_bytes(SMALL, ranks=0)
    alone = memory_bytes(SMALL, 1, checkpoint_activations=True)
    free = int(alone.total * 1.15)
    require_memory(SMALL, 1, free, checkpoint_activations=True)
    with pytest.raises(ConfigError, match=r"activations \d+ MB or, after them, \d+ MB between ranks, and a tenth"):
        require_memory(SMALL, 64, free, ranks=2)


def test_a_depth_that_does_not_fit_is_refused_with_its_estimate_and_what_would_fit() -> None:
    d20, card = of_depth(20), 80 * 10**9
    assert require_memory(d20, 8, card).total < card
    with pytest.raises(
        ConfigError, match=r"depth 20 .* needs about 159\.2 GB .*weights 2\.2 GB.* has 80\.0 GB; micro-batches of \d+ fit"
    ):
        require_memory(d20, 32, card)
    assert require_memory(d20, 32, card, checkpoint_activations=True).total < card
    with pytest.raises(ConfigError, match=r"with train\.checkpoint_activations micro-batches of 1 fit"):
        require_memory(d20, 1, 10 * 10**9, where="the laptop")
    with pytest.raises(ConfigError, match=r"the laptop has 4\.0 GB; no micro-batch fits: choose a smaller depth"):
        require_memory(d20, 1, 4 * 10**9, where="the laptop")


def test_the_largest_micro_batch_is_the_last_that_fits() -> None:
    best = largest_micro_batch(of_depth(20), 80 * 10**9)
    require_memory(of_depth(20), best, 80 * 10**9)
    with pytest.raises(ConfigError):
        require_memory(of_depth(20), best + 1, 80 * 10**9)
    with pytest.raises(ConfigError, match="a micro-batch of 0"):
        memory_bytes(SMALL, 0)


def test_free_memory_is_known_here_and_bounded_by_a_container(tmp_path: Path) -> None:
    assert (sizes.available_bytes("cpu") or 0) > 10**6
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("300\n")
    assert sizes._group_free(tmp_path) == 700
    (tmp_path / "memory.max").write_text("max\n")
    assert sizes._group_free(tmp_path) is None


def test_the_verb_prints_parameters_flops_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    print_model(20, None, None, 65_536, 2048, 1, True)
    found = json.loads(capsys.readouterr().out)
    assert (found["parameters"], found["flops_per_token"]) == (560_988_200, 3_491_758_080)
    assert found["memory_bytes"] == memory_bytes(of_depth(20)).total
    assert found["memory_bytes_checkpointed"] < found["memory_bytes"]
    print_model(20, 1280, 128, 65_536, 2048, 4, False)
    out = capsys.readouterr().out
    assert "560,988,200" in out
    assert "20 layers x 1280, 10 heads of 128" in out
