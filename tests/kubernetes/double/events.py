"""Events: what components say about objects. The same words about the same object are one event with a count."""

from __future__ import annotations

from kubernetes.double import errors, words
from kubernetes.double.api import Api
from kubernetes.double.kinds import BY_NAME
from kubernetes.double.schema import Json

KEPT_S = 3600.0
_EVENT = BY_NAME["Event"]


class Recorder:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._names: dict[tuple[str, str, str], tuple[str, str]] = {}

    def tell(self, obj: Json, reason: str, message: str, component: str, *, warning: bool = False) -> None:
        meta = obj["metadata"]
        key = (meta["uid"], reason, message)
        now = words.stamp(self._api.now())
        place = self._names.get(key)
        known = self._api.store.get(_EVENT, *place) if place else None
        if known is not None:
            self._api.store.put(_EVENT, {**known, "count": known["count"] + 1, "lastTimestamp": now})
            return
        namespace = meta.get("namespace", "default")
        about = {
            "kind": obj["kind"],
            "namespace": meta.get("namespace"),
            "name": meta["name"],
            "uid": meta["uid"],
            "apiVersion": obj["apiVersion"],
            "resourceVersion": meta["resourceVersion"],
        }
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{meta['name']}.{self._api.suffix(16)}", "namespace": namespace},
            "involvedObject": {k: v for k, v in about.items() if v},
            "reason": reason,
            "message": message,
            "source": {"component": component},
            "reportingComponent": component,
            "reportingInstance": "",
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "type": "Warning" if warning else "Normal",
        }
        try:
            made = self._api.create(_EVENT, namespace, event, manager=component)
        except errors.ApiError as e:
            if e.code not in (403, 404):
                raise
            return  # The namespace is going, and its events with it.
        self._names[key] = (namespace, made["metadata"]["name"])

    def expire(self) -> None:
        oldest = self._api.now() - KEPT_S
        for event in self._api.store.all(_EVENT):
            if words.moment(event.get("lastTimestamp") or event["metadata"]["creationTimestamp"]) < oldest:
                self._api.store.remove(_EVENT, event)
