"""How large a model is: parameters, work per token, and the memory that training it takes, before anything is allocated.

Parameters and FLOPs are exact counts. Memory is an estimate of the peak within a training step of one process: float32
weights, gradients and optimizer state to the byte, activations by what autograd keeps for backward (tests compare it with
autograd's own tensors). `torch.compile` keeps less than estimated, so the estimate errs on the safe side.

Evaluation needs no estimate of its own: without gradients a batch's loss is computed in pieces (`windfall.train.model`), and no
layer's tensors are kept, so that where a training step of a micro-batch fits, evaluating batches as large as it does too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from windfall.errors import ConfigError
from windfall.train.precision import Precision, precision_on
from windfall.train.shape import LOSS_CHUNKS, GPTConfig
from windfall.train.spec import TrainerSpec

if TYPE_CHECKING:  # torch takes a second to import, and counting does without
    import torch

Optimizer = Literal["normuon", "muon_plain", "adamw"]
FLOAT32 = 4
#: Parameters of fewer numbers than this are updated at every rank: sending them would cost more.
WORTH_SHARING = 2**12
#: On top of the estimate: the allocator's gaps, the optimizer's temporaries, the driver's own. A tenth.
MARGIN = 1.1
# What autograd keeps of one layer, in tensors of [tokens, width]: the stream before and after its scaling, two norms'
# inputs' results and the stream between (4 more), rotated and normed queries and keys, values, attention's output in
# both layouts, and two of the MLP's inner tensors, each four wide.
_LAYER_TENSORS = 20
# Outside the layers: x0, and what enters the last norm and the head.
_OUTER_TENSORS = 3
# Float32 copies of the logits: tanh's and the log-softmax's result are kept, and backward holds two gradients beside.
_LOGIT_COPIES = 4


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a training step, in one process: of several ranks, in the one that needs most.

    `exchange` is what gradients and weights take on their way between ranks, 0 where there is one.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    exchange: int = 0

    @property
    def total(self) -> int:
        """The most that is there at a time: backward has let go of the activations when ranks begin to exchange gradients."""
        return self.weights + self.gradients + self.optimizer + max(self.activations, self.exchange)


def memory_bytes(
    config: GPTConfig,
    micro_batch: int = 1,
    *,
    precision: Precision = "bf16",
    checkpoint_activations: bool = False,
    optimizer: Optimizer = "normuon",
    ranks: int = 1,
) -> Memory:
    """Estimate for micro-batches of `micro_batch` sequences of the full length; nothing is allocated.

    bf16 means autocast: weights stay float32, and the copies that autocast casts count as activations.

    Of several ``ranks`` each has its own micro-batches, all weights and all gradients. They divide optimizer state: that of tables
    (and of matrices under adamw) by rows, that of matrices by whole layers, both rounded up; the state of parameters of fewer
    than 4,096 numbers, as the scalars are, is at every rank. (Attention's matrices are dealt out singly, so where the ranks do not
    divide the depth the estimate has up to three of them more than the rank.) And there is `Memory.exchange`: one more copy of all
    gradients, which are summed as one flat tensor, or what the largest gathering of weights takes, if that is more.

    Raises:
        ConfigError: a micro-batch or a number of ranks below 1.
    """
    if micro_batch < 1:
        raise ConfigError(f"model: a micro-batch of {micro_batch} sequences; give a whole number of at least 1")
    if ranks < 1:
        raise ConfigError(f"model: {ranks} ranks; give a whole number of at least 1")
    square = config.width * config.width
    matrices = config.depth * 12 * square
    scalars = 2 * config.depth
    tables = 2 * config.padded_vocab_size * config.width + scalars
    state = _own_matrix_state(config, matrices, optimizer, ranks)
    state += 2 * (2 * _own_rows(config.padded_vocab_size, config.width, ranks) * config.width + scalars)
    return Memory(
        weights=FLOAT32 * (matrices + tables),
        gradients=FLOAT32 * (matrices + tables),
        optimizer=FLOAT32 * state,
        activations=_activations(config, micro_batch, precision, checkpoint_activations),
        exchange=FLOAT32 * _exchange(config, matrices + tables, optimizer, ranks) if ranks > 1 else 0,
    )


def _matrix_state(config: GPTConfig, matrices: int, optimizer: Optimizer) -> int:
    """Numbers that the optimizer keeps for the layers' matrices; everything else has AdamW's two."""
    if optimizer == "adamw":
        return 2 * matrices
    # NorMuon: a momentum, and as many second moments as a matrix's longer side (four of width, `up` and `down` of 4 x width).
    return matrices + (config.depth * 12 * config.width if optimizer == "normuon" else 0)


def _own_rows(rows: int, columns: int, ranks: int) -> int:
    """Rows of an AdamW parameter that the first rank keeps state of."""
    return rows if rows * columns < WORTH_SHARING else -(-rows // ranks)


def _own_matrix_state(config: GPTConfig, matrices: int, optimizer: Optimizer, ranks: int) -> int:
    """The first rank's part of `_matrix_state`, of which no rank has more."""
    whole = _matrix_state(config, matrices, optimizer)
    if optimizer == "adamw":
        # Four times as many rows, `up` has four times as many at a rank, or fewer.
        return whole // config.width * _own_rows(config.width, config.width, ranks)
    return whole // config.depth * -(-config.depth // ranks)


