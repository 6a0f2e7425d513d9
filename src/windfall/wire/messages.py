"""The two messages between coordinator and sites, as plain values. `docs/architecture.md` tells their story.

``hello`` -> {protocol, site, generation, manifest, inner_tokens} with the site's unacknowledged outbox as blobs.
``round`` {protocol, fence, round, version, model, acks, leases, cut, pace, progress, ...} waits at the site for the
cut and returns the contribution.

Each is read by its ``parse``, at both ends alike: unknown fields are ignored, a field of a wrong type is refused by its name,
another protocol in one sentence. A site answers what it refuses with ``refusal``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from windfall.errors import Refused
from windfall.store.records import Consumed
from windfall.wire.fields import Fields, is_count, shown
from windfall.wire.rounding import CODECS

PROTOCOL = 2
#: An inner state (two bytes a parameter, and more) larger than this leaves after the work that it goes with, and not with it.
_INNER_WITH_WORK = 64 * 2**20
#: Blocks have numbers below this.
_BLOCKS = 2**40
#: What a contribution may say of its work, besides what counts.
METRICS = ("loss_mean", "loss_last", "train_seconds", "tokens_per_s", "stall_seconds", "evaluation_seconds")


_NAME = re.compile(r"^(\d{6})-(\d{6})\.env$")


def name_of(generation: int, cut: int) -> str:
    """File name of a cut's contribution; also its name in a ``hello``."""
    return f"{generation:06d}-{cut:06d}.env"


def cut_of(name: str) -> tuple[int, int] | None:
    """Generation and cut of such a name."""
    found = _NAME.match(name)
    return (int(found[1]), int(found[2])) if found else None


def inner_goes_along(parameters: int) -> bool:
    """Whether the inner state of a model of so many parameters is small enough to travel with a site's work."""
    return 2 * parameters <= _INNER_WITH_WORK


def check_protocol(raw: Mapping[str, Any], who: str) -> None:
    """Raise Refused if a message is of another protocol than ``who`` reads it, this end, speaks."""
    said = Fields(raw).count("protocol")
    if said != PROTOCOL:
        raise Refused(f"it speaks protocol {said} and this {who} {PROTOCOL}: run the same version of Windfall at both ends")


def refusal(site: str, generation: int, why: str) -> dict[str, Any]:
    """The header with which a site answers a message that it cannot read."""
    return {"protocol": PROTOCOL, "kind": "error", "site": site, "generation": generation, "refused": True, "error": why}


@dataclass(frozen=True)
class Ack:
    """What became of a cut: committed as ``version``, or refused with a reason (the site sheds that work)."""

    generation: int
    cut: int
    accepted: bool
    version: int | None
    reason: str = ""

    @classmethod
    def parse(cls, f: Fields) -> Ack:
        """Raises Refused."""
        version = f.count("version") if "version" in f else None
        return cls(f.count("generation"), f.count("cut"), f.flag("accepted"), version, f.word("reason", default=""))


@dataclass(frozen=True)
class Greeting:
    """The coordinator's ``hello``."""

    fence: int

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Greeting:
        """Raises Refused if it is of another protocol, or a field is missing or of a wrong type."""
        check_protocol(raw, "site")
        return cls(Fields(raw).count("fence"))

    def header(self) -> dict[str, Any]:
        """The message header."""
        return {"protocol": PROTOCOL, "kind": "hello", "fence": self.fence}


