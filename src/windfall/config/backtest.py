"""The loop on a manual clock: the table `[backtest]` and those in it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from windfall.config.base import Instant, NonNegative, Positive, Table
from windfall.config.policy import PolicyName


class TrainerTable(Table):
    """`[backtest.trainer]`: the model that takes the trainer's place on the manual clock."""

    preset: Literal["windfall", "prototype"] = Field(
        "windfall", description="prototype has the study's start and stall; windfall the sites' own starts and no stall"
    )
    provision_s: NonNegative = Field(
        240.0, description="preset prototype: provisioning, at provisioning_power_w (windfall: spin_up_s - load_s of each site)"
    )
    load_s: NonNegative = Field(100.0, description="preset prototype: loading, at idle power (windfall: load_s of each site)")
    stall_s: NonNegative = Field(135.0, description="preset prototype: idle part of each cycle with two or more sites")
    stall_cycle_s: Positive = Field(648.0, description="preset prototype: length of that cycle")


class ReferenceTable(Table):
    """`[[backtest.reference]]`: figures from elsewhere, shown beside the rows."""

    name: str = Field(min_length=1, description="whose they are")
    preset: str = Field("measured", description="how they came about")
    finish_h: Positive | None = Field(None, description="hours from the start to the end")
    site_hours: Positive | None = Field(None, description="site-hours of training")
    energy_kwh: Positive | None = Field(None, description="energy")
    kg_co2: Positive | None = Field(None, description="emissions")
    share_inside: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="share of the energy inside windows")


class BacktestTable(Table):
    """`[backtest]`: the loop on a manual clock."""

    start: Instant | None = Field(None, description="first instant (default: [run] start, else the first row that all traces have)")
    until: Instant | None = Field(None, description="last instant (default: the end of the traces)")
    target: Literal["budget", "none"] = Field(
        "budget", description="budget: until it is trained; none: from start to until, whatever that trains"
    )
    site_hours: Positive | None = Field(None, description="budget in site-hours (default: budget_tokens)")
    baseline_site_hours: Positive | None = Field(None, description="site-hours of the always-on baselines (default: site_hours)")
    tick_s: Positive | None = Field(None, description="step of the simulation (default: [run] tick_s)")
    policies: list[PolicyName] = Field(["paper", "breakeven", "learned", "always", "oracle"], description="policies to compare")
    deadlines_h: list[Positive] = Field(
        default_factory=list, description="budgeted and oracle: hours by which the budget must be trained, a row for each"
    )
    publication_delays_s: list[NonNegative] = Field(
        default_factory=list, description="rows for readings that are known so late (default: as the signals say)"
    )
    trainer: TrainerTable = Field(default_factory=TrainerTable)  # type: ignore[arg-type]
    random_seeds: Annotated[int, Field(ge=1, le=1000)] = Field(
        8, description="random_duty: its figures over so many seeds, from [run] seed on, besides its row"
    )
    paper_preset: Literal["windfall", "prototype"] = Field(
        "prototype", description="preset of the row `paper`: the study ran with its stall"
    )
    reference: list[ReferenceTable] = Field(default_factory=list, description="figures from elsewhere, shown beside the rows")
