"""The long-lived trainer: model, inner optimizer and data of one site, kept from round to round.

It knows nothing of rounds, leases and versions. It steps over blocks, gives copies of its parameters, is put on another base
(``rebase``), and gives and takes its inner state. Parameters cross as float32 numpy.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from windfall.errors import DataError
from windfall.store.blobs import Blob
from windfall.train.compiled import compiled
from windfall.train.data import TrainData
from windfall.train.evaluate import EvalResult, evaluate
from windfall.train.generate import generate
from windfall.train.inner import packed, unpacked
from windfall.train.model import build_model
from windfall.train.optim import Differences, InnerOptimizer, OptimConfig
from windfall.train.precision import autocast, precision_on
from windfall.train.ranks import Alone, Ranks
from windfall.train.schedule import Extent, ScheduleConfig, schedule
from windfall.train.sizes import require_room
from windfall.train.spec import TrainerSpec, model_config
from windfall.train.staging import Staging

Floats = npt.NDArray[np.float32]
Tensors = dict[str, Floats]
#: Gives a tensor by its name.
Read = Callable[[str], Floats]
#: In a stored inner state: tokens since the last reset (the warm-up goes on), or not a number.
_SINCE_RESET = "since_reset_tokens"
#: Key in a stored inner state: the usual length of the gradient, by which spikes are recognised.
_USUAL_NORM = "usual_gradient_norm"


#: After so many steps nothing is left of a difference in a moving average.
_STEPS_REMEMBERED = 1024
#: Temperature and top-k of sampled text. They favour likely tokens and leave out the far tail.
_SAMPLE_TEMPERATURE = 0.7
_SAMPLE_TOP_K = 40


class Trainer(Protocol):
    """What the federation's site worker asks of a trainer."""

    blocks_per_step: int
    tokens_per_step: int
    manifest: str
    #: Called within a long step or evaluation: which part of it begins, in words for people.
    alive: Callable[[str], None]

    @property
    def skipped(self) -> str:
        """Why the last step was skipped (its blocks are used up, and nothing was learned from them), or an empty string."""
        ...

    def step(self, first_blocks: list[int], progress_tokens: float) -> float:
        """One optimizer step over the named blocks; the mean loss in nats per token.

        Raises:
            DataError: too many steps in a row had to be skipped.
        """
        ...

    def weights(self) -> Tensors:
        """A copy of the parameters."""
        ...

    def load(self, weights: Mapping[str, Floats]) -> None:
        """Replace the parameters. Raises DataError on other names or shapes."""
        ...

    def rebase(self, old: Read, new: Read, moves: Sequence[tuple[float, Read]] = ()) -> None:
        """Put the parameters from base ``old`` on base ``new``: new + ((parameters - old) + the sum of sign x move).

        All in float32, in this order and tensor by tensor. Parameters that are close to their base lose nothing: where nothing has
        been trained since a version but what the moves take away, they are ``new`` bit for bit.
        """
        ...

    def evaluate(self) -> EvalResult: ...

    def sample(self) -> str:
        """Text that the parameters write now, equal for equal parameters; empty if none is wanted."""
        ...

    def inner(self, *, exact: bool = False) -> bytes:
        """The inner optimizer state as safetensors: in bf16 where that suffices, or ``exact``, bit for bit."""
        ...

    def snapshot(self) -> Callable[[], tuple[Tensors, bytes | Blob]]:
        """What `weights` and `inner` (exact) are now, to be asked for later, by any thread, before the next snapshot."""
        ...

    def load_inner(self, data: bytes | Blob) -> None:
        """Take over an inner state. Raises DataError if it is not one of this model."""
        ...

    def shift_inner(self, mean: bytes | Blob, mine: bytes | Blob, steps: int) -> None:
        """Put the inner state on the mean of several sites' states, ``steps`` optimizer steps after they were taken.

        ``mine`` is the state that this site had then, as ``inner`` gave it; ``mean`` has its moments and nothing else. What is
        left of the difference after those steps is added: x += (product of the betas of those steps) x (mean - mine). Second
        moments stay at least 0, counters and other single numbers stay as they are.

        Raises:
            DataError: one of them is not a state of this model. Nothing has been changed.
        """
        ...

    def reset_inner(self) -> None: ...

    def close(self) -> None:
        """End the trainer. Nothing more is asked of it."""
        ...


