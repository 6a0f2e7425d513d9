"""The inner optimizer: which parameter is updated by which rule, at which rate, and its state as flat tensors.

Matrices of the layers take NorMuon, the embedding, the head and the scalars AdamW. The state is a plain
dictionary of named float32 tensors, so that it can travel, be stored in safetensors, and come back bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from windfall.errors import ConfigError, DataError
from windfall.train.model import GPT
from windfall.train.muon import NorMuonGroup, PlainMuonGroup, gradient_of
from windfall.train.ranks import Alone, Ranks, padded, slice_of
from windfall.train.schedule import ScheduleValues
from windfall.train.sizes import WORTH_SHARING

Kind = Literal["normuon", "muon_plain", "adamw"]
RECIPE_BATCH_TOKENS = 2**19
RECIPE_WIDTH = 768
RECIPE_DEPTH = 12


@dataclass(frozen=True)
class OptimConfig:
    """Base rates of the recipe; the defaults are tuned for 2^19 tokens per step and scale from there.

    Rates are multiplied by `lr_scale`, by sqrt(batch_tokens / 2^19) unless `batch_scaling` is off, and those
    of embedding and head also by (width / 768)^-1/2 unless `width_scaling` is off (as nanochat does: not those of the
    scalars, which multiply whole vectors whatever their width). The matrices' `weight_decay` is multiplied by
    (12 / depth)^2 unless `depth_scaling` is off. `residual_lr_ratio` is the rate of
    the residual scalars as a share of `scalar_lr`: they multiply the stream once per layer, so that a step
    which suits the x0 scalars would make it explode. `adamw_lr` and `adamw_weight_decay` are for the
    matrices under kind "adamw". Raises ConfigError for rates below 0, an unknown kind or an empty batch.
    """

    kind: Kind = "normuon"
    batch_tokens: int = RECIPE_BATCH_TOKENS
    matrix_lr: float = 0.02
    embedding_lr: float = 0.3
    head_lr: float = 0.004
    scalar_lr: float = 0.5
    residual_lr_ratio: float = 0.01
    adamw_lr: float = 0.001
    adamw_weight_decay: float = 0.1
    weight_decay: float = 0.2
    lr_scale: float = 1.0
    beta1: float = 0.8
    beta2: float = 0.95
    epsilon: float = 1e-10
    normuon_beta2: float = 0.95
    batch_scaling: bool = True
    width_scaling: bool = True
    depth_scaling: bool = True

    @classmethod
    def demo(cls, batch_tokens: int, **overrides: Any) -> OptimConfig:
        """Rates found for the demo's model (depth 4, width 128, bytes) at 2,048 to 4,096 tokens per step.

        A run of a few hundred steps: the recipe's square root of the batch would make all rates an eleventh, and
        its weight decay is for thousands of steps. Goes with `ScheduleConfig.demo`.
        """
        tuned: dict[str, Any] = {
            "batch_scaling": False,
            "matrix_lr": 0.06,
            "embedding_lr": 0.1,
            "head_lr": 0.004,
            "scalar_lr": 0.12,
            "weight_decay": 0.0,
            "adamw_lr": 0.003,
        }
        return cls(**{**tuned, "batch_tokens": batch_tokens, **overrides})

    def __post_init__(self) -> None:
        if self.kind not in ("normuon", "muon_plain", "adamw"):
            raise ConfigError(f"optimizer: kind is {self.kind!r}; use normuon, muon_plain or adamw")
        if self.batch_tokens < 1:
            raise ConfigError(f"optimizer: batch_tokens is {self.batch_tokens}; give at least 1")
        for name in ("beta1", "beta2", "normuon_beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"optimizer: {name} is {getattr(self, name)}; give a number from 0 to below 1")
        for name in (*(n for n in self.__dataclass_fields__ if "lr" in n), "weight_decay", "adamw_weight_decay"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"optimizer: {name} is {value}; give a finite number of at least 0")
        if self.epsilon <= 0:
            raise ConfigError(f"optimizer: epsilon is {self.epsilon}; give a number above 0")


#: Gives what is to be added to a state's tensor, by its name (the whole tensor); None: nothing.
Differences = Callable[[str], Tensor | None]


class Rule(Protocol):
    """An update rule that owns some parameters and their state."""

    #: What its step does, in words for people.
    what: str

    def step(self, values: ScheduleValues) -> None: ...

    def state(self) -> dict[str, Tensor]:
        """The whole state by flat name. With several ranks all must call it together."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None: ...

    def shift(self, differences: Differences, momenta: Sequence[float]) -> None:
        """As ``InnerOptimizer.shift``. All ranks ask for the same names in the same order."""
        ...


