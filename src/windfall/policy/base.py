"""What a policy is: a pure function from the fleet's view to a decision per site.

A policy does no I/O and reads no clock. What it remembers is a value: it leaves with the decision and comes back in the next view.
A recorded run can therefore be replayed decision by decision (invariant 7).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from windfall.grid.signal import Columns, Forecast, Reading

Memory = Mapping[str, float]


class Outlook(Protocol):
    """Forecast and past of one site's first signal as known at the view's instant. The same question always has the same answer."""

    def forecast(self, horizon_s: float) -> Forecast | None:
        """The newest forecast of the next ``horizon_s`` seconds; None where there is none."""
        ...

    def history(self, span_s: float) -> Columns:
        """What was known of the last ``span_s`` seconds."""
        ...


@dataclass(frozen=True, slots=True)
class SiteView:
    """One site as policies see it. ``on`` is the last decision, in force since ``since`` (run time)."""

    name: str
    #: The newest reading of the site's first signal. ``readings`` has that of every signal, by its label.
    reading: Reading | None
    on: bool
    since: float
    #: How long a start takes (s): as configured, later as learned from the site's own starts.
    spin_up_s: float
    memory: Memory = field(default_factory=dict)
    readings: Mapping[str, Reading | None] = field(default_factory=dict)
    outlook: Outlook | None = None
    #: The site's actual state, and how much longer its start takes (s) if it is starting.
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
    """On or off, the reason in words and numbers, until when it expects to hold (run time), and what to remember.

    ``quiet`` is a promise: before ``until`` and while the first signal's reading is fresh and in [low, high), the policy would
    decide the same and remember nothing new, so a backtest does not ask it. None: no promise, ask at every tick.
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
    """What a criterion makes of a site's fresh readings.

    ``gain`` says what a second of training is worth; ``scale`` is the gain at which it is worth a whole second. For an intensity
    ``gain`` is worth − value and ``scale`` is the worth (both g/kWh); for other signals ``gain`` is about −1 to 1 and ``scale`` 1.
    """

    open: bool
    gain: float
    scale: float
    #: The value and level of the signal that decided, and the comparison in words.
    value: float
    level: float
    text: str
    #: From when to when the readings count (run time); without end where they count until the next reading.
    valid_from: float
    valid_until: float
    #: Whether a single signal decides, and lower values of it are better: only then can a policy promise ranges (``quiet``).
    single: bool
    #: The unit of gain times seconds, for reasons in words.
    unit: str = "g·s/kWh"


@dataclass(frozen=True, slots=True)
class Unknown:
    """There is no fresh reading. ``stale``: the last one is so old that a site may not stay on by it either."""

    stale: bool
    text: str
    value: float | None
    stale_at: float | None


class Criterion(Protocol):
    """Says from a site's readings what training there is worth."""

    def judge(self, t: float, site: SiteView) -> Judged | Unknown: ...


class SitePolicy(Protocol):
    """Decides for one site at a time, from readings that are fresh."""

    name: str

    def decide_site(self, t: float, site: SiteView, judged: Judged) -> Decision: ...

    def hold_site(self, t: float, site: SiteView, stale: bool) -> Memory:
        """What to remember after a tick without a fresh reading; ``stale``: the site is turned off because of it."""
        ...


class PerSite:
    """Makes a fleet policy of a per-site policy. It keeps invariant 5 for all of them.

    A missing or late reading never turns a site on, and a stale one turns it off.
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
