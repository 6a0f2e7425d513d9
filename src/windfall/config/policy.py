"""When a site is wanted on: the table `[policy]`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from windfall.config.base import Instant, NonNegative, Positive, Table

PolicyName = Literal[
    "breakeven", "threshold", "paper", "percentile", "learned", "lookahead", "budgeted", "oracle", "always", "random_duty",
]  # fmt: skip
#: Policies that know the future, or look at nothing. They are for comparison and not for runs.
BACKTEST_ONLY = ("oracle", "random_duty")


class PolicyTable(Table):
    """`[policy]`: when a site is wanted on."""

    name: PolicyName = Field("learned", description="which policy decides")
    worth_g_per_kwh: Positive = Field(100.0, description="what a kWh of training is worth (lambda), against intensities")
    worth_per_mwh: float = Field(0.0, description="the same against prices: train while electricity costs less than this")
    value_scale_per_mwh: Positive = Field(20.0, description="how far under worth_per_mwh a price is worth as much as 0 g is")
    a_on: NonNegative = Field(0.5, description="breakeven: share of the restart cost to gain before a start")
    a_off: NonNegative = Field(0.5, description="breakeven: share of the restart cost to lose before a stop")
    start_g_per_kwh: Positive = Field(100.0, description="threshold: start below this")
    stop_g_per_kwh: Positive | None = Field(None, description="threshold: stop at or above this (default: start_g_per_kwh)")
    confirm_s: NonNegative = Field(0.0, description="threshold: how long the reading must stay below before a start")
    off_delay_s: NonNegative = Field(0.0, description="threshold: how long it must stay above before a stop")
    min_up_s: NonNegative = Field(0.0, description="threshold: shortest on-period")
    percentile: Annotated[float, Field(gt=0, lt=100)] = Field(
        10.0, description="percentile: on in the lowest readings, this many %"
    )
    window_days: Positive = Field(7.0, description="percentile: of the trailing days that count")
    lookahead_h: Positive = Field(3.0, description="lookahead: how much of the forecast is used")
    deadline: Instant | None = Field(None, description="budgeted: when the budget must be trained (ISO 8601, UTC)")
    deadline_h: Positive | None = Field(None, description="budgeted: the same, in hours of run time from the start")
    climatology_days: Positive = Field(28.0, description="budgeted: past days that stand for the future beyond the forecast")
    replan_s: Positive = Field(900.0, description="budgeted: run time between two plans")
    duty: Annotated[float, Field(gt=0, le=1)] = Field(0.25, description="random_duty: share of the time on")
    duty_period_s: Positive = Field(3600.0, description="random_duty: time between two draws")

    @model_validator(mode="after")
    def _levels(self) -> PolicyTable:
        if self.stop_g_per_kwh is not None and self.stop_g_per_kwh < self.start_g_per_kwh:
            raise ValueError("stop_g_per_kwh must not be below start_g_per_kwh; swap the two")
        return self

    @model_validator(mode="after")
    def _one_deadline(self) -> PolicyTable:
        if self.deadline is not None and self.deadline_h is not None:
            raise ValueError("deadline and deadline_h are the same thing; give one of them")
        return self
