"""The long-lived trainer: model, inner optimizer and data of one site, kept from round to round.

It knows nothing of rounds and leases. It steps over blocks, says how far its parameters have moved since an anchor
(a cut), takes corrections, and gives and takes its inner state. What crosses to the coordinator is float32 numpy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_torch
from safetensors.torch import save as save_torch

from windfall.errors import DataError
from windfall.train.data import TrainData
from windfall.train.evaluate import EvalResult, evaluate
from windfall.train.model import GPTConfig, build_model
from windfall.train.optim import InnerOptimizer, OptimConfig
from windfall.train.precision import Precision, autocast
from windfall.train.schedule import ScheduleConfig, schedule
from windfall.train.spec import TrainerSpec

Tensors = dict[str, npt.NDArray[np.float32]]
#: In a stored inner state: tokens since the last reset (the warm-up goes on), or not a number.
_SINCE_RESET = "since_reset_tokens"


class Trainer(Protocol):
    """What the federation's site worker asks of a trainer."""

    blocks_per_step: int
    tokens_per_step: int
    manifest: str

    def step(self, first_blocks: list[int], progress_tokens: float) -> float:
        """One optimizer step over the named blocks; the mean loss in nats per token."""
        ...

    def delta(self) -> Tensors:
        """How far the parameters have moved since the anchor."""
        ...

    def cut(self) -> Tensors:
        """The delta; parameters and anchor become anchor + delta, rounded as the coordinator rounds it.

        So a site that trains alone holds its versions bit for bit, and one that starts from a version's file instead
        goes on exactly alike.
        """
        ...

    def correct(self, change: Tensors, sign: float) -> None:
        """Add ``sign`` x ``change`` to parameters and anchor: a correction is no work of this site."""
        ...

    def load(self, weights: Tensors) -> None:
        """Replace the parameters and anchor there. Raises DataError on other names or shapes."""
        ...

    def evaluate(self) -> EvalResult: ...

    def inner(self, *, exact: bool = False) -> bytes:
        """The inner optimizer state as safetensors: bf16 where it may be, or bit for bit."""
        ...

    def load_inner(self, data: bytes) -> None:
        """Take over an inner state. Raises DataError if it is not one of this model."""
        ...

    def reset_inner(self) -> None: ...


def model_config(spec: TrainerSpec, vocab_size: int) -> GPTConfig:
    """The model's shape."""
    return GPTConfig(
        depth=spec.depth, width=spec.width, head_dim=spec.head_dim, vocab_size=vocab_size, sequence_length=spec.sequence_length
    )


