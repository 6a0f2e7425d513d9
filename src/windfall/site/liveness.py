"""Signs of life of a trainer: they come from a thread of their own, and end when what the trainer does takes far too long.

A step of a large model takes minutes, in which nothing else of the process runs, and a process that hangs in a step looks just
like it. So each kind of work has its time: ten times the longest of its kind so far, and a generous one for the first. Work may
be a part of other work: the time of the inner one is not the outer one's.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windfall import clock
from windfall.store.bus import SiteBus
from windfall.wire.transport import BEAT_NAME

#: What a site does before it can answer anything.
LOADING = "loading"

#: Time between two heartbeats (wall time).
BEAT_S = 1.0
#: So many times the longest work of a kind may the next one take.
_LONGER = 10.0
#: So many times the least time may reading and writing take, the first time.
_QUICK = 5.0


@dataclass
class _Work:
    """Work under way."""

    what: str
    begun: float
    quick: bool = False
    #: What other work within it has taken (s).
    within_s: float = 0.0


class Liveness:
    """Heartbeats on the bus, and a file that the agent watches. Work is noted by the trainer's own thread."""

    def __init__(
        self, bus: SiteBus, folder: Path, *, first_s: float, least_s: float, now: Callable[[], float] = lambda: clock.monotonic()
    ) -> None:
        """``first_s``: how long work may take while none of its kind has been done; ``least_s``: how long it always may."""
        self._bus = bus
        self._file = folder / BEAT_NAME
        self._first_s, self._least_s, self._now = first_s, least_s, now
        self._beat: dict[str, Any] = {"n": 0}
        self._beat_at = float("-inf")
        self._longest: dict[str, float] = {}
        #: What is done now, the innermost last. Replaced as a whole, as another thread reads it.
        self._work: tuple[_Work, ...] = ()
        self._part = ""
        #: Says what goes on beside the trainer's own thread, which is told while that does nothing.
        self.beside: Callable[[], str] = lambda: ""
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Beat from a thread, until ``stop``."""
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more heartbeats."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def at(self, block: int | None) -> None:
        """The block at which the site is; None: at none."""
        with self._lock:
            self._beat = {"n": self._beat["n"]} if block is None else {"n": self._beat["n"], "block": block}

    def part(self, name: str = "") -> None:
        """Which part of its work the trainer has come to. Without a thread this is a sign of life too."""
        self._part = name
        if self._thread is None:
            self.beat()

    @contextmanager
    def doing(self, what: str, *, quick: bool = False) -> Iterator[None]:
        """While work of this kind is done. ``quick``: it reads and writes, and does not compute: its first time is not generous.
        Without a name it is told to nobody, and only watched."""
        work = _Work(what, self._now(), quick)
        self._work, self._part = (*self._work, work), ""
        try:
            yield
        finally:
            took = self._now() - work.begun
            self._longest[what] = max(self._longest.get(what, 0.0), took - work.within_s)
            for outer in self._work[-2:-1]:
                outer.within_s += took
            self._work, self._part = self._work[:-1], ""

    def allowed_s(self, what: str, *, quick: bool = False) -> float:
        """How long work of a kind may take now."""
        longest = self._longest.get(what)
        if longest is None:
            return min(self._first_s, _QUICK * self._least_s) if quick else self._first_s
        return max(self._least_s, _LONGER * longest)

    def overdue(self) -> str:
        """What takes longer than it may, in words; empty if nothing does."""
        for work in self._work[-1:]:
            for_s = self._now() - work.begun - work.within_s
            if for_s > self.allowed_s(work.what, quick=work.quick):
                return f"{work.what or 'what it does'} has taken {for_s:.0f} s"
        return ""

    def beat(self) -> None:
        """A heartbeat, if it is time for one and nothing is overdue."""
        with self._lock:
            now = self._now()
            if now - self._beat_at < BEAT_S or self.overdue():
                return
            self._beat_at = now
            self._beat["n"] += 1
            said = dict(self._beat)
            part = self._part
            for work in [w for w in self._work[-1:] if w.what]:
                said["doing"] = f"{work.what}: {part}" if part else work.what
                said["for_s"] = round(now - work.begun, 1)
            if "doing" not in said and (beside := self.beside()):
                said["doing"] = beside
            self._bus.set("heartbeat", said)
            with contextlib.suppress(OSError):  # a full disk is told where work is lost by it
                self._file.touch()

    def _run(self) -> None:
        while not self._ended.wait(BEAT_S / 2):
            with contextlib.suppress(OSError):  # likewise
                self.beat()