def _exchange(config: GPTConfig, parameters: int, optimizer: Optimizer, ranks: int) -> int:
    """Numbers in flight between ranks, at most: all gradients in one tensor, with the loss and its count, or a gathering.

    A gathering of `each` numbers a rank has all of them in one tensor, and gloo once more. Beside it are `each` numbers to send,
    and as many that the update was made of. What is gathered of the state for a snapshot is let go rule by rule.
    """

    def gathering(each: int) -> int:
        return (2 * ranks + 2) * each

    width, inner = config.width, 4 * config.width
    table = gathering(_own_rows(config.padded_vocab_size, width, ranks) * width)
    if optimizer == "adamw":
        # Each matrix is gathered by itself, and all are kept until the last is there.
        rows = config.depth * (4 * _own_rows(width, width, ranks) * width + 2 * _own_rows(width, inner, ranks) * inner)
        # For a snapshot it is both moments of them, which is more.
        layers = (2 * ranks + 1) * rows + gathering(_own_rows(inner, width, ranks) * width)
    else:
        # By shape: four matrices of attention a layer, or `up`, or `down`, which have as many numbers.
        layers = gathering(max(-(-4 * config.depth // ranks) * width * width, -(-config.depth // ranks) * width * inner))
    return max(parameters + 2, table, layers)


def _activations(config: GPTConfig, micro_batch: int, precision: Precision, checkpointed: bool) -> int:
    size = FLOAT32 if precision == "fp32" else 2
    tokens = micro_batch * config.sequence_length
    stream = tokens * config.width * size
    logits = _LOGIT_COPIES * tokens * config.padded_vocab_size * FLOAT32
    outer = _OUTER_TENSORS * stream
    if precision == "bf16":
        outer += size * (config.depth * 12 * config.width**2 + config.padded_vocab_size * config.width)
    if not checkpointed:
        return outer + config.depth * _LAYER_TENSORS * stream + logits
    # Either one piece's logits exist or one layer is computed again, never both.
    return outer + config.depth * stream + max(logits // LOSS_CHUNKS, _LAYER_TENSORS * stream)


def largest_micro_batch(config: GPTConfig, available_bytes: int, *, checkpoint_activations: bool = False, **how: object) -> int:
    """The most sequences at once whose estimate, with the margin, fits; 0 where not even one does."""

    def fits(count: int) -> bool:
        memory = memory_bytes(config, count, checkpoint_activations=checkpoint_activations, **how)  # type: ignore[arg-type]
        return memory.total * MARGIN <= available_bytes

    # The estimate never falls as the micro-batch grows, so a doubling and a bisection find the last that fits.
    high = 1
    while fits(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def require_memory(
    config: GPTConfig,
    micro_batch: int,
    available_bytes: int,
    *,
    precision: Precision = "bf16",
    checkpoint_activations: bool = False,
    optimizer: Optimizer = "normuon",
    ranks: int = 1,
    where: str = "this device",
) -> Memory:
    """The estimate, where it fits with the margin into `available_bytes`; to be called before a model is built.

    `available_bytes` and `micro_batch` (sequences of the full length) are one rank's, of ``ranks`` that train together.

    Raises:
        ConfigError: it does not fit; the message has the estimate and what would.
    """
    how: dict[str, object] = {"precision": precision, "optimizer": optimizer, "ranks": ranks}
    memory = memory_bytes(
        config, micro_batch, precision=precision, checkpoint_activations=checkpoint_activations, optimizer=optimizer, ranks=ranks
    )
    if memory.total * MARGIN <= available_bytes:
        return memory
    as_is = largest_micro_batch(config, available_bytes, checkpoint_activations=checkpoint_activations, **how)
    again = largest_micro_batch(config, available_bytes, checkpoint_activations=True, **how)
    if as_is:
        fix = f"micro-batches of {as_is} fit (train.micro_batch_sequences)"
    elif again:
        fix = f"with train.checkpoint_activations micro-batches of {again} fit (train.micro_batch_sequences)"
    else:
        fix = "no micro-batch fits: choose a smaller depth, a shorter sequence_length, or more memory"
    exchange = f" or, after them, {gigabytes(memory.exchange)} between ranks" if ranks > 1 else ""
    raise ConfigError(
        f"model: depth {config.depth} (width {config.width}) with micro-batches of {micro_batch} x {config.sequence_length}"
        f" tokens needs about {gigabytes(memory.total * MARGIN)} (weights {gigabytes(memory.weights)}, gradients"
        f" {gigabytes(memory.gradients)}, optimizer {gigabytes(memory.optimizer)}, activations"
        f" {gigabytes(memory.activations)}{exchange}, and a tenth for the rest), and {where} has {gigabytes(available_bytes)};"
        f" {fix}"
    )


def require_room(spec: TrainerSpec, shape: GPTConfig, device: torch.device | str, ranks: int) -> None:
    """Raise ConfigError, with the estimate, if training would not fit into a device's free memory; nothing is built yet."""
    free = available_bytes(device)
    if free is None:
        return
    if str(device).partition(":")[0] == "cpu":
        free //= ranks
    micro = spec.micro_batch_sequences or -(-spec.batch_sequences // ranks)
    require_memory(
        shape, micro, free, precision=precision_on(device, spec.precision), optimizer=cast(Optimizer, spec.optimizer),
        checkpoint_activations=spec.checkpoint_activations, ranks=ranks,
        where=f"{device}, each of {ranks} ranks," if ranks > 1 else str(device),
    )  # fmt: skip


def available_bytes(device: torch.device | str) -> int | None:
    """Memory that is free on a device now, within the process's control group; None where nothing says so."""
    if str(device).partition(":")[0] == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    found = [value for value in (_machine_free(), _group_free()) if value is not None]
    return min(found) if found else None


def _machine_free() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def _group_free(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container (cgroup v2) may still take."""
    try:
        return int((root / "memory.max").read_text()) - int((root / "memory.current").read_text())
    except (OSError, ValueError):  # no such group, or "max": no limit
        return None


def gigabytes(count: float) -> str:
    """Bytes as a person reads them: 12.3 GB, 45 MB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
