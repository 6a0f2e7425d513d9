"""The ledger's rows as values: leases, consumed blocks, received contributions, versions, configurations, holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Lease:
    """Blocks ``[start, end)`` lent to one generation of a site under an epoch, until run time ``expires``."""

    epoch: int
    site: str
    generation: int
    start: int
    end: int
    expires: float


@dataclass(frozen=True, slots=True)
class Consumed:
    """Blocks ``[start, end)`` that were used under a lease epoch.

    ``skipped``: used up by a step that the numerical guard skipped.
    """

    epoch: int
    start: int
    end: int
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """A contribution that has been accepted into the ledger and waits for its commit."""

    id: int
    site: str
    generation: int
    cut: int
    base_version: int
    tokens: int
    file: str
    header: dict[str, Any]


@dataclass(frozen=True, slots=True)
class InnerMean:
    """The mean of inner optimizer states that goes with a version: its file, and the cuts at which they were taken, in the order
    in which they were averaged, each as (site, generation, cut, tokens that it counts for)."""

    file: str
    sha256: str
    cuts: tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Version:
    """One version of the global model."""

    version: int
    t_run: float
    t_wall: float
    file: str
    sha256: str
    outer_file: str | None
    mode: str
    tokens: int
    tokens_total: int
    sites: dict[str, int]
    retained: bool
    #: The cut (site, generation, number) that alone made it: the version is the one before plus what that cut sent, bit for bit.
    alone: tuple[str, int, int] | None = None
    #: What rounding has left out of it and of the versions before: file and SHA-256, if it has left anything.
    residual: tuple[str, str] | None = None
    #: How its difference from the one before was written, where several contributions made it.
    codec: str = "fp32"
    #: Of ``outer_file``.
    outer_sha256: str = ""
    #: Where the inner states of the sites that made it were averaged.
    inner_mean: InnerMean | None = None
    #: Where movements are clipped: of each contribution (site, generation, cut) its norm for each step, and its factor.
    norms: tuple[tuple[str, int, int, float, float], ...] = ()

    @property
    def clipped(self) -> bool:
        """Whether a contribution counts for less than it was sent as."""
        return any(scale != 1.0 for *_, scale in self.norms)

    def scale(self, site: str, generation: int, cut: int) -> float:
        """What a contribution was multiplied by."""
        return next((s for *which, _, s in self.norms if which == [site, generation, cut]), 1.0)


@dataclass(frozen=True, slots=True)
class StoredInner:
    """The newest inner optimizer state that a site has handed in.

    ``version`` and ``tokens_total``: the version that the work before it became part of, and the tokens committed by then.
    ``generation`` and ``cut`` say at which cut of which life of the site it was taken; None in records that are older than this.
    """

    site: str
    version: int
    tokens_total: int
    file: str
    sha256: str
    generation: int | None
    cut: int | None


@dataclass(frozen=True, slots=True)
class Counts:
    """Blocks by state."""

    free: int = 0
    leased: int = 0
    received: int = 0
    committed: int = 0
    skipped: int = 0
    quarantined: int = 0

    @property
    def settled(self) -> int:
        """Blocks that will not change any more."""
        return self.committed + self.skipped + self.quarantined


@dataclass(frozen=True, slots=True)
class Configured:
    """A configuration that a run has had, as it was resolved.

    ``t_run``: run time from which it holds; None until a coordinator has begun under it. ``changes``: what differs from the one
    before, {key, old, new, site} each. ``budget_tokens`` counts from ``from_tokens`` of progress on, and ``how`` says what becomes
    of the rates (``train.schedule.Extent``). ``generations``: the newest life of each site that was begun before it.
    """

    number: int
    t_run: float | None
    t_wall: float
    text: str
    changes: list[dict[str, Any]]
    budget_tokens: int
    from_tokens: int
    how: str
    generations: dict[str, int]


@dataclass(frozen=True, slots=True)
class Hold:
    """An operator keeps a site off. ``drain`` ends with the on-period that it cut short; both end at ``until``."""

    site: str
    kind: str
    t_run: float
    until: float | None
    who: str
    why: str


@dataclass(frozen=True, slots=True)
class TakenRequest:
    """An operator's request that the coordinator has taken up: applied, or refused with a reason.

    ``asked``: the request as it was left (`run.requests`). ``t_run``, ``t_wall``: when it was taken up.
    """

    id: str
    t_run: float
    t_wall: float
    asked: dict[str, Any]
    applied: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a site's bearer token: its SHA-256, and whether its generation is the site's current one.

    ``revoked``: an operator has said that it is good no longer.
    """

    site: str
    generation: int
    sha256: str
    current: bool
    revoked: bool = False