class LocalTrainer:
    """A trainer on this machine's processors."""

    def __init__(self, spec: TrainerSpec) -> None:
        self._spec = spec
        self.data = TrainData(spec.data_dir, spec.seed)
        if self.data.sequence_length != spec.sequence_length:
            raise DataError(
                f"{spec.data_dir}: prepared with sequences of {self.data.sequence_length} tokens, the run asks for "
                f"{spec.sequence_length}; prepare it again or change model.sequence_length"
            )
        self.manifest = self.data.manifest.hash
        self.model = build_model(model_config(spec, self.data.manifest.tokenizer.vocab_size), spec.seed)
        self.blocks_per_step = spec.batch_sequences // spec.block_sequences
        self.tokens_per_step = spec.batch_sequences * spec.sequence_length
        optim, schedules = recipe(spec, self.tokens_per_step)
        self._optimizer = InnerOptimizer(self.model, optim)
        self._schedule = schedules
        self._precision: Precision = "bf16" if spec.precision == "bf16" else "fp32"
        self._since_reset: float | None = None
        self._anchor: Tensors = {}
        self.anchor()

    def step(self, first_blocks: list[int], progress_tokens: float) -> float:
        pairs = [self.data.block_batch(b, 1, self._spec.block_sequences) for b in first_blocks]
        tokens, targets = torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])
        self._optimizer.zero_grad()
        with autocast("cpu", self._precision):
            loss = self.model(tokens, targets)
        loss.backward()
        self._optimizer.step(schedule(progress_tokens, self._spec.budget_tokens, self._schedule, self._since_reset))
        if self._since_reset is not None:
            self._since_reset += self.tokens_per_step
        return float(loss.detach())

    def weights(self) -> Tensors:
        """A copy of the parameters."""
        return {n: p.detach().numpy().copy() for n, p in self.model.named_parameters()}

    def delta(self) -> Tensors:
        return {n: p.detach().numpy() - self._anchor[n] for n, p in self.model.named_parameters()}

    @torch.no_grad()
    def cut(self) -> Tensors:
        delta = self.delta()
        load_weights(self.model, {n: self._anchor[n] + d for n, d in delta.items()})
        self.anchor()
        return delta

    def anchor(self) -> None:
        """Take the present parameters as the anchor."""
        self._anchor = self.weights()

    @torch.no_grad()
    def correct(self, change: Tensors, sign: float) -> None:
        for name, p in self.model.named_parameters():
            p.add_(torch.from_numpy(change[name]), alpha=sign)
            self._anchor[name] = np.add(self._anchor[name], np.float32(sign) * change[name], dtype=np.float32)

    @torch.no_grad()
    def load(self, weights: Tensors) -> None:
        load_weights(self.model, weights)
        self.anchor()

    def evaluate(self) -> EvalResult:
        return evaluate(self.model, self.data, self._spec.eval_sequences, precision=self._precision)

    def inner(self, *, exact: bool = False) -> bytes:
        state = self._optimizer.state_tensors()
        since = math.nan if self._since_reset is None else self._since_reset
        state[_SINCE_RESET] = torch.tensor(since, dtype=torch.float64)
        # bf16 keeps the range; counters and other single numbers keep every bit.
        return bytes(save_torch({n: t if exact or t.numel() <= 1 else t.to(torch.bfloat16) for n, t in state.items()}))

    def load_inner(self, data: bytes) -> None:
        try:
            state = load_torch(data)
        except (SafetensorError, ValueError, KeyError) as e:
            raise DataError(f"inner optimizer state: not readable as safetensors: {e}") from None
        since = float(state.pop(_SINCE_RESET, torch.tensor(math.nan)))
        self._optimizer.load_state_tensors({n: t.float() for n, t in state.items()})
        self._since_reset = None if math.isnan(since) else since

    def reset_inner(self) -> None:
        self._optimizer.reset()
        self._since_reset = 0.0


#: Steps below this many tokens take the rates tuned for small batches: the recipe's square-root rule, made for
#: steps of 2^19 tokens, is far too timid for them.
SMALL_STEP_TOKENS = 2**15


def recipe(spec: TrainerSpec, tokens_per_step: int) -> tuple[OptimConfig, ScheduleConfig]:
    """Rates and schedules for a run's optimizer steps."""
    shape: dict[str, Any] = {
        "warmdown_fraction": spec.warmdown_fraction,
        "final_lr_multiplier": spec.lr_floor,
        "reset_warmup_fraction": spec.reset_warmup_fraction,
    }
    rates: dict[str, Any] = {"kind": spec.optimizer, "lr_scale": spec.lr_scale}
    if tokens_per_step < SMALL_STEP_TOKENS:
        return OptimConfig.demo(tokens_per_step, **rates), ScheduleConfig.demo(**shape)
    return OptimConfig(batch_tokens=tokens_per_step, **rates), ScheduleConfig(**shape)


@torch.no_grad()
def load_weights(model: torch.nn.Module, weights: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Put named arrays into a model's parameters.

    Raises:
        DataError: a name or shape differs: these are the weights of another architecture.
    """
    own = dict(model.named_parameters())
    if own.keys() != weights.keys():
        odd = sorted(own.keys() ^ weights.keys())
        raise DataError(f"weights of another model: {odd[0]} is on one side only ({len(odd)} such names)")
    for name, p in own.items():
        if tuple(p.shape) != weights[name].shape:
            raise DataError(f"weights of another model: {name} is {weights[name].shape}, the model's is {tuple(p.shape)}")
        p.copy_(torch.from_numpy(np.array(weights[name], np.float32)))
