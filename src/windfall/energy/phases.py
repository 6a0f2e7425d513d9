"""Energy phases: what a site's power is booked under, by the states of its machine. Loop, backtests and reports ask here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

#: ``idle``: its nodes are there and load, or wait for work; ``stall``: it trains, and waits for others or for a merge;
#: ``draining``: it hands in; ``terminating``: its driver ends it; ``network``: what moved between it and its coordinator, which has
#: no time of its own.
PHASES = ("off", "provisioning", "idle", "training", "evaluation", "stall", "draining", "terminating", "network")

#: A phase over ``[from, to)`` (run time).
Span = tuple[str, float, float]


def of_state(
    state: str, t0: float, t1: float, *, loads_at: float = math.inf, was_ready: bool = False, adopted: bool = False,
    ending: bool = False, work: Callable[[float, float], list[Span]] = lambda a, b: [("training", a, b)],
) -> list[Span]:  # fmt: skip
    """The phases of a site whose machine was in ``state`` over ``[t0, t1)``, in order, none without length.

    ``loads_at``: from when on a site that starts has its nodes and loads, which takes idle power. ``was_ready``: whether a failed
    site had been ready. ``adopted``: it was found running by a new coordinator, and nothing says that it stopped to train.
    ``ending``: a draining site's driver has been asked to end it.
    ``work``: what a training site did, where that is known better than that it trained.
    """
    match state:
        case "provisioning" if adopted:
            found = [("training", t0, t1)]
        case "provisioning":
            found = [("provisioning", t0, min(t1, loads_at)), ("idle", max(t0, loads_at), t1)]
        case "training":
            found = work(t0, t1)
        case "ready":
            found = [("idle", t0, t1)]
        case "failed":
            found = [("idle" if was_ready else "provisioning", t0, t1)]
        case "draining" if ending:
            found = [("terminating", t0, t1)]
        case _:  # off and draining are phases of their own
            found = [(state, t0, t1)]
    return [s for s in found if s[2] > s[1]]


def with_stalls(t0: float, t1: float, since: float, cycle_s: float, stall_s: float) -> Iterator[Span]:
    """``[t0, t1)`` of joint training begun at ``since``, where the last ``stall_s`` of each ``cycle_s`` pass without a step."""
    begin = since + math.floor((t0 - since) / cycle_s) * cycle_s
    while begin < t1:
        stall, end = begin + (cycle_s - stall_s), begin + cycle_s
        for phase, a, b in (("training", begin, stall), ("stall", stall, end)):
            if min(b, t1) > max(a, t0):
                yield phase, max(a, t0), min(b, t1)
        begin = end
