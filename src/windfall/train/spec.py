"""What a trainer is built from, as plain values that can be written to a site's folder. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


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
