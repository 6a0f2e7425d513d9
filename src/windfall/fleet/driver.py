"""What turns a site on and off. Idempotent, never blocking; raises Transient, Permanent or Unauthorized.

Whatever it raises concerns the sites that were asked for and no others; what it means is the same in every method:
Transient: later it may work, nothing needs to change. Permanent: a person has to change something. Unauthorized (a kind of
Permanent): credentials are missing, wrong or expired.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from windfall.fleet.machine import Observed


@dataclass(frozen=True, slots=True)
class Owned:
    """Something that a driver finds to belong to a run."""

    site: str
    generation: int
    handle: str


class Driver(Protocol):
    """One kind of infrastructure. Every method returns at once: it asks, and ``observe`` says what has become of it."""

    def ensure_up(self, site: str, generation: int) -> None:
        """Ask for this generation of a site; no more if it is there or on its way.

        If it raises, something may have been made all the same: the controller then asks for ``ensure_down``.
        """
        ...

    def ensure_down(self, site: str, grace_s: float, reason: str) -> None:
        """Ask for the end of whatever there is of a site, half-made things too: politely, and by force after ``grace_s``.

        No error if there is nothing. If it raises, the site may still be there: the controller asks again, until it sees it gone.
        """
        ...

    def observe(self, sites: Iterable[str]) -> dict[str, Observed]:
        """What there is of these sites now; one that it cannot see is ``unknown``, and so is one that it leaves out.

        It raises only if it cannot see any of them. The controller then asks for each by itself, so that one that cannot be
        seen hides no other.
        """
        ...

    def list_owned(self, run_id: str) -> list[Owned]:
        """Everything that belongs to a run, whoever started it: what a new coordinator goes on with or ends."""
        ...


class MemoryDriver:
    """Sites that start and stop at once, for the manual clock and for tests."""

    def __init__(self) -> None:
        self.up: dict[str, int] = {}
        #: Sites that a test makes fail or hang.
        self.override: dict[str, Observed] = {}

    def ensure_up(self, site: str, generation: int) -> None:
        self.up[site] = generation

    def ensure_down(self, site: str, grace_s: float, reason: str) -> None:
        self.up.pop(site, None)

    def observe(self, sites: Iterable[str]) -> dict[str, Observed]:
        return {s: (self.override.get(s, Observed.UP) if s in self.up else Observed.ABSENT) for s in sites}

    def list_owned(self, run_id: str) -> list[Owned]:
        return [Owned(s, g, s) for s, g in self.up.items()]
