"""A doubled cluster as the platform of the suite that every driver passes: on the machine's clock, with hollow containers."""

from __future__ import annotations

from pathlib import Path

from fleet.driver_conformance import DriverConformance, Rig, until
from kubernetes.double.cluster import Cluster
from kubernetes.double.runtime import HollowRuntime
from kubernetes.sites import RUN
from patience import wait_for
from windfall.errors import DriverError, Permanent, Transient, Unauthorized
from windfall.fleet.machine import Observed


class PodRig:
    """What is alike wherever a site is a pod. A driver's own rig adds ``driver`` and ``refuse``."""

    site, run_id = "a", RUN
    kinds: tuple[type[DriverError], ...] = (Transient, Permanent, Unauthorized)

    def __init__(self, folder: Path) -> None:
        self._runtime = HollowRuntime()
        self._folder = folder
        self.cluster = Cluster(folder / "cluster", runtime=self._runtime)

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


class PodConformance(DriverConformance):
    """The suite, where the kubelet starts a container that has ended again."""

    def test_a_site_that_ends_unasked_has_failed_until_it_is_cleared(self, rig: Rig) -> None:
        """So it lives, has failed all the same, and is to be stopped."""
        driver = rig.driver()
        driver.ensure_up(rig.site, 1)
        until(driver, rig.site, Observed.UP)
        rig.die()
        until(driver, rig.site, Observed.FAILED)
        wait_for("the container that is started again", lambda: rig.living() == 1)
        assert [o.generation for o in driver.list_owned(rig.run_id)] == [1]
        driver.ensure_down(rig.site, 600.0, "it died")
        until(driver, rig.site, Observed.ABSENT)
        assert rig.living() == 0
