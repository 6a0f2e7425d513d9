"""Whether a site is in touch with its coordinator. Out of touch for too long it stops by itself (invariant 4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

#: Out of touch for longer than this, a site that watches its own signal obeys it (wall time).
_OWN_SIGNAL_S = 15.0


class Contact:
    """When the coordinator was last heard. Times are monotonic wall time, but for ``own_window``'s."""

    def __init__(
        self, now: float, dead_man_s: float, *, link: Callable[[], float] = lambda: -math.inf,
        own_window: Callable[[float], bool] | None = None,
    ) -> None:  # fmt: skip
        """``link`` says when the SuperLink was last reached; ``own_window`` whether, by the site's own signal, its region is in a
        window at a run time."""
        self.dead_man_s = dead_man_s
        self._link = link
        self._own_window = own_window
        self._beat: Any = None
        self._heard = now

    def message(self, now: float) -> None:
        """A message of the coordinator's has come."""
        self._heard = now

    def beat(self, now: float, beat: Any) -> None:
        """What the coordinator's sign of life says now; one that has changed is a new one."""
        if beat != self._beat:
            self._beat, self._heard = beat, now

    @property
    def last(self) -> float:
        """When the coordinator, or the SuperLink, was last heard."""
        return max(self._heard, self._link())

    def lost(self, now: float, run_time: Callable[[], float]) -> str:
        """Why the site has to stop by itself, or an empty string."""
        silent = now - self.last
        if silent > self.dead_man_s:
            # Nobody can tell this site to stop any more.
            return f"nothing heard from the coordinator for {silent:.0f} s"
        # A SuperLink that answers can tell it nothing: a site with a signal of its own listens for the coordinator alone.
        unled = now - self._heard
        if self._own_window and unled > min(_OWN_SIGNAL_S, self.dead_man_s) and not self._own_window(run_time()):
            return f"its own signal has left the window, and nothing was heard from the coordinator for {unled:.0f} s"
        return ""
