"""What turns sites on and off, and what it promises to the controller.

A driver raises three errors, subclasses of ``errors.DriverError``, and no others. Each says who has to act:

- ``Transient``: nobody. The same request may succeed later.
- ``Permanent``: a person has to change something first, such as a configuration, a quota or a missing program.
- ``Unauthorized``, a kind of ``Permanent``: credentials are missing, wrong or expired.

An error concerns the sites that were asked for and no others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from windfall.fleet.machine import Observation, Observed


@dataclass(frozen=True, slots=True)
class Owned:
    """A site's processes, pod or job that a driver finds to belong to a run. ``handle`` is the driver's own name for it."""

    site: str
    generation: int
    handle: str


class Driver(Protocol):
    """One kind of infrastructure.

    No method waits for a site to start or stop: it passes the request on and returns, and ``observe`` says later what has come of
    it. Every method is idempotent: asking again for what has been asked already does nothing more.
    """

    def ensure_up(self, site: str, generation: int) -> None:
        """Ask for the given generation of a site to be started; do nothing if the site is there or on its way.

        Raises:
            Transient: it cannot be started now.
            Permanent: it cannot be started until somebody changes something.
            Unauthorized: it cannot be started with these credentials.

        Part of the site may exist in spite of an error. The controller therefore asks for ``ensure_down`` after each one.
        """
        ...

    def ensure_down(self, site: str, grace_s: float, reason: str) -> None:
        """Ask for everything of a site to be stopped, including what is only half started, and of whichever generation.

        The site is asked to end by itself; what is left of it ``grace_s`` (wall time) later is ended by force. ``reason`` is for
        logs. Nothing to stop is no error.

        Raises:
            Transient: the request could not be made now.
            Permanent: it cannot be made until somebody changes something.
            Unauthorized: it cannot be made with these credentials.

        After an error the site may still be there. The controller asks again until it observes the site as absent.
        """
        ...

    def observe(self, sites: Iterable[str]) -> dict[str, Observation]:
        """What there is of ``sites`` now, by name.

        A site that the driver cannot see is ``Observed.UNKNOWN``, and so is one that the result leaves out: neither causes a
        transition.

        Raises:
            Transient, Permanent, Unauthorized: none of ``sites`` can be seen.

        The controller then asks for each site by itself, so that one that cannot be seen does not hide the others.
        """
        ...

    def list_owned(self, run_id: str) -> list[Owned]:
        """Everything that lives and belongs to a run, no matter which coordinator started it.

        A new coordinator goes on with these, or ends them. Empty if ``run_id`` is not this driver's run.

        Raises:
            Transient, Permanent, Unauthorized: this cannot be found out. The coordinator then does not begin.
        """
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

    def observe(self, sites: Iterable[str]) -> dict[str, Observation]:
        return {s: Observation(self.override.get(s, Observed.UP) if s in self.up else Observed.ABSENT) for s in sites}

    def list_owned(self, run_id: str) -> list[Owned]:
        return [Owned(s, g, s) for s, g in self.up.items()]
