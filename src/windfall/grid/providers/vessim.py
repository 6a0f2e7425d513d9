"""Vessim (0.16): a figure of a simulated microgrid, from the broker of its REST interface.

`GET {url}/microgrids/{name}` answers the last step that was pushed: `time` (the simulation's own clock, without an offset
unless sim_start has one), `p_delta` (W, positive is surplus), `p_grid`, `actor_states`, `dispatch_states`, `grid_signals`.
The broker outlives a simulation that died and goes on answering its last step, so a step counts as news only if its
`time` is the present, or has moved since it was asked before.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import quote

from windfall.config.signals import SignalTable
from windfall.errors import SignalError
from windfall.grid.http import NotFound, TryLater
from windfall.grid.providers.base import Provider, Tools
from windfall.grid.source import News, Point, in_words, instant, number

#: A simulation on the real clock may lag, and clocks differ.
_NEAR_S = 60.0


class Vessim(Provider):
    """One figure of one microgrid's state, in ``unit``, times ``scale``."""

    kind = "vessim"

    def __init__(self, table: SignalTable, region: str, tools: Tools) -> None:
        super().__init__(table, region, tools)
        self.url = (table.url or "").rstrip("/")
        self.who = self.http.who = f"vessim:{table.microgrid}.{table.field}"
        self._seen: str | None = None

    def identity(self) -> dict[str, str]:
        return {**super().identity(), "zone": str(self.table.microgrid), "field": self.table.field, "scale": str(self.table.factor)}

    def fetch(self, now: float) -> News:
        state = self._state()
        label = state.get("time")
        if not isinstance(label, str):
            raise self.malformed("the microgrid's state has no `time`; Vessim 0.16 or newer is needed")
        figure = self._figure(state)
        value = number(figure, self.table.type, self.table.factor)
        if value is None:
            raise SignalError(
                f"{self.who}: the microgrid's {self.table.field} is no plausible number ({in_words(figure)}); it is not used"
            )
        moved = self._seen is not None and label != self._seen
        first = self._seen is None
        self._seen = label
        t = self._present(label, now)
        if t is None and not moved:
            if first:
                raise TryLater(
                    f"{self.who}: the simulation's clock says {label[:32]} and has not been seen to move yet; it is asked again"
                )
            return News()
        return News([Point(now if t is None else t, value, source=f"step {label[:32]}")])

    def _state(self) -> dict[str, Any]:
        try:
            answer = self.http.get(f"{self.url}/microgrids/{quote(str(self.table.microgrid), safe='')}")
        except NotFound as e:
            if e.status != 404:
                raise
            raise SignalError(
                f"{self.who}: the broker knows no such microgrid, or has no data of it yet; check microgrid"
            ) from None
        if not isinstance(answer, dict):
            raise self.malformed("the microgrid's state is no object")
        return answer

    def _figure(self, state: dict[str, Any]) -> Any:
        """What is at `field`, a dotted path; a name may have dots in it.

        Raises:
            SignalError: there is nothing.
        """
        found: Any = state
        parts = self.table.field.split(".")
        while parts:
            names = found if isinstance(found, dict) else {}
            length = next((n for n in range(1, len(parts) + 1) if ".".join(parts[:n]) in names), 0)
            if not length:
                there = ", ".join(map(str, names))[:120] or "nothing"
                raise SignalError(f"{self.who}: the microgrid's state has no `{'.'.join(parts)}` (there: {there}); correct field")
            found = names[".".join(parts[:length])]
            parts = parts[length:]
        return found

    def _present(self, label: str, now: float) -> float | None:
        """The instant that a label means, if the simulation runs on the calendar; None if its time is its own."""
        as_utc = instant(label)
        if as_utc is None:
            return None
        # Without an offset it is the broker's local time: UTC, or this machine's.
        here = datetime.fromtimestamp(now).astimezone().utcoffset()
        as_local = instant(label, here.total_seconds() if here else 0.0)
        near = max(_NEAR_S, self.table.period_s)
        return next((min(t, now) for t in (as_utc, as_local) if t is not None and abs(now - t) <= near), None)
