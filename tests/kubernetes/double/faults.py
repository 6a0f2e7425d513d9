"""What goes wrong between a client and the API server, by plan and by a seeded die."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from kubernetes.double import errors

#: Actions beside the names of `errors.BY_NAME`.
DROP = "drop"  # the connection ends before the request is read: nothing happened
LOSE = "lose"  # the request is carried out and its answer is lost
GARBLE = "garble"  # the answer is no JSON
CUT = "cut"  # a watch ends after its first event, without a farewell


@dataclass
class Fault:
    """One thing that goes wrong, for requests that match.

    ``action`` is a name of `errors.BY_NAME` or one of this module's words; empty `verbs` and `plurals` match all. It strikes with
    ``probability``, at most ``times`` times, and not before ``skip`` matching requests have passed. ``after``: the request is
    carried out first.
    """

    action: str
    verbs: Sequence[str] = ()
    plurals: Sequence[str] = ()
    probability: float = 1.0
    times: int | None = None
    skip: int = 0
    retry_after_s: int | None = None
    after: bool = False
    struck: int = field(default=0, init=False)


class Faults:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"faults-{seed}")
        self._lock = threading.Lock()
        self.plan: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        self.plan.append(fault)
        return fault

    def clear(self) -> None:
        self.plan.clear()

    def strike(self, verb: str, plural: str) -> Fault | None:
        """The fault that this request meets, if any."""
        with self._lock:
            for fault in self.plan:
                if (fault.verbs and verb not in fault.verbs) or (fault.plurals and plural not in fault.plurals):
                    continue
                if fault.times is not None and fault.struck >= fault.times:
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                if fault.probability < 1 and self._random.random() >= fault.probability:
                    continue
                fault.struck += 1
                return fault
        return None


def refusal(fault: Fault) -> errors.ApiError:
    known = errors.BY_NAME[fault.action]
    retry = fault.retry_after_s if fault.retry_after_s is not None else known.retry_after_s
    return errors.ApiError(known.code, known.reason, known.message, details=known.details, retry_after_s=retry, plain=known.plain)
