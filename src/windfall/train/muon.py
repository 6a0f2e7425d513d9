"""Rules for matrices: NorMuon with cautious weight decay, and torch's plain Muon behind the same methods.

What is computed is nanochat's of mid January 2026, as read in its published source (nanochat/muon.py), with its constants; the
code is ours. The ideas: Muon (Jordan et al. 2024), Polar Express (Amsel et al., arXiv 2505.16932), NorMuon (Li et al., arXiv
2510.05491), cautious weight decay (Chen et al., arXiv 2510.12402). Not taken over are roundings: in nanochat
the normed update and, in one version or another, the second moment, the rate and beta2 are bfloat16; here all but the polar factor
is float32.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from windfall.train.ranks import Alone, Ranks, padded, slice_of
from windfall.train.schedule import ScheduleValues

# nanochat's table: a, b, c of the odd quintic a·x + b·x³ + c·x⁵ of each of five iterations. It is what the generator published
# with Polar Express (arXiv 2505.16932) gives for a smallest singular value of 1e-3, five iterations, a safety factor of 2e-2 (all
# but the last quintic are made for an interval that much longer) and a cushion of 2e-2.
_POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
# The table's safety factor once more: rounding must not push a singular value above 1, where the quintics grow fast.
_SAFETY = 1.02
_NORM_EPSILON = 1e-6
#: Least second moment, and least norm, that is divided by.
_SMALLEST = 1e-10


def polar_express(matrices: Tensor) -> Tensor:
    """Approximate polar factor UVᵀ of each matrix USVᵀ in a stack [..., rows, cols], in the stack's dtype.

    Five iterations of matrix products (Polar Express, arXiv 2505.16932), in bfloat16 on an accelerator, for which the method is
    made, and in the given dtype on a CPU, whose bfloat16 products are not faster at these sizes. Singular values down to about
    1e-3 of the Frobenius norm end near 1. Zero matrices stay zero.
    """
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    tall = x.size(-2) > x.size(-1)
    if tall:  # the smaller of the two Gram matrices
        x = x.mT
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) * _SAFETY + _NORM_EPSILON)
    for a, b, c in _POLAR_EXPRESS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    result: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return result


def shape_scale(shape: torch.Size) -> float:
    """Muon's correction of the learning rate for tall matrices: sqrt(max(1, rows / cols))."""
    return math.sqrt(max(1.0, shape[-2] / shape[-1]))


def mean_axis(shape: torch.Size) -> int:
    """The shorter side of a matrix, along which its squares are averaged: -1 (a number per row) where rows >= cols, else -2."""
    return -1 if shape[-2] >= shape[-1] else -2


