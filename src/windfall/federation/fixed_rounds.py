"""What is kept of rounds of fixed tokens from one coordinator to the next (``rounds`` tells what they are)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from windfall.federation.rounds import Round
from windfall.store.ledger import Ledger

#: Where the ledger keeps the round under way.
_KEY = "round"


class KeptRound:
    """The newest round of fixed tokens, in the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def keep(self, r: Round, powers_w: Mapping[str, float]) -> None:
        """Keep a round, durably; ``powers_w``: of its sites with power levels, what they train it at."""
        kept = {"number": r.number, "base": r.base, "begins_at": r.begins_at, "cut_at": r.cut_at, "mode": r.mode}
        self._ledger.set_meta(**{_KEY: json.dumps({**kept, "participants": sorted(r.participants), "powers_w": dict(powers_w)})})

    def powers_w(self) -> dict[str, float]:
        """At what power its sites train it, of those that have levels."""
        return dict(json.loads(self._ledger.meta(_KEY) or "{}").get("powers_w", {}))

    def participants(self) -> set[str]:
        """Who did it, or does."""
        return set(json.loads(self._ledger.meta(_KEY) or "{}").get("participants", []))

    def under_way(self, sites: Collection[str]) -> Round | None:
        """The round that an earlier coordinator left, if ``sites`` of this run are in it; it waits for those whose work
        has not come."""
        stored = json.loads(self._ledger.meta(_KEY) or "{}")
        stored.pop("powers_w", None)
        participants = self.participants() & set(sites)
        if stored.get("base") != self._ledger.head().version or not participants:
            return None
        r = Round(**{**stored, "participants": participants, "waiting": set()})
        r.waiting = {site for site in r.participants if not self.handed_in(site, r)}
        return r

    def handed_in(self, site: str, r: Round) -> bool:
        """Whether a site's work of this round waits for its commit."""
        return any(c.site == site and c.base_version == r.base for c in self._ledger.pending())
