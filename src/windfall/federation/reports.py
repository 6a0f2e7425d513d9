"""What the bus says of the sites: signs of life, step metrics, evaluations, complaints. Nothing in it can end a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from windfall.errors import Refused
from windfall.federation.evaluations import Evaluations
from windfall.store.bus import Bus
from windfall.store.telemetry import Events
from windfall.wire.fields import Fields, finite, is_count, text

#: What a site says while it evaluates.
EVALUATING = "an evaluation"


@dataclass(frozen=True)
class Doing:
    """What a site says that it is at. ``since`` is monotonic wall time, or None where it has not said for how long."""

    generation: int
    what: str
    since: float | None
    heard_at: float


@dataclass(frozen=True, slots=True)
class Metered:
    """What a site's meter had counted at an instant of its machine's uptime (s), under one identity of its counters."""

    boot: str
    at: float
    joules: float
    measured_joules: float
    what: str

    @classmethod
    def read(cls, f: Fields) -> Metered:
        """Raises Refused where a field is missing or not of its kind."""
        found = cls(f.word("boot"), f.number("at"), f.number("joules"), f.number("measured_joules"), f.word("what", default=""))
        if found.joules < 0 or not 0 <= found.measured_joules <= found.joules * (1 + 1e-9):
            raise Refused(f"joules {found.joules:g}, of which measured {found.measured_joules:g}: no such meter")
        return found


class SiteReports:
    """Listens to the bus for the coordinator."""

    def __init__(self, bus: Bus, events: Events, evaluations: Evaluations, silent_after_s: float) -> None:
        self._bus = bus
        self._events = events
        self._evaluations = evaluations
        self._silent_after_s = silent_after_s
        self._beats: dict[str, tuple[object, float]] = {}
        #: By site: its newest heartbeat's number, before its heartbeats count.
        self._early: dict[str, object] = {}
        self._trouble = ""
        #: By site: the block that it was at, at its last heartbeat.
        self.last_block: dict[str, int] = {}
        #: By site: what its newest heartbeat said, from the time on at which its process is there.
        self._doing: dict[str, Doing] = {}
        #: Sites that have taken a version in since somebody asked, and which.
        self.taken_in: list[tuple[str, int]] = []
        #: Takes in what a site's meter says: the site, and an entry with all its fields right.
        self.metered: Callable[[str, Metered], None] = lambda site, said: None
        #: By site: why it cannot go on, by its own word.
        self.fatal: dict[str, str] = {}
        #: By site: why its platform ends it, by its own word.
        self.leaving: dict[str, str] = {}
        #: By site: why its power cannot be held to a level, by its own word. Another life of it has the same machine.
        self.unheld: dict[str, str] = {}

    def begin(self, site: str, wall: float) -> None:
        """From now on (monotonic wall time) this site's heartbeats count."""
        self._beats[site] = (None, wall)

    def forget(self, site: str) -> None:
        """This life of the site is over."""
        self._beats.pop(site, None)
        self._doing.pop(site, None)
        self._early.pop(site, None)
        self.fatal.pop(site, None)
        self.leaving.pop(site, None)

    def silent(self, site: str, wall: float, after_s: float | None = None) -> str:
        """Whether a site's trainer has been silent for too long (or for ``after_s``, if that is shorter): says so, or is empty."""
        if site not in self._beats:
            return ""
        for_s = wall - self._beats[site][1]
        most = self._silent_after_s if after_s is None else min(after_s, self._silent_after_s)
        return f"its trainer has been silent for {for_s:.0f} s" if for_s > most else ""

    def doing(self, site: str, generation: int, wall: float) -> Doing | None:
        """What this life of a site is at by its own word, which is not old; None: nothing, or it is silent."""
        said = self._doing.get(site)
        if said is None or not said.what or said.generation != generation:
            return None
        return said if wall - said.heard_at <= self._silent_after_s else None

    def listen(self, t: float, wall: float, sites: list[str], generations: dict[str, int], mode: str) -> None:
        """Take in what has come."""
        self._mind_the_bus(t, wall)
        for site in sites:
            beat = self._bus.get(site, "heartbeat")
            if beat and beat.get("generation") == generations.get(site):
                self._heard(wall, site, beat)
            for e in self._bus.poll(site):
                try:
                    self._entry(t, site, e, generations.get(site), mode)
                except Refused as wrong:
                    self._events.event(t, "refused", site=site, reason=f"malformed {text(e.get('kind'), 20)} on the bus: {wrong}")

    def _heard(self, now: float, site: str, beat: dict[str, Any]) -> None:
        for_s = finite(beat.get("for_s"))
        n = beat.get("n")
        if not is_count(n):
            return
        since = now - for_s if for_s is not None else None
        said = Doing(beat["generation"], text(beat.get("doing", ""), 80), since, now)
        if site not in self._beats:
            if n != self._early.get(site):
                self._early[site], self._doing[site] = n, said
            return
        if self._beats[site][0] != n:
            self._beats[site], self._doing[site] = (n, now), said
        if is_count(beat.get("block")):
            self.last_block[site] = beat["block"]

    def _mind_the_bus(self, t: float, wall: float) -> None:
        """While the bus is down nobody can be heard, so nobody is called silent; the round's rules go on."""
        trouble = self._bus.health()
        if trouble:
            self._beats = {site: (n, wall) for site, (n, _) in self._beats.items()}
        if bool(trouble) != bool(self._trouble):
            self._events.event(t, "bus_down" if trouble else "bus_up", reason=trouble or "it answers again")
        self._trouble = trouble

    def _entry(self, t: float, site: str, e: dict[str, Any], generation: int | None, mode: str) -> None:
        """Take one entry in. Raises Refused if it is malformed."""
        kind, f = e.get("kind"), Fields(e)
        if kind == "meter":  # of whichever life: it says itself what it goes on from
            self.metered(site, Metered.read(f))
            return
        if e.get("generation") != generation and kind != "eval":
            return
        if kind == "step":
            self._events.metric(
                f.number("t_run"), site, "loss", f.number("loss"), tokens=f.count("tokens"), version=f.count("version"),
                detail={"mode": mode, "tokens_per_s_wall": finite(e.get("rate"))},
            )  # fmt: skip
        elif kind == "eval":
            self._evaluations.take(t, site, e)
        elif kind == "took_in":
            self.taken_in.append((site, f.count("version")))
        elif kind == "fatal":
            self.fatal[site] = text(e.get("reason", "failed"))
        elif kind == "meter_trouble":
            why = text(e.get("reason", ""))
            self._events.event(t, "meter_lost", site=site, reason=f"{why}; its model stands in until it can be read")
        elif kind == "power_trouble":
            if site not in self.unheld:
                self.unheld[site] = text(e.get("reason", ""))
                why = f"{self.unheld[site]}; until the coordinator starts anew it trains only where its surplus covers full power"
                self._events.event(t, "power_level_failed", site=site, reason=why)
        elif kind == "leaving":
            within = f" within {f.number('within_s'):.0f} s" if e.get("within_s") else ""
            self.leaving[site] = f"{text(e.get('reason', 'it has been told to end'))}{within}: it hands in what it has"
        elif kind == "note":
            self._events.event(t, "site_note", site=site, note=text(e.get("note", "")))
