"""The other ranks of a site, as their leader sees them: processes that come up, build their model, follow, and may be gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from windfall import clock
from windfall.errors import RankError
from windfall.processes import spawn

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

_POLL_S = 0.02
#: What gloo and NCCL say at a rank whose neighbour is gone.
_CLOSED = ("Connection closed", "Connection reset", "closed by peer", "Timed out", "NCCL")
#: A loss that follows from another's.
_FOLLOWED = 2
#: Who closed its connection has ended, or is about to.
_ENDING_S = 2.0

#: From rank and port to the command of a follower.
Command = Callable[[int, int], list[str]]


def key(what: str, rank: int) -> str:
    """Where in the store a rank says ``up``, ``built`` or, with its reason, ``failed``."""
    return f"{what}-{rank}"


class Followers:
    """Started at once; they end with this process."""

    def __init__(self, folder: Path, size: int, store: TCPStore, command: Command | None = None) -> None:
        """``size`` counts the leader too, whose ``store`` it is."""
        self._store = store
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._logs = {rank: folder / "logs" / f"rank-{rank}.log" for rank in range(1, size)}
        for rank, log in self._logs.items():
            words = (
                command(rank, store.port)
                if command
                else [sys.executable, "-m", "windfall.site.rank_process", str(folder), str(rank), str(store.port)]
            )
            self._processes[rank] = spawn(words, log=log, env=dict(os.environ), own_session=False, with_parent=True)

    @property
    def pids(self) -> list[int]:
        """By rank."""
        return [p.pid for p in self._processes.values()]

    def wait_for(self, what: str) -> None:
        """Until each of them has said ``what``. There is no time-out: who started the site has one.

        Raises:
            RankError: one of them has failed, with its reason, or has ended; the others are ended too.
        """
        missing = set(self._processes)
        while missing:
            if why := self.lost():
                self.end()
                raise RankError(why)
            missing = {rank for rank in missing if not self._store.check([key(what, rank)])}
            if missing:
                clock.pause(_POLL_S)

    def lost(self, within_s: float = 0.0) -> str:
        """Why one of them is gone, by its own word where it has left one; empty if all are there for ``within_s`` from now."""
        until = clock.monotonic() + within_s
        while True:
            found = sorted(self._losses())
            # Of ranks that fail together most only say that a connection was closed: by the one that was first.
            if found and (found[0][0] < _FOLLOWED or clock.monotonic() >= until):
                return found[0][1]
            if clock.monotonic() >= until:
                return ""
            clock.pause(_POLL_S)

    def _losses(self) -> Iterator[tuple[int, str]]:
        """Those that are gone: how little each explains, and what there is to say."""
        for rank, process in self._processes.items():
            code = process.poll()
            if code is not None and code < 0:
                yield 0, f"rank {rank} was ended by {signal.Signals(-code).name}; see {self._logs[rank]}"
            elif self._store.check([key("failed", rank)]):
                why = self._store.get(key("failed", rank)).decode(errors="replace")
                yield _FOLLOWED if any(said in why for said in _CLOSED) else 1, f"rank {rank}: {why}"
            elif code is not None:
                yield 1, f"rank {rank} has ended with exit code {code}; see {self._logs[rank]}"

    def end(self) -> None:
        """Kill those that are left: they have nothing that anybody could lose."""
        for process in self._processes.values():
            process.kill()
            process.wait()

    def ending(self) -> str:
        """As ``lost``, for a moment in which a connection has just been closed."""
        return self.lost(_ENDING_S)
