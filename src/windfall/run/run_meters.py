"""Sites' meters in a run: what they tell goes into the books, and who does not tell is told of."""

from __future__ import annotations

from collections.abc import Callable

from windfall import clock
from windfall.energy.account import Interval
from windfall.energy.books import Books
from windfall.federation.reports import Metered
from windfall.run.recorder import TelemetryRecorder
from windfall.store.telemetry import Events
from windfall.units import duration_text

#: How often the end of a run looks whether a meter's last word has come (wall time).
_LOOK_S = 0.2


class RunMeters:
    """Keeps the books of a run on the calendar whose sites have meters."""

    def __init__(self, books: Books, recorder: TelemetryRecorder, events: Events, now: Callable[[], float], lag_s: float) -> None:
        """``now``: run time. ``lag_s``: how long a meter is waited for."""
        self._books, self._recorder, self._events, self._now, self._lag_s = books, recorder, events, now, lag_s
        #: Sites whose meter has been told of as silent.
        self._silent: set[str] = set()
        self._known: dict[str, str] = {}

    def heard(self, site: str, said: Metered) -> None:
        """Take in what a site's meter says."""
        now = self._now()
        self._books.heard(site, said.boot, said.at, said.joules, said.measured_joules, now)
        if site in self._silent:
            self._silent.discard(site)
            self._events.event(now, "meter_back", site=site, reason="its meter tells again")
        if self._known.get(site) != said.what:
            self._known[site] = said.what
            self._events.event(now, "meter", site=site, what=said.what)

    def settle(self) -> list[Interval]:
        """Book what is due by now; returns it."""
        t = self._now()
        found = self._books.settle(t)
        self._recorder.booked(found)
        for e in found:
            modelled = not e.cause and not e.measured_joules and e.phase in ("training", "evaluation", "stall")
            if modelled and e.t1 - e.t0 > 1.0 and e.site not in self._silent:
                self._silent.add(e.site)
                why = f"its meter has told nothing for {duration_text(t - e.t0)}; the model of its power stands in"
                self._events.event(t, "meter_silent", site=e.site, reason=why)
        return found

    def close(self, poll: Callable[[], None]) -> None:
        """At the end of a run: wait for the meters' last words, at most as long as a meter is waited for, and book the rest."""
        until = clock.monotonic() + self._lag_s
        left = self.settle()
        while self._books.waits and clock.monotonic() < until:
            clock.pause(_LOOK_S)
            poll()
            left += self.settle()
        rest = self._books.settle(self._now(), closing=True)
        self._recorder.booked(rest)
        left += rest
        seconds: dict[str, float] = {}
        for e in left:
            if not e.measured_joules:
                seconds[e.site] = seconds.get(e.site, 0.0) + e.t1 - e.t0
        for site, s in sorted(seconds.items()):
            self._events.event(self._now(), "meter_closed", site=site, reason=f"{duration_text(s)} at its end stayed modelled")
