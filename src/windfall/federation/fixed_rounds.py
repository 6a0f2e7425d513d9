"""Rounds of fixed tokens are done as they were begun, by those who began them: a killed run's weights are an unkilled one's.

Other rounds never wait for a dead site. These do, while it is on its way back and no longer than the round's own limit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from windfall.federation.members import Round
from windfall.fleet.machine import Site, State
from windfall.store.ledger import Ledger

#: Where the ledger keeps the round under way.
_KEY = "round"


class FixedRounds:
    """What a run remembers of them, from one coordinator to the next."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        stored = json.loads(ledger.meta(_KEY) or "{}")
        #: Who did the last one.
        self._regulars: set[str] = set(stored.get("participants", []))

    def begun(self, r: Round) -> None:
        """Keep a round, durably."""
        self._regulars = set(r.participants)
        kept = {"number": r.number, "base": r.base, "begins_at": r.begins_at, "cut_at": r.cut_at, "mode": r.mode}
        self._ledger.set_meta(**{_KEY: json.dumps({**kept, "participants": sorted(r.participants)})})

    def under_way(self) -> Round | None:
        """The round that an earlier coordinator left; it waits for those whose work has not come."""
        stored = json.loads(self._ledger.meta(_KEY) or "{}")
        if stored.get("base") != self._ledger.head().version:
            return None
        r = Round(**{**stored, "participants": set(stored["participants"]), "waiting": set()})
        r.waiting = {site for site in r.participants if not self.handed_in(site, r)}
        return r

    def handed_in(self, site: str, r: Round) -> bool:
        """Whether a site's work of this round waits for its commit."""
        return any(c.site == site and c.base_version == r.base for c in self._ledger.pending())

    def expects(self, t: float, able: set[str], sites: Mapping[str, Site]) -> bool:
        """Whether to wait before the next one: somebody who did the last one is not ``able`` yet, and on the way."""
        return any(comes_back(t, sites[n]) for n in self._regulars - able if n in sites)


def comes_back(t: float, site: Site) -> bool:
    """Whether a site that is not there is on its way: it starts, has failed just now, or waits for its next try."""
    return site.retry_at > t if site.state is State.OFF else site.state is not State.DRAINING
