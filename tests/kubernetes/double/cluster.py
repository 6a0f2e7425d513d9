"""A whole cluster: what to make in a test, and how its time passes."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from kubernetes.double import errors
from kubernetes.double.access import Tokens
from kubernetes.double.api import Api
from kubernetes.double.events import Recorder
from kubernetes.double.faults import Faults
from kubernetes.double.housekeeping import Claims, Counts, GarbageCollector, Namespaces, Nodes
from kubernetes.double.jobs import Jobs
from kubernetes.double.kinds import BY_NAME
from kubernetes.double.kubelet import GPU, Kubelet
from kubernetes.double.kueue import Kueue
from kubernetes.double.routes import Routes
from kubernetes.double.runtime import HollowRuntime, Runtime
from kubernetes.double.scheduler import Scheduler
from kubernetes.double.schema import Json
from kubernetes.double.server import Server
from kubernetes.double.stateful_sets import StatefulSets
from kubernetes.double.store import Store
from windfall import clock

#: 2026-11-01T00:00:00Z
EPOCH = 1_793_491_200.0


class Cluster:
    """One cluster in a folder. Its time stands until `tick` moves it, or `live` makes it follow the machine's clock."""

    def __init__(
        self,
        root: Path,
        *,
        seed: int = 0,
        start: float = EPOCH,
        runtime: Runtime | None = None,
        tls: ssl.SSLContext | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.root = root
        self.now = start
        self.runtime = runtime if runtime is not None else HollowRuntime()
        self.store = Store()
        self.api = Api(self.store, lambda: self.now, seed)
        self.events = Recorder(self.api)
        self.tokens = Tokens()
        self.faults = Faults(seed)
        self.kubelets: dict[str, Kubelet] = {}
        self.claims = Claims(self.api, self.events, root / "volumes")
        self.routes = Routes(self.api, self.tokens, self.faults, self._log)
        self.server = Server(self.routes, tls=tls)
        self._environment = environment or {}
        self._kueue: Kueue | None = None
        self._controllers = [
            Namespaces(self.api),
            GarbageCollector(self.api),
            self.claims,
            Nodes(self.api, self.events, self._heard),
            StatefulSets(self.api, self.events),
            Jobs(self.api, self.events),
        ]
        self._counts = Counts(self.api)
        self._scheduler = Scheduler(self.api, self.events)
        self._live: threading.Thread | None = None
        self._over = threading.Event()
        for name in ("default", "kube-system"):
            self.namespace(name)

    def namespace(self, name: str) -> None:
        """A namespace that is ready for pods."""
        self.api.create(BY_NAME["Namespace"], "", _object("v1", "Namespace", name), manager="test")
        self.api.create(BY_NAME["ServiceAccount"], name, _object("v1", "ServiceAccount", "default"), manager="test")

    def node(
        self,
        name: str,
        *,
        gpus: int = 0,
        cpu: str = "16",
        memory: str = "64Gi",
        pods: int = 110,
        labels: Json | None = None,
        taints: list[Json] | None = None,
    ) -> Kubelet:
        capacity = {"cpu": cpu, "memory": memory, "pods": str(pods), **({GPU: str(gpus)} if gpus else {})}
        kubelet = Kubelet(
            name,
            self.api,
            self.events,
            self.runtime,
            self.root / "nodes",
            self.claims.folder,
            capacity=capacity,
            labels=labels or {},
            taints=taints or [],
            environment=self._environment,
        )
        self.kubelets[name] = kubelet
        return kubelet

    def kueue(self, **gpus: int) -> Kueue:
        """Install Kueue, with so many GPUs in each queue."""
        self._kueue = Kueue(self.api, self.events, gpus)
        return self._kueue

    def quota(self, namespace: str, name: str = "quota", **hard: str) -> None:
        """``hard``'s names have `_` for `.` and `__` for `/`: `requests_nvidia_com__gpu`."""
        limits = {k.replace("__", "/").replace("_", "."): v for k, v in hard.items()}
        self.create({**_object("v1", "ResourceQuota", name), "spec": {"hard": limits}}, namespace)

    def create(self, obj: Json, namespace: str = "default") -> Json:
        return self.api.create(BY_NAME[obj["kind"]], namespace, obj, manager="test")

    def get(self, kind: str, name: str, namespace: str = "default") -> Json | None:
        return self.api.find(kind, namespace if BY_NAME[kind].namespaced else "", name)

    def all(self, kind: str, namespace: str = "") -> list[Json]:
        return self.store.all(BY_NAME[kind], namespace)

    def running(self) -> list[str]:
        """Names of pods that really run, on every node."""
        return sorted(name for k in self.kubelets.values() for name in k.running())

    def _heard(self, node: str) -> float:
        kubelet = self.kubelets.get(node)
        return kubelet.heard if kubelet is not None else self.now

    def _log(self, pod: Json, container: str, previous: bool) -> bytes:
        kubelet = self.kubelets.get(pod["spec"].get("nodeName", ""))
        found = kubelet.log(pod, container, previous) if kubelet is not None else None
        if found is None:
            raise errors.bad_request(f'container "{container or "main"}" in pod "{pod["metadata"]["name"]}" is waiting to start')
        return found

    def tick(self, now: float | None = None) -> None:
        """Move the cluster's time, and let every component take one step."""
        if now is not None:
            self.now = max(self.now, now)
        for controller in self._controllers:
            controller.tick()
        if self._kueue is not None:
            self._kueue.tick()
        self._scheduler.tick()
        for kubelet in list(self.kubelets.values()):
            kubelet.tick()
        self._counts.tick()
        self.events.expire()

    def pass_time(self, seconds: float, step_s: float = 1.0) -> None:
        end = self.now + seconds
        while self.now < end:
            self.tick(min(self.now + step_s, end))

    def settle(self, steps: int = 30) -> None:
        """Let the components act until none has anything to do, while time stands."""
        for _ in range(steps):
            before = self.store.version
            self.tick()
            if self.store.version == before:
                return
        raise AssertionError("the cluster does not come to rest")

    def live(self, period_s: float = 0.05) -> None:
        """Follow the machine's clock from now on, in a thread."""
        self._live = threading.Thread(
            target=self._follow, args=(period_s, self.now - clock.monotonic()), name="cluster", daemon=True
        )
        self._live.start()

    def _follow(self, period_s: float, offset: float) -> None:
        while not self._over.wait(period_s):
            self.tick(offset + clock.monotonic())

    def start(self) -> str:
        """Begin to listen; the API server's address."""
        return self.server.start()

    def close(self) -> None:
        self._over.set()
        if self._live is not None:
            self._live.join()
        self.server.stop()
        for kubelet in self.kubelets.values():
            kubelet.stop()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _object(api_version: str, kind: str, name: str, **rest: Any) -> Json:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, **rest}
