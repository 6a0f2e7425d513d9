"""Watches live signals and microgrids. Trouble becomes an event, once for each reason, and so does its end."""

from __future__ import annotations

import re
from collections.abc import Mapping

from windfall.energy.microgrid import Microgrid
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


class MicrogridWatch:
    """Looks at the microgrids of a run."""

    def __init__(self, microgrids: Mapping[str, Microgrid], telemetry: Telemetry) -> None:
        self._microgrids = microgrids
        self._telemetry = telemetry
        self._told: dict[str, str] = {}

    def look(self, t: float) -> None:
        """Tell of what has begun or ended since the last look; ``t`` is run time."""
        for site, m in self._microgrids.items():
            kind = re.sub(r"[0-9.e+-]+", "#", m.trouble)  # how many watts are lacking changes all the time
            if kind and kind != self._told.get(site):
                why = f"{m.trouble}; its signals are stale until it balances again, and what is lacking counts as from the grid"
                self._telemetry.event(t, "microgrid_trouble", site=site, reason=why)
            elif not kind and self._told.get(site):
                self._telemetry.event(t, "microgrid_back", site=site, reason="its microgrid balances again")
            self._told[site] = kind
