"""What the federation knows of its settings and its members."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from windfall.wire.messages import Ack


@dataclass(frozen=True)
class Settings:
    """What the federation must know of the configuration. Run time, except ``grace_s`` and ``heartbeat_timeout_s``."""

    round_s: float
    solo_cut_s: float
    quorum: float
    grace_s: float
    heartbeat_timeout_s: float
    tick_s: float
    gated: bool
    codec: str
    blocks_per_step: int
    tokens_per_block: int
    budget_tokens: int
    manifest: str
    #: At the power level that each site is at: it changes with that.
    tokens_per_s: Mapping[str, float]
    #: On a clock that does not wait: the shortest joint round (run time).
    round_min_s: float = 60.0
    #: What is larger travels beside the messages, and a site that joins is sent it before it counts.
    inline_bytes: int = 64_000_000
    #: Work lent out beyond what a round needs, on a clock that does not wait.
    lease_margin: float = 1.5
    #: Age of an inner optimizer state, as a share of the budget, past which it is reset.
    inner_max_age: float = 0.02
    #: Blocks of one site in a round, where rounds are bounded by tokens and not by time.
    round_blocks: int | None = None
    #: Sites train on past their cut, until the version that it became part of has reached them.
    overlap: bool = True
    #: By site: what a cut's way and the merge's way back take, where a gated clock models it; else a tenth of the round.
    transfer_s: Mapping[str, float] = field(default_factory=dict)
    #: Tokens between two versions that are evaluated; the last one always is.
    eval_every_tokens: int = 0
    #: ``global``: the sites of a joint round share ``blocks_per_step``; ``site``: each takes all of it.
    batch: str = "global"
    #: By site: blocks of a step that it computes at once; a step is a multiple of it where that can be.
    blocks_at_once: Mapping[str, int] = field(default_factory=dict)
    #: Of so many versions, of one the inner states of those who make it together are averaged; 0: never.
    average_inner_every: int = 0
    #: What a byte between coordinator and site is assumed to take on its way (J).
    network_j_per_byte: float = 0.0
    #: By site: what an evaluation takes (J), where it takes no run time of its own.
    evaluation_j: Mapping[str, float] = field(default_factory=dict)
    #: Of sites with several power levels: at full power. On a clock that does not wait a round may begin below and go on at that.
    full_tokens_per_s: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Member:
    """One generation of a site that has answered hello."""

    site: str
    generation: int
    node: str
    inner_tokens: float
    #: It has been sent the newest version before it was to train on it; and it is being sent it, since when (run time).
    fetched: bool = False
    fetching_since: float | None = None
    #: Version that the site holds, as far as is known.
    held: int | None = None
    began_at: float | None = None
    blocks: int = 0
    #: Cuts whose blocks are in ``blocks``: what comes twice (by its answer and by the outbox) counts once.
    counted: set[int] = field(default_factory=set)
    #: The newest of its cuts that is known of.
    cut: int = 0
    #: Tokens per second of run time that its last contribution shows (0 before the first).
    measured_rate: float = 0.0
    message: str | None = None
    round: int = 0
    drain_sent: bool = False
    #: It has handed in work and not the inner state that goes with it: a site that leaves leaves that too.
    owes_inner: bool = False
    drained: bool = False
    first_order: bool = True
    #: Run time before which its newest order does not count at it: it trains on under the one before.
    takes_in_at: float = -math.inf
    #: Blocks that it had trained and not cut when it said hello; paid for in run time that has passed.
    uncut: int = 0
    #: Its message is lost and it has not said yet how things stand.
    unsure: bool = False
    #: Monotonic wall time since when.
    unsure_since: float = 0.0
    #: Orders in a row that it could not read.
    refusals: int = 0
    #: Monotonic wall time since when its node is not listed.
    gone_since: float | None = None
    acks: list[Ack] = field(default_factory=list)
