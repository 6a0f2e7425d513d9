"""Signs of life of a trainer: they come from a thread of their own, and end when what the trainer does takes far too long.

A step of a large model takes minutes, in which nothing else of the process runs, and a process that hangs in a step looks just
like it. So each kind of work has its time: ten times the longest of its kind so far, and a generous one for the first.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from windfall import clock
from windfall.store.bus import SiteBus
from windfall.wire.transport import BEAT_NAME

#: Time between two heartbeats (wall time).
BEAT_S = 1.0
#: So many times the longest work of a kind may the next one take.
_LONGER = 10.0


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
        #: What is done now, and since when.
        self._work: tuple[str, float] | None = None
        self._part = ""
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
    def doing(self, what: str) -> Iterator[None]:
        """While work of this kind is done."""
        begun = self._now()
        self._work = (what, begun)
        try:
            yield
        finally:
            self._work, self._part = None, ""
            self._longest[what] = max(self._longest.get(what, 0.0), self._now() - begun)

    def allowed_s(self, what: str) -> float:
        """How long work of a kind may take now."""
        longest = self._longest.get(what)
        return self._first_s if longest is None else max(self._least_s, _LONGER * longest)

    def overdue(self) -> str:
        """What takes longer than it may, in words; empty if nothing does."""
        work = self._work
        if work is None:
            return ""
        for_s = self._now() - work[1]
        return f"{work[0]} has taken {for_s:.0f} s" if for_s > self.allowed_s(work[0]) else ""

    def beat(self) -> None:
        """A heartbeat, if it is time for one and nothing is overdue."""
        with self._lock:
            now = self._now()
            if now - self._beat_at < BEAT_S or self.overdue():
                return
            self._beat_at = now
            self._beat["n"] += 1
            said = dict(self._beat)
            if self._work is not None:
                said["doing"] = f"{self._work[0]}: {self._part}" if self._part else self._work[0]
                said["for_s"] = round(now - self._work[1], 1)
            self._bus.set("heartbeat", said)
            with contextlib.suppress(OSError):  # a full disk is told where work is lost by it
                self._file.touch()

    def _run(self) -> None:
        while not self._ended.wait(BEAT_S / 2):
            with contextlib.suppress(OSError):  # likewise
                self.beat()
