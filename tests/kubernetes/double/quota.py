"""Resource quotas: what a namespace uses, and the admission of what would use more than it may."""

from __future__ import annotations

from decimal import Decimal

from kubernetes.double import errors, words
from kubernetes.double.kinds import BY_NAME, KINDS, Kind
from kubernetes.double.schema import Json
from kubernetes.double.store import Store

_COMPUTE = ("cpu", "memory", "ephemeral-storage")


def pod_requests(pod: Json, which: str = "requests") -> dict[str, Decimal]:
    """What a pod asks of a node: the sum over containers, or the largest init container where that is more."""
    spec = pod["spec"]
    total: dict[str, Decimal] = {}
    for container in spec.get("containers") or []:
        for name, value in ((container.get("resources") or {}).get(which) or {}).items():
            total[name] = total.get(name, Decimal(0)) + words.quantity(value)
    for container in spec.get("initContainers") or []:
        for name, value in ((container.get("resources") or {}).get(which) or {}).items():
            total[name] = max(total.get(name, Decimal(0)), words.quantity(value))
    return total


def _uses(kind: Kind, obj: Json) -> dict[str, Decimal]:
    uses = {f"count/{kind.qualified}": Decimal(1)}
    if kind.name != "Pod":
        uses[kind.plural] = Decimal(1)
    if kind.name == "PersistentVolumeClaim":
        asked = ((obj["spec"].get("resources") or {}).get("requests") or {}).get("storage", "0")
        uses["requests.storage"] = words.quantity(asked)
    if kind.name == "Pod" and obj.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
        uses["pods"] = Decimal(1)
        for which in ("requests", "limits"):
            for name, value in pod_requests(obj, which).items():
                uses[f"{which}.{name}"] = value
                if which == "requests" and name in _COMPUTE:
                    uses[name] = value
    return uses


def used(store: Store, namespace: str, hard: Json) -> dict[str, Decimal]:
    total = {name: Decimal(0) for name in hard}
    for kind in KINDS:
        if kind.namespaced and kind.name != "Event":
            for obj in store.all(kind, namespace):
                for name, value in _uses(kind, obj).items():
                    if name in total:
                        total[name] += value
    return total


def admit(store: Store, kind: Kind, obj: Json) -> None:
    """Raises:
    ApiError: 403, a quota of the namespace would be exceeded, or needs something that the pod does not say.
    """
    meta = obj["metadata"]
    for quota in store.all(BY_NAME["ResourceQuota"], meta["namespace"]):
        hard = (quota.get("spec") or {}).get("hard") or {}
        uses = _uses(kind, obj)
        if kind.name == "Pod":
            _must_say(kind, obj, quota["metadata"]["name"], hard)
        now = used(store, meta["namespace"], hard)
        over = sorted(n for n, v in uses.items() if n in hard and v and now[n] + v > words.quantity(hard[n]))
        if over:
            told = [
                ",".join(f"{n}={words.show_quantity(v[n])}" for n in over)
                for v in (uses, now, {n: words.quantity(hard[n]) for n in over})
            ]
            why = f"exceeded quota: {quota['metadata']['name']}, requested: {told[0]}, used: {told[1]}, limited: {told[2]}"
            raise errors.forbidden(kind.group, kind.plural, meta["name"], why)


def _must_say(kind: Kind, obj: Json, quota: str, hard: Json) -> None:
    missing: dict[str, list[str]] = {}
    for name in sorted(hard):
        which, _, resource = name.rpartition(".")
        if resource in _COMPUTE:
            for container in obj["spec"]["containers"]:
                if resource not in ((container.get("resources") or {}).get(which or "requests") or {}):
                    missing.setdefault(name, []).append(container["name"])
    if missing:
        told = "; ".join(f"{n} for: {','.join(c)}" for n, c in missing.items())
        raise errors.forbidden(kind.group, kind.plural, obj["metadata"]["name"], f"failed quota: {quota}: must specify {told}")
