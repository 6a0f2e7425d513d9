"""Threads that keep live signals fresh: one per signal, so that a slow source delays no other (invariant 6)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from windfall import clock
from windfall.grid.live import LiveSignal

#: A thread looks at the clock at least this often (s), because a calendar can be set.
_SLICE_S = 60.0
#: How long ``close`` waits for requests under way (s). Their threads end by themselves after their time-out.
_JOIN_S = 2.0


class Poller:
    """Asks each of ``signals`` when it is due, from ``start`` to ``close``. ``past_s``: how much of the past to ask for first."""

    def __init__(self, signals: Iterable[LiveSignal], *, past_s: float = 0.0, now: Callable[[], float] = clock.wall) -> None:
        self._past_s = past_s
        self._now = now
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(s,), name=f"signal {s.source}", daemon=True) for s in dict.fromkeys(signals)
        ]

    def start(self) -> None:
        """Begin asking. Returns at once."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop asking. Requests under way are waited for briefly, and then end by themselves."""
        self._closed.set()
        end = clock.monotonic() + _JOIN_S
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - clock.monotonic()))

    def alive(self) -> int:
        """How many of its threads are running."""
        return sum(t.is_alive() for t in self._threads)

    def _run(self, signal: LiveSignal) -> None:
        try:
            past = self._past_s > 0
            while not self._closed.is_set():
                due = signal.step(self._now())
                if past and not self._closed.is_set():
                    past = not signal.load_past(self._now(), self._past_s)
                self._closed.wait(min(max(due - self._now(), 0.05), _SLICE_S))
        finally:
            if not self._closed.is_set():
                signal.note("its poller has ended by an error of ours; see the log")
            signal.close()
