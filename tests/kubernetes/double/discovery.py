"""What clients ask before anything else: which APIs there are, and what their objects look like."""

from __future__ import annotations

from kubernetes.double import schema
from kubernetes.double.kinds import GROUPS, KINDS, Kind
from kubernetes.double.schema import Json

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


def document(path: str) -> Json | str | None:
    """The document at a path that is not a resource's; None if there is none."""
    if path in ("/healthz", "/livez", "/readyz"):
        return "ok"
    if path == "/version":
        return {
            "major": "1",
            "minor": "37",
            "gitVersion": "v1.37.1",
            "gitCommit": "double",
            "gitTreeState": "clean",
            "buildDate": "2026-10-01T00:00:00Z",
            "goVersion": "go1.26.0",
            "compiler": "gc",
            "platform": "linux/amd64",
        }
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(g, v) for g, v in GROUPS]}
    if path == "/openapi/v3":
        paths = ["api/v1", *(f"apis/{g}/{v}" for g, v in GROUPS)]
        return {"paths": {p: {"serverRelativeURL": f"/openapi/v3/{p}?hash={schema.VERSION}"} for p in paths}}
    if path.startswith("/openapi/v3/"):
        return _openapi("/" + path.removeprefix("/openapi/v3/"))
    for group, version in [("", "v1"), *GROUPS]:
        base = f"/apis/{group}/{version}" if group else f"/api/{version}"
        if path == base:
            kinds = [k for k in KINDS if k.group == group]
            entries = [e for k in kinds for e in _entries(k)]
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": kinds[0].api_version, "resources": entries}
        if group and path == f"/apis/{group}":
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(group, version)}
    return None


def _group(group: str, version: str) -> Json:
    entry = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [entry], "preferredVersion": entry}


def _entries(kind: Kind) -> list[Json]:
    main = {"name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.name, "verbs": _VERBS}
    if kind.short:
        main["shortNames"] = list(kind.short)
    if kind.categories:
        main["categories"] = list(kind.categories)
    entries = [main]
    for sub in kind.subresources:
        entry = {"name": f"{kind.plural}/{sub}", "singularName": "", "namespaced": kind.namespaced, "kind": kind.name}
        if sub == "scale":
            entry |= {"group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get", "patch", "update"]}
        elif sub in ("eviction", "binding"):
            entry |= {"kind": sub.capitalize(), "verbs": ["create"]}
            entry |= {"group": "policy", "version": "v1"} if sub == "eviction" else {}
        else:
            entry["verbs"] = ["get"] if sub == "log" else ["update"] if sub == "finalize" else ["get", "patch", "update"]
        entries.append(entry)
    return entries


def _openapi(base: str) -> Json | None:
    """As much as `kubectl` reads: that a server checks fields itself."""
    kinds = [k for k in KINDS if k.prefix == base]
    if not kinds:
        return None
    names = ("dryRun", "fieldManager", "fieldValidation", "force")
    parameters = [{"name": n, "in": "query", "schema": {"type": "string"}} for n in names]
    paths = {}
    for kind in kinds:
        place = "/namespaces/{namespace}" if kind.namespaced else ""
        about = {"group": kind.group, "version": kind.version, "kind": kind.name}
        operation = {
            "parameters": parameters,
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-group-version-kind": about,
        }
        paths[f"{base}{place}/{kind.plural}/{{name}}"] = {"patch": {**operation, "x-kubernetes-action": "patch"}}
        paths[f"{base}{place}/{kind.plural}"] = {"post": {**operation, "x-kubernetes-action": "post"}}
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": schema.VERSION}, "paths": paths}
