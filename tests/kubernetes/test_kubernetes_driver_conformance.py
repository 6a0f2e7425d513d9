"""The Kubernetes driver does what every driver does, with a StatefulSet and with queued Jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.driver_conformance import DriverConformance, Rig, until
from kubernetes.double.cluster import Cluster
from kubernetes.double.faults import Fault
from kubernetes.double.runtime import HollowRuntime
from kubernetes.sites import RUN, driver
from patience import wait_for
from windfall.errors import DriverError, Permanent, Transient, Unauthorized
from windfall.fleet.driver import Driver
from windfall.fleet.machine import Observed

REFUSALS: dict[type[DriverError], str] = {Transient: "unavailable", Permanent: "webhook_denied", Unauthorized: "unauthorized"}


class KubernetesRig:
    """A cluster that follows the machine's clock, with hollow containers."""

    site, run_id = "a", RUN
    kinds: tuple[type[DriverError], ...] = (Transient, Permanent, Unauthorized)

    def __init__(self, folder: Path, queue: str | None) -> None:
        self._runtime = HollowRuntime()
        self._folder, self._queue = folder, queue
        self.cluster = Cluster(folder / "cluster", runtime=self._runtime)
        self.cluster.node("node", gpus=1)
        self.cluster.kueue(gpus=1)
        self.cluster.live(0.02)

    def driver(self) -> Driver:
        return driver(self.cluster, self._folder, site=self.site, queue=self._queue)

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
        self.cluster.faults.clear()
        if kind is not None:
            self.cluster.faults.add(Fault(REFUSALS[kind]))


class TestStatefulSet(DriverConformance):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Iterator[Rig]:
        rig = KubernetesRig(tmp_path, None)
        yield rig
        rig.cluster.close()

    def test_a_site_that_ends_unasked_has_failed_until_it_is_cleared(self, rig: Rig) -> None:
        """Here the kubelet starts its container again: so it lives, has failed all the same, and is to be stopped."""
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


class TestQueuedJobs(DriverConformance):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Iterator[Rig]:
        rig = KubernetesRig(tmp_path, "gpus")
        yield rig
        rig.cluster.close()
