"""A node and its kubelet: runs the pods that are bound to it, and says what became of them.

What the kubelet knows of its containers it keeps to itself; a node that is cut off goes on running them, and the API server goes on
showing what it heard last.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kubernetes.double import errors, pods, words
from kubernetes.double.api import Api
from kubernetes.double.containers import Container, Images
from kubernetes.double.events import Recorder
from kubernetes.double.kinds import BY_NAME
from kubernetes.double.mounts import NotMounted, View, Volumes, clean_up
from kubernetes.double.quota import pod_requests
from kubernetes.double.runtime import Runtime
from kubernetes.double.schema import Json, copy

_POD = BY_NAME["Pod"]
GPU = "nvidia.com/gpu"


class _Worker:
    """One pod on this node, from its first container to its last."""

    def __init__(self, pod: Json, node: Kubelet) -> None:
        self.pod = pod
        self._node = node
        self.folder = node.root / "pods" / pod["metadata"]["uid"]
        self._started = words.stamp(node.api.now())
        self._volumes: dict[str, Path] | None = None
        self._mount_problem = ""
        self._ending_since: float | None = None
        self._order: tuple[Json, float] | None = None
        make = lambda c, init: Container(pod, c, node.runtime, node.images, self._tell, self.folder / "logs", init=init)  # noqa: E731
        self._init = [make(c, True) for c in pod["spec"].get("initContainers") or []]
        self.main = [make(c, False) for c in pod["spec"]["containers"]]
        self.devices = node.take_devices(int(pod_requests(pod).get(GPU, 0)))

    def _tell(self, reason: str, message: str, warning: bool) -> None:
        if self._node.reachable:
            self._node.events.tell(self.pod, reason, message, "kubelet", warning=warning)

    def _all(self) -> list[Container]:
        return [*self._init, *self.main]

    def _see(self, spec: Json) -> View:
        assert self._volumes is not None
        base = {**self._node.environment, "NVIDIA_VISIBLE_DEVICES": ",".join(map(str, self.devices)) or "void"}
        home = self.folder / "home"
        home.mkdir(parents=True, exist_ok=True)
        return View(self._node.api, self.pod, spec, self._volumes, base, home)

    def run(self, now: float) -> None:
        """A step towards what the pod's spec says."""
        try:
            self._volumes = self._node.volumes.set_up(self.pod, self.folder)
        except NotMounted as e:
            if str(e) != self._mount_problem:
                self._mount_problem = str(e)
                self._tell("FailedMount", str(e), True)
            if not any(c.is_up for c in self._all()):
                return
        policy = self.pod["spec"]["restartPolicy"]
        for container in self._init:
            container.step(now, self._see, policy)
            if container.exit_code != 0:
                return
        for container in self.main:
            container.step(now, self._see, policy)

    def end(self, now: float, grace_s: float) -> bool:
        """A step towards the pod's end; True when nothing of it is left."""
        if self._ending_since is None:
            self._ending_since = now
            for container in self._all():
                container.begin_end(now)
        for container in self._all():
            container.go_on_ending(now, self._ending_since + grace_s)
        return not any(c.is_up for c in self._all())

    def kill(self, now: float) -> None:
        for container in self._all():
            container.kill(now)

    def status(self) -> Json:
        status = copy(self.pod.get("status") or {})
        at = words.stamp(self._node.api.now())
        initialized = all(c.exit_code == 0 for c in self._init)
        ready = bool(self.main) and all(c.ready for c in self.main)
        up = self._volumes is not None
        phase = self._phase()
        done = "PodCompleted" if phase in ("Succeeded", "Failed") else ""
        names = [c.spec["name"] for c in self.main if not c.ready]
        why = done or "ContainersNotReady"
        words_ = "" if done else f"containers with unready status: [{' '.join(names)}]"
        status = pods.with_condition(status, "PodReadyToStartContainers", str(up and not done), at)
        status = pods.with_condition(status, "Initialized", str(initialized), at)
        for name in ("ContainersReady", "Ready"):
            status = pods.with_condition(status, name, str(ready), at, *(() if ready else (why, words_)))
        status |= {
            "phase": phase,
            "hostIP": "127.0.0.1",
            "podIP": "127.0.0.1",
            "podIPs": [{"ip": "127.0.0.1"}],
            "startTime": self._started,
            "containerStatuses": [self._container_status(c) for c in self.main],
        }
        if self._init:
            status["initContainerStatuses"] = [self._container_status(c) for c in self._init]
        return status

    def _phase(self) -> str:
        policy = self.pod["spec"]["restartPolicy"]
        failed_init = any(
            c.ended and c.exit_code != 0 and (policy == "Never" or self._ending_since is not None) for c in self._init
        )
        if failed_init:
            return "Failed"
        over = [
            c
            for c in self.main
            if c.ended and (self._ending_since is not None or policy == "Never" or (policy == "OnFailure" and c.exit_code == 0))
        ]
        if len(over) == len(self.main):
            return "Failed" if any(c.exit_code != 0 for c in over) else "Succeeded"
        if self._ending_since is not None and not any(c.is_up for c in self._all()):
            return "Failed"
        return "Running" if any(c.is_up or c.ended or c.restarts for c in self.main) else "Pending"

    def _container_status(self, c: Container) -> Json:
        image, uid = c.spec["image"], self.pod["metadata"]["uid"]
        status: Json = {
            "name": c.spec["name"],
            "image": image,
            "imageID": f"{image}@sha256:double" if c.is_up or c.ended else "",
            "ready": c.ready if not c.init else c.exit_code == 0,
            "started": c.started,
            "restartCount": c.restarts,
            "state": c.state,
            "lastState": c.last,
        }
        if c.is_up or c.ended:
            status["containerID"] = f"containerd://{uid}-{c.spec['name']}-{c.restarts}"
        return status


