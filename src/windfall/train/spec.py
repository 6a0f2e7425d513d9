"""What a trainer is built from, as plain values that can be written to a site's folder. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from windfall.train.shape import GPTConfig


@dataclass(frozen=True)
class TrainerSpec:
    """Everything that makes a trainer, as plain values that can be written to a site's folder."""

    data_dir: str
    depth: int
    width: int | None
    head_dim: int | None
    sequence_length: int
    seed: int
    batch_sequences: int
    block_sequences: int
    budget_tokens: int
    optimizer: str
    lr_scale: float
    warmdown_fraction: float
    lr_floor: float
    reset_warmup_fraction: float
    precision: str
    eval_sequences: int
    #: The prompt of the text that is written with an evaluation, and its length in tokens (0: none is written).
    sample_prompt: str = ""
    sample_tokens: int = 0
    #: Sequences in one forward and backward pass of a rank; None: all that a rank has of a step.
    micro_batch_sequences: int | None = None
    device: str = "cpu"
    compile: bool = False
    checkpoint_activations: bool = False
    #: A step is skipped if its gradient is ``spike_factor`` times as long as usual. ``max_skips`` skipped steps in a row end the
    #: trainer.
    spike_factor: float = 20.0
    max_skips: int = 8
    #: If the run was made longer: all its budgets, (from progress, budget, how) each. Empty: the budget above from the start.
    extents: Sequence[tuple[float, float, str]] = ()


def model_config(spec: TrainerSpec, vocab_size: int) -> GPTConfig:
    """The model's shape. Raises ConfigError where the numbers do not fit each other."""
    return GPTConfig(
        depth=spec.depth, width=spec.width, head_dim=spec.head_dim, vocab_size=vocab_size, sequence_length=spec.sequence_length
    )
