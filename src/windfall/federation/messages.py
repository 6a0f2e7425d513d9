"""The two messages between coordinator and sites, as plain values. `docs/architecture.md` tells their story.

``hello`` -> {protocol, site, generation, manifest, inner_tokens} with the site's unacknowledged outbox as blobs.
``round`` {protocol, fence, round, version, model, acks, leases, cut, pace, progress, ...} waits at the site for the
cut and returns the contribution.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from windfall.errors import Refused
from windfall.store.records import Consumed

PROTOCOL = 1
#: No count that a site may name is beyond this: it must fit into the ledger, and into a float.
MOST = 2**53
#: What a contribution may say of its work, besides what counts.
METRICS = ("loss_mean", "loss_last", "train_seconds", "tokens_per_s")


@dataclass(frozen=True)
class Ack:
    """What became of a cut: committed as ``version``, or refused with a reason (the site sheds that work)."""

    generation: int
    cut: int
    accepted: bool
    version: int | None
    reason: str = ""


@dataclass(frozen=True)
class RoundOrder:
    """What a site is asked to do. Times are run time.

    An order of 0 leases means: hand in what you have.

    ``model``: ``full`` (blob ``weights`` replaces the parameters), or ``none`` (the site has them). ``inner``:
    ``own`` (keep what the site has), ``sent`` (blob ``inner``), ``reset``. ``after``: ``continue`` training past the
    cut, or ``wait`` for the merge. ``valid_until`` ends the site's right to train under this order. On a
    gated clock the site owes floor(tokens_per_s x (t - begins_at) / tokens per step) - steps_before steps by run time t.
    """

    fence: int
    round: int
    version: int
    model: str
    inner: str
    after: str
    cut_at: float
    begins_at: float
    valid_until: float
    steps_before: int
    tokens_per_s: float
    gated: bool
    leases: list[dict[str, int]]
    progress_start: float
    progress_rate: float
    acks: list[dict[str, Any]] = field(default_factory=list)
    evaluate: bool = False
    drain: bool = False
    codec: str = "fp32"
    #: Where a ``sent`` inner state comes from: site and version.
    inner_from: list[Any] = field(default_factory=list)

    def header(self) -> dict[str, Any]:
        """The message header."""
        return {"protocol": PROTOCOL, "kind": "round", **asdict(self)}


@dataclass(frozen=True)
class ContributionHeader:
    """What a contribution says of itself. Its delta is blob ``delta``, its inner state (on drain) blob ``inner``."""

    site: str
    generation: int
    cut: int
    round: int
    base_version: int
    tokens: int
    consumed: list[Consumed]
    codec: str
    inner_tokens: float
    metrics: dict[str, float]
    drained: bool
    fence: int
    #: Where parameters, inner state and progress came from since the previous cut: [step, what, ...] entries, each
    #: before the step (counted from the cut) that it precedes. ``federation.replay`` reads them.
    lineage: list[list[Any]] = field(default_factory=list)
    #: Steps of this life of the site before the first one in here.
    first_step: int = 0
    #: And up to its last one.
    last_step: int = 0

    def header(self) -> dict[str, Any]:
        """The message header."""
        return {"protocol": PROTOCOL, "kind": "contribution", **asdict(self)}

    def replayable(self) -> dict[str, Any]:
        """What a replay needs of it."""
        kept = ("generation", "cut", "consumed", "lineage", "first_step", "last_step")
        return {k: v for k, v in asdict(self).items() if k in kept}

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> ContributionHeader:
        """Read a header that came over a network.

        Raises:
            Refused: a field is missing, of a wrong type or out of range; the reason says which.
        """
        try:
            if raw["protocol"] != PROTOCOL:
                raise Refused(f"speaks protocol {raw['protocol']!r}, this coordinator {PROTOCOL}")
            consumed = [
                Consumed(count(c["epoch"]), count(c["start"]), count(c["end"]), bool(c["skipped"])) for c in raw["consumed"]
            ]
            steps = count(raw["last_step"]) - count(raw["first_step"])
            if not 0 <= steps <= sum(c.end - c.start for c in consumed if c.end > c.start):
                raise Refused(f"counts steps {raw['first_step']} to {raw['last_step']} for the blocks that it names")
            return cls(
                site=str(raw["site"]), generation=count(raw["generation"]), cut=count(raw["cut"]), round=count(raw["round"]),
                base_version=count(raw["base_version"]), tokens=count(raw["tokens"]), consumed=consumed,
                codec=str(raw["codec"]), inner_tokens=figure(raw["inner_tokens"]),
                metrics={str(k): float(v) for k, v in raw["metrics"].items()}, drained=bool(raw["drained"]),
                fence=count(raw["fence"]), lineage=[list(op) for op in raw["lineage"]], first_step=count(raw["first_step"]),
                last_step=count(raw["last_step"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as e:
            raise Refused(f"its header is malformed ({type(e).__name__}: {e})") from None


def count(value: Any) -> int:
    """A count that came over a network. Raises ValueError if it is none."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST:
        raise ValueError(f"{value!r} is not a count")
    return value


def text(value: Any, most: int = 500) -> str:
    """Text that came over a network: whole characters, and not without end."""
    return str(value)[:most].encode("utf-8", "replace").decode()


def figure(value: Any) -> float:
    """A finite number that came over a network. Raises ValueError, TypeError or OverflowError if it is none."""
    found = float(value)
    if not math.isfinite(found):
        raise ValueError(f"{value!r} is not a finite number")
    return found


@dataclass(frozen=True)
class Standing:
    """How things stand at a site, by its hello."""

    inner_tokens: float
    cut: int
    base: int
    uncut_steps: int
    round: int
    order_fence: int
    broke_at: int | None = None
    remembers: bool = False
    #: Round and fence of the newest order that it has read, in force or not.
    seen_round: int = 0
    seen_fence: int = 0

    def has_seen(self, number: int, fence: int) -> bool:
        """Whether it has read the order of this round."""
        return (self.seen_round, self.seen_fence) == (number, fence)

    @property
    def fresh(self) -> bool:
        """It has not been told anything yet."""
        return self.cut == 0 and self.uncut_steps == 0 and self.round == 0

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> Standing:
        """Read a hello's header. Raises Refused if a field is missing or of a wrong type."""
        try:
            return cls(
                float(raw["inner_tokens"]), count(raw["cut"]), count(raw["base"]), count(raw["uncut_steps"]),
                count(raw["round"]), count(raw["order_fence"]),
                None if raw.get("broke_at") is None else count(raw["broke_at"]), bool(raw.get("remembers")),
                count(raw.get("seen_round", 0)), count(raw.get("seen_fence", 0)),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, OverflowError) as e:
            raise Refused(f"{type(e).__name__}: {e}") from None
