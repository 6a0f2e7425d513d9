"""The Job controller: pods until enough of them succeeded or too many failed, none while the job is suspended."""

from __future__ import annotations

from kubernetes.double import errors, pods, words
from kubernetes.double.api import Api
from kubernetes.double.events import Recorder
from kubernetes.double.kinds import BY_NAME
from kubernetes.double.schema import Json, copy

_JOB, _POD = BY_NAME["Job"], BY_NAME["Pod"]
_WHO = "job-controller"
MANAGER = "kube-controller-manager"
TRACKING = "batch.kubernetes.io/job-tracking"
_FIRST_PAUSE_S, _LAST_PAUSE_S = 10.0, 360.0


class Jobs:
    def __init__(self, api: Api, events: Recorder) -> None:
        self._api = api
        self._events = events
        self._failed_at: dict[str, float] = {}
        self._waits: dict[str, tuple[float, float]] = {}

    def tick(self) -> None:
        jobs = self._api.store.all(_JOB)
        for job in jobs:
            self._follow(job)
        alive = {j["metadata"]["uid"] for j in jobs}
        for pod in self._api.store.all(_POD):
            owners = {r["uid"] for r in pod["metadata"].get("ownerReferences") or []}
            if TRACKING in (pod["metadata"].get("finalizers") or []) and not owners & alive:
                self._release(pod)

    def _follow(self, job: Json) -> None:
        status = copy(job.get("status") or {})
        mine = pods.owned(self._api, job)
        if job["metadata"].get("deletionTimestamp") or self._finished(status):
            for pod in mine:
                if pods.ended(pod) or pods.terminating(pod) or job["metadata"].get("deletionTimestamp"):
                    self._release(pod)
            self._expire(job, status)
            return
        suspended = job["spec"]["suspend"]
        mine = self._count(mine, status, suspended)
        active = [p for p in mine if not pods.terminating(p) and not pods.ended(p)]
        now = words.stamp(self._api.now())
        if suspended:
            self._suspend(job, status, active, now)
            active = []
        else:
            if pods.condition({"status": status}, "Suspended").get("status") == "True":
                status = pods.with_condition(status, "Suspended", "False", now, "JobResumed", "Job resumed")
                status["startTime"] = now
                self._events.tell(job, "Resumed", "Job resumed", _WHO)
            status.setdefault("startTime", now)
            status = self._run(job, status, active, now)
        status["active"] = len([p for p in pods.owned(self._api, job) if not pods.terminating(p) and not pods.ended(p)])
        status["terminating"] = len([p for p in pods.owned(self._api, job) if pods.terminating(p) and not pods.ended(p)])
        status["ready"] = len([p for p in active if pods.ready(p)])
        status["uncountedTerminatedPods"] = {}
        status = self._finish(job, status, now)
        self._api.set_status(
            job, {k: v for k, v in status.items() if v not in (0, None) or k in ("ready", "terminating")}, manager=MANAGER
        )

    def _finished(self, status: Json) -> bool:
        return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in status.get("conditions") or [])

    def _count(self, mine: list[Json], status: Json, suspended: bool) -> list[Json]:
        """Count pods that ended, and let them go."""
        for pod in mine:
            if TRACKING not in (pod["metadata"].get("finalizers") or []):
                continue
            never_ran = pods.terminating(pod) and not pods.ended(pod) and not pod["spec"].get("nodeName")
            if pods.phase(pod) == "Succeeded":
                status["succeeded"] = status.get("succeeded", 0) + 1
            elif (pods.ended(pod) or never_ran) and not suspended:
                status["failed"] = status.get("failed", 0) + 1
                self._failed_at[pod["metadata"]["ownerReferences"][0]["uid"]] = self._api.now()
            elif not (pods.ended(pod) or never_ran):
                continue
            self._release(pod)
        return mine

    def _release(self, pod: Json) -> None:
        if TRACKING in (pod["metadata"].get("finalizers") or []):
            self._api.edit(pod, lambda p: p["metadata"]["finalizers"].remove(TRACKING), manager=MANAGER)

    def _suspend(self, job: Json, status: Json, active: list[Json], now: str) -> None:
        for pod in active:
            self._delete(job, pod)
        status.pop("startTime", None)
        if pods.condition({"status": status}, "Suspended").get("status") != "True":
            status |= pods.with_condition(status, "Suspended", "True", now, "JobSuspended", "Job suspended")
            self._events.tell(job, "Suspended", "Job suspended", _WHO)

    def _run(self, job: Json, status: Json, active: list[Json], now: str) -> Json:
        spec, uid = job["spec"], job["metadata"]["uid"]
        ending = {c["type"] for c in status.get("conditions") or [] if c["status"] == "True"} & {
            "FailureTarget",
            "SuccessCriteriaMet",
        }
        failures = status.get("failed", 0)
        if spec["template"]["spec"]["restartPolicy"] == "OnFailure":
            failures += sum(
                c.get("restartCount", 0) for p in active for c in (p.get("status") or {}).get("containerStatuses") or []
            )
        late = spec.get("activeDeadlineSeconds")
        if not ending and failures > spec["backoffLimit"]:
            text = "Job has reached the specified backoff limit"
            status, ending = (
                pods.with_condition(status, "FailureTarget", "True", now, "BackoffLimitExceeded", text),
                {"FailureTarget"},
            )
        elif not ending and late is not None and self._api.now() - words.moment(status["startTime"]) >= late:
            text = "Job was active longer than specified deadline"
            status, ending = pods.with_condition(status, "FailureTarget", "True", now, "DeadlineExceeded", text), {"FailureTarget"}
        wanted = spec.get("completions") or 1
        if not ending and status.get("succeeded", 0) >= wanted:
            text = "Reached expected number of succeeded pods"
            status, ending = (
                pods.with_condition(status, "SuccessCriteriaMet", "True", now, "CompletionsReached", text),
                {"SuccessCriteriaMet"},
            )
        if ending:
            for pod in active:
                self._delete(job, pod)
            return status
        missing = min(spec["parallelism"], wanted - status.get("succeeded", 0)) - len(active)
        if spec["podReplacementPolicy"] == "Failed":
            missing -= len([p for p in pods.owned(self._api, job) if pods.terminating(p) and not pods.ended(p)])
        pause = min(_FIRST_PAUSE_S * 2 ** max(status.get("failed", 0) - 1, 0), _LAST_PAUSE_S)
        if (
            missing > 0
            and self._api.now() - self._failed_at.get(uid, -1e12) >= pause
            and self._api.now() >= self._waits.get(uid, (0, 0))[0]
        ):
            self._create(job, missing)
        for pod in active[: max(-missing, 0)]:
            self._delete(job, pod)
        return status

    def _create(self, job: Json, count: int) -> None:
        uid = job["metadata"]["uid"]
        for _ in range(count):
            pod = pods.from_template(job)
            pod["metadata"]["finalizers"] = [TRACKING]
            try:
                made = self._api.create(_POD, job["metadata"]["namespace"], pod, manager=MANAGER)
            except errors.ApiError as e:
                self._events.tell(job, "FailedCreate", f"Error creating: {e.message}", _WHO, warning=True)
                pause = self._waits.get(uid, (0.0, 1.0))[1]
                self._waits[uid] = (self._api.now() + pause, min(2 * pause, 60.0))
                return
            self._waits.pop(uid, None)
            self._events.tell(job, "SuccessfulCreate", f"Created pod: {made['metadata']['name']}", _WHO)

    def _delete(self, job: Json, pod: Json) -> None:
        name = pod["metadata"]["name"]
        self._api.delete(_POD, pod["metadata"]["namespace"], name)
        self._events.tell(job, "SuccessfulDelete", f"Deleted pod: {name}", _WHO)

    def _finish(self, job: Json, status: Json, now: str) -> Json:
        if status.get("active") or status.get("terminating"):
            return status
        held = {c["type"]: c for c in status.get("conditions") or [] if c["status"] == "True"}
        if "FailureTarget" in held:
            why = held["FailureTarget"]
            status = pods.with_condition(status, "Failed", "True", now, why["reason"], why["message"])
            self._events.tell(job, why["reason"], why["message"], _WHO, warning=True)
        elif "SuccessCriteriaMet" in held:
            why = held["SuccessCriteriaMet"]
            status = pods.with_condition(status, "Complete", "True", now, why["reason"], why["message"])
            status["completionTime"] = now
            self._events.tell(job, "Completed", "Job completed", _WHO)
        return status

    def _expire(self, job: Json, status: Json) -> None:
        kept = job["spec"].get("ttlSecondsAfterFinished")
        ended = [c for c in status.get("conditions") or [] if c["type"] in ("Complete", "Failed")]
        if kept is None or not ended or job["metadata"].get("deletionTimestamp"):
            return
        if self._api.now() - words.moment(ended[0]["lastTransitionTime"]) >= kept:
            self._api.delete(_JOB, job["metadata"]["namespace"], job["metadata"]["name"], {"propagationPolicy": "Foreground"})
