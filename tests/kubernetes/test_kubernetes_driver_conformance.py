"""The Kubernetes driver does what every driver does, with a StatefulSet and with queued Jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.driver_conformance import DriverConformance, Rig
from kubernetes.double.faults import Fault
from kubernetes.rig import PodConformance, PodRig
from kubernetes.sites import driver
from windfall.errors import DriverError, Permanent, Transient, Unauthorized
from windfall.fleet.driver import Driver

REFUSALS: dict[type[DriverError], str] = {Transient: "unavailable", Permanent: "webhook_denied", Unauthorized: "unauthorized"}


class KubernetesRig(PodRig):
    def __init__(self, folder: Path, queue: str | None) -> None:
        super().__init__(folder)
        self._queue = queue
        self.cluster.node("node", gpus=1)
        self.cluster.kueue(gpus=1)
        self.cluster.live(0.02)

    def driver(self) -> Driver:
        return driver(self.cluster, self._folder, site=self.site, queue=self._queue)

    def refuse(self, kind: type[DriverError] | None) -> None:
        self.cluster.faults.clear()
        if kind is not None:
            self.cluster.faults.add(Fault(REFUSALS[kind]))


class TestStatefulSet(PodConformance):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Iterator[Rig]:
        rig = KubernetesRig(tmp_path, None)
        yield rig
        rig.cluster.close()


class TestQueuedJobs(DriverConformance):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Iterator[Rig]:
        rig = KubernetesRig(tmp_path, "gpus")
        yield rig
        rig.cluster.close()