class LocalTrainer:
    """A trainer on this machine's processors: the whole of a site, or one of its ranks.

    With several ranks each has the whole model, and an equal part of each step's sequences (those whose place in the step is its
    number modulo the ranks) and of the optimizer's work. Calls that say so are made by all ranks together.
    """

    def __init__(self, spec: TrainerSpec, ranks: Ranks | None = None) -> None:
        self._spec = spec
        self._ranks = ranks or Alone()
        self.data = TrainData(spec.data_dir, spec.seed)
        if self.data.sequence_length != spec.sequence_length:
            raise DataError(
                f"{spec.data_dir}: prepared with sequences of {self.data.sequence_length} tokens, the run asks for "
                f"{spec.sequence_length}; prepare it again or change model.sequence_length"
            )
        self.manifest = self.data.manifest.hash
        self.alive: Callable[[str], None] = lambda part: None
        self._device = torch.device(spec.device)
        shape = model_config(spec, self.data.manifest.tokenizer.vocab_size)
        require_room(spec, shape, self._device, self._ranks.size)
        self.model = build_model(shape, spec.seed, self._device)
        self.model.checkpoint_activations = spec.checkpoint_activations
        self._forward = compiled(self.model) if spec.compile else self.model
        self.blocks_per_step = spec.batch_sequences // spec.block_sequences
        self.tokens_per_step = spec.batch_sequences * spec.sequence_length
        optim, schedules = recipe(spec, self.tokens_per_step)
        self._optimizer = InnerOptimizer(self.model, optim, self._ranks)
        self._schedule = schedules
        self._budget = [Extent(*e) for e in spec.extents] or [Extent(0.0, spec.budget_tokens)]  # type: ignore[arg-type]
        self._precision = precision_on(self._device, spec.precision)
        self._since_reset: float | None = None
        self._guard = Guard(spec.spike_factor, spec.max_skips)
        #: Muon's momentum in the last steps, as far as they made the inner state what it is.
        self._momenta: deque[float] = deque(maxlen=_STEPS_REMEMBERED)
        #: Why the last step was not taken; empty if it was.
        self.skipped = ""
        self._staging = Staging(self._device)
        if spec.compile:
            self._compile()

    def _compile(self) -> None:
        """Compile for a full micro-batch now, before the site is ready, because it takes half a minute or more.

        The first shape that comes is the one compiled for, and the first step may be a short one.
        """
        own = len(range(self._ranks.rank, self._spec.batch_sequences, self._ranks.size))
        micro = min(self._spec.micro_batch_sequences or own, own)
        tokens = torch.zeros((max(1, micro), self._spec.sequence_length), dtype=torch.int64, device=self._device)
        with autocast(self._device, self._precision):
            loss = self._forward(tokens, tokens.clone(), reduction="sum")  # one tensor for both would be another graph
        loss.backward()
        self._optimizer.zero_grad()

    def step(self, first_blocks: list[int], progress_tokens: float) -> float:
        """Made by all ranks."""
        loss, norm = self._gradients(first_blocks)
        self.skipped = self._guard.judge(loss, norm)
        if not self.skipped:
            values = schedule(progress_tokens, self._budget, self._schedule, self._since_reset)
            self._optimizer.step(values, self.alive)
            self._momenta.append(values.momentum)
            if self._since_reset is not None:
                self._since_reset += self.tokens_per_step
        return loss

    def _gradients(self, first_blocks: list[int]) -> tuple[float, float]:
        """Leave the step's mean gradient in the parameters. Returns the mean loss (nats per token) and the gradient's length."""
        per_block = self._spec.block_sequences
        step = [b * per_block + i for b in first_blocks for i in range(per_block)]
        own = step[self._ranks.rank :: self._ranks.size]
        micro = self._spec.micro_batch_sequences or max(1, len(own))
        self._optimizer.zero_grad()
        sums = torch.zeros(2, device=self._device)  # loss, targets
        for at in range(0, len(own), micro):
            self.alive(f"gradients of sequences {at} of {len(own)}" if at else "gradients")
            tokens, targets = self.data.batch(own[at : at + micro])
            targets = targets.to(self._device, non_blocking=True)
            with autocast(self._device, self._precision):
                loss = self._forward(tokens.to(self._device, non_blocking=True), targets, reduction="sum")
            loss.backward()
            sums += torch.stack([loss.detach().float(), (targets >= 0).sum().float()])
        self.alive("gradients of all ranks" if self._ranks.size > 1 else "the gradient's length")
        parameters = list(self.model.parameters())
        for p in parameters:
            if p.grad is None:  # a rank without a sequence in this step
                p.grad = torch.zeros_like(p)
        gradients = [p.grad for p in parameters if p.grad is not None]
        self._ranks.sum([*gradients, sums])
        # Weighted by tokens: the sum over all ranks' tokens, divided by their number.
        total = sums[1].clamp_min(1.0)
        torch._foreach_div_(gradients, total)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        mean, length = torch.stack([sums[0] / total, norm]).tolist()
        return mean, length

    def weights(self) -> Tensors:
        return {n: p.detach().cpu().numpy().copy() for n, p in self.model.named_parameters()}

    def load(self, weights: Mapping[str, Floats]) -> None:
        load_weights(self.model, weights)

    @torch.no_grad()
    def rebase(self, old: Read, new: Read, moves: Sequence[tuple[float, Read]] = ()) -> None:
        for name, p in self.model.named_parameters():
            moved = rebased(p.detach().cpu().numpy(), name, old, new, moves)
            p.copy_(torch.from_numpy(moved))

    def evaluate(self) -> EvalResult:
        """Made by all ranks."""
        spec = self._spec
        # A batch is never larger than a step's, so that the memory suffices.
        batch = min(16, spec.micro_batch_sequences or -(-spec.batch_sequences // self._ranks.size))
        return evaluate(
            self.model, self.data, spec.eval_sequences, batch, self._precision, self._ranks,
            progress=lambda done, of: self.alive(f"{done} of {of} sequences"),
        )  # fmt: skip

    def sample(self) -> str:
        spec = self._spec
        if not spec.sample_tokens:
            return ""
        return generate(
            self.model, self.data.manifest, spec.sample_prompt, spec.sample_tokens, _SAMPLE_TEMPERATURE, _SAMPLE_TOP_K,
            seed=1, precision=self._precision, alive=lambda: self.alive("a sample"),
        )  # fmt: skip

    def inner(self, *, exact: bool = False) -> bytes:
        """Made by all ranks."""

        def kept(_: str, tensor: torch.Tensor) -> torch.Tensor:
            # bf16 has float32's range. Counters and other single numbers stay exact.
            dtype = tensor.dtype if exact or tensor.numel() <= 1 else torch.bfloat16
            return tensor.to("cpu", dtype, copy=True)

        return packed(self._optimizer.state_tensors(kept) | self._numbers()).read()

    def snapshot(self) -> Callable[[], tuple[Tensors, bytes | Blob]]:
        """Made by all ranks."""
        take = self._staging.take
        weights = {n: take(f"weights.{n}", p.detach()) for n, p in self.model.named_parameters()}
        state = self._optimizer.state_tensors(take) | self._numbers()
        self._staging.wait()
        return lambda: ({n: w.numpy() for n, w in weights.items()}, packed(state))

    def _numbers(self) -> dict[str, torch.Tensor]:
        """What an inner state has besides the optimizer's."""
        since = math.nan if self._since_reset is None else self._since_reset
        return {
            _SINCE_RESET: torch.tensor(since, dtype=torch.float64),
            _USUAL_NORM: torch.tensor(self._guard.usual, dtype=torch.float64),
        }

    def help_gather(self) -> None:
        """Made by a rank that does not want the inner state itself, while the leader makes ``inner`` or ``snapshot``."""
        self._optimizer.gather()

    def load_inner(self, data: bytes | Blob) -> None:
        self.take_inner(*self.read_inner(data))

    def read_inner(self, data: bytes | Blob) -> tuple[dict[str, torch.Tensor], float, float]:
        """An inner state's tensors, tokens since its last reset and usual gradient length. Raises DataError if unreadable.

        Those of a file stay in it, and are read as they are used.
        """
        state = unpacked(data)
        since = float(state.pop(_SINCE_RESET, torch.tensor(math.nan)))
        usual = float(state.pop(_USUAL_NORM, torch.tensor(math.nan)))
        return {n: t.float() for n, t in state.items()}, since, usual

    def take_inner(self, state: Mapping[str, torch.Tensor], since_reset: float, usual_norm: float) -> None:
        """Take over an inner state, already read. NaN: never reset; no norm known yet. Raises DataError as `load_inner`."""
        self._optimizer.load_state_tensors(state)
        self._since_reset = None if math.isnan(since_reset) else since_reset
        self._guard.usual = usual_norm
        self._momenta.clear()

    def shift_inner(self, mean: bytes | Blob, mine: bytes | Blob, steps: int) -> None:
        self.shift(self.read_differences(mean, mine), steps)

    def read_differences(self, mean: bytes | Blob, mine: bytes | Blob) -> Differences:
        """Mean minus mine, tensor by tensor as it is asked for. Raises DataError as `shift_inner`."""
        of_all, own = unpacked(mean), unpacked(mine)
        shapes = {n: shape for n, shape in self.state_shapes().items() if shape.numel() > 1}
        for name in sorted(shapes.keys() | of_all.keys()):
            for what, state in (("the mean of inner states", of_all), ("the inner state that was sent", own)):
                shape = state[name].shape if name in state else None
                if name not in shapes or shape != shapes[name]:
                    has = f"{name} as {list(shape)}" if shape is not None else f"no {name}"
                    raise DataError(f"{what} is of another model: it has {has}")

        def difference(name: str) -> torch.Tensor | None:
            return (of_all[name].float() - own[name].float()).to(self._device) if name in shapes else None

        return difference

    def shift(self, differences: Differences, steps: int) -> None:
        """Made by all ranks: see `shift_inner`."""
        if steps <= len(self._momenta):
            self._optimizer.shift(differences, list(self._momenta)[len(self._momenta) - steps :])

    def reset_inner(self) -> None:
        self._optimizer.reset()
        self._momenta.clear()
        self._since_reset = 0.0
        self._guard.usual = math.nan

    def close(self) -> None:
        return None

    def state_shapes(self) -> dict[str, torch.Size]:
        """Names and shapes of the optimizer's state."""
        return self._optimizer.state_shapes()


class Guard:
    """Steps that would do harm are skipped: a loss or gradient that is no number, or a gradient far longer than usual.

    ``usual`` is a moving average of the gradient's length (weight 0.02), NaN until one is known; it travels with the inner state,
    so that a run trained again skips what it skipped.
    """

    def __init__(self, spike_factor: float, max_skips: int) -> None:
        self._factor = spike_factor
        self._most = max_skips
        self.usual = math.nan
        self._in_a_row = 0

    def judge(self, loss: float, norm: float) -> str:
        """Why a step must be skipped, or an empty string.

        Raises:
            DataError: so many steps in a row had to be skipped that training cannot go on.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            why = f"the loss is {loss:g} and the gradient's length {norm:g}"
        elif not math.isnan(self.usual) and norm > self._factor * self.usual:
            why = f"the gradient's length is {norm:.3g}, {norm / self.usual:.0f} times the usual {self.usual:.3g}"
        else:
            self.usual = norm if math.isnan(self.usual) else 0.98 * self.usual + 0.02 * norm
            self._in_a_row = 0
            return ""
        self._in_a_row += 1
        if self._in_a_row >= self._most:
            raise DataError(f"{self._in_a_row} steps in a row had to be skipped, the last as {why}; lower train.lr_scale")
        return why


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


def rebased(value: Floats, name: str, old: Read, new: Read, moves: Sequence[tuple[float, Read]]) -> Floats:
    """One tensor of ``Trainer.rebase``."""
    rest = value - old(name)
    for sign, move in moves:
        if sign < 0:
            rest -= move(name)
        else:
            rest += move(name)
    rest += new(name)
    return rest


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
