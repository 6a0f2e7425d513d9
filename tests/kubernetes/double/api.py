"""The API's verbs on objects: create, replace, patch, apply, scale, delete, with everything that a write sets off."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from typing import Any

from kubernetes.double import apply, defaults, errors, patches, quota, schema, validation, words
from kubernetes.double.kinds import BY_NAME, WITH_GENERATION, Kind
from kubernetes.double.schema import Json
from kubernetes.double.store import Store

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
#: What a client may not set.
_SERVERS = ("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "uid", "selfLink")
_HAS_STATUS = {
    "Pod",
    "Node",
    "Namespace",
    "Service",
    "PersistentVolumeClaim",
    "ResourceQuota",
    "StatefulSet",
    "Deployment",
    "Job",
    "PodDisruptionBudget",
    "Workload",
}


class Api:
    """All writes are under the store's lock, one after the other. ``now`` is the cluster's time, in seconds since 1970."""

    def __init__(self, store: Store, now: Callable[[], float], seed: int) -> None:
        self.store = store
        self.now = now
        self._random = random.Random(f"api-{seed}")
        #: Mutating admission that an add-on, such as Kueue, brings along: called with each new object.
        self.webhooks: list[Callable[[Kind, Json], None]] = []

    def suffix(self, length: int = 5) -> str:
        return "".join(self._random.choices(_ALPHABET, k=length))

    def get(self, kind: Kind, namespace: str, name: str) -> Json:
        found = self.store.get(kind, namespace, name)
        if found is None:
            raise errors.not_found(kind.group, kind.plural, name)
        return found

    def find(self, kind: str, namespace: str, name: str) -> Json | None:
        return self.store.get(BY_NAME[kind], namespace, name)

    def create(self, kind: Kind, namespace: str, obj: Json, *, manager: str, dry_run: bool = False, applied: bool = False) -> Json:
        with self.store.changed:
            obj = schema.copy(obj)
            meta = obj.setdefault("metadata", {})
            if meta.get("resourceVersion"):
                raise errors.untyped("resourceVersion should not be set on objects to be created")
            if not meta.get("name"):
                if not meta.get("generateName"):
                    text = "Required value: name or generateName is required"
                    raise errors.invalid(kind.group, kind.name, "", [("metadata.name", "FieldValueRequired", text)])
                meta["name"] = meta["generateName"] + self.suffix()
            self._place(kind, namespace, obj)
            validation.check_types(kind, obj)
            if self.store.get(kind, meta.get("namespace", ""), meta["name"]) is not None:
                raise errors.already_exists(kind.group, kind.plural, meta["name"])
            for name in _SERVERS:
                meta.pop(name, None)
            meta["uid"] = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
            meta["creationTimestamp"] = words.stamp(self.now())
            if kind.name in WITH_GENERATION:
                meta["generation"] = 1
            if kind.name in _HAS_STATUS and kind.name != "Node":
                obj.pop("status", None)
                if kind.name in ("StatefulSet", "Deployment", "Job"):
                    obj["status"] = {} if kind.name != "StatefulSet" else {"replicas": 0, "availableReplicas": 0}
            for webhook in self.webhooks:
                webhook(kind, obj)
            self._admit_account(kind, obj)
            bare = schema.missing_fields(obj, schema.root(kind.model)) if kind.model else iter(())
            if next(bare, None) is None:
                defaults.set_defaults(kind, obj)
            validation.validate(kind, obj, None)
            if kind.namespaced:
                quota.admit(self.store, kind, obj)
            if not applied:
                meta.pop("managedFields", None)
                apply.updated(None, obj, schema.root(kind.model), manager, kind.api_version, "", words.stamp(self.now()))
            return obj if dry_run else self.store.put(kind, obj)

    def _place(self, kind: Kind, namespace: str, obj: Json) -> None:
        meta = obj["metadata"]
        if not kind.namespaced:
            meta.pop("namespace", None)
            return
        if meta.setdefault("namespace", namespace) != namespace:
            raise errors.bad_request(
                f"the namespace of the provided object does not match the namespace sent on the request"
                f" ({meta['namespace']} != {namespace})"
            )
        home = self.store.get(BY_NAME["Namespace"], "", namespace)
        if home is None:
            raise errors.not_found("", "namespaces", namespace)
        if home["metadata"].get("deletionTimestamp"):
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            refusal = errors.forbidden(kind.group, kind.plural, meta["name"], why)
            cause = {
                "reason": "NamespaceTerminating",
                "message": f"namespace {namespace} is being terminated",
                "field": "metadata.namespace",
            }
            refusal.details = {**(refusal.details or {}), "causes": [cause]}
            raise refusal

    def _admit_account(self, kind: Kind, obj: Json) -> None:
        if kind.name != "Pod":
            return
        meta = obj["metadata"]
        name = (obj.get("spec") or {}).get("serviceAccountName") or "default"
        if self.find("ServiceAccount", meta["namespace"], name) is None:
            account = f"{meta['namespace']}/{name}"
            why = f'error looking up service account {account}: serviceaccount "{name}" not found'
            raise errors.forbidden(kind.group, kind.plural, meta["name"], why)

    def replace(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        obj: Json,
        *,
        manager: str,
        subresource: str = "",
        dry_run: bool = False,
        applied: bool = False,
    ) -> Json:
        """Put ``obj`` in an object's place: of its `status` alone if that is the subresource, else of everything but that."""
        with self.store.changed:
            old = self.get(kind, namespace, name)
            new = schema.copy(obj)
            meta = new.setdefault("metadata", {})
            if meta.get("name", name) != name:
                raise errors.bad_request(f"the name of the object ({meta['name']}) does not match the name on the URL ({name})")
            self._preconditions(kind, old, meta.get("uid"), meta.get("resourceVersion"))
            validation.check_types(kind, new)
            if subresource == "status":
                new = {**schema.copy(old), "status": new.get("status", {}), "metadata": {**old["metadata"]}} | (
                    {"metadata": {**old["metadata"], "managedFields": meta.get("managedFields")}} if applied else {}
                )
            else:
                for field in (*_SERVERS, "name", "namespace", "resourceVersion"):
                    meta.pop(field, None)
                    if field in old["metadata"]:
                        meta[field] = old["metadata"][field]
                if kind.name in _HAS_STATUS:
                    new.pop("status", None)
                    if "status" in old:
                        new["status"] = schema.copy(old["status"])
                defaults.set_defaults(kind, new)
                validation.validate(kind, new, old)
                if kind.name in WITH_GENERATION and new.get("spec") != old.get("spec"):
                    new["metadata"]["generation"] = old["metadata"].get("generation", 1) + 1
            node = schema.root(kind.model)
            if not applied:
                new["metadata"]["managedFields"] = old["metadata"].get("managedFields")
                owner = "status" if subresource == "status" else "scale" if subresource == "scale" else ""
                apply.updated(old, new, node, manager, kind.api_version, owner, words.stamp(self.now()))
            if _equal(old, new):
                return old
            if dry_run:
                return new
            return self._gone_or_kept(kind, new)

    def _gone_or_kept(self, kind: Kind, new: Json) -> Json:
        """An object whose deletion waited for finalizers goes with the last of them."""
        meta = new["metadata"]
        waits = meta.get("finalizers") or (kind.name == "Namespace" and new.get("spec", {}).get("finalizers"))
        if meta.get("deletionTimestamp") and not waits and not meta.get("deletionGracePeriodSeconds"):
            return self.store.remove(kind, new)
        return self.store.put(kind, new)

    def _preconditions(self, kind: Kind, old: Json, uid: str | None, version: str | None) -> None:
        meta = old["metadata"]
        if uid and uid != meta["uid"]:
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {meta['uid']}"
            raise errors.conflict(kind.group, kind.plural, meta["name"], why)
        if version and version != "0" and version != meta["resourceVersion"]:
            raise errors.conflict(kind.group, kind.plural, meta["name"])

    def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        patch: Any,
        how: str,
        *,
        manager: str,
        subresource: str = "",
        dry_run: bool = False,
        strict: bool = True,
    ) -> Json:
        with self.store.changed:
            old = self.get(kind, namespace, name)
            new = self._patched(kind, old, patch, how)
            if "resourceVersion" not in (patch.get("metadata") or {} if isinstance(patch, dict) else {}):
                new["metadata"] = {k: v for k, v in new["metadata"].items() if k != "resourceVersion"}
            if kind.model:
                new, _ = validation.known_fields(kind, new, strict=strict)
            return self.replace(kind, namespace, name, new, manager=manager, subresource=subresource, dry_run=dry_run)

    def _patched(self, kind: Kind, old: Json, patch: Any, how: str) -> Json:
        if how == "application/merge-patch+json":
            return dict(patches.merge_patch(old, patch))
        if how == "application/json-patch+json":
            return dict(patches.json_patch(old, patch))
        if how == "application/strategic-merge-patch+json" and kind.model:
            return dict(patches.strategic(old, patch, schema.root(kind.model)))
        raise errors.unsupported_media_type(patches.ACCEPTED)

    def apply(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        config: Json,
        *,
        manager: str,
        force: bool,
        subresource: str = "",
        dry_run: bool = False,
    ) -> tuple[Json, bool]:
        """Server-side apply: the object, and whether it is new."""
        with self.store.changed:
            if not manager:
                text = "Required value: is required for apply patch"
                raise errors.invalid("meta.k8s.io", "PatchOptions", "", [("fieldManager", "FieldValueRequired", text)])
            if config.get("apiVersion") != kind.api_version or config.get("kind") != kind.name:
                raise errors.bad_request(f"invalid object type: {config.get('apiVersion')}, Kind={config.get('kind')}")
            meta = config.setdefault("metadata", {})
            if meta.get("managedFields"):
                raise errors.bad_request("metadata.managedFields must be nil")
            if meta.setdefault("name", name) != name:
                raise errors.bad_request(f"the name of the object ({meta['name']}) does not match the name on the URL ({name})")
            node = schema.root(kind.model)
            unknown = next(schema.unknown_fields(config, node), "") if kind.model else ""
            if unknown:
                place = f"{namespace}/{name}" if namespace else name
                head = f"failed to create typed patch object ({place}; {kind.api_version}, Kind={kind.name})"
                raise errors.untyped(f"{head}: .{unknown}: field not declared in schema")
            validation.check_types(kind, config)
            live = self.store.get(kind, namespace if kind.namespaced else "", name)
            now = words.stamp(self.now())
            if live is None and subresource:
                raise errors.not_found(kind.group, kind.plural, name)
            if live is not None:
                self._preconditions(kind, live, meta.get("uid"), meta.get("resourceVersion"))
            elif meta.get("uid"):
                text = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: "
                raise errors.conflict(kind.group, kind.plural, name, text)
            config = {
                **config,
                "metadata": {k: v for k, v in meta.items() if k not in ("resourceVersion", "uid", "creationTimestamp")},
            }
            merged = apply.applied(live, config, node, manager, kind.api_version, subresource, now, force=force)
            if live is None:
                return self.create(kind, namespace, merged, manager=manager, dry_run=dry_run, applied=True), True
            merged["metadata"] = {k: v for k, v in merged["metadata"].items() if k != "resourceVersion"}
            done = self.replace(
                kind, namespace, name, merged, manager=manager, subresource=subresource, dry_run=dry_run, applied=True
            )
            return done, False

    def delete(
        self, kind: Kind, namespace: str, name: str, options: Json | None = None, *, dry_run: bool = False
    ) -> tuple[Json, bool]:
        """The object as it was last, and whether it is gone at once."""
        options = options or {}
        with self.store.changed:
            old = self.get(kind, namespace, name)
            wanted = options.get("preconditions") or {}
            self._preconditions(kind, old, wanted.get("uid"), wanted.get("resourceVersion"))
            new = schema.copy(old)
            meta = new["metadata"]
            policy = options.get("propagationPolicy")
            if policy not in (None, "Background", "Foreground", "Orphan"):
                text = f'Unsupported value: "{policy}": supported values: "Background", "Foreground", "Orphan", "nil"'
                raise errors.invalid("meta.k8s.io", "DeleteOptions", "", [("propagationPolicy", "FieldValueNotSupported", text)])
            waits = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}.get(policy or "")
            if waits and waits not in meta.setdefault("finalizers", []):
                meta["finalizers"].append(waits)
            grace = self._grace(kind, old, options.get("gracePeriodSeconds"))
            already = "deletionTimestamp" in old["metadata"]
            if already and grace is not None and grace >= meta.get("deletionGracePeriodSeconds", 0):
                grace = None
            if grace is not None:
                asked = words.moment(meta["deletionTimestamp"]) - meta["deletionGracePeriodSeconds"] if already else self.now()
                meta["deletionTimestamp"] = words.stamp(asked + grace)
                meta["deletionGracePeriodSeconds"] = grace
                if kind.name in WITH_GENERATION and not already:
                    meta["generation"] = meta.get("generation", 0) + 1
            if kind.name == "Namespace" and meta.get("deletionTimestamp"):
                new["status"] = {**new.get("status", {}), "phase": "Terminating"}
            blocked = meta.get("finalizers") or (kind.name == "Namespace" and new.get("spec", {}).get("finalizers"))
            if dry_run:
                return new, not blocked and not meta.get("deletionGracePeriodSeconds")
            if not blocked and not meta.get("deletionGracePeriodSeconds"):
                return self.store.remove(kind, new), True
            return (old if _equal(old, new) else self.store.put(kind, new)), False

    def _grace(self, kind: Kind, old: Json, asked: int | None) -> int | None:
        """Seconds until the object may go; None: leave what an earlier deletion said."""
        if kind.name != "Pod":
            return None if "deletionTimestamp" in old["metadata"] else 0
        if asked is None and "deletionTimestamp" in old["metadata"]:
            return None
        grace = asked if asked is not None else old["spec"].get("terminationGracePeriodSeconds", 30)
        if not old["spec"].get("nodeName") or old.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            grace = 0
        return max(grace, 0) if asked is None or asked >= 0 else 1

    def scale_of(self, kind: Kind, obj: Json) -> Json:
        meta = obj["metadata"]
        selector = obj["spec"].get("selector") or {}
        text = ",".join(f"{k}={v}" for k, v in sorted((selector.get("matchLabels") or {}).items()))
        shown = {k: meta[k] for k in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")}
        return {
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": shown,
            "spec": {"replicas": obj["spec"].get("replicas", 0)},
            "status": {"replicas": (obj.get("status") or {}).get("replicas", 0), "selector": text},
        }

    def rescale(self, kind: Kind, namespace: str, name: str, scale: Json, *, manager: str, dry_run: bool = False) -> Json:
        with self.store.changed:
            old = self.get(kind, namespace, name)
            replicas = (scale.get("spec") or {}).get("replicas", 0)
            if not isinstance(replicas, int) or isinstance(replicas, bool):
                raise errors.bad_request(
                    'Scale in version "v1" cannot be handled as a Scale: json: cannot unmarshal string into Go struct '
                    "field ScaleSpec.spec.replicas of type int32"
                )
            if replicas < 0:
                text = f"Invalid value: {replicas}: must be greater than or equal to 0"
                raise errors.invalid("autoscaling", "Scale", name, [("spec.replicas", "FieldValueInvalid", text)])
            new = {**old, "spec": {**old["spec"], "replicas": replicas}}
            meta = scale.get("metadata") or {}
            new["metadata"] = {**old["metadata"], "resourceVersion": meta.get("resourceVersion", ""), "uid": meta.get("uid", "")}
            done = self.replace(kind, namespace, name, new, manager=manager, subresource="scale", dry_run=dry_run)
            return self.scale_of(kind, done)

    def set_status(self, obj: Json, status: Json, *, manager: str) -> Json | None:
        """Write an object's status; None if it is gone."""
        kind = BY_NAME[obj["kind"]]
        with self.store.changed:
            live = self.store.get(kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
            if live is None or live["metadata"]["uid"] != obj["metadata"]["uid"]:
                return None
            if live.get("status") == status:
                return live
            place = (live["metadata"].get("namespace", ""), live["metadata"]["name"])
            return self.replace(kind, *place, {**live, "status": status}, manager=manager, subresource="status")

    def edit(self, obj: Json, change: Callable[[Json], None], *, manager: str) -> Json | None:
        """Read an object anew, change it in place and write it; None if it is gone."""
        kind = BY_NAME[obj["kind"]]
        place = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        with self.store.changed:
            live = self.store.get(kind, *place)
            if live is None or live["metadata"]["uid"] != obj["metadata"]["uid"]:
                return None
            new = schema.copy(live)
            change(new)
            return self.replace(kind, *place, new, manager=manager)

    def evict(self, pod: Json, options: Json | None) -> None:
        """Delete a pod unless a disruption budget forbids it.

        Raises:
            ApiError: 429, it does.
        """
        meta = pod["metadata"]
        for budget in self.store.all(BY_NAME["PodDisruptionBudget"], meta["namespace"]):
            if not words.selects(budget["spec"].get("selector"), meta.get("labels")):
                continue
            if pod.get("status", {}).get("phase") == "Running" and (budget.get("status") or {}).get("disruptionsAllowed", 0) < 1:
                name = budget["metadata"]["name"]
                healthy = (budget.get("status") or {}).get("currentHealthy", 0)
                needs = (budget.get("status") or {}).get("desiredHealthy", 0)
                cause = {
                    "reason": "DisruptionBudget",
                    "message": f"The disruption budget {name} needs {needs} healthy pods and has {healthy} currently",
                }
                text = "Cannot evict pod as it would violate the pod's disruption budget."
                raise errors.ApiError(429, "TooManyRequests", text, details={"causes": [cause]})
        self.delete(BY_NAME["Pod"], meta["namespace"], meta["name"], options)

    def bind(self, pod: Json, node: str) -> None:
        """The scheduler's word: a pod goes to a node."""
        kind = BY_NAME["Pod"]
        meta = pod["metadata"]
        with self.store.changed:
            live = self.get(kind, meta["namespace"], meta["name"])
            if live["spec"].get("nodeName"):
                raise errors.conflict(
                    "", "pods", meta["name"], f"pod {meta['name']} is already assigned to node {live['spec']['nodeName']!r}"
                )
            status = schema.copy(live.get("status") or {})
            conditions = [c for c in status.get("conditions", []) if c["type"] != "PodScheduled"]
            at = words.stamp(self.now())
            conditions.append({"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": at})
            status["conditions"] = conditions
            self.store.put(kind, {**live, "spec": {**live["spec"], "nodeName": node}, "status": status})


def _equal(old: Json, new: Json) -> bool:
    """Equal but for the times of the owners."""

    def bare(obj: Json) -> Json:
        meta = obj["metadata"]
        owners = [{k: v for k, v in e.items() if k != "time"} for e in meta.get("managedFields") or []]
        return {**obj, "metadata": {**meta, "managedFields": owners, "resourceVersion": ""}}

    return bare(old) == bare(new)
