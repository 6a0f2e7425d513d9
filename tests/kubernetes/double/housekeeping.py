"""The small controllers: owners and what they own, namespaces, claims, quotas, disruption budgets, and nodes that fall silent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kubernetes.double import errors, pods, quota, words
from kubernetes.double.api import Api
from kubernetes.double.events import Recorder
from kubernetes.double.kinds import BY_NAME, BY_PLURAL, KINDS, Kind
from kubernetes.double.schema import Json, copy

MANAGER = "kube-controller-manager"
#: A node that was not heard of for so long is unknown.
NODE_GRACE_S = 50.0
#: A pod of a node that is no more is removed after this.
GONE_NODE_S = 40.0
_POD, _NODE, _CLAIM, _NAMESPACE = BY_NAME["Pod"], BY_NAME["Node"], BY_NAME["PersistentVolumeClaim"], BY_NAME["Namespace"]


class GarbageCollector:
    """Deletes what has lost its owner, and holds back or frees what an owner's deletion says."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def tick(self) -> None:
        for kind in KINDS:
            for obj in self._api.store.all(kind):
                finalizers = obj["metadata"].get("finalizers") or []
                if obj["metadata"].get("deletionTimestamp") and {"orphan", "foregroundDeletion"} & set(finalizers):
                    self._finalize(obj, finalizers)
                elif obj["metadata"].get("ownerReferences"):
                    self._collect(kind, obj)

    def _dependents(self, owner: Json) -> list[tuple[Kind, Json]]:
        uid = owner["metadata"]["uid"]
        return [
            (k, o)
            for k in KINDS
            for o in self._api.store.all(k)
            if any(r["uid"] == uid for r in o["metadata"].get("ownerReferences") or [])
        ]

    def _finalize(self, obj: Json, finalizers: list[str]) -> None:
        uid = obj["metadata"]["uid"]
        dependents = self._dependents(obj)
        if "orphan" in finalizers:
            for _, dependent in dependents:

                def free(d: Json) -> None:
                    d["metadata"]["ownerReferences"] = [r for r in d["metadata"]["ownerReferences"] if r["uid"] != uid]

                self._api.edit(dependent, free, manager=MANAGER)
            self._api.edit(obj, lambda o: o["metadata"]["finalizers"].remove("orphan"), manager=MANAGER)
            return
        for kind, dependent in dependents:
            if not dependent["metadata"].get("deletionTimestamp"):
                self._delete(kind, dependent, "Foreground" if kind.name != "Pod" else "Background")
        if not any(r.get("blockOwnerDeletion") for _, d in dependents for r in d["metadata"]["ownerReferences"] if r["uid"] == uid):
            self._api.edit(obj, lambda o: o["metadata"]["finalizers"].remove("foregroundDeletion"), manager=MANAGER)

    def _collect(self, kind: Kind, obj: Json) -> None:
        meta = obj["metadata"]
        if meta.get("deletionTimestamp"):
            return
        for owner in meta["ownerReferences"]:
            group = owner["apiVersion"].rpartition("/")[0]
            known = BY_PLURAL.get((group, BY_NAME[owner["kind"]].plural)) if owner["kind"] in BY_NAME else None
            if known is None:
                return
            found = self._api.store.get(known, meta.get("namespace", "") if known.namespaced else "", owner["name"])
            if found is not None and found["metadata"]["uid"] == owner["uid"]:
                return
        self._delete(kind, obj, "Background")

    def _delete(self, kind: Kind, obj: Json, policy: str) -> None:
        meta = obj["metadata"]
        options = {"propagationPolicy": policy, "preconditions": {"uid": meta["uid"]}}
        self._api.delete(kind, meta.get("namespace", ""), meta["name"], options)