class _MatrixGroup(ABC):
    """Matrices of one shape [rows, cols]. Each rank updates its share of them and receives the others from the other ranks."""

    label: str
    what: str

    def __init__(self, named: dict[str, nn.Parameter], lr: float, weight_decay: float, ranks: Ranks | None) -> None:
        self.names = list(named)
        self.parameters = list(named.values())
        self.lr, self.weight_decay = lr, weight_decay
        self._ranks = ranks or Alone()
        self._first, self._end, self._each = slice_of(len(named), self._ranks)
        self._own = self.parameters[self._first : self._end]
        like = self.parameters[0]
        self.momentum = torch.zeros((len(self._own), *like.shape), device=like.device)

    def _stacks(self) -> dict[str, Tensor]:
        """This rank's share of the state by its kind, each [own matrices, ...]."""
        return {"momentum": self.momentum}

    @abstractmethod
    def _update(self, gradients: list[Tensor], values: ScheduleValues) -> None:
        """Change this rank's matrices, of which there is at least one, in place."""

    @torch.no_grad()
    def step(self, values: ScheduleValues) -> None:
        """One update of every parameter from its .grad."""
        gradients = [gradient_of(p) for p in self.parameters]
        if self._own:
            self._update(gradients[self._first : self._end], values)
        if self._ranks.size > 1:
            like = self.parameters[0]
            own = torch.stack([p.detach() for p in self._own]) if self._own else like.new_empty((0, *like.shape))
            together = self._ranks.gather(padded(own, self._each))
            for parameter, new in zip(self.parameters, together, strict=False):  # the last entries may be padding
                parameter.copy_(new)

    def state(self) -> dict[str, Tensor]:
        """The whole state by flat name, also of other ranks' shares. Stacks and ranks do not show outside of this class."""
        whole = {kind: self._ranks.gather(padded(own, self._each)) for kind, own in self._stacks().items()}
        return {f"{self.label}.{kind}.{n}": stack[i] for i, n in enumerate(self.names) for kind, stack in whole.items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over this rank's share of a whole state."""
        for kind, stack in self._stacks().items():
            for own, name in zip(stack, self.names[self._first : self._end], strict=True):
                own.copy_(tensors[f"{self.label}.{kind}.{name}"])

    @torch.no_grad()
    def shift(self, differences: Callable[[str], Tensor | None], momenta: Sequence[float]) -> None:
        """See ``InnerOptimizer.shift``."""
        for kind, stack in self._stacks().items():
            left = self._left(kind, momenta)
            for place, name in enumerate(self.names):
                difference = differences(f"{self.label}.{kind}.{name}")
                if difference is None or not self._first <= place < self._end:
                    continue
                target = stack[place - self._first].add_(difference, alpha=left)
                if kind == "second_moment":
                    target.clamp_(min=0.0)

    def _left(self, kind: str, momenta: Sequence[float]) -> float:
        """Of a difference in a kind of state, after steps with these momenta."""
        return math.prod(momenta)


class NorMuonGroup(_MatrixGroup):
    """NorMuon (arXiv 2510.05491) for matrices of one shape, whose updates are computed as one stack.

    The second moment is [own, rows, 1] for tall and square matrices and [own, 1, cols] for wide ones: a number per row or column,
    whichever are more, as nanochat has it (the paper's is a number per row, an output neuron, whatever the shape).
    """

    label = "normuon"
    what = "polar factors"

    def __init__(
        self, named: dict[str, nn.Parameter], lr: float, weight_decay: float, beta2: float, ranks: Ranks | None = None
    ) -> None:
        super().__init__(named, lr, weight_decay, ranks)
        self.beta2 = beta2
        self._axis = mean_axis(self.parameters[0].shape)
        shape = list(self.momentum.shape)
        shape[self._axis] = 1
        self.second_moment = torch.zeros(shape, dtype=self.momentum.dtype, device=self.momentum.device)

    def _stacks(self) -> dict[str, Tensor]:
        return {"momentum": self.momentum, "second_moment": self.second_moment}

    def _left(self, kind: str, momenta: Sequence[float]) -> float:
        return self.beta2 ** len(momenta) if kind == "second_moment" else super()._left(kind, momenta)

    def _update(self, gradients: list[Tensor], values: ScheduleValues) -> None:
        gradient = torch.stack(gradients)
        self.momentum.lerp_(gradient, 1.0 - values.momentum)
        update = self._even_out(polar_express(gradient.lerp_(self.momentum, values.momentum)))  # Nesterov's look-ahead

        # The shape's factor is a part of the rate, so the decay has it too.
        lr = self.lr * values.lr_multiplier * shape_scale(update.shape)
        decay = self.weight_decay * values.weight_decay_multiplier
        own = [p.detach() for p in self._own]
        step = lr * update
        if decay:
            weights = torch.stack(own)
            # Cautious (arXiv 2510.12402): shrink only those weights that the update does not enlarge.
            step += (lr * decay) * weights * (update * weights >= 0)
        torch._foreach_sub_(own, list(step.unbind()))

    def _even_out(self, update: Tensor) -> Tensor:
        """NorMuon's: rows (or columns) get equal size over time, then each matrix of the stack gets back its norm.

        So the learning rate means the same as without, and the second moment needs no bias correction: the norm undoes it. Both
        norms come from the mean squares along the shorter side, times its length. Changes `update` in place.
        """
        squares = update.square().mean(self._axis, keepdim=True)
        self.second_moment.lerp_(squares, 1.0 - self.beta2)
        scale = self.second_moment.clamp_min(_SMALLEST).rsqrt()
        squares = squares * update.size(self._axis)
        norm = squares.sum((-2, -1), keepdim=True).sqrt()
        scaled_norm = (squares * scale.square()).sum((-2, -1), keepdim=True).sqrt()
        return update.mul_(scale * (norm / scaled_norm.clamp_min(_SMALLEST)))


class PlainMuonGroup(_MatrixGroup):
    """torch.optim.Muon behind the same methods, for matrices of one shape: a baseline, not the recipe."""

    label = "muon"
    what = "torch's Muon"

    def __init__(self, named: dict[str, nn.Parameter], lr: float, weight_decay: float, ranks: Ranks | None = None) -> None:
        super().__init__(named, lr, weight_decay, ranks)
        # As a group of its own, because a list may not be empty, and a rank of many may have no matrix of this shape.
        self.muon = torch.optim.Muon([{"params": self._own}], lr=lr, weight_decay=0.0)
        for parameter, momentum in zip(self._own, self.momentum, strict=True):
            # torch would make these at the first step; made here, they are views of the stack.
            self.muon.state[parameter]["momentum_buffer"] = momentum

    def _update(self, gradients: list[Tensor], values: ScheduleValues) -> None:
        del gradients  # torch's own takes each parameter's .grad
        for group in self.muon.param_groups:
            group["lr"] = self.lr * values.lr_multiplier
            group["weight_decay"] = self.weight_decay * values.weight_decay_multiplier
            group["momentum"] = values.momentum
        self.muon.step()  # type: ignore[no-untyped-call]


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """The gradient, or RuntimeError where backward left none."""
    if parameter.grad is None:
        raise RuntimeError("a parameter has no gradient: run backward on a loss of the whole model before step()")
    return parameter.grad
