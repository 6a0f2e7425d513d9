"""How sites train together: the table `[federation]`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from windfall.config.base import NonNegative, Positive, Table


class FederationTable(Table):
    """`[federation]`: rounds, merging, checkpoints."""

    round_s: Positive = Field(600.0, description="longest federated round, run time (on a scaled clock, every one)")
    round_min_s: Positive = Field(
        60.0, description="clock real: shortest federated round; one is ten times its transfer and merge, longer as the run goes on"
    )
    round_tokens: int | None = Field(
        None, ge=1, description="tokens of each site per round, whole steps, instead of round_s; repeatable if snapshot_s is longer"
    )
    solo_cut_s: Positive = Field(600.0, description="a site alone cuts a version this often, run time")
    quorum: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="share of a round's sites that must have answered before grace runs"
    )
    grace_s: NonNegative = Field(60.0, description="wall time a round waits for late sites once it has a quorum")
    outer: Literal["average", "nesterov"] = Field("average", description="what turns contributions into a version")
    outer_lr: Positive = Field(0.7, description="outer Nesterov learning rate")
    outer_momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="outer Nesterov momentum")
    codec: Literal["fp32", "bf16", "int8", "int4", "int2"] = Field(
        "int8", description="how what is trained together is rounded to travel, both ways (one site alone: always fp32)"
    )
    overlap: bool = Field(
        True, description="sites train on past their cut, until what it became part of has reached them (never with round_tokens)"
    )
    average_inner_every: int = Field(
        0, ge=0, description="every n-th version of joint rounds averages inner states too; no gain measured at rounds of two steps"
    )
    clip_delta_norm: Annotated[float, Field(gt=1)] | None = Field(
        None,
        description="work that moves the model more a step than so many times the median of recent work is scaled down to that "
        "(default: never)",
    )
    base_max_age: Annotated[float, Field(ge=0, le=1)] = Field(
        0.005, description="late work may be based on a version this much of the budget old, or two versions; older is lost"
    )
    inner_max_age: Annotated[float, Field(ge=0, le=1)] = Field(
        0.02, description="an inner optimizer state this much of the budget old is reset where a site takes it up again"
    )
    snapshot_s: Positive = Field(120.0, description="wall time between a site's local snapshots")
    keep_versions: int = Field(5, ge=2, description="weights files kept besides every keep_every-th")
    keep_every: int = Field(10, ge=1, description="every n-th version's weights are kept for good")
    inline_limit_mb: Positive = Field(64.0, description="what is larger travels as files beside the messages, over HTTP")
    port: int = Field(0, ge=0, le=65535, description="SuperLink port on this machine; 0 picks a free one")

    @property
    def inline_limit_bytes(self) -> int:
        """What is larger does not travel in a message."""
        return int(self.inline_limit_mb * 1e6)