@dataclass(frozen=True)
class RoundOrder:
    """What a site is asked to do. Times are run time.

    An order of 0 leases means: hand in what you have.

    ``model``: how the site comes by ``version``: ``full`` (blob ``weights``, whose SHA-256 is ``sha256``), ``chain`` (what made
    each version since the one that it holds: blobs ``difference-N``, or a cut of the site's own), or ``none`` (it holds it).
    ``inner``: ``own`` (keep what the site has), ``sent`` (blob ``inner``), ``reset``. ``after``: ``continue`` training past the
    cut, or ``wait`` for the merge; ``apply_at``: on a gated clock nothing of this order counts before its first step
    boundary from then on. ``valid_until`` ends the site's right to train under this order. ``step_blocks``: blocks
    of each optimizer step. On a gated clock the site owes floor(tokens_per_s x (t - begins_at) / tokens per block) -
    blocks_before blocks by run time t, in whole steps.
    """

    fence: int
    round: int
    version: int
    sha256: str
    model: str
    inner: str
    after: str
    cut_at: float
    begins_at: float
    valid_until: float
    blocks_before: int
    step_blocks: int
    tokens_per_s: float
    gated: bool
    leases: list[dict[str, int]]
    progress_start: float
    progress_rate: float
    acks: list[dict[str, Any]] = field(default_factory=list)
    evaluate: bool = False
    drain: bool = False
    codec: str = "fp32"
    #: What makes each version after the one that the site holds: {version, cut}; cut 0: blob ``difference-N``, else the site's own.
    chain: list[dict[str, int]] = field(default_factory=list)
    apply_at: float = 0.0
    #: Where a ``sent`` inner state comes from: site, version, generation and cut (the last two only where they are known).
    inner_from: list[Any] = field(default_factory=list)
    #: The cut's contribution carries the inner state, to be averaged with those of the other sites.
    average: bool = False
    #: Blob ``mean`` is the mean of inner states that goes with the version: version, and this site's generation and cut in it.
    mean_of: list[int] = field(default_factory=list)

    def header(self) -> dict[str, Any]:
        """The message header."""
        return {"protocol": PROTOCOL, "kind": "round", **asdict(self)}

    @classmethod
    def parse(cls, raw: Mapping[str, Any], blobs: Iterable[str]) -> RoundOrder:
        """Read an order that came over a network with these ``blobs``.

        Raises:
            Refused: it is of another protocol, or a field or blob is missing, of a wrong type or out of range.
        """
        check_protocol(raw, "site")
        f = Fields(raw)
        f.word("kind", of=("round",))
        order = cls(
            fence=f.count("fence"), round=f.count("round"), version=f.count("version"), sha256=f.word("sha256"),
            model=f.word("model", of=("full", "chain", "none")),
            inner=f.word("inner", of=("own", "sent", "reset")), after=f.word("after", of=("continue", "wait")),
            cut_at=f.number("cut_at"), begins_at=f.number("begins_at"), valid_until=f.number("valid_until"),
            blocks_before=f.whole("blocks_before"), step_blocks=f.count("step_blocks"),
            tokens_per_s=f.number("tokens_per_s", above=0.0), gated=f.flag("gated"),
            leases=[_segment(x) for x in f.each("leases")], progress_start=f.number("progress_start"),
            progress_rate=f.number("progress_rate"), acks=[asdict(Ack.parse(x)) for x in f.each("acks")],
            evaluate=f.flag("evaluate"), drain=f.flag("drain"), codec=f.word("codec", of=CODECS),
            chain=[_link(x) for x in f.each("chain")],
            apply_at=f.number("apply_at"),
            inner_from=f.list("inner_from", []),
            average=f.flag("average", False), mean_of=f.list("mean_of", []),
        )  # fmt: skip
        if order.step_blocks < 1:
            raise Refused("step_blocks is 0, and a step has at least one block")
        if order.mean_of and not (len(order.mean_of) == 3 and all(map(is_count, order.mean_of))):
            raise Refused(f"mean_of is {shown(order.mean_of)}, not a version, a generation and a cut")
        needed = ["weights"] * (order.model == "full") + ["inner"] * (order.inner == "sent") + ["mean"] * bool(order.mean_of)
        needed += [difference_blob(x["version"]) for x in order.chain if not x["cut"]]
        for blob in needed:
            if blob not in blobs:
                raise Refused(f"the blob {blob} is missing")
        numbers = [x["version"] for x in order.chain]
        if numbers != list(range(order.version - len(numbers) + 1, order.version + 1)) or (order.model == "chain") != bool(numbers):
            raise Refused(f"a chain of versions {', '.join(map(str, numbers)) or 'none'} does not lead to version {order.version}")
        return order


