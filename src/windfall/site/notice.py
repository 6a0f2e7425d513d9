"""What a site does between being told to end by its platform and ending: it lets the run drain it, if there is time.

A job near its limit and a pod that is evicted are told to end some time before they are ended. The site cuts at once, so that its
work is in its outbox whatever comes, and tells the run, which drains it like any site that is to be off: it hands in its work, then
its inner state. It ends when it is told again, when nothing is asked of it any more, or when time is up. On a gated clock the cut
is the run's to order, as run time waits for steps; where it does not, the site soon does what it does without a notice.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

from windfall.store.bus import Entry

#: How long the run has to order a cut, as part of what a driver gives a site that does not end.
_ANSWER_SHARE = 0.5
#: A site that has handed in what it had, and is asked for nothing else for so long, ends by itself.
_QUIET_S = 5.0


class _Worker(Protocol):
    @property
    def draining(self) -> bool: ...
    @property
    def idle(self) -> bool: ...
    def leave(self) -> None: ...


class _Says(Protocol):
    def emit(self, entry: Entry) -> None: ...


class Notice:
    """One life's notice. Times are monotonic wall time."""

    def __init__(self, site: dict[str, Any] | Any, bus: _Says) -> None:
        """``site``: what the site was told. Without ``notice_s`` it ends at once, as its driver has drained it before."""
        self._notice_s = float(site.get("notice_s") or 0.0)
        self._grace_s = float(site.get("stop_grace_s") or 10.0)
        self._gated = bool(site.get("gated"))
        self._bus = bus
        self._since = math.inf
        self._idle_since = math.inf

    def over(self, now: float, asked: int, worker: _Worker, *, busy: bool) -> bool:
        """Whether to end now. ``asked``: how often it was told to end; ``busy``: something is still on its way."""
        if not asked:
            return False
        if math.isinf(self._since):
            if worker.draining or not self._notice_s:
                return True  # it was drained, or is ended by who started it
            self._since = now
            self._bus.emit({"kind": "leaving", "reason": "its platform has told it to end", "within_s": self._notice_s})
            if not self._gated:
                worker.leave()
        if asked > 1 or now - self._since > self._notice_s - self._grace_s:
            return True
        if not worker.draining:
            return now - self._since > _ANSWER_SHARE * self._grace_s
        if busy or not worker.idle:
            self._idle_since = math.inf
            return False
        self._idle_since = min(self._idle_since, now)
        return now - self._idle_since > _QUIET_S
