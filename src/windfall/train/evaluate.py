"""How well a model predicts the held-out text, in units that do not depend on the tokenizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from windfall.train.data import TrainData
from windfall.train.model import GPT
from windfall.train.precision import Precision, autocast
from windfall.train.ranks import Alone, Ranks


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
    ranks: Ranks | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EvalResult:
    """Mean loss on the held-out sequences (all, or `max_sequences` spread evenly over them).

    Summed over the targets that stand for bytes of text, and divided by those bytes as the tokenizer counts them; document
    separators and other special tokens are neither. The model's train/eval mode is left as found.
    Of several ``ranks`` each takes its part of the sequences, and all have the result. A batch takes no more memory than a training
    step of as many sequences (`windfall.train.sizes`).
    ``progress`` is told after each batch: sequences done here, and sequences in all.
    Raises DataError where nothing was held out.
    """
    ranks = ranks or Alone()
    device = model.embedding.weight.device
    was_training = model.training
    model.eval()
    token_bytes = torch.from_numpy(data.manifest.tokenizer.token_bytes())
    done, total = 0, data.val_sequences if max_sequences is None else min(max_sequences, data.val_sequences)
    sums = torch.zeros(3, dtype=torch.float64, device=device)  # nats, tokens, bytes of text
    try:
        for inputs, targets in data.val_batches(max_sequences, batch_sequences, ranks.rank, ranks.size):
            with autocast(device, precision):
                loss = model(inputs.to(device), targets.to(device), reduction="sum")
            counted = targets[targets >= 0]
            sums += torch.tensor(
                [float(loss), counted.numel(), int(token_bytes[counted].sum())], dtype=torch.float64, device=device
            )
            done += inputs.size(0)
            if progress is not None:
                progress(done, total)
    finally:
        model.train(was_training)
    ranks.sum([sums])
    nats, tokens, text_bytes = sums.tolist()
    mean = nats / text_bytes if text_bytes else math.nan
    return EvalResult(nats_per_byte=mean, bits_per_byte=mean / math.log(2), bytes=int(text_bytes), tokens=int(tokens))
