"""Work beside the training: one thing at a time, in another thread, or at once where there is none (as in tests)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future


class Background:
    """What was begun last is done, or has failed, before the next begins."""

    def __init__(self, executor: Executor | None = None) -> None:
        """Without an ``executor`` everything is done where it is asked for."""
        self._executor = executor
        self._running: Future[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is under way; what was may have failed (``look``)."""
        return self._running is None or self._running.done()

    def begin(self, work: Callable[[], None]) -> None:
        """Start ``work``. Raises what the work before raised."""
        self.wait()
        if self._executor is None:
            work()
        else:
            self._running = self._executor.submit(work)

    def wait(self) -> None:
        """Until nothing is under way. Raises what the work raised."""
        if self._running is not None:
            running, self._running = self._running, None
            running.result()

    def look(self) -> None:
        """Raise what the work raised, if it has ended; wait for nothing."""
        if self._running is not None and self._running.done():
            self.wait()
