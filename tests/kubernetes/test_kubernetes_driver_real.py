"""The suite of all drivers over real HTTP, with containers that are real processes; and the same at a real cluster:

KUBECONFIG=... WINDFALL_TEST_NAMESPACE=windfall-test pytest -m slow tests/kubernetes/test_kubernetes_driver_real.py

The namespace has to be there, with the rights of `windfall site manifest`, `list` and `delete` on statefulsets and on
persistentvolumeclaims, `create` on `pods/exec`, a default storage class, and a way to the image busybox. What the tests make there
they remove.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from lightkube import Client, KubeConfig
from lightkube.core.exceptions import ApiError
from lightkube.resources.apps_v1 import StatefulSet
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import PersistentVolumeClaim, Pod, Secret

from fleet.driver_conformance import DriverConformance, Rig, until
from kubernetes.clients import kubeconfig
from kubernetes.double.cluster import Cluster
from kubernetes.double.errors import BY_NAME
from kubernetes.double.runtime import Processes
from kubernetes.sites import Starting
from patience import wait_for
from windfall import clock
from windfall.config.kubernetes import KubernetesTable
from windfall.errors import DriverError, Permanent, Transient, Unauthorized
from windfall.fleet.driver import Driver
from windfall.fleet.drivers.kubernetes import KubernetesDriver
from windfall.fleet.drivers.kubernetes_api import Cluster as Api
from windfall.fleet.drivers.kubernetes_objects import Objects, labels_of
from windfall.fleet.drivers.start import Start
from windfall.fleet.machine import Observed

pytestmark = pytest.mark.slow
REFUSALS: dict[type[DriverError], str] = {Transient: "unavailable", Permanent: "webhook_denied", Unauthorized: "unauthorized"}
Json = dict[str, Any]


class _Gate(httpx2.BaseTransport):
    """The network, with somebody on the way who may refuse everything."""

    def __init__(self) -> None:
        self._net = httpx2.HTTPTransport()
        self.refusal = ""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.refusal:
            known = BY_NAME[self.refusal]
            return httpx2.Response(known.code, json=known.status(), request=request)
        return self._net.handle_request(request)

    def close(self) -> None:
        """The next client goes through it too; ``end`` closes it."""

    def end(self) -> None:
        self._net.close()


class _Stand(Objects):
    """A site's objects, around a small program in the site's place."""

    program = ""

    def _container(self, start: Start) -> Json:
        return {**super()._container(start), "command": ["sh", "-c", self.program]}


class RealRig:
    """A cluster that is reached by a kubeconfig."""

    site = "a"
    kinds: tuple[type[DriverError], ...] = (Transient, Permanent, Unauthorized)
    _LIVES = "trap 'exit 0' TERM; while :; do sleep 0.2; done"

    def __init__(self, config: Path, namespace: str, image: str = "busybox:1.36") -> None:
        self.run_id = f"test-{uuid.uuid4().hex[:10]}"
        self._table = KubernetesTable.model_validate(
            {"image": image, "kubeconfig": str(config), "namespace": namespace, "storage": "64Mi", "grace_s": 600}
        )
        self._gates: list[_Gate] = []
        self._program = self._LIVES
        self.client = Client(KubeConfig.from_file(config), namespace=namespace)

    def driver(self) -> Driver:
        gate = _Gate()
        self._gates.append(gate)
        starts = Starting(lambda s, n: Start(self.run_id, s, n, "https://coordinator.lan:9443", "a-token"))
        made = KubernetesDriver(self.site, self._table, self.run_id, starts, cluster=Api(self._table, transport=gate))
        made._objects = _Stand(self._table, self.run_id, self.site)
        made._objects.program = self._program
        self._stand = made._objects
        return made

    def _running(self) -> list[str]:
        pods = list(self.client.list(Pod, labels=labels_of(self.run_id, self.site)))
        return [
            str(p.metadata.name) for p in pods if p.metadata and p.status and p.status.containerStatuses
            if (s := p.status.containerStatuses[0].state) and s.running
        ]  # fmt: skip

    def living(self) -> int:
        return len(self._running())

    def break_starts(self) -> None:
        self._program = "exit 2"

    def mend_starts(self) -> None:
        self._stand.program = self._program = self._LIVES

    def be_stubborn(self) -> None:
        self._program = "trap '' TERM; while :; do sleep 0.2; done"

    def die(self) -> None:
        self.client.exec(self._running()[0], command=["sh", "-c", "kill 1"])

    def refuse(self, kind: type[DriverError] | None) -> None:
        for gate in self._gates:
            gate.refusal = REFUSALS[kind] if kind is not None else ""

    def close(self) -> None:
        """Remove what the tests have made."""
        labels = labels_of(self.run_id, self.site)
        for kind in (StatefulSet, Job, Pod, Secret, PersistentVolumeClaim):
            for found in list(self.client.list(kind, labels=labels)):  # type: ignore[type-var]
                try:
                    self.client.delete(kind, found.metadata.name, grace_period=1)  # type: ignore[union-attr, type-var]
                except ApiError as e:
                    if e.status.code != 404:
                        raise
        self.client.close()
        for gate in self._gates:
            gate.end()


class DoubledRig(RealRig):
    """The double over HTTP, whose containers are processes."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster(
            folder / "cluster", start=clock.wall(), runtime=Processes(), environment={"PATH": os.environ["PATH"]}
        )
        self.cluster.node("node")
        config = folder / "kubeconfig"
        config.write_text(yaml.safe_dump(kubeconfig(self.cluster.start())))
        self.cluster.live()
        super().__init__(config, "default")

    def die(self) -> None:
        (worker,) = self.cluster.kubelets["node"]._workers.values()
        running = worker.main[0].running
        assert running is not None
        running.end_now(self.cluster.now)

    def close(self) -> None:
        super().close()
        self.cluster.close()


class _StatefulSet(DriverConformance):
    def test_a_site_that_ends_unasked_has_failed_until_it_is_cleared(self, rig: Rig) -> None:
        """Here the kubelet starts its container again: so it lives, has failed all the same, and is to be stopped."""
        driver = rig.driver()
        driver.ensure_up(rig.site, 1)
        until(driver, rig.site, Observed.UP)
        wait_for("the site", lambda: rig.living() == 1)
        rig.die()
        until(driver, rig.site, Observed.FAILED)
        driver.ensure_down(rig.site, 600.0, "it died")
        until(driver, rig.site, Observed.ABSENT)
        assert rig.living() == 0


class TestDoubled(_StatefulSet):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Iterator[Rig]:
        rig = DoubledRig(tmp_path)
        yield rig
        rig.close()


@pytest.mark.skipif(
    not (os.environ.get("KUBECONFIG") and os.environ.get("WINDFALL_TEST_NAMESPACE")),
    reason="no real cluster: KUBECONFIG and WINDFALL_TEST_NAMESPACE name one",
)
class TestRealCluster(_StatefulSet):
    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        rig = RealRig(Path(os.environ["KUBECONFIG"]), os.environ["WINDFALL_TEST_NAMESPACE"])
        yield rig
        rig.close()
