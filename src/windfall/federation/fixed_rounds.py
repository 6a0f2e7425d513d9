"""Rounds of fixed tokens are done as they were begun, by those who began them: a killed run's weights are an unkilled one's.

Other rounds never wait for a dead site, and are cut when somebody joins. These wait for a dead site while it is on its way
back, and no longer than the round's own limit, ten times its length; who joins waits for the next one. Between two rounds as
well those who did the last one are waited for, as long and no longer.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

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
        #: Run time since when the next one waits for one of them.
        self._waits_since: float | None = None

    def begun(self, r: Round) -> None:
        """Keep a round, durably."""
        self._regulars, self._waits_since = set(r.participants), None
        kept = {"number": r.number, "base": r.base, "begins_at": r.begins_at, "cut_at": r.cut_at, "mode": r.mode}
        self._ledger.set_meta(**{_KEY: json.dumps({**kept, "participants": sorted(r.participants)})})

    def under_way(self, sites: Collection[str]) -> Round | None:
        """The round that an earlier coordinator left, if ``sites`` of this run are in it; it waits for those whose work
        has not come."""
        stored = json.loads(self._ledger.meta(_KEY) or "{}")
        participants = set(stored.get("participants", [])) & set(sites)
        if stored.get("base") != self._ledger.head().version or not participants:
            return None
        r = Round(**{**stored, "participants": participants, "waiting": set()})
        r.waiting = {site for site in r.participants if not self.handed_in(site, r)}
        return r

    def handed_in(self, site: str, r: Round) -> bool:
        """Whether a site's work of this round waits for its commit."""
        return any(c.site == site and c.base_version == r.base for c in self._ledger.pending())

    def without(self, site: str) -> None:
        """A round has been given up waiting for this site: the next one does not wait for it again."""
        self._regulars.discard(site)

    def expects(self, t: float, able: set[str], sites: Mapping[str, Site], limit_s: float) -> bool:
        """Whether to wait before the next one: somebody who did the last one is not ``able`` yet, and on the way.

        Whoever is not there after ``limit_s`` of run time, in which others could have worked, is not waited for any more.
        """
        missing = {n for n in self._regulars - able if n in sites and comes_back(t, sites[n])}
        if not missing or not able:
            self._waits_since = None
            return bool(missing)
        self._waits_since = t if self._waits_since is None else self._waits_since
        if t - self._waits_since < limit_s:
            return True
        self._regulars -= missing
        return False


def comes_back(t: float, site: Site) -> bool:
    """Whether a site that is not there is on its way: it starts, has failed just now, or waits for its next try."""
    return site.retry_at > t if site.state is State.OFF else site.state is not State.DRAINING
