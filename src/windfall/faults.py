"""Named points at which tests make something go wrong, where it would do the most harm.

Code calls ``reach(point)``, which normally does nothing. A test arms one fault in a process (``arm``), or starts a process with one
(``WINDFALL_FAULT=point:action:nth:latch``). The nth time that the point is reached the process kills itself, hangs, raises, or
damages the file that the point is about. ``latch`` names a file: of all processes that inherit the variable only the first one to
create it has the fault.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from windfall import clock

#: By this a process is born with a fault.
VARIABLE = "WINDFALL_FAULT"
#: Every point, with what has just happened there or is about to happen.
POINTS = {
    "before-lease": "the coordinator is about to lend blocks",
    "mid-step": "a trainer has done an optimizer step and told nobody",
    "before-snapshot": "a trainer is about to write its local snapshot",
    "during-snapshot": "the snapshot has been written and not yet renamed",
    "before-send": "a cut has been made and is not in the outbox yet",
    "mid-send": "the contribution is in the outbox and the answer is half way",
    "after-send": "the coordinator has the contribution on disk and not in the ledger",
    "received": "the contribution is in the ledger and not committed",
    "during-merge": "contributions are being merged",
    "after-weights": "the weights file is written and no version names it",
    "during-commit": "inside the commit transaction",
    "after-commit": "the version is committed and what it replaces has not been cleared away",
    "during-request": "inside the transaction that takes up an operator's request",
    "after-request": "an operator's request has been taken up and its file is still there",
    "during-evaluation": "a trainer is evaluating",
}
ACTIONS = ("kill", "hang", "raise", "truncate", "corrupt", "kill-parent", "stop-parent")


class InjectedFault(RuntimeError):
    """The error of an armed ``raise``. No code expects it, as with any bug."""


class _Fault:
    def __init__(self, point: str, action: str, nth: int, latch: str, then: Callable[[], None] | None) -> None:
        if point not in POINTS or action not in ACTIONS:
            raise ValueError(f"no such fault: {point}:{action}")
        self.action, self.left, self.latch, self.then = action, nth, latch, then

    def is_first(self) -> bool:
        """Whether this process is the first to come to the fault."""
        if not self.latch:
            return True
        try:
            os.close(os.open(self.latch, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        return True


_armed: dict[str, _Fault] = {}


def arm(point: str, action: str, nth: int = 1, *, latch: str = "", then: Callable[[], None] | None = None) -> None:
    """Arm a fault: the ``nth`` time that ``point`` is reached, ``then`` is called and ``action`` done, once."""
    _armed[point] = _Fault(point, action, nth, latch, then)


def disarm() -> None:
    """Take the armed fault back."""
    _armed.clear()


def reach(point: str, path: Path | None = None) -> None:
    """Say that ``point`` is reached; ``path`` is the file that it is about, if any."""
    if not _armed or point not in _armed:
        return
    fault = _armed[point]
    fault.left -= 1
    if fault.left > 0:
        return
    del _armed[point]
    if not fault.is_first():
        return
    if fault.then is not None:
        fault.then()
    _do(fault.action, path)


def _do(action: str, path: Path | None) -> None:
    match action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "kill-parent":
            os.kill(os.getppid(), signal.SIGKILL)
        case "stop-parent":
            os.kill(os.getppid(), signal.SIGSTOP)
        case "hang":
            while True:
                clock.pause(60)
        case "raise":
            raise InjectedFault("a fault was injected here")
        case "truncate" if path is not None:
            os.truncate(path, path.stat().st_size // 2)
        case "corrupt" if path is not None:
            with open(path, "r+b") as f:
                f.seek(path.stat().st_size * 2 // 3)
                byte = f.read(1)
                f.seek(-1, os.SEEK_CUR)
                f.write(bytes([byte[0] ^ 0x40]))


def _from_environment() -> None:
    spec = os.environ.get(VARIABLE, "")
    if spec:
        point, action, nth, latch = spec.split(":", 3)
        arm(point, action, int(nth), latch=latch)


_from_environment()
