"""What turns a site on and off. Idempotent, never blocking; raises Transient, Permanent or Unauthorized."""

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
    """One kind of infrastructure."""

    def ensure_up(self, site: str, generation: int) -> None: ...

    def ensure_down(self, site: str, grace_s: float, reason: str) -> None: ...

    def observe(self, sites: Iterable[str]) -> dict[str, Observed]: ...

    def list_owned(self, run_id: str) -> list[Owned]: ...


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
