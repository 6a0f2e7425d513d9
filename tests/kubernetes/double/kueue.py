"""As much of Kueue as a queued Job meets: jobs of a queue are held back until the queue has GPUs left for them."""

from __future__ import annotations

from kubernetes.double import pods, words
from kubernetes.double.api import Api
from kubernetes.double.events import Recorder
from kubernetes.double.kinds import BY_NAME, Kind
from kubernetes.double.kubelet import GPU
from kubernetes.double.quota import pod_requests
from kubernetes.double.schema import Json, copy

LABEL = "kueue.x-k8s.io/queue-name"
_JOB, _WORKLOAD = BY_NAME["Job"], BY_NAME["Workload"]
_WHO = "batch/job-kueue-controller"
MANAGER = "kueue"


class Kueue:
    """``gpus``: how many a queue has. A job of a queue that is not among them waits for ever."""

    def __init__(self, api: Api, events: Recorder, gpus: dict[str, int]) -> None:
        self._api = api
        self._events = events
        self.gpus = gpus
        api.webhooks.append(_hold)

    def tick(self) -> None:
        for queue in sorted({self._queue(j) for j in self._api.store.all(_JOB)} - {""}):
            jobs = [j for j in self._api.store.all(_JOB) if self._queue(j) == queue and not self._over(j)]
            jobs.sort(key=lambda j: (j["metadata"]["creationTimestamp"], j["metadata"]["uid"]))
            left = self.gpus.get(queue, 0)
            for job in jobs:
                if not job["spec"]["suspend"]:
                    left -= self._asks(job)
            for job in jobs:
                workload = self._workload(job, queue)
                if not job["spec"]["suspend"]:
                    continue
                if queue not in self.gpus:
                    self._wait(workload, "Inadmissible", f"LocalQueue {queue} doesn't exist")
                elif self._asks(job) <= left:
                    left -= self._asks(job)
                    self._admit(job, workload, queue)
                else:
                    text = (
                        f"couldn't assign flavors to pod set main: insufficient unused quota for {GPU} in flavor default-flavor, "
                        f"{self._asks(job) - max(left, 0)} more needed"
                    )
                    self._wait(workload, "Pending", text)

    def _queue(self, job: Json) -> str:
        return str((job["metadata"].get("labels") or {}).get(LABEL, ""))

    def _over(self, job: Json) -> bool:
        ended = any(pods.condition(job, c).get("status") == "True" for c in ("Complete", "Failed"))
        return ended or "deletionTimestamp" in job["metadata"]

    def _asks(self, job: Json) -> int:
        return int(pod_requests(job["spec"]["template"]).get(GPU, 0)) * int(job["spec"]["parallelism"])

    def _workload(self, job: Json, queue: str) -> Json:
        meta = job["metadata"]
        name = f"job-{meta['name']}-{meta['uid'][:5]}"
        found = self._api.store.get(_WORKLOAD, meta["namespace"], name)
        if found is None:
            workload = {
                "apiVersion": _WORKLOAD.api_version,
                "kind": "Workload",
                "metadata": {
                    "name": name,
                    "labels": {"kueue.x-k8s.io/job-uid": meta["uid"]},
                    "ownerReferences": [pods.reference(job)],
                },
                "spec": {"queueName": queue, "active": True, "podSets": [{"name": "main", "count": job["spec"]["parallelism"]}]},
            }
            found = self._api.create(_WORKLOAD, meta["namespace"], workload, manager=MANAGER)
            self._events.tell(job, "CreatedWorkload", f"Created Workload: {meta['namespace']}/{name}", _WHO)
        return found

    def _wait(self, workload: Json, reason: str, text: str) -> None:
        at = words.stamp(self._api.now())
        status = copy(workload.get("status") or {})
        old = pods.condition(workload, "QuotaReserved")
        self._api.set_status(workload, pods.with_condition(status, "QuotaReserved", "False", at, reason, text), manager=MANAGER)
        if old.get("message") != text:
            self._events.tell(workload, "Pending", text, "kueue-admission", warning=True)

    def _admit(self, job: Json, workload: Json, queue: str) -> None:
        at = words.stamp(self._api.now())
        status = copy(workload.get("status") or {})
        status = pods.with_condition(
            status, "QuotaReserved", "True", at, "QuotaReserved", f"Quota reserved in ClusterQueue {queue}"
        )
        status = pods.with_condition(status, "Admitted", "True", at, "Admitted", "The workload is admitted")
        self._api.set_status(workload, status, manager=MANAGER)
        self._api.edit(job, lambda j: j["spec"].update(suspend=False), manager=MANAGER)
        self._events.tell(job, "Started", f"Admitted by clusterQueue {queue}", _WHO)


def _hold(kind: Kind, obj: Json) -> None:
    if kind.name == "Job" and (obj["metadata"].get("labels") or {}).get(LABEL) and isinstance(obj.get("spec"), dict):
        obj["spec"]["suspend"] = True
