"""What `kubectl get` prints: the server makes the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kubernetes.double import words
from kubernetes.double.kinds import Kind
from kubernetes.double.schema import Json

#: A column: its name, whether only `-o wide` shows it, and its cell.
Column = tuple[str, bool, Callable[[Json, float], Any]]


def age(obj: Json, now: float) -> str:
    return duration(now - words.moment(obj["metadata"]["creationTimestamp"]))


def duration(seconds: float) -> str:
    """As `kubectl` shortens it: 45s, 3m20s, 2h5m, 3d4h."""
    s = int(seconds)
    if s < 0:
        return "0s"
    if s < 120:
        return f"{s}s"
    m = s // 60
    if m < 10:
        return f"{m}m{s % 60}s" if s % 60 else f"{m}m"
    if m < 180:
        return f"{m}m"
    h = m // 60
    if h < 8:
        return f"{h}h{m % 60}m" if m % 60 else f"{h}h"
    if h < 48:
        return f"{h}h"
    return f"{h // 24}d{h % 24}h" if h < 192 and h % 24 else f"{h // 24}d"


def pod_state(pod: Json, now: float) -> str:
    """The STATUS column: the reason that tells most."""
    status = pod.get("status") or {}
    reason = status.get("reason") or status.get("phase", "")
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition.get("reason") == "SchedulingGated":
            reason = "SchedulingGated"
    for container in reversed(status.get("containerStatuses") or []):
        state = container.get("state") or {}
        if (state.get("waiting") or {}).get("reason"):
            reason = state["waiting"]["reason"]
        elif "terminated" in state:
            ended = state["terminated"]
            reason = ended.get("reason") or f"ExitCode:{ended['exitCode']}"
    if pod["metadata"].get("deletionTimestamp"):
        return "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    return str(reason)


def _restarts(pod: Json, now: float) -> str:
    found = (pod.get("status") or {}).get("containerStatuses") or []
    count = sum(c.get("restartCount", 0) for c in found)
    ends = [c["lastState"]["terminated"]["finishedAt"] for c in found if (c.get("lastState") or {}).get("terminated")]
    return f"{count} ({duration(now - words.moment(max(ends)))} ago)" if count and ends else str(count)


def _ready(pod: Json, now: float) -> str:
    found = (pod.get("status") or {}).get("containerStatuses") or []
    return f"{sum(bool(c.get('ready')) for c in found)}/{len(pod['spec']['containers'])}"


def _node_state(node: Json, now: float) -> str:
    ready = next((c["status"] for c in (node.get("status") or {}).get("conditions") or [] if c["type"] == "Ready"), "Unknown")
    state = {"True": "Ready"}.get(ready, "NotReady")
    return state + (",SchedulingDisabled" if (node.get("spec") or {}).get("unschedulable") else "")


def _job_state(job: Json, now: float) -> str:
    held = {c["type"] for c in (job.get("status") or {}).get("conditions") or [] if c["status"] == "True"}
    if job["metadata"].get("deletionTimestamp"):
        return "Terminating"
    for condition, told in (
        ("Complete", "Complete"),
        ("Failed", "Failed"),
        ("SuccessCriteriaMet", "SuccessCriteriaMet"),
        ("FailureTarget", "FailureTarget"),
        ("Suspended", "Suspended"),
    ):
        if condition in held:
            return told
    return "Running"


def _job_time(job: Json, now: float) -> str:
    status = job.get("status") or {}
    if not status.get("startTime"):
        return ""
    end = words.moment(status["completionTime"]) if status.get("completionTime") else now
    return duration(end - words.moment(status["startTime"]))


def _get(*path: str, empty: Any = "<none>") -> Callable[[Json, float], Any]:
    def cell(obj: Any, now: float) -> Any:
        for step in path:
            obj = (obj or {}).get(step)
        return empty if obj in (None, "") else obj

    return cell


def _images(where: str) -> Callable[[Json, float], str]:
    def cell(obj: Json, now: float) -> str:
        return ",".join(c[where] for c in obj["spec"]["template"]["spec"]["containers"])

    return cell


def _ports(obj: Json, now: float) -> str:
    return ",".join(f"{p['port']}/{p['protocol']}" for p in obj["spec"].get("ports") or []) or "<none>"


_COLUMNS: dict[str, list[Column]] = {
    "Pod": [
        ("Ready", False, _ready),
        ("Status", False, pod_state),
        ("Restarts", False, _restarts),
        ("Age", False, age),
        ("IP", True, _get("status", "podIP")),
        ("Node", True, _get("spec", "nodeName")),
        ("Nominated Node", True, _get("status", "nominatedNodeName")),
        ("Readiness Gates", True, lambda o, n: "<none>"),
    ],
    "StatefulSet": [
        ("Ready", False, lambda o, n: f"{(o.get('status') or {}).get('readyReplicas', 0)}/{o['spec'].get('replicas', 1)}"),
        ("Age", False, age),
        ("Containers", True, _images("name")),
        ("Images", True, _images("image")),
    ],
    "Deployment": [
        ("Ready", False, lambda o, n: f"{(o.get('status') or {}).get('readyReplicas', 0)}/{o['spec'].get('replicas', 1)}"),
        ("Up-to-date", False, _get("status", "updatedReplicas", empty=0)),
        ("Available", False, _get("status", "availableReplicas", empty=0)),
        ("Age", False, age),
    ],
    "Job": [
        ("Status", False, _job_state),
        ("Completions", False, lambda o, n: f"{(o.get('status') or {}).get('succeeded', 0)}/{o['spec'].get('completions', 1)}"),
        ("Duration", False, _job_time),
        ("Age", False, age),
    ],
    "Node": [
        ("Status", False, _node_state),
        ("Roles", False, lambda o, n: "<none>"),
        ("Age", False, age),
        ("Version", False, _get("status", "nodeInfo", "kubeletVersion", empty="")),
    ],
    "Namespace": [("Status", False, _get("status", "phase")), ("Age", False, age)],
    "Service": [
        ("Type", False, _get("spec", "type")),
        ("Cluster-IP", False, _get("spec", "clusterIP")),
        ("External-IP", False, lambda o, n: "<none>"),
        ("Port(s)", False, _ports),
        ("Age", False, age),
    ],
    "Secret": [("Type", False, _get("type")), ("Data", False, lambda o, n: len(o.get("data") or {})), ("Age", False, age)],
    "ConfigMap": [("Data", False, lambda o, n: len(o.get("data") or {})), ("Age", False, age)],
    "PersistentVolumeClaim": [
        ("Status", False, lambda o, n: "Terminating" if o["metadata"].get("deletionTimestamp") else _get("status", "phase")(o, n)),
        ("Volume", False, _get("spec", "volumeName", empty="")),
        ("Capacity", False, _get("status", "capacity", "storage", empty="")),
        (
            "Access Modes",
            False,
            lambda o, n: ",".join("".join(c for c in m if c.isupper()) for m in o["spec"].get("accessModes") or []),
        ),
        ("StorageClass", False, _get("spec", "storageClassName", empty="")),
        ("Age", False, age),
    ],
    "Event": [
        ("Last Seen", False, lambda o, n: duration(n - words.moment(o.get("lastTimestamp") or o["metadata"]["creationTimestamp"]))),
        ("Type", False, _get("type")),
        ("Reason", False, _get("reason")),
        ("Object", False, lambda o, n: f"{o['involvedObject']['kind'].lower()}/{o['involvedObject']['name']}"),
        ("Message", False, _get("message")),
    ],
}


def _columns(kind: Kind) -> list[Column]:
    name: Column = ("Name", False, lambda o, n: o["metadata"]["name"])
    rest = _COLUMNS.get(kind.name, [("Age", False, age)])
    return rest if kind.name == "Event" else [name, *rest]


def table(kind: Kind, items: list[Json], now: float, *, include: str, metadata: Json, head: bool = True) -> Json:
    """``include``: what of each object goes along (None, Metadata, Object)."""
    columns = _columns(kind)
    rows = []
    for obj in items:
        row: Json = {"cells": [cell(obj, now) for _, _, cell in columns]}
        if include == "Object":
            row["object"] = obj
        elif include != "None":
            row["object"] = partial(obj)
        rows.append(row)
    definitions = [
        {"name": n, "type": "string", "format": "name" if n == "Name" else "", "description": "", "priority": int(wide)}
        for n, wide, _ in columns
    ]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions if head else None,
        "rows": rows,
    }


def partial(obj: Json) -> Json:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
