"""The exalsius driver does what every driver does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exalsius.double import Exalsius, Fault
from exalsius.sites import driver
from fleet.driver_conformance import DriverConformance, Rig, until
from kubernetes.double.cluster import Cluster
from kubernetes.double.runtime import HollowRuntime
from kubernetes.sites import RUN
from patience import wait_for
from windfall.errors import DriverError, Permanent, Transient, Unauthorized
from windfall.fleet.driver import Driver
from windfall.fleet.machine import Observed

REFUSALS: dict[type[DriverError], int] = {Transient: 503, Permanent: 403, Unauthorized: 401}


class ExalsiusRig:
    """A pool of one node, and a cluster that follows the machine's clock, with hollow containers."""

    site, run_id = "a", RUN
    kinds: tuple[type[DriverError], ...] = (Transient, Permanent, Unauthorized)

    def __init__(self, folder: Path) -> None:
        self._runtime = HollowRuntime()
        self._folder = folder
        self.cluster = Cluster(folder / "cluster", runtime=self._runtime)
        self.plane = Exalsius(self.cluster, join_s=0.1, leave_s=0.1)
        self.plane.node("gpu-a")
        self.cluster.live(0.02)

    def driver(self) -> Driver:
        return driver(self.plane, self._folder, site=self.site)

    def living(self) -> int:
        return len(self.cluster.running())

    def break_starts(self) -> None:
        self._runtime.shape = lambda c, now: c.end(now, 2)

    def mend_starts(self) -> None:
        self._runtime.shape = None

    def die(self) -> None:
        with self.cluster.store.changed:
            self._runtime.last(self.cluster.running()[0], "site").end(self.cluster.now, 1)

    def be_stubborn(self) -> None:
        self._runtime.term_s = 1e9

    def refuse(self, kind: type[DriverError] | None) -> None:
        self.plane.faults = [] if kind is None else [Fault(REFUSALS[kind])]


class TestExalsius(DriverConformance):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Iterator[ExalsiusRig]:
        made = ExalsiusRig(tmp_path)
        with made.plane:
            yield made
            made.cluster.close()

    def test_the_next_coordinator_finds_the_site_goes_on_with_it_and_ends_it(self, rig: Rig) -> None:
        """Here nothing runs before the node has joined, for which somebody has to look."""
        rig.driver().ensure_up(rig.site, 7)
        after = rig.driver()
        assert [(o.site, o.generation) for o in after.list_owned(rig.run_id)] == [(rig.site, 7)]
        until(after, rig.site, Observed.UP)
        after.ensure_down(rig.site, 600.0, "off")
        until(after, rig.site, Observed.ABSENT)
        assert rig.living() == 0

    def test_a_site_that_ends_unasked_has_failed_until_it_is_cleared(self, rig: ExalsiusRig) -> None:
        """Here the kubelet starts its container again: so it lives, has failed all the same, and is to be stopped."""
        driver = rig.driver()
        driver.ensure_up(rig.site, 1)
        until(driver, rig.site, Observed.UP)
        rig.die()
        until(driver, rig.site, Observed.FAILED)
        wait_for("the container that is started again", lambda: rig.living() == 1)
        driver.ensure_down(rig.site, 600.0, "it died")
        until(driver, rig.site, Observed.ABSENT)
        assert (rig.living(), rig.plane.members()) == (0, [])
