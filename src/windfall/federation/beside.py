"""What a federation uses beside its sites' phases: energy of what moves, and of evaluations on replayed time.

Both are modelled: bytes times what a byte is assumed to take on its way, and a third of what training on as many tokens takes, as
an evaluation goes forward alone. (It takes none of replayed time; on the calendar it is a phase.)
"""

from __future__ import annotations

from collections.abc import Mapping

from windfall.federation.members import Settings
from windfall.store.blobs import Blob
from windfall.store.telemetry import Events

#: The figure that is kept of what moved between the coordinator and a site, both ways.
NETWORK_BYTES = "network_bytes"


class Beside:
    """Counts it until it is asked for. Of messages their blobs count: weights, work, inner states."""

    def __init__(self, settings: Settings, events: Events) -> None:
        self._s = settings
        self._events = events
        #: Bytes of blobs to and from sites, in all.
        self.sent_bytes = self.received_bytes = 0
        self._moved: dict[str, int] = {}
        self._evaluations: dict[str, int] = {}

    def sent(self, site: str, blobs: Mapping[str, Blob]) -> None:
        """Blobs were sent to a site."""
        self.sent_bytes += self._count(site, blobs)

    def received(self, site: str, blobs: Mapping[str, Blob]) -> None:
        """Blobs came from a site."""
        self.received_bytes += self._count(site, blobs)

    def _count(self, site: str, blobs: Mapping[str, Blob]) -> int:
        size = sum(b.size for b in blobs.values())
        if size:
            self._moved[site] = self._moved.get(site, 0) + size
        return size

    def evaluates(self, site: str) -> None:
        """A site was asked to evaluate a version."""
        self._evaluations[site] = self._evaluations.get(site, 0) + 1

    def take(self, t: float) -> list[tuple[str, str, float]]:
        """(site, phase, joules) of all since it was last asked; ``t``: run time."""
        found = []
        for site, size in sorted(self._moved.items()):
            self._events.metric(t, site, NETWORK_BYTES, float(size))
            found.append((site, "network", size * self._s.network_j_per_byte))
        found += [(s, "evaluation", n * self._s.evaluation_j.get(s, 0.0)) for s, n in sorted(self._evaluations.items())]
        self._moved.clear()
        self._evaluations.clear()
        return found
