"""What a policy is: a pure function from the fleet's view to a decision per site.

No I/O and no clock. What a policy remembers is a value: it leaves in the decision and comes back in the next view,
so that a recorded run can be replayed decision by decision (invariant 7).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from windfall.grid.signal import Reading

Memory = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SiteView:
    """One site as policies see it. ``on`` is what was decided last, since ``since`` (run time)."""

    name: str
    reading: Reading | None
    on: bool
    since: float
    spin_up_s: float
    memory: Memory = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FleetView:
    """The fleet at run time ``t``."""

    t: float
    sites: Mapping[str, SiteView]


@dataclass(frozen=True, slots=True)
class Decision:
    """On or off, why (in words, with the numbers beside), until when it expects to hold, and what to remember."""

    on: bool
    reason: str
    numbers: Mapping[str, float]
    until: float | None
    memory: Memory


class Policy(Protocol):
    """Decides for the whole fleet."""

    name: str

    def decide(self, view: FleetView) -> dict[str, Decision]: ...


class SitePolicy(Protocol):
    """Decides for one site at a time, from a reading that is fresh."""

    name: str

    def decide_site(self, t: float, site: SiteView, reading: Reading) -> Decision: ...

    def hold_site(self, t: float, site: SiteView) -> Memory:
        """What to remember over a tick without a fresh reading."""
        ...


class PerSite:
    """Makes a fleet policy of a per-site one, and is the one place where invariant 5 is kept:

    a missing or late reading never turns a site on, and a stale one turns it off.
    """

    def __init__(self, policy: SitePolicy) -> None:
        self.policy = policy
        self.name = policy.name

    def decide(self, view: FleetView) -> dict[str, Decision]:
        return {name: self._one(view.t, site) for name, site in view.sites.items()}

    def _one(self, t: float, site: SiteView) -> Decision:
        reading = site.reading
        if reading is not None and reading.is_fresh(t):
            return self.policy.decide_site(t, site, reading)
        if reading is None or reading.is_stale(t):
            why = "no reading" if reading is None else f"the last reading ({reading.age_s(t) / 60:.0f} min old) no longer holds"
            return Decision(False, f"{why}: off", {}, None, {})
        why = f"reading is late ({reading.age_s(t) / 60:.0f} min old): stays {'on' if site.on else 'off'}"
        return Decision(site.on, why, {"value": reading.value}, reading.stale_at, self.policy.hold_site(t, site))