class Kubelet:
    """One node. ``reachable`` false: it cannot speak to the API server, and runs on; `power_off` ends what it runs, too."""

    def __init__(
        self,
        name: str,
        api: Api,
        events: Recorder,
        runtime: Runtime,
        root: Path,
        claim_folder: Callable[[Json], Path],
        *,
        capacity: Json,
        labels: Json,
        taints: list[Json],
        environment: dict[str, str],
    ) -> None:
        self.name = name
        self.api = api
        self.events = events
        self.runtime = runtime
        self.root = root / name
        self.images = Images()
        self.volumes = Volumes(api, claim_folder)
        self.environment = environment
        self.reachable = True
        self.powered = True
        self.heard = api.now()
        self._workers: dict[str, _Worker] = {}
        self._gpus = set(range(int(capacity.get(GPU, 0))))
        self._capacity = capacity
        self._register(labels, taints)

    def _register(self, labels: Json, taints: list[Json]) -> None:
        meta = {
            "name": self.name,
            "labels": {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", **labels},
        }
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": meta,
            "spec": {"taints": taints} if taints else {},
            "status": self._healthy({}),
        }
        self.api.create(BY_NAME["Node"], "", node, manager="kubelet")

    def _healthy(self, status: Json) -> Json:
        at = words.stamp(self.api.now())
        for kind in ("Memory", "Disk", "PID"):
            kept = (
                f"{kind}Pressure",
                "False",
                at,
                f"KubeletHasSufficient{kind}",
                f"kubelet has sufficient {kind.lower()} available",
            )
            status = pods.with_condition(status, *kept)
        status = pods.with_condition(status, "Ready", "True", at, "KubeletReady", "kubelet is posting ready status")
        info = {
            "kubeletVersion": "v1.37.1",
            "osImage": "double",
            "operatingSystem": "linux",
            "architecture": "amd64",
            "containerRuntimeVersion": "double://1",
            "kernelVersion": "",
            "kubeProxyVersion": "",
            "bootID": "",
            "machineID": "",
            "systemUUID": "",
        }
        return {
            **status,
            "capacity": self._capacity,
            "allocatable": self._capacity,
            "nodeInfo": info,
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": self.name}],
        }

    def take_devices(self, count: int) -> list[int]:
        taken = {d for w in self._workers.values() for d in w.devices}
        return sorted(self._gpus - taken)[:count]

    def power_off(self) -> None:
        self.reachable = self.powered = False
        for worker in self._workers.values():
            worker.kill(self.api.now())
        self._workers.clear()

    def power_on(self) -> None:
        self.reachable = self.powered = True

    def tick(self) -> None:
        now = self.api.now()
        if not self.powered:
            return
        if not self.reachable:
            for worker in self._workers.values():
                worker.run(now)
            return
        self.heard = now
        node = self.api.find("Node", "", self.name)
        if node is not None and pods.condition(node, "Ready").get("status") != "True":
            self.api.set_status(node, self._healthy(copy(node["status"])), manager="kubelet")
        bound = {p["metadata"]["uid"]: p for p in self.api.store.all(_POD) if p["spec"].get("nodeName") == self.name}
        for uid, worker in list(self._workers.items()):
            if uid not in bound and worker.end(now, worker.pod["spec"]["terminationGracePeriodSeconds"]):
                # Deleted by force: what ran is ended here all the same.
                self._forget(uid)
        for uid, pod in bound.items():
            self._sync(uid, pod, now)

    def _sync(self, uid: str, pod: Json, now: float) -> None:
        worker = self._workers.get(uid)
        if worker is None:
            if pods.ended(pod) and not pods.terminating(pod):
                return
            if pods.terminating(pod):
                self._confirm(pod, {**copy(pod.get("status") or {}), "phase": pods.phase(pod) if pods.ended(pod) else "Failed"})
                return
            worker = self._workers[uid] = _Worker(pod, self)
        worker.pod = pod
        if pods.terminating(pod):
            if worker.end(now, float(pod["metadata"].get("deletionGracePeriodSeconds", 0))):
                self._confirm(pod, worker.status())
                self._forget(uid)
            return
        worker.run(now)
        self.api.set_status(pod, worker.status(), manager="kubelet")

    def _confirm(self, pod: Json, status: Json) -> None:
        """Nothing of a deleted pod runs any more: say so, and let it go."""
        place = (pod["metadata"]["namespace"], pod["metadata"]["name"])
        self.api.set_status(pod, status, manager="kubelet")
        try:
            self.api.delete(_POD, *place, {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}})
        except errors.ApiError as e:
            if e.code not in (404, 409):
                raise

    def _forget(self, uid: str) -> None:
        worker = self._workers.pop(uid)
        clean_up(worker.folder)

    def log(self, pod: Json, container: str, previous: bool) -> bytes | None:
        worker = self._workers.get(pod["metadata"]["uid"])
        if worker is None:
            return None
        for found in worker.main:
            if not container or found.spec["name"] == container:
                path = found.earlier_log if previous else found.log
                return path.read_bytes() if path.exists() else b""
        return None

    def running(self) -> list[str]:
        """Names of pods of which a container runs here, whatever the API server believes."""
        return sorted(w.pod["metadata"]["name"] for w in self._workers.values() if any(c.is_up for c in w.main))

    def stop(self) -> None:
        """End everything at once, by force."""
        for worker in self._workers.values():
            worker.kill(self.api.now())
