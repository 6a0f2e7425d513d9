"""Kubernetes driver: a site is a pod, of a StatefulSet scaled to 0 or 1, or of one queued Job for each of its lives.

Off is no pod with the site's labels: one that is terminating, or whose node does not answer, may still run. Nothing is written down
here; whoever asks looks at what the cluster has, by the labels of run and site. Each look is a request of its own: a watch could
only say sooner that it is time for the next one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from windfall.config.kubernetes import KubernetesTable
from windfall.errors import DriverError, Transient
from windfall.fleet.driver import Owned
from windfall.fleet.drivers import kubernetes_words as words
from windfall.fleet.drivers.kubernetes_api import MANAGER, Cluster
from windfall.fleet.drivers.kubernetes_objects import Objects
from windfall.fleet.drivers.start import Starts
from windfall.fleet.machine import Observation, Observed

Json = dict[str, Any]


class KubernetesDriver:
    """One site's pod. Implements ``fleet.driver.Driver``; it waits for the API server."""

    def __init__(self, site: str, table: KubernetesTable, run_id: str, starts: Starts, *, cluster: Cluster | None = None) -> None:
        self._site, self._table, self._run_id, self._starts = site, table, run_id, starts
        self._objects = Objects(table, run_id, site)
        self.cluster = cluster if cluster is not None else Cluster(table)
        #: The generation that is to be there; None if none is, or if this driver has never been asked for one.
        self._wanted: int | None = None
        #: The one pod of that generation: a life of a site is one pod and one run of its container.
        self._followed = ""
        #: Everything that could make a pod has been told not to.
        self._stopped = False
        #: Something of an earlier life may be there that nobody needs once the site is off: its Secret, a job that is over.
        self._untidy = True

    # -- the driver ------------------------------------------------------------------------------------------

    def ensure_up(self, site: str, generation: int) -> None:
        for pod in self._pods():
            if words.leaves(pod) or words.generation(pod) != generation:
                raise Transient(f"pod {words.name(pod)} of an earlier start is still there")
        start = self._starts.of(site, generation)
        if self._wanted != generation:
            self._wanted, self._followed = None, ""
        self._stopped, self._untidy = False, True
        self.cluster.apply(self._objects.claim())
        self.cluster.apply(self._objects.secret(start))
        queue = self._table.queue
        self.cluster.apply(self._objects.job(start, queue) if queue else self._objects.stateful_set(start))
        self._wanted = generation

    def ensure_down(self, site: str, grace_s: float, reason: str) -> None:
        self._wanted, self._followed = None, ""
        pods = self._pods()
        if not self._stopped or not all(words.leaves(p) for p in pods):
            if not self._table.queue:
                self.cluster.scale(self._objects.name, 0)
            self._tidy()
            self._stopped = True
        # A grace of 0 would take the pod's name away while its container may run on.
        grace = max(1, math.ceil(grace_s))
        for pod in pods:
            if not words.leaves(pod) or (pod["metadata"].get("deletionGracePeriodSeconds") or 0) > grace:
                self.cluster.delete("Pod", words.name(pod), grace_s=grace)

    def observe(self, sites: Iterable[str]) -> dict[str, Observation]:
        return dict.fromkeys(sites, self._look())

    def list_owned(self, run_id: str) -> list[Owned]:
        if run_id != self._run_id:
            return []
        pods = self._pods()
        living = [p for p in pods if not words.is_over(p)]
        if living:
            return [Owned(self._site, words.generation(living[-1]), words.name(living[-1]))]
        if self._table.queue:
            # A job that has had its pod makes no other one.
            jobs = [] if pods else [j for j in self._jobs() if not words.how_job_ended(j) and not words.leaves(j)]
            return [Owned(self._site, words.generation(jobs[-1]), words.name(jobs[-1]))] if jobs else []
        found = self.cluster.get("StatefulSet", self._objects.name)
        there = found is not None and found["spec"].get("replicas", 1) > 0
        return [Owned(self._site, words.generation(found), self._objects.name)] if found is not None and there else []

    # -- looking ---------------------------------------------------------------------------------------------

    def _look(self) -> Observation:
        pods = self._pods()
        if pods:
            # One that stays is more than one that leaves, and the newest more than an older one.
            return self._of_pod(min(reversed(pods), key=words.leaves))
        return self._of_job() if self._table.queue else self._of_stateful_set()

    def _absent(self) -> Observation:
        """Nothing is there. What a stop that failed half-way has left is cleared away first."""
        if self._untidy:
            self._tidy()
        return Observation(Observed.ABSENT)

    def _of_pod(self, pod: Json) -> Observation:
        seen = words.of_pod(pod, self._warning, self.cluster.node)
        if self._stopped:
            return Observation(Observed.STOPPING, seen.words)
        uid = pod["metadata"]["uid"]
        if self._wanted is not None and self._followed not in ("", uid):
            return Observation(Observed.FAILED, f"its pod has been replaced by another one, {words.name(pod)}")
        self._followed = uid
        return seen

    def _of_stateful_set(self) -> Observation:
        found = self.cluster.get("StatefulSet", self._objects.name)
        replicas = found["spec"].get("replicas", 1) if found is not None else 0
        if found is None or not replicas:
            if self._wanted is None:
                return self._absent()
            by = words.who_scaled(found, MANAGER) if found is not None else ""
            told = f"StatefulSet {self._objects.name} has been {'scaled to 0' if found is not None else 'deleted'}"
            return Observation(Observed.FAILED, told + by)
        if self._stopped:
            self._stopped = False  # somebody has scaled it up again: what was done has to be done once more
            return Observation(
                Observed.STOPPING, f"StatefulSet {self._objects.name} has been scaled up{words.who_scaled(found, MANAGER)}"
            )
        if self._wanted is not None and self._followed:
            return Observation(Observed.FAILED, "its pod is gone, and nobody of this run has asked for that")
        return words.of_no_pod(found, "StatefulSet", self._warning(found))

    def _of_job(self) -> Observation:
        jobs = [j for j in self._jobs() if self._wanted in (None, words.generation(j))]
        if not jobs or (self._stopped and all(words.leaves(j) for j in jobs)):
            told = "its job is gone, and nobody of this run has asked for that"
            return self._absent() if self._wanted is None else Observation(Observed.FAILED, told)
        job = jobs[-1]
        ended = words.how_job_ended(job)
        if ended or words.leaves(job):
            return self._absent() if self._wanted is None else Observation(Observed.FAILED, ended or "its job is going")
        if self._stopped:
            self._stopped = False
            return Observation(Observed.STOPPING, f"job {words.name(job)} has been made again")
        if job["spec"].get("suspend"):
            return words.of_queued(job, self._table.queue or "", self._workload(job))
        if self._followed:
            return Observation(Observed.FAILED, "its pod is gone, and nobody of this run has asked for that")
        return words.of_no_pod(job, "Job", self._warning(job))

    def _pods(self) -> list[Json]:
        return self.cluster.all("Pod", labels=self._objects.labels)

    def _jobs(self) -> list[Json]:
        return self.cluster.all("Job", labels=self._objects.labels)

    def _workload(self, job: Json) -> Json | None:
        """What Kueue keeps of a job; None if it cannot be seen, which its queue's name has to do for."""
        try:
            found = self.cluster.all("Workload", labels={"kueue.x-k8s.io/job-uid": job["metadata"]["uid"]})
        except DriverError:
            return None
        return found[-1] if found else None

    def _warning(self, obj: Json) -> str:
        """What the cluster last warned of about an object; empty if it did not, or does not let it be seen."""
        try:
            events = self.cluster.all("Event", fields={"involvedObject.uid": obj["metadata"]["uid"], "type": "Warning"})
        except DriverError:
            return ""
        events.sort(key=lambda e: e.get("lastTimestamp") or e.get("eventTime") or "")
        return f"{events[-1].get('message', '')} ({events[-1].get('reason', '')})" if events else ""

    # -- ending ----------------------------------------------------------------------------------------------

    def _tidy(self) -> None:
        """Delete what only a life of the site needs. Of a queue that is its job, too."""
        if self._table.queue:
            for job in self._jobs():
                if not words.leaves(job):
                    self.cluster.delete("Job", words.name(job))
        self.cluster.delete("Secret", self._objects.name)
        self._untidy = False
