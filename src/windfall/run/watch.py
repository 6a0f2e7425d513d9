"""Watches live signals. Trouble with a source becomes an event, once for each reason, and so does its recovery."""

from __future__ import annotations

import re

from windfall.grid.build import Grid
from windfall.store.telemetry import Telemetry

#: At most so many different reasons are told until a source is heard again.
_MOST = 5


class SignalWatch:
    """Looks at the sources of a grid. A run without live signals has nothing to watch."""

    def __init__(self, grid: Grid, telemetry: Telemetry) -> None:
        self._signals = grid.live()
        self._telemetry = telemetry
        #: By source, the reasons told since it was last heard, without the figures in them.
        self._errors: dict[int, set[str]] = {}
        self._told: set[tuple[int, str]] = set()

    def look(self, t: float) -> None:
        """Tell what has changed since the last look; ``t`` is run time."""
        for i, signal in enumerate(self._signals):
            status = signal.status()
            for text in status.warnings:
                if (i, text) not in self._told:
                    self._told.add((i, text))
                    self._telemetry.event(t, "warning", reason=f"{status.source}: {text}")
            told, now = self._errors.setdefault(i, set()), status.last_error or ""
            kind = re.sub(r"[0-9]+", "#", now)
            if now and kind not in told and len(told) < _MOST:
                told.add(kind)
                self._telemetry.event(t, "signal_lost", source=status.source, reason=now)
            elif told and not now:
                told.clear()
                self._telemetry.event(t, "signal_back", source=status.source, reason=f"{status.source} answers again")
