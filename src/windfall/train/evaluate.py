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

    Summed over the targets that stand for bytes of text, and divided by those bytes as the tokenizer counts them; document
    separators and other special tokens are neither. The model's train/eval mode is left as found.
    Raises DataError where nothing was held out.
    """
    device = model.embedding.weight.device
    was_training = model.training
    model.eval()
    token_bytes = torch.from_numpy(data.manifest.tokenizer.token_bytes())
    nats, tokens, text_bytes = 0.0, 0, 0
    try:
        for inputs, targets in data.val_batches(max_sequences, batch_sequences):
            with autocast(device, precision):
                loss = model(inputs.to(device), targets.to(device), reduction="sum")
            nats += float(loss)
            counted = targets[targets >= 0]
            tokens += counted.numel()
            text_bytes += int(token_bytes[counted].sum())
    finally:
        model.train(was_training)
    mean = nats / text_bytes if text_bytes else math.nan
    return EvalResult(nats_per_byte=mean, bits_per_byte=mean / math.log(2), bytes=text_bytes, tokens=tokens)
