"""The StatefulSet controller: pods with fixed names, in order, one revision after the other."""

from __future__ import annotations

from kubernetes.double import errors, pods, words
from kubernetes.double.api import Api
from kubernetes.double.events import Recorder
from kubernetes.double.kinds import BY_NAME
from kubernetes.double.schema import Json, copy

_SET, _POD, _CLAIM = BY_NAME["StatefulSet"], BY_NAME["Pod"], BY_NAME["PersistentVolumeClaim"]
_WHO = "statefulset-controller"
MANAGER = "kube-controller-manager"


class StatefulSets:
    def __init__(self, api: Api, events: Recorder) -> None:
        self._api = api
        self._events = events
        self._waits: dict[str, tuple[float, float]] = {}

    def tick(self) -> None:
        for found in self._api.store.all(_SET):
            if "deletionTimestamp" not in found["metadata"]:
                self._follow(found)

    def _follow(self, found: Json) -> None:
        meta = found["metadata"]
        update = f"{meta['name']}-{pods.fingerprint(found['spec']['template'])}"
        current = (found.get("status") or {}).get("currentRevision") or update
        uid = meta["uid"]
        until, pause = self._waits.get(uid, (0.0, 1.0))
        if self._api.now() >= until:
            try:
                self._step(found, update)
                self._waits.pop(uid, None)
            except errors.ApiError:
                self._waits[uid] = (self._api.now() + pause, min(2 * pause, 60.0))
        self._status(found, current, update)

    def _by_ordinal(self, found: Json) -> dict[int, Json]:
        prefix = f"{found['metadata']['name']}-"
        mine = [p for p in pods.owned(self._api, found) if p["metadata"]["name"].removeprefix(prefix).isdigit()]
        return {int(p["metadata"]["name"].removeprefix(prefix)): p for p in mine}

    def _step(self, found: Json, update: str) -> None:
        """One pass of the real controller's `updateStatefulSet`."""
        spec = found["spec"]
        first = (spec.get("ordinals") or {}).get("start", 0)
        wanted = range(first, first + spec["replicas"])
        in_order = spec["podManagementPolicy"] == "OrderedReady"
        there = self._by_ordinal(found)
        for i in wanted:
            pod = there.get(i)
            if pod is None:
                self._create(found, i, update)
                if in_order:
                    return
                continue
            if pods.ended(pod) and not pods.terminating(pod):
                place = f"{found['metadata']['namespace']}/{found['metadata']['name']}"
                text = f"StatefulSet {place} is recreating failed Pod {pod['metadata']['name']}"
                self._events.tell(found, "RecreatingFailedPod", text, _WHO, warning=True)
                self._delete(found, pod)
                return
            if in_order and (pods.terminating(pod) or not pods.ready(pod)):
                return
        if self._condemn(found, [there[i] for i in sorted(there, reverse=True) if i not in wanted], in_order):
            self._roll(found, [there[i] for i in wanted if i in there], update)

    def _condemn(self, found: Json, condemned: list[Json], in_order: bool) -> bool:
        """Delete pods beyond the wanted number; True: the pass goes on."""
        for pod in condemned:
            if pods.terminating(pod):
                if in_order:
                    return False
                continue
            if found["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"] == "Delete":
                self._own_claims(found, pod)
            self._delete(found, pod)
            if in_order:
                return False
        return True

    def _roll(self, found: Json, replicas: list[Json], update: str) -> None:
        strategy = found["spec"]["updateStrategy"]
        if strategy["type"] == "OnDelete":
            return
        partition = (strategy.get("rollingUpdate") or {}).get("partition", 0)
        for i in range(len(replicas) - 1, partition - 1, -1):
            pod = replicas[i]
            revision = (pod["metadata"].get("labels") or {}).get("controller-revision-hash")
            if revision != update and not pods.terminating(pod):
                self._delete(found, pod)
                return
            if pods.terminating(pod) or not pods.ready(pod):
                return

    def _create(self, found: Json, ordinal: int, revision: str) -> None:
        meta = found["metadata"]
        pod = pods.from_template(found)
        name = f"{meta['name']}-{ordinal}"
        del pod["metadata"]["generateName"]
        pod["metadata"] |= {"name": name, "generateName": f"{meta['name']}-"}
        pod["metadata"]["labels"] = {
            **(pod["metadata"].get("labels") or {}),
            "statefulset.kubernetes.io/pod-name": name,
            "apps.kubernetes.io/pod-index": str(ordinal),
            "controller-revision-hash": revision,
        }
        pod["spec"] |= {"hostname": name, "subdomain": found["spec"].get("serviceName", "")}
        try:
            for template in found["spec"].get("volumeClaimTemplates") or []:
                claim = self._claim(found, template, name)
                volume = {"name": template["metadata"]["name"], "persistentVolumeClaim": {"claimName": claim}}
                pod["spec"].setdefault("volumes", []).append(volume)
            self._api.create(_POD, meta["namespace"], pod, manager=MANAGER)
        except errors.ApiError as e:
            text = f"create Pod {name} in StatefulSet {meta['name']} failed error: {e.message}"
            self._events.tell(found, "FailedCreate", text, _WHO, warning=True)
            raise
        self._events.tell(found, "SuccessfulCreate", f"create Pod {name} in StatefulSet {meta['name']} successful", _WHO)

    def _claim(self, found: Json, template: Json, pod: str) -> str:
        name = f"{template['metadata']['name']}-{pod}"
        namespace = found["metadata"]["namespace"]
        if self._api.store.get(_CLAIM, namespace, name) is None:
            labels = {**(template["metadata"].get("labels") or {}), **(found["spec"]["selector"].get("matchLabels") or {})}
            meta = {"name": name, "labels": labels}
            if found["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Delete":
                meta["ownerReferences"] = [{**pods.reference(found), "blockOwnerDeletion": False}]
            claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": copy(template["spec"])}
            self._api.create(_CLAIM, namespace, claim, manager=MANAGER)
        return name

    def _own_claims(self, found: Json, pod: Json) -> None:
        for template in found["spec"].get("volumeClaimTemplates") or []:
            name = f"{template['metadata']['name']}-{pod['metadata']['name']}"
            claim = self._api.store.get(_CLAIM, pod["metadata"]["namespace"], name)
            if claim is not None:
                owner = {**pods.reference(pod), "controller": False, "blockOwnerDeletion": False}
                self._api.edit(claim, lambda c, o=owner: c["metadata"].update(ownerReferences=[o]), manager=MANAGER)  # type: ignore[misc]

    def _delete(self, found: Json, pod: Json) -> None:
        name = pod["metadata"]["name"]
        self._api.delete(_POD, pod["metadata"]["namespace"], name, {"preconditions": {"uid": pod["metadata"]["uid"]}})
        self._events.tell(
            found, "SuccessfulDelete", f"delete Pod {name} in StatefulSet {found['metadata']['name']} successful", _WHO
        )

    def _status(self, found: Json, current: str, update: str) -> None:
        there = list(self._by_ordinal(found).values())
        now = self._api.now()
        wait = found["spec"].get("minReadySeconds", 0)

        def of(revision: str) -> int:
            return sum(
                not pods.terminating(p) and p["metadata"]["labels"].get("controller-revision-hash") == revision for p in there
            )

        ready = [p for p in there if pods.ready(p)]
        available = [p for p in ready if now - words.moment(pods.condition(p, "Ready")["lastTransitionTime"]) >= wait]
        wanted = found["spec"]["replicas"]
        if of(update) == len(there) == len(ready) == wanted:
            current = update
        status = {
            "observedGeneration": found["metadata"]["generation"],
            "replicas": len(there),
            "currentReplicas": of(current),
            "updatedReplicas": of(update),
            "currentRevision": current,
            "updateRevision": update,
            "collisionCount": 0,
            "availableReplicas": len(available),
        }
        if ready:
            status["readyReplicas"] = len(ready)
        self._api.set_status(found, status, manager=MANAGER)
