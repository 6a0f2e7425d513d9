"""How well a model predicts the held-out text, in units that do not depend on the tokenizer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from windfall.train.data import TrainData
from windfall.train.model import GPT
from windfall.train.precision import Precision, autocast


@dataclass(frozen=True)
class EvalResult:
    """Mean surprise over `bytes` bytes of held-out text, which were `tokens` predicted tokens."""

    nats_per_byte: float
    bits_per_byte: float
    bytes: int
    tokens: int


@torch.no_grad()
def evaluate(
    model: GPT,
    data: TrainData,
    max_sequences: int | None = None,
    batch_sequences: int = 16,
    precision: Precision = "fp32",
) -> EvalResult:
    """Mean loss on the held-out sequences (all, or `max_sequences` spread evenly over them).

    Document separators are neither predicted nor counted. The model's train/eval mode is left as found.
    Raises DataError where nothing was held out.
    """
    device = model.embedding.weight.device
    was_training = model.training
    model.eval()
    nats, tokens = 0.0, 0
    try:
        for inputs, targets in data.val_batches(max_sequences, batch_sequences):
            with autocast(device, precision):
                loss = model(inputs.to(device), targets.to(device), reduction="sum")
            nats += float(loss)
            tokens += int((targets >= 0).sum())
    finally:
        model.train(was_training)
    # The byte tokenizer: one target, one byte.
    mean = nats / tokens if tokens else math.nan
    return EvalResult(nats_per_byte=mean, bits_per_byte=mean / math.log(2), bytes=tokens, tokens=tokens)
