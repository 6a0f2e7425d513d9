"""Watches live signals: what goes wrong with a source becomes an event, once, and so does its recovery."""

from __future__ import annotations

from windfall.grid.build import Grid
from windfall.store.telemetry import Telemetry


class SignalWatch:
    """Looks at the sources of a grid. A run without live signals has nothing to watch."""

    def __init__(self, grid: Grid, telemetry: Telemetry) -> None:
        self._signals = grid.live()
        self._telemetry = telemetry
        self._errors: dict[int, str] = {}
        self._told: set[tuple[int, str]] = set()

    def look(self, t: float) -> None:
        """Take note of what has changed since the last look; ``t`` is run time."""
        for i, signal in enumerate(self._signals):
            status = signal.status()
            for text in status.warnings:
                if (i, text) not in self._told:
                    self._told.add((i, text))
                    self._telemetry.event(t, "warning", reason=f"{status.source}: {text}")
            was, now = self._errors.get(i, ""), status.last_error or ""
            if now and not was:
                self._telemetry.event(t, "signal_lost", source=status.source, reason=now)
            elif was and not now:
                self._telemetry.event(t, "signal_back", source=status.source, reason=f"{status.source} answers again")
            self._errors[i] = now
