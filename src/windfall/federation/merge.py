"""What turns contributions into a version: averaging weighted by tokens, optionally an outer Nesterov step.

Deltas are movements (new minus old), so the outer "gradient" is minus their mean. A solo contribution, and any merge
of one, is added as it is. One contribution is decoded and folded in at a time (memory: two models and one delta).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from windfall.store.records import Received
from windfall.store.tensors import Tensors
from windfall.wire import codec as codecs


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
            mean[name] += (value - mean[name]) * np.float32(tokens / total if total else 0.0)
    return mean


def outer_step(mean: Tensors, outer: Outer, momentum: Tensors | None, contributors: int) -> tuple[Tensors, Tensors | None]:
    """What the mean moves the weights by, and the new outer momentum.

    The outer optimizer works only where two or more sites contributed; otherwise the mean is added and momentum is dropped.
    """
    if outer.kind == "average" or contributors < 2:
        return mean, None
    gradient = {n: -d for n, d in mean.items()}
    beta, lr = np.float32(outer.momentum), np.float32(outer.lr)
    buffer: Tensors = gradient
    if momentum:
        buffer = {n: (beta * momentum[n] + g).astype(np.float32) for n, g in gradient.items()}
    return {n: (-(lr * (g + beta * buffer[n]))).astype(np.float32) for n, g in gradient.items()}, buffer


def apply(
    weights: Tensors, mean: Tensors, outer: Outer, momentum: Tensors | None, contributors: int
) -> tuple[Tensors, Tensors | None]:
    """New weights and outer momentum, as ``outer_step`` has it."""
    moved, buffer = outer_step(mean, outer, momentum, contributors)
    return {n: w + moved[n] for n, w in weights.items()}, buffer


def chains(contributions: Sequence[Received]) -> list[list[Received]]:
    """Contributions by the movements that they are parts of.

    Cuts of one life of a site that follow each other, with no other parameters loaded in between, are one movement:
    their deltas add up. Anything else is a movement of its own, to be averaged.
    """
    found: list[list[Received]] = []
    for c in sorted(contributions, key=lambda c: (c.site, c.generation, c.cut)):
        last = found[-1][-1] if found else None
        follows = (
            last is not None
            and (last.site, last.generation) == (c.site, c.generation)
            and last.header["last_step"] == c.header["first_step"]
            and not any(op[1:2] == ["load"] for op in c.header["lineage"])
        )
        if follows:
            found[-1].append(c)
        else:
            found.append([c])
    return found


@dataclass(frozen=True)
class After:
    """What contributions make of a version, in memory."""

    weights: Tensors
    #: Outer momentum, if there is any.
    momentum: Tensors | None
    #: What rounding has left out so far, if anything.
    residual: Tensors | None


def combine(
    weights: Tensors, contributions: Sequence[Received], decode: Callable[[Received], Tensors], outer: Outer,
    momentum: Tensors | None, *, alone: bool | None = None,
) -> tuple[Tensors, Tensors | None]:  # fmt: skip
    """New weights and outer momentum where nothing is rounded. ``alone``: as ``version_after`` has it."""
    after = version_after(weights, contributions, decode, outer, momentum, alone=alone)
    return after.weights, after.momentum


def version_after(
    weights: Tensors, contributions: Sequence[Received], decode: Callable[[Received], Tensors], outer: Outer,
    momentum: Tensors | None, *, residual: Tensors | None = None, codec: str = "fp32", alone: bool | None = None,
) -> After:  # fmt: skip
    """The version after this one, for models that fit into memory a few times: what ``merger.merge`` makes, bit for bit.

    One contribution is added as it was sent, in float32 (``alone``: False if it was not, as it was clipped). Otherwise
    ``residual`` is added to the outer step, ``codec`` rounds the sum, and what it leaves out is the new residual.
    """
    if len(contributions) == 1 and alone is not False:
        delta = decode(contributions[0])
        return After({n: w + delta[n] for n, w in weights.items()}, None, residual)
    movements = ((sum(c.tokens for c in chain), _total([decode(c) for c in chain])) for chain in chains(contributions))
    sites = len({c.site for c in contributions})
    moved, momentum = outer_step(weighted_mean(weights, movements), outer, momentum, sites)
    if residual:
        moved = {n: d + residual[n] for n, d in moved.items()}
    if codec == "fp32":
        return After({n: w + moved[n] for n, w in weights.items()}, momentum, None)
    sent = codecs.decode(codecs.encode(moved, codec), {n: d.shape for n, d in moved.items()})
    left = {n: d - sent[n] for n, d in moved.items()}
    return After({n: w + sent[n] for n, w in weights.items()}, momentum, left)


def _total(deltas: list[Tensors]) -> Tensors:
    total = deltas[0]
    for delta in deltas[1:]:
        total = {n: v + delta[n] for n, v in total.items()}
    return total
