"""Whether a trainer still gives signs of life, as its agent sees it: also while no coordinator is there to ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from windfall import clock
from windfall.wire.transport import BEAT_NAME

#: Between two looks at most so much counts: an agent that was stopped itself has not been waiting.
_LOOK_S = 1.0


class Watchdog:
    """The file that a trainer touches, and since when it has not: in time that this process has seen pass.

    A coordinator gives the site up after the same time-outs. Here the dead-man time is added, in which one that died comes back.
    """

    def __init__(self, folder: Path, site: dict[str, Any]) -> None:
        """The beat of an earlier life is removed."""
        self._file = folder / BEAT_NAME
        self._file.unlink(missing_ok=True)
        self._running_s = float(site.get("silent_after_s", float("inf")))
        self._starting_s = float(site.get("start_timeout_s", float("inf")))
        self._dead_man_s = float(site.get("dead_man_s", 0.0))
        self._mark: int | None = None
        self._silent_s = 0.0
        self._looked = clock.monotonic()

    def look(self) -> str:
        """Why the trainer must be ended; empty while it gives signs of life."""
        now = clock.monotonic()
        self._silent_s += min(_LOOK_S, now - self._looked)
        self._looked = now
        try:
            mark: int | None = self._file.stat().st_mtime_ns
        except FileNotFoundError:
            mark = None
        if mark != self._mark:
            self._mark, self._silent_s = mark, 0.0
        most = (self._starting_s if mark is None else self._running_s) + self._dead_man_s
        if self._silent_s <= most:
            return ""
        return f"its trainer {'did not come up' if mark is None else 'has been silent'} for {self._silent_s:.0f} s"
