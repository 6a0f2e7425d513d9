"""What the loop asks of whatever trains: the federation in a run, a model of it on a manual clock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from windfall.energy.phases import Span
from windfall.fleet.machine import Site


class Workload(Protocol):
    """The run's view of its sites, by name. Times are run time unless said otherwise."""

    def tick(self, t: float, t_next: float, sites: Mapping[str, Site]) -> None:
        """Take note of the sites' states at run time ``t``, and lend (up to ``t_next``), cut, merge and commit what is due."""
        ...

    def poll(self, sites: Mapping[str, Site]) -> None:
        """Take in what has arrived; ``sites`` as they are now. Called often; never blocks."""
        ...

    def ready(self, site: str, generation: int) -> bool:
        """Whether this generation of the site has answered `hello`, and can be given work."""
        ...

    def working(self, site: str) -> bool:
        """Whether the site has been given work."""
        ...

    def drained(self, site: str) -> bool:
        """Whether the site has handed in all that it had, or had nothing."""
        ...

    def lost(self, site: str) -> str:
        """Why the site must be given up, or an empty string."""
        ...

    def leaving(self, site: str) -> str:
        """Why the site's platform will end it soon, by its own word, or an empty string."""
        ...

    def merging(self) -> bool:
        """Whether work that was handed in is on its way to become a version. A loop does not end before it is one."""
        ...

    def busy(self, site: str) -> bool:
        """Whether the site gives signs of life and says what it is at."""
        ...

    def owes(self, t: float) -> str:
        """What a gated clock must see done before it leaves ``t``, or an empty string."""
        ...

    def behind(self, t_next: float, alive: set[str]) -> str:
        """Which of the sites ``alive`` has yet to do work that it owes by ``t_next``, or an empty string."""
        ...

    def phases(self, site: str, t0: float, t1: float) -> list[Span]:
        """The energy phases over ``[t0, t1)`` of a site that trains, evaluates or stalls: (phase, from, to) each, in order."""
        ...

    def beside(self) -> list[tuple[str, str, float]]:
        """What was used beside the sites' phases since this was last asked: (site, phase, joules) each. It took no run time."""
        ...

    def left(self) -> float:
        """What has still to be trained: tokens, or where a backtest counts hours, seconds of a site's training."""
        ...

    def finished(self, site: str) -> bool:
        """Nothing is left for this site to train on: it drains, or stays off."""
        ...

    def complete(self) -> bool:
        """Nothing is left to do at all."""
        ...
