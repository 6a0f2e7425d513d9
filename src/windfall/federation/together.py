"""What sites do together while they are the same ones: what one more of them adds is printed, never acted on."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any


@dataclass
class Together:
    """Rounds of the same sites, from the first one's begin. Bytes and tokens are totals of the run at that time."""

    sites: Set[str]
    since: float
    tokens: int
    sent: int
    received: int
    rounds: int = 0

    def told(self, t: float, tokens: int, sent: int, received: int) -> dict[str, Any]:
        """What it comes to at run time ``t``: tokens per second of run time, bytes a round."""
        rounds = max(1, self.rounds)
        return {
            "sites": sorted(self.sites), "rounds": self.rounds,
            "tokens_per_s": round((tokens - self.tokens) / (t - self.since), 1) if t > self.since else 0.0,
            "sent_bytes_per_round": (sent - self.sent) // rounds, "received_bytes_per_round": (received - self.received) // rounds,
        }  # fmt: skip
