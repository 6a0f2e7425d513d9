"""What a configuration asks of sites that train together, and of their links, in sentences for `windfall check`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from windfall.config.schema import Config, SiteTable
from windfall.train.shape import GPTConfig
from windfall.train.sizes import gigabytes, memory_bytes

#: Bytes of a coded difference over those of its float32 values.
_SHARE = {"fp32": 1.0, "bf16": 0.5, "int8": 0.26, "int4": 0.13, "int2": 0.07}
#: An inner state leaves as bf16.
_INNER_SHARE = 0.5


def shared_steps(config: Config) -> Iterator[str]:
    """Sites that cannot share an optimizer step as it is: each takes a block at least."""
    blocks = config.train.batch_sequences // config.train.block_sequences
    if config.train.batch == "global" and len(config.site) > blocks:
        steps = f"optimizer steps of {blocks} block{'s' if blocks > 1 else ''}"
        yield (
            f"train.block_sequences: {len(config.site)} sites share {steps} when all train together, and each takes one at least: "
            "their steps are larger than the recipe's; make blocks smaller"
        )


@dataclass(frozen=True)
class Leaving:
    """How long (s) a site takes to hand in what it has, over its link: work that it did alone (float32), or in a joint round, and
    its inner state, None where nobody knows how large that is.
    """

    work_s: float
    joint_s: float
    inner_s: float | None

    @classmethod
    def over(cls, bytes_per_s: float, *, codec: str, weights: float, inner: float | None) -> Leaving:
        """Over a link of ``bytes_per_s``; ``weights`` and ``inner`` in bytes, as float32 and as it leaves."""
        work_s = weights / bytes_per_s
        return cls(work_s, _SHARE[codec] * work_s, None if inner is None else inner / bytes_per_s)

    @property
    def total_s(self) -> float:
        """At most."""
        return self.work_s + (self.inner_s or 0.0)

    def takes(self) -> str:
        """In words."""
        inner = "" if self.inner_s is None else f" and its inner state {self.inner_s:.0f} s"
        return f"its last work takes {self.work_s:.0f} s to leave ({self.joint_s:.0f} s from a joint round){inner}"


#: What becomes of what has not left in time.
STAYS = "what has not left stays in its outbox, and comes at its next start"


def slow_leaves(config: Config, shape: GPTConfig) -> Iterator[str]:
    """Sites whose links do not let them hand in what they have in the time that they are given."""
    memory = memory_bytes(shape, optimizer=config.train.optimizer)
    for site in config.site:
        if site.bandwidth_mbit_s is None:
            continue
        leaving = Leaving.over(
            site.bandwidth_mbit_s * 1e6 / 8, codec=config.federation.codec, weights=memory.weights,
            inner=_INNER_SHARE * memory.optimizer,
        )  # fmt: skip
        if leaving.total_s > config.fleet.drain_timeout_s:
            yield (
                f"site {site.name}: at {site.bandwidth_mbit_s:g} Mbit/s {leaving.takes()}, and fleet.drain_timeout_s is "
                f"{config.fleet.drain_timeout_s:g}: {STAYS}"
            )


def notice_key(site: SiteTable) -> str:
    """Which key of a site says how long before its end its platform tells it; empty where none does."""
    match site.driver:
        case "slurm":
            return "slurm.term_before_s"
        case "kubernetes":
            return "kubernetes.grace_s"
        case "exalsius":
            return "exalsius.kubernetes.grace_s"
    return ""


def short_notices(config: Config, shape: GPTConfig) -> Iterator[str]:
    """Sites whose platform gives them less time to hand in what they have than that takes, or than the run would give them."""
    memory = memory_bytes(shape, optimizer=config.train.optimizer)
    for site in config.site:
        key = notice_key(site)
        if not key:
            continue
        what, then = ("a job", "before its limit") if site.slurm is not None else ("a pod", "where the cluster ends it")
        given_s, ends_s = config.notice_s(site), config.fleet.stop_grace_s
        needed_s = config.fleet.drain_timeout_s
        why = f"fleet.drain_timeout_s gives it {needed_s:g} s"
        if site.bandwidth_mbit_s is not None:
            # A site that trains alone sends float32, and its inner state.
            needed_s = (memory.weights + _INNER_SHARE * memory.optimizer) * 8 / (site.bandwidth_mbit_s * 1e6)
            why = f"that takes {needed_s:.0f} s at {site.bandwidth_mbit_s:g} Mbit/s"
        if given_s < needed_s + ends_s:
            yield (
                f"site {site.name}: {key} = {given_s:g} is the time that {what} has to hand in what it has {then}, and {why}, "
                f"beside the {ends_s:g} s of its end: what has not left stays in its outbox, and comes with its next "
                f"{what.split()[1]}; raise it"
            )


def averaged_states(config: Config, shape: GPTConfig) -> Iterator[str]:
    """What averaging inner states adds to rounds."""
    every = config.federation.average_inner_every
    if not every or len(config.site) < 2:
        return
    memory = memory_bytes(shape, optimizer=config.train.optimizer)
    more, usual = _INNER_SHARE * memory.optimizer, _SHARE[config.federation.codec] * memory.weights
    which = "every version" if every == 1 else f"one version in {every}"
    yield (
        f"federation.average_inner_every: for {which} of joint rounds each site hands in {gigabytes(more)} more and is sent as "
        f"much, {more / usual:.1f} times what {config.federation.codec} takes ({gigabytes(usual)} each way); no gain was measured "
        "at rounds of two steps"
    )