class AdamWGroup:
    """AdamW (decoupled weight decay, bias-corrected) for parameters that share one rate."""

    what = "AdamW"

    def __init__(
        self,
        label: str,
        named: dict[str, nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        epsilon: float,
        weight_decay: float = 0.0,
        ranks: Ranks | None = None,
    ) -> None:
        self.label = label
        self.names = list(named)
        self.parameters = list(named.values())
        self.lr, self.betas, self.epsilon, self.weight_decay = lr, betas, epsilon, weight_decay
        self._ranks = ranks or Alone()
        #: For each parameter the rows that this rank updates, and how many rows each rank reserves. Small parameters are updated by
        #: all.
        self._rows = [slice_of(p.size(0), self._ranks) if p.numel() >= WORTH_SHARING else None for p in self.parameters]
        self.first = [torch.zeros(w.shape, dtype=w.dtype, device=w.device) for w in self._own()]
        self.second = [torch.zeros(w.shape, dtype=w.dtype, device=w.device) for w in self._own()]
        # The count is float32 like all state, which is exact up to 2^24 steps.
        self.steps = torch.zeros((), dtype=torch.float32)

    @torch.no_grad()
    def step(self, values: ScheduleValues) -> None:
        """One update of every parameter from its .grad."""
        beta1, beta2 = self.betas
        weights = self._own()
        gradients = self._parts([gradient_of(p) for p in self.parameters])
        self.steps += 1
        count = float(self.steps)
        lr = self.lr * values.lr_multiplier
        decay = self.weight_decay * values.weight_decay_multiplier
        if decay:
            torch._foreach_mul_(weights, 1.0 - lr * decay)
        torch._foreach_lerp_(self.first, gradients, 1.0 - beta1)
        torch._foreach_mul_(self.second, beta2)
        torch._foreach_addcmul_(self.second, gradients, gradients, 1.0 - beta2)
        denominator = torch._foreach_sqrt(self.second)
        torch._foreach_div_(denominator, math.sqrt(1.0 - beta2**count))
        torch._foreach_add_(denominator, self.epsilon)
        torch._foreach_addcdiv_(weights, self.first, denominator, -lr / (1.0 - beta1**count))
        for parameter, whole in zip(self.parameters, self._together(weights), strict=True):
            if whole is not None:
                parameter.copy_(whole)

    def _own(self) -> list[Tensor]:
        """Views of this rank's part of each parameter."""
        return self._parts([p.detach() for p in self.parameters])

    def _parts(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [t if rows is None else t[rows[0] : rows[1]] for t, rows in zip(tensors, self._rows, strict=True)]

    def _together(self, parts: Sequence[Tensor]) -> list[Tensor | None]:
        """All ranks' parts of each parameter; None where this rank's is the whole already."""
        if self._ranks.size == 1:
            return [None] * len(parts)
        return [
            None if rows is None else self._ranks.gather(padded(part, rows[2]))[: p.size(0)]
            for part, rows, p in zip(parts, self._rows, self.parameters, strict=True)
        ]

    def state(self) -> dict[str, Tensor]:
        """The state by flat name."""
        tensors = {f"adamw.steps.{self.label}": self.steps}
        for kind, own in (("first_moment", self.first), ("second_moment", self.second)):
            for name, part, whole in zip(self.names, own, self._together(own), strict=True):
                tensors[f"adamw.{kind}.{name}"] = part if whole is None else whole
        return tensors

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over this rank's part of a whole state."""
        self.steps.copy_(tensors[f"adamw.steps.{self.label}"])
        for kind, own in (("first_moment", self.first), ("second_moment", self.second)):
            for target, part in zip(own, self._parts([tensors[f"adamw.{kind}.{n}"] for n in self.names]), strict=True):
                target.copy_(part)

    @torch.no_grad()
    def shift(self, differences: Differences, momenta: Sequence[float]) -> None:
        """Of each difference beta ** steps is left."""
        for kind, own, beta in (("first_moment", self.first, self.betas[0]), ("second_moment", self.second, self.betas[1])):
            for target, name, rows in zip(own, self.names, self._rows, strict=True):
                difference = differences(f"adamw.{kind}.{name}")
                if difference is None:
                    continue
                target.add_(difference if rows is None else difference[rows[0] : rows[1]], alpha=beta ** len(momenta))
                if kind == "second_moment":
                    target.clamp_(min=0.0)


def _by_shape(named: dict[str, nn.Parameter]) -> list[dict[str, nn.Parameter]]:
    groups: dict[torch.Size, dict[str, nn.Parameter]] = {}
    for name, parameter in named.items():
        groups.setdefault(parameter.shape, {})[name] = parameter
    return list(groups.values())


class InnerOptimizer:
    """Updates all parameters of one model in place. The model must be on its device before this is made."""

    def __init__(self, model: GPT, config: OptimConfig | None = None, ranks: Ranks | None = None) -> None:
        self.ranks = ranks = ranks or Alone()
        self.config = config = config or OptimConfig()
        self._model_config = model.config
        self._shapes: dict[str, torch.Size] | None = None
        self.parameters = dict(model.named_parameters())
        matrices = {name: p for name, p in self.parameters.items() if name.startswith("blocks.")}
        batch = math.sqrt(config.batch_tokens / RECIPE_BATCH_TOKENS) if config.batch_scaling else 1.0
        scale = config.lr_scale * batch
        narrow = scale * (math.sqrt(RECIPE_WIDTH / model.config.width) if config.width_scaling else 1.0)
        decay = config.weight_decay * ((RECIPE_DEPTH / model.config.depth) ** 2 if config.depth_scaling else 1.0)
        betas = (config.beta1, config.beta2)

        def adamw(label: str, named: dict[str, nn.Parameter], lr: float, weight_decay: float = 0.0) -> AdamWGroup:
            return AdamWGroup(label, named, lr, betas, config.epsilon, weight_decay, ranks)

        def pick(name: str) -> dict[str, nn.Parameter]:
            return {name: self.parameters[name]}

        self.rules: list[Rule] = [
            adamw("embedding", pick("embedding.weight"), config.embedding_lr * narrow),
            adamw("head", pick("head.weight"), config.head_lr * narrow),
            adamw("residual_scalars", pick("residual_scalars"), config.scalar_lr * scale * config.residual_lr_ratio),
            adamw("x0_scalars", pick("x0_scalars"), config.scalar_lr * scale),
        ]
        if config.kind == "adamw":
            self.rules.append(adamw("matrices", matrices, config.adamw_lr * scale, config.adamw_weight_decay))
        elif config.kind == "muon_plain":
            self.rules.extend(PlainMuonGroup(group, config.matrix_lr * scale, decay, ranks) for group in _by_shape(matrices))
        else:
            self.rules.extend(
                NorMuonGroup(group, config.matrix_lr * scale, decay, config.normuon_beta2, ranks) for group in _by_shape(matrices)
            )

    def step(self, values: ScheduleValues, tell: Callable[[str], None] = lambda part: None) -> None:
        """One step from the gradients in place. ``tell`` hears which part of it begins.

        Raises RuntimeError where a parameter has no gradient.
        """
        for number, rule in enumerate(self.rules, 1):
            tell(f"{rule.what}, group {number} of {len(self.rules)}")
            rule.step(values)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def gather(self) -> None:
        """Take part in another rank's ``state_tensors``, keeping nothing."""
        for rule in self.rules:
            rule.state()

    def _live(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for rule in self.rules:
            tensors.update(rule.state())
        return tensors

    def state_tensors(self, keep: Callable[[str, Tensor], Tensor] = lambda _, tensor: tensor.clone()) -> dict[str, Tensor]:
        """Everything that the next step depends on besides weights and gradients: copies, float32, by flat name.

        ``keep`` makes the copies, rule by rule, so that what other ranks have sent stays on the device only for the copy. With
        several ranks all must call it together, and each gets the whole state.
        """
        kept: dict[str, Tensor] = {}
        for rule in self.rules:
            kept.update((name, keep(name, tensor.detach().contiguous())) for name, tensor in rule.state().items())
        return kept

    @torch.no_grad()
    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state from `state_tensors` of an equal model and kind; any float dtype, kept as float32.

        Raises DataError, and changes nothing, where names or shapes differ from this optimizer's.
        """
        shapes = self.state_shapes()
        missing, surplus = sorted(shapes.keys() - tensors.keys()), sorted(tensors.keys() - shapes.keys())
        if missing or surplus:
            what = f"lacks {missing[0]!r}" if missing else f"has an unknown {surplus[0]!r}"
            raise DataError(
                f"optimizer state {what} ({len(missing)} missing, {len(surplus)} unknown);"
                " it belongs to another model or optimizer kind: use its own config, or reset the inner state"
            )
        for name, shape in shapes.items():
            if tensors[name].shape != shape:
                raise DataError(
                    f"optimizer state {name!r} has shape {tuple(tensors[name].shape)}, expected"
                    f" {tuple(shape)}; it belongs to a model of another size: use its own config"
                )
        for rule in self.rules:
            rule.load(tensors)

    @torch.no_grad()
    def shift(self, differences: Differences, momenta: Sequence[float]) -> None:
        """Add to each moving average what would be left of a difference had it been added some steps ago.

        ``momenta``: Muon's momentum in each step since, oldest first; the other factors do not change. Of a difference d in an
        average x := beta x + (1 - beta) g, the product of the betas of all steps since is left. Second moments stay at least 0.
        """
        for rule in self.rules:
            rule.shift(differences, momenta)

    def state_shapes(self) -> dict[str, torch.Size]:
        """Names and shapes of the whole state, in a fixed order; asks no other rank."""
        if self._shapes is None:
            alone = type(self)(self._meta(), self.config)
            self._shapes = {name: t.shape for name, t in alone._live().items()}
        return self._shapes

    def _meta(self) -> GPT:
        with torch.device("meta"):
            return GPT(self._model_config)

    @torch.no_grad()
    def reset(self) -> None:
        """Back to the state of a new optimizer; weights are left alone."""
        zeros = {name: torch.zeros(shape) for name, shape in self.state_shapes().items()}
        for rule in self.rules:
            rule.load(zeros)
