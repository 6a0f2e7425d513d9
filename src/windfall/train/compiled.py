"""`torch.compile`, kept outside the model: one shape is compiled, once, and everything else runs as before.

A compiled graph belongs to a shape. A trainer steps through micro-batches of one shape for its whole life, while evaluation,
text generation and a last short batch come in others; compiling those too would stop training for half a minute each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from windfall.train.model import GPT, Reduction

#: What dynamo compiles for: shapes of tokens and targets, reduction, autocast's dtype, activation checkpointing.
_Call = tuple[torch.Size, torch.Size, Reduction, torch.dtype | None, bool]


class CompiledLoss:
    """The loss of a model, compiled for the first call that wants gradients; called like the model itself.

    A call of another shape, reduction or precision, or without gradients, goes to the model uncompiled and gives the
    same loss. Parameters may change in place, be loaded and have their gradients dropped: none of this compiles anew. The
    model stays what it was: its state dict and its `named_parameters` know nothing of the graph.
    """

    def __init__(self, model: GPT, backend: str | Callable[..., Any] = "inductor") -> None:
        self.model = model
        self._graph = torch.compile(model, backend=backend, fullgraph=True, dynamic=False)
        self._compiled_for: _Call | None = None

    def __call__(self, tokens: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
        """Loss in nats, as `GPT.forward`. Errors of the compiler come out at the first call."""
        device = tokens.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        call = (tokens.shape, targets.shape, reduction, dtype, self.model.checkpoint_activations)
        if self._compiled_for is None and torch.is_grad_enabled():
            self._compiled_for = call
        run = self._graph if call == self._compiled_for and torch.is_grad_enabled() else self.model
        loss: Tensor = run(tokens, targets, reduction)
        return loss


def compiled(model: GPT, backend: str | Callable[..., Any] = "inductor") -> CompiledLoss:
    """A drop-in for `model(tokens, targets, reduction)` that is compiled once. `backend` is for tests.

    On a CPU the first step takes about half a minute more, so it pays from some ten minutes of training on.
    """
    return CompiledLoss(model, backend)