class Namespaces:
    """Gives a new namespace its default account, and empties one that is deleted."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def tick(self) -> None:
        for namespace in self._api.store.all(_NAMESPACE):
            name = namespace["metadata"]["name"]
            if namespace["metadata"].get("deletionTimestamp"):
                self._empty(namespace, name)
            elif self._api.find("ServiceAccount", name, "default") is None:
                account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
                self._api.create(BY_NAME["ServiceAccount"], name, account, manager=MANAGER)

    def _empty(self, namespace: Json, name: str) -> None:
        left = [(k, o) for k in KINDS if k.namespaced for o in self._api.store.all(k, name)]
        for kind, obj in left:
            if not obj["metadata"].get("deletionTimestamp"):
                self._api.delete(kind, name, obj["metadata"]["name"], {"propagationPolicy": "Background"})
        if not left:
            self._api.edit(namespace, lambda n: n["spec"].update(finalizers=[]), manager=MANAGER)


class Claims:
    """Binds claims to folders under ``root``, which outlive pods and go with their claim."""

    def __init__(self, api: Api, events: Recorder, root: Path) -> None:
        self._api = api
        self._events = events
        self.root = root
        self.classes = {"standard"}

    def folder(self, claim: Json) -> Path:
        return self.root / str(claim["spec"]["volumeName"])

    def tick(self) -> None:
        for claim in self._api.store.all(_CLAIM):
            if claim["metadata"].get("deletionTimestamp"):
                self._let_go(claim)
            elif not claim["spec"].get("volumeName"):
                self._bind(claim)

    def _bind(self, claim: Json) -> None:
        name = claim["spec"]["storageClassName"]
        if name not in self.classes:
            text = f'storageclass.storage.k8s.io "{name}" not found'
            if not _told(self._api, claim, "ProvisioningFailed"):
                self._events.tell(claim, "ProvisioningFailed", text, "persistentvolume-controller", warning=True)
            return
        bound = self._api.edit(claim, lambda c: c["spec"].update(volumeName=f"pvc-{c['metadata']['uid']}"), manager=MANAGER)
        if bound is not None:
            self.folder(bound).mkdir(parents=True, exist_ok=True)
            size = (claim["spec"].get("resources") or {}).get("requests", {}).get("storage", "1Gi")
            status = {"phase": "Bound", "accessModes": claim["spec"].get("accessModes", []), "capacity": {"storage": size}}
            self._api.set_status(bound, status, manager=MANAGER)

    def _let_go(self, claim: Json) -> None:
        name = claim["metadata"]["name"]
        users = [
            p
            for p in self._api.store.all(_POD, claim["metadata"]["namespace"])
            if not pods.ended(p)
            for v in p["spec"].get("volumes") or []
            if (v.get("persistentVolumeClaim") or {}).get("claimName") == name
        ]
        if not users:
            self._api.edit(claim, lambda c: c["metadata"].update(finalizers=[]), manager=MANAGER)


class Counts:
    """What quotas and disruption budgets say of themselves."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def tick(self) -> None:
        for found in self._api.store.all(BY_NAME["ResourceQuota"]):
            hard = (found.get("spec") or {}).get("hard") or {}
            used = quota.used(self._api.store, found["metadata"]["namespace"], hard)
            shown = {n: words.show_quantity(v) for n, v in used.items()}
            self._api.set_status(found, {"hard": copy(hard), "used": shown}, manager=MANAGER)
        for budget in self._api.store.all(BY_NAME["PodDisruptionBudget"]):
            self._budget(budget)

    def _budget(self, budget: Json) -> None:
        spec = budget["spec"]
        mine = [
            p
            for p in self._api.store.all(_POD, budget["metadata"]["namespace"])
            if words.selects(spec.get("selector"), p["metadata"].get("labels"))
        ]
        healthy = sum(pods.ready(p) and not pods.terminating(p) for p in mine)
        expected = len(mine)
        needs = (
            _share(spec["minAvailable"], expected)
            if "minAvailable" in spec
            else expected - _share(spec.get("maxUnavailable", 0), expected)
        )
        status = {
            "observedGeneration": budget["metadata"]["generation"],
            "expectedPods": expected,
            "currentHealthy": healthy,
            "desiredHealthy": max(needs, 0),
            "disruptionsAllowed": max(healthy - needs, 0),
        }
        self._api.set_status(budget, status, manager=MANAGER)


