"""What turns contributions into a version: averaging weighted by tokens, optionally an outer Nesterov step.

Deltas are movements (new minus old), so the outer "gradient" is minus their mean. A solo contribution, and any merge
of one, is added as it is. One contribution is decoded and folded in at a time (memory: two models and one delta).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from windfall.store.tensors import Tensors


@dataclass(frozen=True)
class Outer:
    """Outer optimizer: ``average``, or ``nesterov`` with learning rate and momentum (DiLoCo, arXiv 2311.08105)."""

    kind: str = "average"
    lr: float = 0.7
    momentum: float = 0.5


def weighted_mean(like: Tensors, deltas: Iterable[tuple[int, Tensors]]) -> Tensors:
    """Mean of deltas weighted by tokens. Accumulates in float32; the iterable may decode lazily."""
    total = 0
    mean = {name: np.zeros_like(value) for name, value in like.items()}
    for tokens, delta in deltas:
        total += tokens
        for name, value in delta.items():
            # A running weighted mean: no second pass and no large intermediate sums.
            mean[name] += (value - mean[name]) * np.float32(tokens / total)
    return mean


def apply(
    weights: Tensors, mean: Tensors, outer: Outer, momentum: Tensors | None, contributors: int
) -> tuple[Tensors, Tensors | None]:
    """New weights and outer momentum.

    The outer step runs only where two or more sites contributed; otherwise the mean is added and momentum is dropped.
    """
    if outer.kind == "average" or contributors < 2:
        return {n: w + mean[n] for n, w in weights.items()}, None
    gradient = {n: -d for n, d in mean.items()}
    beta, lr = np.float32(outer.momentum), np.float32(outer.lr)
    buffer: Tensors = gradient
    if momentum:
        buffer = {n: (beta * momentum[n] + g).astype(np.float32) for n, g in gradient.items()}
    return {n: (w - lr * (gradient[n] + beta * buffer[n])).astype(np.float32) for n, w in weights.items()}, buffer