def difference_blob(version: int) -> str:
    """Name of the blob with what makes ``version`` of the one before it."""
    return f"difference-{version}"


def _link(f: Fields) -> dict[str, int]:
    return {"version": f.count("version"), "cut": f.count("cut")}


def _segment(f: Fields) -> dict[str, int]:
    """What is left of a lease: blocks ``[start, end)`` under ``epoch``."""
    found = {"epoch": f.count("epoch"), "start": f.count("start"), "end": f.count("end")}
    if not found["start"] < found["end"] <= _BLOCKS:
        raise Refused(f"a lease of blocks {found['start']} to {found['end']} is none")
    return found


@dataclass(frozen=True)
class ContributionHeader:
    """What a contribution says of itself. Its delta is blob ``delta``, its inner state (on drain, and where it was
    asked for it) blob ``inner``."""

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
        kept = ("generation", "cut", "consumed", "lineage", "first_step", "last_step", "codec")
        return {k: v for k, v in asdict(self).items() if k in kept}

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> ContributionHeader:
        """Read a header that came over a network.

        Raises:
            Refused: a field is missing, of a wrong type or out of range; the reason says which.
        """
        check_protocol(raw, "coordinator")
        try:
            return cls._read(Fields(raw))
        except Refused as e:
            raise Refused(f"its header is malformed: {e}") from None

    @classmethod
    def _read(cls, f: Fields) -> ContributionHeader:
        consumed = [Consumed(c.count("epoch"), c.count("start"), c.count("end"), c.flag("skipped")) for c in f.each("consumed")]
        first, last = f.count("first_step"), f.count("last_step")
        if not 0 <= last - first <= sum(c.end - c.start for c in consumed if c.end > c.start):
            raise Refused(f"first_step to last_step, {first} to {last}, are not steps of the blocks that it has consumed")
        lineage = f.list("lineage")
        if not all(isinstance(op, list) for op in lineage):
            raise Refused(f"lineage is {shown(lineage)}, not a list of lists")
        return cls(
            site=f.word("site"), generation=f.count("generation"), cut=f.count("cut"), round=f.count("round"),
            base_version=f.count("base_version"), tokens=f.count("tokens"), consumed=consumed, codec=f.word("codec"),
            inner_tokens=f.number("inner_tokens"), metrics=f.figures("metrics"), drained=f.flag("drained"),
            fence=f.count("fence"), lineage=lineage, first_step=first, last_step=last,
        )  # fmt: skip


@dataclass(frozen=True)
class Standing:
    """How things stand at a site, by its hello."""

    site: str
    generation: int
    #: Of the data that it holds.
    manifest: str
    inner_tokens: float
    cut: int
    #: The version that it holds, if it holds one, and its SHA-256.
    base: int | None
    base_sha256: str
    uncut_blocks: int
    round: int
    order_fence: int
    broke_at: int | None = None
    #: Blocks of the step that it was in there.
    broke_blocks: int = 1
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
        return self.cut == 0 and self.uncut_blocks == 0 and self.round == 0

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Standing:
        """Read a hello's header. Raises Refused if it is of another protocol, or a field is missing or of a wrong type."""
        check_protocol(raw, "coordinator")
        f = Fields(raw)
        f.word("kind", of=("hello",))
        return cls(
            site=f.word("site"), generation=f.count("generation"), manifest=f.word("manifest"),
            inner_tokens=f.number("inner_tokens"), cut=f.count("cut"), base=f.count("base") if "base" in f else None,
            base_sha256=f.word("base_sha256", default=""), uncut_blocks=f.count("uncut_blocks"),
            round=f.count("round"), order_fence=f.count("order_fence"),
            broke_at=f.count("broke_at") if "broke_at" in f else None, broke_blocks=f.count("broke_blocks", 1),
            remembers=f.flag("remembers", False),
            seen_round=f.count("seen_round", 0), seen_fence=f.count("seen_fence", 0),
        )  # fmt: skip
