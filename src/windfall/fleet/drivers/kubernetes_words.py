"""What a pod, a StatefulSet or a Job says of a site, as one observation with the cluster's own reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from windfall.errors import DriverError
from windfall.fleet.drivers.kubernetes_objects import GENERATION
from windfall.fleet.machine import DriverFault, Observation, Observed

Json = dict[str, Any]
#: From an object to what the cluster last warned of about it.
Warned = Callable[[Json], str]
#: From a node's name to the node; None if it cannot be seen.
NodeOf = Callable[[str], Json | None]

#: A container waits for one of these until a person has changed something.
_NEVER = {
    "InvalidImageName": "its image has no valid name", "ErrImageNeverPull": "its image is not on the node and may not be pulled",
    "CreateContainerConfigError": "something that its container needs is missing",
    "CreateContainerError": "its container cannot be made", "RunContainerError": "its container cannot be started",
}  # fmt: skip
#: Words of registries about an image that is not there or that may not be pulled; other failures to pull may pass.
_NO_SUCH_IMAGE = ("not found", "manifest unknown", "unauthorized", "denied", "forbidden", "does not exist")
_UNSCHEDULED = {"Unschedulable": "waits for a node", "SchedulingGated": "is held back by its scheduling gates"}


def name(obj: Json) -> str:
    """Its name."""
    return str(obj["metadata"]["name"])


def generation(obj: Json) -> int:
    """The generation of the site that an object belongs to; 0 if it does not say."""
    text = (obj["metadata"].get("labels") or {}).get(GENERATION, "")
    return int(text) if text.isdigit() else 0


def leaves(obj: Json) -> bool:
    """Whether it has been asked to end."""
    return bool(obj["metadata"].get("deletionTimestamp"))


def is_over(pod: Json) -> bool:
    """Whether nothing of a pod runs or will run."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def condition(obj: Json, kind: str) -> Json:
    """One of an object's conditions; empty if it has no such."""
    found = (obj.get("status") or {}).get("conditions") or []
    return next((c for c in found if c.get("type") == kind), {})


def of_pod(pod: Json, warned: Warned, node: NodeOf) -> Observation:
    """What a pod says of its site."""
    status = pod.get("status") or {}
    if leaves(pod):
        return Observation(Observed.STOPPING, _why_it_stays(pod, node) if _lost(pod) else f"pod {name(pod)} is terminating")
    if is_over(pod):
        return Observation(Observed.FAILED, f"pod {name(pod)} {_how_it_ended(pod)}")
    if _lost(pod) or status.get("phase") == "Unknown":
        return Observation(Observed.UNKNOWN, _why_unknown(pod, node))
    if not (pod.get("spec") or {}).get("nodeName"):
        waits = condition(pod, "PodScheduled")
        told = f"pod {name(pod)} {_UNSCHEDULED.get(waits.get('reason', ''), 'waits for the scheduler')}"
        return Observation(Observed.STARTING, _with(told, waits.get("message", "")), queued=bool(waits))
    return _of_container(pod, (status.get("containerStatuses") or [{}])[0], warned)


def _of_container(pod: Json, container: Json, warned: Warned) -> Observation:
    state, told = container.get("state") or {}, f"pod {name(pod)}"
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
    if ended:
        return Observation(Observed.FAILED, f"{told}: its container {_exit(ended)}")
    waiting = state.get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _NEVER:
        return Observation(Observed.FAILED, _with(f"{told}: {_NEVER[reason]} ({reason})", message), DriverFault.PERMANENT)
    if reason == "ImagePullBackOff":
        gone = any(w in message.lower() for w in _NO_SUCH_IMAGE)
        fault = DriverFault.PERMANENT if gone else DriverFault.TRANSIENT
        return Observation(Observed.FAILED, _with(f"{told}: its image cannot be pulled ({reason})", message), fault)
    if reason == "ErrImagePull":
        return Observation(
            Observed.STARTING, _with(f"{told}: its image could not be pulled, and is tried again ({reason})", message)
        )
    if not state.get("running"):
        return Observation(Observed.STARTING, _with(f"{told}: its container is being made", warned(pod)))
    if container.get("ready"):
        return Observation(Observed.UP)
    return Observation(Observed.STARTING, _with(f"{told}: its container runs and is not ready", warned(pod)))


