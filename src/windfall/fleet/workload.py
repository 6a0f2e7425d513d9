"""What the loop asks of the thing that trains: the federation, or on a manual clock a model of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from windfall.fleet.machine import Site


class Workload(Protocol):
    """The run's view of its sites, by name. Times are run time unless said otherwise."""

    def tick(self, t: float, t_next: float, sites: Mapping[str, Site]) -> None:
        """Take note of the sites' states at ``t`` and hand out, cut, merge and commit what is due."""
        ...

    def poll(self, sites: Mapping[str, Site]) -> None:
        """Take in what has arrived; ``sites`` as they are now. Called often; never blocks."""
        ...

    def ready(self, site: str, generation: int) -> bool: ...
    def working(self, site: str) -> bool: ...
    def drained(self, site: str) -> bool: ...

    def lost(self, site: str) -> str:
        """Why the site must be given up, or an empty string."""
        ...

    def owes(self, t: float) -> str:
        """What a gated clock must see done before it leaves ``t``, or an empty string."""
        ...

    def behind(self, t_next: float, alive: set[str]) -> str:
        """Which of the sites ``alive`` has yet to do work that it owes by ``t_next``, or an empty string."""
        ...

    def phases(self, site: str, t0: float, t1: float) -> list[tuple[str, float, float]]:
        """`training` or `idle` over ``[t0, t1)``, for a site that has work: (phase, from, to)."""
        ...

    def left(self) -> float:
        """What has still to be trained, in tokens (or in whatever sites' rates are given in)."""
        ...

    def finished(self, site: str) -> bool:
        """Nothing is left for this site to train on: it drains, or stays off."""
        ...

    def complete(self) -> bool:
        """Nothing is left to do at all."""
        ...