def _share(value: int | str, of: int) -> int:
    if isinstance(value, str) and value.endswith("%"):
        return -(-int(value[:-1]) * of // 100)
    return int(value)


class Nodes:
    """Watches over nodes: one that falls silent is tainted, and its pods are to go after what they tolerate.

    ``heard``: when a node's kubelet was heard of last. Real kubelets renew a Lease for this.
    """

    def __init__(self, api: Api, events: Recorder, heard: Callable[[str], float]) -> None:
        self._api = api
        self._events = events
        self._heard = heard
        self._missing: dict[str, float] = {}

    def tick(self) -> None:
        names = set()
        for node in self._api.store.all(_NODE):
            names.add(node["metadata"]["name"])
            silent = self._api.now() - self._heard(node["metadata"]["name"]) >= NODE_GRACE_S
            ready = pods.condition(node, "Ready").get("status")
            if silent and ready != "Unknown":
                self._lose(node)
            self._taint(node, "Unknown" if silent else str(ready))
        self._collect(names)

    def _lose(self, node: Json) -> None:
        status = copy(node["status"])
        at = words.stamp(self._api.now())
        for name in ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready"):
            status = pods.with_condition(status, name, "Unknown", at, "NodeStatusUnknown", "Kubelet stopped posting node status.")
        self._api.set_status(node, status, manager=MANAGER)
        name = node["metadata"]["name"]
        self._events.tell(node, "NodeNotReady", f"Node {name} status is now: NodeNotReady", "node-controller")
        for pod in self._on(name):
            self._api.set_status(pod, pods.with_condition(copy(pod["status"]), "Ready", "False", at), manager=MANAGER)
            self._events.tell(pod, "NodeNotReady", "Node is not ready", "node-controller", warning=True)

    def _on(self, node: str) -> list[Json]:
        return [p for p in self._api.store.all(_POD) if p["spec"].get("nodeName") == node]

    def _taint(self, node: Json, ready: str) -> None:
        wanted = {"Unknown": "node.kubernetes.io/unreachable", "False": "node.kubernetes.io/not-ready"}.get(ready)
        ours = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")
        taints = (node.get("spec") or {}).get("taints") or []
        keep = [t for t in taints if t["key"] not in ours or t["key"] == wanted]
        if wanted and not any(t["key"] == wanted for t in keep):
            keep += [{"key": wanted, "effect": e, "timeAdded": words.stamp(self._api.now())} for e in ("NoSchedule", "NoExecute")]
        if keep != taints:
            changed = self._api.edit(node, lambda n: n["spec"].update(taints=keep), manager=MANAGER)
            node = changed or node
        for taint in keep:
            if taint["effect"] == "NoExecute":
                self._evict(node, taint)
            if taint["key"] == "node.kubernetes.io/out-of-service":
                self._force(node)

    def _evict(self, node: Json, taint: Json) -> None:
        since = self._api.now() - words.moment(taint.get("timeAdded") or node["metadata"]["creationTimestamp"])
        for pod in self._on(node["metadata"]["name"]):
            if pods.terminating(pod):
                continue
            held = [t for t in pod["spec"].get("tolerations") or [] if tolerates(t, taint)]
            if any("tolerationSeconds" not in t or t["tolerationSeconds"] > since for t in held):
                continue
            at = words.stamp(self._api.now())
            text = f"Taint manager: deleting due to NoExecute taint {taint['key']}"
            gone = pods.with_condition(copy(pod["status"]), "DisruptionTarget", "True", at, "DeletionByTaintManager", text)
            self._api.set_status(pod, gone, manager=MANAGER)
            place = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            self._events.tell(pod, "TaintManagerEviction", f"Marking for deletion Pod {place}", "taint-eviction-controller")
            self._api.delete(_POD, pod["metadata"]["namespace"], pod["metadata"]["name"])

    def _force(self, node: Json) -> None:
        for pod in self._on(node["metadata"]["name"]):
            if pods.terminating(pod):
                self._remove(pod)

    def _collect(self, names: set[str]) -> None:
        """Remove pods of nodes that are no more."""
        for pod in self._api.store.all(_POD):
            node, uid = pod["spec"].get("nodeName"), pod["metadata"]["uid"]
            if not node or node in names:
                self._missing.pop(uid, None)
                continue
            if self._api.now() - self._missing.setdefault(uid, self._api.now()) >= GONE_NODE_S:
                self._remove(pod)

    def _remove(self, pod: Json) -> None:
        status = {**copy(pod["status"]), "phase": "Failed"} if not pods.ended(pod) else pod["status"]
        self._api.set_status(pod, status, manager=MANAGER)
        try:
            self._api.delete(_POD, pod["metadata"]["namespace"], pod["metadata"]["name"], {"gracePeriodSeconds": 0})
        except errors.ApiError as e:
            if e.code != 404:
                raise


def tolerates(toleration: Json, taint: Json) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("key") not in (None, "", taint["key"]):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return True
    return bool(toleration.get("key")) and toleration.get("value", "") == taint.get("value", "")


def _told(api: Api, obj: Json, reason: str) -> bool:
    uid = obj["metadata"]["uid"]
    found = api.store.all(BY_NAME["Event"], obj["metadata"]["namespace"])
    return any(e["involvedObject"].get("uid") == uid and e["reason"] == reason for e in found)