def _lost(pod: Json) -> bool:
    """Whether its node does not answer: then others have set what the pod says of itself, and its containers are as last heard."""
    found = (pod.get("status") or {}).get("containerStatuses") or []
    up = bool(found) and all(c.get("ready") for c in found)
    return (pod.get("status") or {}).get("reason") == "NodeLost" or (up and condition(pod, "Ready").get("status") == "False")


def _why_unknown(pod: Json, node: NodeOf) -> str:
    return f"pod {name(pod)} was running when its node was last heard; {_node_words(pod, node)}"


def _why_it_stays(pod: Json, node: NodeOf) -> str:
    place = (pod.get("spec") or {}).get("nodeName", "")
    return (
        f"pod {name(pod)} has been asked to end, and nobody confirms it, so it may still run: {_node_words(pod, node)}; "
        f"if that node is off for good, say so: kubectl taint node {place} "
        "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
    )


def _node_words(pod: Json, node: NodeOf) -> str:
    place = (pod.get("spec") or {}).get("nodeName", "")
    try:
        found = node(place)
    except DriverError:
        return f"node {place} does not answer"
    if found is None:
        return f"node {place} is no more"
    ready = condition(found, "Ready")
    return _with(f"node {place} does not answer ({ready.get('reason', 'Ready is false')})", ready.get("message", ""))


def _how_it_ended(pod: Json) -> str:
    status = pod.get("status") or {}
    if status.get("reason"):
        return _with(f"was ended by the cluster ({status['reason']})", status.get("message", ""))
    for container in status.get("containerStatuses") or []:
        if ended := (container.get("state") or {}).get("terminated"):
            return f"has ended: its container {_exit(ended)}"
    return _with("has ended", status.get("message", ""))


def _exit(ended: Json) -> str:
    reason = ended.get("reason", "")
    told = f"ended with exit code {ended.get('exitCode', '?')}" + (
        f" ({reason})" if reason not in ("", "Error", "Completed") else ""
    )
    return _with(told, ended.get("message", ""))


def of_no_pod(found: Json, kind: str, warning: str) -> Observation:
    """What a StatefulSet or a Job that has no pod yet says."""
    waits = "exceeded quota" in warning
    if kind == "StatefulSet" and ((found.get("status") or {}).get("observedGeneration") or 0) < found["metadata"].get(
        "generation", 1
    ):
        return Observation(Observed.STARTING, "its StatefulSet has not been seen by the cluster's controller yet")
    return Observation(Observed.STARTING, _with(f"its {kind} has no pod yet", warning), queued=waits)


def of_queued(job: Json, queue: str, workload: Json | None) -> Observation:
    """What a suspended Job says: it waits for its turn."""
    reserved = condition(workload or {}, "QuotaReserved")
    told = f"job {name(job)} waits in queue {queue}"
    why = reserved.get("message", "") if reserved.get("status") == "False" else ""
    return Observation(Observed.STARTING, _with(told, why), queued=True)


def how_job_ended(job: Json) -> str:
    """Why a Job is over; empty if it is not."""
    for kind in ("Failed", "Complete"):
        found = condition(job, kind)
        if found.get("status") == "True":
            return _with(f"job {name(job)} is over ({found.get('reason') or kind})", found.get("message", ""))
    return ""


def who_scaled(stateful_set: Json, own: str) -> str:
    """Who else than the driver has set the replicas, in words; empty if nobody says."""
    for entry in stateful_set["metadata"].get("managedFields") or []:
        fields = (entry.get("fieldsV1") or {}).get("f:spec") or {}
        if "f:replicas" in fields and entry.get("manager") != own:
            return f" by {entry.get('manager')}"
    return ""


def _with(told: str, message: str) -> str:
    message = " ".join(message.split())
    if not message:
        return told
    return f"{told}: {message if len(message) <= 400 else message[:397] + '...'}"
