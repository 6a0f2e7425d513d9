"""The scheduler: counts what nodes have left, and says in the real one's words why a pod has no place."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

from kubernetes.double import pods, words
from kubernetes.double.api import Api
from kubernetes.double.events import Recorder
from kubernetes.double.housekeeping import tolerates
from kubernetes.double.kinds import BY_NAME
from kubernetes.double.quota import pod_requests
from kubernetes.double.schema import Json, copy

_POD, _NODE, _CLAIM = BY_NAME["Pod"], BY_NAME["Node"], BY_NAME["PersistentVolumeClaim"]
_WHO = "default-scheduler"
#: How long an unschedulable pod's event is not told again if nothing changes.
_SAME_S = 300.0


class Scheduler:
    def __init__(self, api: Api, events: Recorder) -> None:
        self._api = api
        self._events = events
        self._said: dict[str, tuple[str, float]] = {}

    def tick(self) -> None:
        waiting = [p for p in self._api.store.all(_POD) if not p["spec"].get("nodeName") and not pods.terminating(p)]
        waiting.sort(
            key=lambda p: (
                -(p["spec"].get("priority") or 0),
                p["metadata"]["creationTimestamp"],
                int(p["metadata"]["resourceVersion"]),
            )
        )
        if not waiting:
            return
        nodes = self._api.store.all(_NODE)
        free = {n["metadata"]["name"]: self._free(n) for n in nodes}
        for pod in waiting:
            if pod["spec"].get("schedulingGates"):
                self._refuse(pod, "SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates")
                continue
            self._place(pod, nodes, free)

    def _free(self, node: Json) -> dict[str, Decimal]:
        left = {n: words.quantity(v) for n, v in (node["status"].get("allocatable") or {}).items()}
        for pod in self._api.store.all(_POD):
            if pod["spec"].get("nodeName") == node["metadata"]["name"] and not pods.ended(pod):
                for name, value in pod_requests(pod).items():
                    left[name] = left.get(name, Decimal(0)) - value
                left["pods"] = left.get("pods", Decimal(0)) - 1
        return left

    def _place(self, pod: Json, nodes: list[Json], free: dict[str, dict[str, Decimal]]) -> None:
        if not nodes:
            self._refuse(pod, "Unschedulable", "no nodes available to schedule pods")
            return
        total = len(nodes)
        head = f"0/{total} nodes are available: "
        volume = self._volume_problem(pod)
        if volume:
            text = f"{head}{volume}. preemption: 0/{total} nodes are available: {total} Preemption is not helpful for scheduling."
            self._refuse(pod, "Unschedulable", text)
            return
        asked = pod_requests(pod)
        fits, reasons, hopeless = [], Counter[str](), 0
        for node in nodes:
            why, never = self._misfit(pod, node, asked, free[node["metadata"]["name"]])
            reasons.update(why)
            hopeless += never and bool(why)
            if not why:
                fits.append(node)
        if fits:
            gpu = "nvidia.com/gpu"
            best = min(fits, key=lambda n: (free[n["metadata"]["name"]].get(gpu, Decimal(0)), n["metadata"]["name"]))
            name = best["metadata"]["name"]
            self._api.bind(pod, name)
            place = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            self._events.tell(pod, "Scheduled", f"Successfully assigned {place} to {name}", _WHO)
            self._said.pop(pod["metadata"]["uid"], None)
            for resource, value in {**asked, "pods": Decimal(1)}.items():
                free[name][resource] = free[name].get(resource, Decimal(0)) - value
            return
        told = ", ".join(sorted(f"{n} {r}" for r, n in reasons.items()))
        victims = []
        if hopeless:
            victims.append(f"{hopeless} Preemption is not helpful for scheduling")
        if total - hopeless:
            victims.append(f"{total - hopeless} No preemption victims found for incoming pod")
        text = f"{head}{told}. preemption: 0/{total} nodes are available: {', '.join(sorted(victims))}."
        self._refuse(pod, "Unschedulable", text)

    def _misfit(self, pod: Json, node: Json, asked: dict[str, Decimal], free: dict[str, Decimal]) -> tuple[list[str], bool]:
        """Why a pod does not go to a node, and whether making room there would not help."""
        spec = node.get("spec") or {}
        tolerations = pod["spec"].get("tolerations") or []
        if spec.get("unschedulable") and not any(tolerates(t, _CORDON) for t in tolerations):
            return ["node(s) were unschedulable"], True
        for taint in spec.get("taints") or []:
            if taint["effect"] in ("NoSchedule", "NoExecute") and not any(tolerates(t, taint) for t in tolerations):
                return [f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"], True
        if not _matches(pod, node):
            return ["node(s) didn't match Pod's node affinity/selector"], True
        short = [n for n, v in asked.items() if v > free.get(n, Decimal(0))]
        has = node["status"].get("allocatable") or {}
        never = any(asked[n] > words.quantity(has.get(n, "0")) for n in short)
        why = ["Too many pods"] if free.get("pods", Decimal(1)) < 1 else []
        return [*why, *(f"Insufficient {n}" for n in short)], never

    def _volume_problem(self, pod: Json) -> str:
        for volume in pod["spec"].get("volumes") or []:
            name = (volume.get("persistentVolumeClaim") or {}).get("claimName")
            if not name:
                continue
            claim = self._api.store.get(_CLAIM, pod["metadata"]["namespace"], name)
            if claim is None:
                return f'persistentvolumeclaim "{name}" not found'
            if claim["metadata"].get("deletionTimestamp"):
                return f'persistentvolumeclaim "{name}" is being deleted'
            if not claim["spec"].get("volumeName"):
                return "pod has unbound immediate PersistentVolumeClaims"
        return ""

    def _refuse(self, pod: Json, reason: str, text: str) -> None:
        at = words.stamp(self._api.now())
        self._api.set_status(
            pod, pods.with_condition(copy(pod["status"]), "PodScheduled", "False", at, reason, text), manager="kube-scheduler"
        )
        said, when = self._said.get(pod["metadata"]["uid"], ("", 0.0))
        if reason == "Unschedulable" and (said != text or self._api.now() - when >= _SAME_S):
            self._said[pod["metadata"]["uid"]] = (text, self._api.now())
            self._events.tell(pod, "FailedScheduling", text, _WHO, warning=True)


_CORDON = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


def _matches(pod: Json, node: Json) -> bool:
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(k) != v for k, v in (pod["spec"].get("nodeSelector") or {}).items()):
        return False
    affinity = ((pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    if not affinity:
        return True
    return any(all(words.expression(e, labels) for e in t.get("matchExpressions") or ()) for t in affinity["nodeSelectorTerms"])
