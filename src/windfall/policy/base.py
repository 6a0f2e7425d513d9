"""What a policy is: a pure function from the fleet's view to a decision per site.

No I/O and no clock. What a policy remembers is a value: it leaves in the decision and comes back in the next view,
so that a recorded run can be replayed decision by decision (invariant 7).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from windfall.grid.signal import Columns, Forecast, Reading

Memory = Mapping[str, float]


class Outlook(Protocol):
    """What is known at a view's instant of one site's first signal, besides its newest reading. The same whenever asked."""

    def forecast(self, horizon_s: float) -> Forecast | None:
        """The newest forecast of the ``horizon_s`` to come."""
        ...

    def history(self, span_s: float) -> Columns:
        """What was known of the past ``span_s``."""
        ...


@dataclass(frozen=True, slots=True)
class SiteView:
    """One site as policies see it. ``on`` is what was decided last, since ``since`` (run time)."""

    name: str
    #: Newest reading of the first signal, and of every signal by its label.
    reading: Reading | None
    on: bool
    since: float
    #: What a start takes: configured, then learned from the site's own starts.
    spin_up_s: float
    memory: Memory = field(default_factory=dict)
    readings: Mapping[str, Reading | None] = field(default_factory=dict)
    outlook: Outlook | None = None
    #: Where the site is in fact, and how long its start will still take if it is starting.
    state: str = "off"
    ready_in_s: float = 0.0
    #: Tokens per second while it trains (in the unit of the view's ``left``), and watts.
    rate: float = 1.0
    watts: float = 1000.0
    #: Run times of its starts within the last hour, oldest first.
    starts: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class FleetView:
    """The fleet at run time ``t``; ``begun`` is when the run began, ``left`` what it has still to train (tokens).

    For a policy that is not ``whole`` the loop may leave out sites of which nothing has changed.
    """

    t: float
    sites: Mapping[str, SiteView]
    begun: float = 0.0
    left: float = math.inf
    #: What the run has paid for electricity so far.
    spent: float = 0.0
    #: Time from this decision to the next, as far as is known.
    tick_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """On or off, why (in words, with the numbers beside), until when it expects to hold, and what to remember.

    ``quiet`` is a promise: while the first signal's reading is fresh and in [low, high), and before ``until``, the policy would
    decide the same and remember nothing new, so that a backtest need not ask. None: ask at every tick.
    """

    on: bool
    reason: str
    numbers: Mapping[str, float]
    until: float | None
    memory: Memory
    quiet: tuple[float, float] | None = None
    #: Something that a person should know (a deadline that cannot be met); becomes an event.
    alarm: str = ""


class Policy(Protocol):
    """Decides for the whole fleet."""

    name: str
    #: Whether it must see every site at every tick.
    whole: bool

    def decide(self, view: FleetView) -> dict[str, Decision]: ...


@dataclass(frozen=True, slots=True)
class Judged:
    """Fresh readings of a site against its criterion.

    ``gain`` is what a second of training brings, in units of which ``scale`` is a whole second's worth: for an intensity
    worth − value and worth (g/kWh), else between about −1 and 1 and 1.
    """

    open: bool
    gain: float
    scale: float
    #: The reading that speaks, its level and how both are written.
    value: float
    level: float
    text: str
    #: The time that the readings are about; infinity where they hold until the next.
    valid_from: float
    valid_until: float
    #: Whether one signal alone speaks, and only values under its level are good (so that ranges of it can be promised).
    single: bool
    #: How a second at a gain of 1 is written.
    unit: str = "g·s/kWh"


@dataclass(frozen=True, slots=True)
class Unknown:
    """No fresh reading. ``stale``: nor may a site go on with what there was."""

    stale: bool
    text: str
    value: float | None
    stale_at: float | None


class Criterion(Protocol):
    """When training at a site is worth it, from its readings."""

    def judge(self, t: float, site: SiteView) -> Judged | Unknown: ...


class SitePolicy(Protocol):
    """Decides for one site at a time, from readings that are fresh."""

    name: str

    def decide_site(self, t: float, site: SiteView, judged: Judged) -> Decision: ...

    def hold_site(self, t: float, site: SiteView, stale: bool) -> Memory:
        """What to remember over a tick without a fresh reading; ``stale``: the site is off because of that."""
        ...


class PerSite:
    """Makes a fleet policy of a per-site one, and is the one place where invariant 5 is kept for them:

    a missing or late reading never turns a site on, and a stale one turns it off.
    """

    whole = False

    def __init__(self, policy: SitePolicy, criteria: Mapping[str, Criterion]) -> None:
        self.policy = policy
        self.name = policy.name
        self._criteria = criteria

    def decide(self, view: FleetView) -> dict[str, Decision]:
        return {name: self.one(view.t, site) for name, site in view.sites.items()}

    def one(self, t: float, site: SiteView) -> Decision:
        """The decision for one site."""
        judged = self._criteria[site.name].judge(t, site)
        if isinstance(judged, Judged):
            return self.policy.decide_site(t, site, judged)
        return unknown(site, judged, self.policy.hold_site(t, site, judged.stale))


def unknown(site: SiteView, why: Unknown, memory: Memory) -> Decision:
    """What every policy decides without a fresh reading (invariant 5)."""
    if why.stale:
        return Decision(False, f"{why.text}: off", {}, None, memory)
    numbers = {} if why.value is None else {"value": why.value}
    return Decision(site.on, f"{why.text}: stays {'on' if site.on else 'off'}", numbers, why.stale_at, memory)
