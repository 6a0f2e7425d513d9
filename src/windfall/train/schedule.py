"""Schedules of the inner optimizer as pure functions of progress in tokens.

Progress is an argument: committed tokens plus what is expected in flight. So a site that was away for a day
takes up the schedule where the run is, and nothing here remembers anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from windfall.errors import ConfigError


@dataclass(frozen=True)
class ScheduleConfig:
    """Shape of the schedules. Fractions are of the budget. Raises ConfigError out of range.

    The momentum ramp is in tokens (the recipe's 300 steps of 2^19), but at most a tenth of the budget, so that
    small runs reach full momentum too.
    """

    warmdown_fraction: float = 0.4
    final_lr_multiplier: float = 0.0
    momentum_start: float = 0.85
    momentum_end: float = 0.95
    momentum_ramp_tokens: int = 300 * 2**19
    momentum_ramp_max_fraction: float = 0.1
    reset_warmup_fraction: float = 0.01
    reset_warmup_start: float = 0.1

    @classmethod
    def demo(cls, **overrides: Any) -> ScheduleConfig:
        """Shape for runs of a few hundred steps, which a momentum of 0.95 would spend averaging."""
        return cls(**{"momentum_start": 0.7, "momentum_end": 0.85, **overrides})

    def __post_init__(self) -> None:
        for name in (
            "warmdown_fraction",
            "final_lr_multiplier",
            "momentum_ramp_max_fraction",
            "reset_warmup_fraction",
            "reset_warmup_start",
        ):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"schedule: {name} is {value}; give a number from 0 to 1")
        for name in ("momentum_start", "momentum_end"):
            value = getattr(self, name)
            if not 0.0 <= value < 1.0:
                raise ConfigError(f"schedule: {name} is {value}; give a number from 0 to below 1")
        if self.momentum_ramp_tokens < 0:
            raise ConfigError(f"schedule: momentum_ramp_tokens is {self.momentum_ramp_tokens}; give 0 or more")


@dataclass(frozen=True)
class ScheduleValues:
    """What one optimizer step is taken with: multipliers of the base rates, and Muon's momentum itself."""

    lr_multiplier: float = 1.0
    momentum: float = 0.95
    weight_decay_multiplier: float = 1.0


def _ramp(position: float, length: float) -> float:
    """0 at or before 0, 1 at or after `length`, linear between; 1 everywhere for an empty ramp."""
    if length <= 0:
        return 1.0
    return min(1.0, max(0.0, position / length))


@dataclass(frozen=True)
class Extent:
    """A budget that counts from some progress on (tokens both), because the run was made longer there.

    warmdown: as if it had been planned, reached by a short ramp from the rates there, or falling from those where they are
    higher; hold: the rates there are kept to its end.
    """

    from_tokens: float
    budget_tokens: float
    how: Literal["warmdown", "hold"] = "warmdown"


def schedule(
    progress_tokens: float,
    budget: float | Sequence[Extent],
    config: ScheduleConfig | None = None,
    tokens_since_reset: float | None = None,
) -> ScheduleValues:
    """Values at `progress_tokens` of a budget (tokens; or budgets, one after another); outside 0..budget those at the nearer end,
    never negative.

    The learning rate has no warm-up, is constant, and falls linearly to `final_lr_multiplier` over the last
    `warmdown_fraction`. Weight decay falls linearly to 0 over the whole run. `tokens_since_reset` counts what
    this site trained since its inner optimizer state was reset (None: never): a short warm-up keeps the first
    steps small, whose second moments are estimates from almost nothing. Raises ConfigError for a budget <= 0.
    """
    config = config or ScheduleConfig()
    extents = [Extent(0.0, budget)] if isinstance(budget, int | float) else list(budget)
    for e in extents:
        if e.budget_tokens <= 0:
            raise ConfigError(f"schedule: the budget is {e.budget_tokens} tokens; give more than 0")
    while len(extents) > 1 and progress_tokens < extents[-1].from_tokens:
        extents.pop()
    values = _along(progress_tokens, extents, config)
    if tokens_since_reset is None:
        return values
    warm = _ramp(tokens_since_reset, config.reset_warmup_fraction * extents[-1].budget_tokens)
    share = config.reset_warmup_start + (1.0 - config.reset_warmup_start) * warm
    return replace(values, lr_multiplier=values.lr_multiplier * share)


def _along(progress: float, extents: Sequence[Extent], config: ScheduleConfig) -> ScheduleValues:
    """Values in the last of ``extents``, in which progress lies, or past its end."""
    *earlier, last = extents
    planned = _planned(progress, last.budget_tokens, config)
    if not earlier:
        return planned
    there = _along(last.from_tokens, earlier, config)
    if last.how == "hold":
        return there
    # One that was held may stand higher than what was planned: from there it falls along a line of its own.
    left = _ramp(last.budget_tokens - progress, last.budget_tokens - last.from_tokens)
    rise = _ramp(progress - last.from_tokens, config.reset_warmup_fraction * last.budget_tokens)

    def reached(value: float, begin: float, end: float) -> float:
        return min(max(value, end + (begin - end) * left), begin + (1.0 - begin) * rise)

    return ScheduleValues(
        lr_multiplier=reached(planned.lr_multiplier, there.lr_multiplier, config.final_lr_multiplier),
        momentum=max(planned.momentum, there.momentum),
        weight_decay_multiplier=reached(planned.weight_decay_multiplier, there.weight_decay_multiplier, 0.0),
    )


def _planned(progress: float, budget: float, config: ScheduleConfig) -> ScheduleValues:
    """Values of a run that was planned with this budget."""
    done = min(1.0, max(0.0, progress / budget))
    left = _ramp(1.0 - done, config.warmdown_fraction)
    ramp_tokens = min(float(config.momentum_ramp_tokens), config.momentum_ramp_max_fraction * budget)
    ramp = _ramp(done * budget, ramp_tokens)
    return ScheduleValues(
        lr_multiplier=config.final_lr_multiplier + (1.0 - config.final_lr_multiplier) * left,
        momentum=config.momentum_start + (config.momentum_end - config.momentum_start) * ramp,
        weight_decay_multiplier=1.0 - done,
    )
