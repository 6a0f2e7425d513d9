"""What controllers ask of a pod, and how they make one."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from kubernetes.double import schema
from kubernetes.double.api import Api
from kubernetes.double.kinds import BY_NAME
from kubernetes.double.schema import Json


def phase(pod: Json) -> str:
    return str((pod.get("status") or {}).get("phase", "Pending"))


def terminating(pod: Json) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def ended(pod: Json) -> bool:
    return phase(pod) in ("Succeeded", "Failed")


def ready(pod: Json) -> bool:
    return phase(pod) == "Running" and condition(pod, "Ready").get("status") == "True"


def condition(obj: Json, name: str) -> Json:
    found = (obj.get("status") or {}).get("conditions") or []
    return next((c for c in found if c["type"] == name), {})


def owned(api: Api, owner: Json, kind: str = "Pod") -> list[Json]:
    uid = owner["metadata"]["uid"]
    found = api.store.all(BY_NAME[kind], owner["metadata"]["namespace"])
    return [o for o in found if any(r["uid"] == uid for r in o["metadata"].get("ownerReferences") or [])]


def reference(owner: Json) -> Json:
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def from_template(owner: Json) -> Json:
    """A pod of an owner's template, without a name."""
    template = owner["spec"]["template"]
    meta = schema.copy(template.get("metadata") or {})
    meta["ownerReferences"] = [reference(owner)]
    meta["namespace"] = owner["metadata"]["namespace"]
    meta["generateName"] = f"{owner['metadata']['name']}-"
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": schema.copy(template["spec"])}


def fingerprint(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


def with_condition(status: Json, name: str, value: str, now: str, reason: str = "", message: str = "") -> Json:
    """A status with one condition set, whose time moves only when its value does."""
    found = list(status.get("conditions") or [])
    old = next((c for c in found if c["type"] == name), None)
    new = {"type": name, "status": value, "lastProbeTime": None, "lastTransitionTime": now}
    if old is not None and old["status"] == value:
        new["lastTransitionTime"] = old["lastTransitionTime"]
    if reason:
        new["reason"] = reason
    if message:
        new["message"] = message
    return {**status, "conditions": [*(c for c in found if c["type"] != name), new]}
