"""Rules for matrices: NorMuon with cautious weight decay, and torch's plain Muon behind the same methods.

Published sources: Muon (Jordan et al. 2024), Polar Express (Amsel et al., arXiv 2505.16932), NorMuon (Li et al.,
arXiv 2510.05491), cautious weight decay (arXiv 2510.12402).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from windfall.train.ranks import Alone, Ranks, padded, slice_of
from windfall.train.schedule import ScheduleValues

# Table of the Polar Express paper for degree 5 and a smallest singular value of 1e-3: the minimax-optimal odd
# quintic a·x + b·x³ + c·x⁵ of each iteration.
_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
# The paper's guard against rounding pushing a singular value above the interval that the quintics are made for.
_SAFETY = 1.01
_EPSILON = 1e-10


def polar_express(matrices: Tensor) -> Tensor:
    """Approximate polar factor UVᵀ of each matrix USVᵀ in a stack [..., rows, cols], in the stack's dtype.

    Five matrix-product iterations; computed in bfloat16 on an accelerator (for which the method is made) and in
    the given dtype on a CPU, whose bfloat16 products are not faster at these sizes. Singular values down to
    about 1e-3 of the Frobenius norm end near 1. Zero matrices stay zero.
    """
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) * _SAFETY + 1e-7)
    for a, b, c in _POLAR_EXPRESS:
        a, b, c = a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    result: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return result


def shape_scale(shape: torch.Size) -> float:
    """Muon's correction of the learning rate for tall matrices: sqrt(max(1, rows / cols))."""
    return math.sqrt(max(1.0, shape[-2] / shape[-1]))


class NorMuonGroup:
    """NorMuon for parameters of one shape, whose updates are computed as one stack; each rank computes its part of it."""

    def __init__(
        self, named: dict[str, nn.Parameter], lr: float, weight_decay: float, beta2: float, ranks: Ranks | None = None
    ) -> None:
        self.names = list(named)
        self.parameters = list(named.values())
        self.lr, self.weight_decay, self.beta2 = lr, weight_decay, beta2
        self._ranks = ranks or Alone()
        self._first, self._end, self._each = slice_of(len(named), self._ranks)
        like = self.parameters[0]
        self.momentum = torch.zeros((self._end - self._first, *like.shape), device=like.device)
        self.second_moment = torch.zeros_like(self.momentum[..., :1])

    @torch.no_grad()
    def step(self, values: ScheduleValues) -> None:
        """One update of every parameter from its .grad."""
        own = self.parameters[self._first : self._end]
        gradients = [gradient_of(p) for p in self.parameters][self._first : self._end]
        if self._ranks.size == 1:
            torch._foreach_sub_([p.detach() for p in own], list(self._update(own, gradients, values).unbind()))
            return
        like = self.parameters[0]
        weights = torch.stack([p.detach() for p in own]) if own else like.new_empty((0, *like.shape))
        if own:
            weights = weights - self._update(own, gradients, values)
        together = self._ranks.gather(padded(weights, self._each))
        for parameter, new in zip(self.parameters, together, strict=False):
            parameter.copy_(new)

    def _update(self, own: list[nn.Parameter], gradients: list[Tensor], values: ScheduleValues) -> Tensor:
        """What is taken from this rank's parameters, as a stack."""
        gradient = torch.stack(gradients)
        self.momentum.lerp_(gradient, 1.0 - values.momentum)
        update = polar_express(gradient.lerp_(self.momentum, values.momentum))  # Nesterov's look-ahead

        # Rows (output neurons) get equal size over time, then the whole gets back its norm, so that the
        # learning rate means the same as without. The second moment needs no bias correction: the norm undoes it.
        norm = torch.linalg.matrix_norm(update, keepdim=True)
        self.second_moment.lerp_(update.square().mean(dim=-1, keepdim=True), 1.0 - self.beta2)
        update *= self.second_moment.clamp_min(_EPSILON).rsqrt()
        update *= norm / torch.linalg.matrix_norm(update, keepdim=True).clamp_min(_EPSILON)

        lr = self.lr * values.lr_multiplier
        decay = self.weight_decay * values.weight_decay_multiplier
        step: Tensor = lr * shape_scale(update.shape) * update
        if decay:
            weights = torch.stack([p.detach() for p in own])
            # Cautious: shrink only those weights that the update is moving towards zero anyway.
            step += (lr * decay) * weights * (update * weights > 0)
        return step

    def state(self) -> dict[str, Tensor]:
        """The state by flat name, one pair per parameter: stacks and ranks are an affair of this class."""
        momentum = self._ranks.gather(padded(self.momentum, self._each))
        second = self._ranks.gather(padded(self.second_moment, self._each))
        tensors: dict[str, Tensor] = {}
        for index, name in enumerate(self.names):
            tensors[f"normuon.momentum.{name}"] = momentum[index]
            tensors[f"normuon.second_moment.{name}"] = second[index]
        return tensors

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over this rank's part of a whole state."""
        for index, name in enumerate(self.names[self._first : self._end]):
            self.momentum[index].copy_(tensors[f"normuon.momentum.{name}"])
            self.second_moment[index].copy_(tensors[f"normuon.second_moment.{name}"])


class PlainMuonGroup:
    """torch.optim.Muon behind the same methods: a baseline, not the recipe."""

    def __init__(self, named: dict[str, nn.Parameter], lr: float, weight_decay: float) -> None:
        self.names = list(named)
        self.parameters = list(named.values())
        self.lr, self.weight_decay = lr, weight_decay
        self.muon = torch.optim.Muon(self.parameters, lr=lr, weight_decay=0.0)
        for parameter in self.parameters:
            # torch makes these at the first step; made here, the state has its full shape from the start.
            self.muon.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def step(self, values: ScheduleValues) -> None:
        """One update of every parameter from its .grad."""
        for parameter in self.parameters:
            gradient_of(parameter)
        for group in self.muon.param_groups:
            group["lr"] = self.lr * values.lr_multiplier
            group["weight_decay"] = self.weight_decay * values.weight_decay_multiplier
            group["momentum"] = values.momentum
        self.muon.step()  # type: ignore[no-untyped-call]

    def state(self) -> dict[str, Tensor]:
        """Live views of the state by flat name."""
        return {
            f"muon.momentum.{name}": self.muon.state[parameter]["momentum_buffer"]
            for name, parameter in zip(self.names, self.parameters, strict=True)
        }

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state."""
        for name, target in self.state().items():
            target.copy_(tensors[name])


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """The gradient, or RuntimeError where backward left none."""
    if parameter.grad is None:
        raise RuntimeError("a parameter has no gradient: run backward on a loss of the whole model before step()")
    return parameter.grad
