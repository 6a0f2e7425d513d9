"""What a federation uses beside its sites' phases: energy of what moves, and of evaluations on replayed time.

Both are modelled: bytes times what a byte is assumed to take on its way, and a third of what training on as many tokens takes, as
an evaluation goes forward alone. (It takes none of replayed time; on the calendar it is a phase.)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from windfall.federation.members import Settings
from windfall.store.blobs import Blob
from windfall.store.telemetry import Events
from windfall.store.telemetry_metrics import NETWORK_BYTES


class Beside:
    """Counts it until it is asked for. Of messages their blobs count: weights, work, inner states.

    What comes from a site arrives when it does. So that a run on replayed time is the same on any machine, it counts when the site
    is next sent something, or is gone: run time stands still for both.
    """

    def __init__(self, settings: Settings, events: Events) -> None:
        self._s = settings
        self._events = events
        #: Bytes of blobs to and from sites, in all.
        self.sent_bytes = self.received_bytes = 0
        self._moved: dict[str, int] = {}
        self._arrived: dict[str, int] = {}
        self._evaluations: dict[str, int] = {}

    def sent(self, site: str, blobs: Mapping[str, Blob]) -> None:
        """Blobs were sent to a site."""
        size = _size(blobs)
        self.sent_bytes += size
        self._move(site, size + self._arrived.pop(site, 0))

    def received(self, site: str, blobs: Mapping[str, Blob]) -> None:
        """Blobs came from a site."""
        size = _size(blobs)
        self.received_bytes += size
        self._arrived[site] = self._arrived.get(site, 0) + size

    def _move(self, site: str, size: int) -> None:
        if size:
            self._moved[site] = self._moved.get(site, 0) + size

    def evaluates(self, site: str) -> None:
        """A site was asked to evaluate a version."""
        self._evaluations[site] = self._evaluations.get(site, 0) + 1

    def take(self, t: float, members: Collection[str]) -> list[tuple[str, str, float]]:
        """(site, phase, joules) of all since it was last asked; ``t``: run time, ``members``: sites that are there."""
        for site in self._arrived.keys() - set(members):
            self._move(site, self._arrived.pop(site))
        found = []
        for site, size in sorted(self._moved.items()):
            self._events.metric(t, site, NETWORK_BYTES, float(size))
            found.append((site, "network", size * self._s.network_j_per_byte))
        found += [(s, "evaluation", n * self._s.evaluation_j.get(s, 0.0)) for s, n in sorted(self._evaluations.items())]
        self._moved.clear()
        self._evaluations.clear()
        return found


def _size(blobs: Mapping[str, Blob]) -> int:
    return sum(b.size for b in blobs.values())
