"""What a configuration asks of sites that train together, and of their links, in sentences for `windfall check`."""

from __future__ import annotations

from collections.abc import Iterator

from windfall.config.schema import Config
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


def slow_leaves(config: Config, shape: GPTConfig) -> Iterator[str]:
    """Sites whose links do not let them hand in what they have in the time that they are given."""
    memory = memory_bytes(shape, optimizer=config.train.optimizer)
    for site in config.site:
        if site.bandwidth_mbit_s is None:
            continue
        bytes_per_s = site.bandwidth_mbit_s * 1e6 / 8
        # A site that trains alone sends float32.
        work_s, inner_s = memory.weights / bytes_per_s, _INNER_SHARE * memory.optimizer / bytes_per_s
        if work_s + inner_s > config.fleet.drain_timeout_s:
            joint_s = _SHARE[config.federation.codec] * work_s
            takes = f"{work_s:.0f} s to leave ({joint_s:.0f} s from a joint round) and its inner state {inner_s:.0f} s"
            yield (
                f"site {site.name}: at {site.bandwidth_mbit_s:g} Mbit/s its last work takes {takes}, and fleet.drain_timeout_s is "
                f"{config.fleet.drain_timeout_s:g}: what has not left stays in its outbox, and comes at its next start"
            )


def short_notices(config: Config, shape: GPTConfig) -> Iterator[str]:
    """Sites whose platform gives them less time to hand in what they have than that takes, or than the run would give them."""
    memory = memory_bytes(shape, optimizer=config.train.optimizer)
    for site in config.site:
        if site.slurm is None:
            continue
        given_s, needed_s = site.slurm.term_before_s, config.fleet.drain_timeout_s
        why = f"fleet.drain_timeout_s gives it {needed_s:g} s"
        if site.bandwidth_mbit_s is not None:
            # A site that trains alone sends float32, and its inner state.
            needed_s = (memory.weights + _INNER_SHARE * memory.optimizer) * 8 / (site.bandwidth_mbit_s * 1e6)
            why = f"that takes {needed_s:.0f} s at {site.bandwidth_mbit_s:g} Mbit/s"
        if given_s < needed_s:
            yield (
                f"site {site.name}: slurm.term_before_s = {given_s} is the time that a job has to hand in what it has before its "
                f"limit, and {why}: what has not left stays in its outbox, and comes with its next job; raise it"
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
