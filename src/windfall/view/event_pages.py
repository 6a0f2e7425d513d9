"""Events a page at a time, newest first, filtered and searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from windfall import clock
from windfall.store.telemetry import Event
from windfall.view.events import TRANSITIONS, what_happened
from windfall.view.moment import Moment

#: A search gives what it has after so long (s), and where to go on.
_SEARCH_S = 0.35
_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class ShownEvent:
    """One event in words. ``notable``: a transition, or something that went wrong."""

    id: int
    t_run: float
    t_wall: float
    kind: str
    site: str | None
    version: int | None
    what: str
    notable: bool


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events, newest first. ``next_before``: the id to go on before; None where the beginning has been reached.

    ``looked_at``: how many were looked through; ``total``: how many there are.
    """

    events: list[ShownEvent]
    next_before: int | None
    looked_at: int
    total: int
    kinds: dict[str, int]


def shown(number: int, e: Event) -> ShownEvent:
    """An event as it is shown."""
    return ShownEvent(number, e.t_run, e.t_wall, e.kind, e.site, e.version, what_happened(e), e.kind in TRANSITIONS)


def event_page(
    at: Moment, *, before: int | None, most: int, kinds: Sequence[str] = (), site: str | None = None, search: str = "",
    upto: float | None = None,
) -> EventPage:  # fmt: skip
    """The newest ``most`` events before an id (or up to a run time), of some kinds and one site, whose words hold ``search``."""
    if at.telemetry is None:
        return EventPage([], None, 0, 0, {})
    t = at.telemetry
    if before is None and upto is not None:
        before = t.event_id_after(upto)
    wanted = search.casefold().split()
    deadline = clock.monotonic() + _SEARCH_S
    found: list[ShownEvent] = []
    looked = 0
    more = True
    while len(found) < most and more:
        size = most - len(found) if not wanted else _AT_ONCE
        rows = t.events_upto(before, size, kinds=kinds, site=site)
        more = len(rows) == size
        for number, e in rows:
            looked += 1
            before = number
            one = shown(number, e)
            if wanted:
                text = f"{e.site or 'run'} {e.kind} {one.what}".casefold()
                if not all(w in text for w in wanted):
                    continue
            found.append(one)
            if len(found) == most:
                more = more or number != rows[-1][0]
                break
        if wanted and clock.monotonic() > deadline:
            break
    counts = t.event_kinds()
    return EventPage(found, before if more else None, looked, sum(counts.values()), counts)
