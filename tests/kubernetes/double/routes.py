"""From a request to an answer: addresses, verbs, formats, pages of lists, and watches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

import yaml

from kubernetes.double import access, accounts, discovery, errors, faults, patches, table, validation
from kubernetes.double.api import Api
from kubernetes.double.kinds import BY_PLURAL, KINDS, Kind
from kubernetes.double.schema import Json
from kubernetes.double.words import FieldSelector, LabelSelector
from windfall import clock

_WATCH_S = 1800.0
_JSON = "application/json"


class Dropped(Exception):
    """The connection ends here, without an answer or in the middle of one."""


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""

    @classmethod
    def of(cls, method: str, target: str, headers: dict[str, str], body: bytes) -> Request:
        path, _, query = target.partition("?")
        return cls(method, unquote(path), dict(parse_qsl(query, keep_blank_values=True)), headers, body)


@dataclass
class Response:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    stream: Iterator[bytes] | None = None


@dataclass(frozen=True)
class _Target:
    kind: Kind
    namespace: str
    name: str
    subresource: str


def _json(status: int, body: Any, **headers: str) -> Response:
    return Response(status, json.dumps(body, separators=(",", ":")).encode() + b"\n", {"Content-Type": _JSON, **headers})


def _refused(e: errors.ApiError) -> Response:
    headers = {"Retry-After": str(e.retry_after_s)} if e.retry_after_s is not None else {}
    if e.plain:
        kind = "text/html" if e.message.startswith("<") else "text/plain; charset=utf-8"
        return Response(e.code, e.message.encode() + b"\n", {"Content-Type": kind, **headers})
    return _json(e.code, e.status(), **headers)


class Routes:
    """Answers requests. ``logs``: from a pod, a container's name and whether the previous one is meant to what it wrote."""

    def __init__(self, api: Api, tokens: access.Tokens, plan: faults.Faults, logs: Callable[[Json, str, bool], bytes]) -> None:
        self.api = api
        self.tokens = tokens
        self.faults = plan
        self.logs = logs
        self.stopping = False
        #: How often each (verb, resource) was asked for.
        self.asked: dict[tuple[str, str], int] = {}

    def handle(self, request: Request) -> Response:
        """Raises:
        Dropped: the connection ends without an answer.
        """
        try:
            target = self._target(request.path)
            verb = self._verb(request, target)
            plural = target.kind.plural if target else ""
            with self.api.store.changed:
                self.asked[verb, plural] = self.asked.get((verb, plural), 0) + 1
            fault = self.faults.strike(verb, plural)
            if fault is not None and fault.action == faults.DROP:
                raise Dropped
            if fault is not None and fault.action in errors.BY_NAME and not fault.after:
                raise faults.refusal(fault)
            response = self._answer(request, target, verb)
            if fault is None:
                return response
            if fault.action == faults.LOSE:
                raise Dropped
            if fault.action == faults.GARBLE:
                return Response(200, b'{"kind":"Stat', {"Content-Type": _JSON})
            if fault.action == faults.CUT and response.stream is not None:
                response.stream = _cut(response.stream)
            elif fault.after:
                raise faults.refusal(fault)
            return response
        except errors.ApiError as e:
            return _refused(e)

    def _target(self, path: str) -> _Target | None:
        parts = [p for p in path.split("/") if p]
        if parts[:1] == ["api"] and len(parts) > 2 and parts[1] == "v1":
            group, rest = "", parts[2:]
        elif parts[:1] == ["apis"] and len(parts) > 3:
            group, rest = parts[1], parts[3:]
        else:
            return None
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2 and ("", rest[2]) not in {("", s) for s in ("status", "finalize")}:
            namespace, rest = rest[1], rest[2:]
        kind = BY_PLURAL.get((group, rest[0]))
        if kind is None or parts[1 if not group else 2] != kind.version or (namespace and not kind.namespaced) or len(rest) > 3:
            raise errors.no_such_resource()
        name, sub = [*rest, "", ""][1:3]
        if sub and sub not in kind.subresources:
            raise errors.no_such_resource()
        return _Target(kind, namespace, name, sub)

    def _verb(self, request: Request, target: _Target | None) -> str:
        if target is None:
            return "discover"
        if request.method == "GET":
            if target.name:
                return "get"
            return "watch" if request.query.get("watch") in ("true", "1") else "list"
        if request.method == "DELETE":
            return "delete" if target.name else "deletecollection"
        verb = {"POST": "create", "PUT": "update", "PATCH": "patch"}.get(request.method)
        if (
            verb is None
            or (verb in ("update", "patch") and not target.name)
            or (verb == "create" and target.name and not target.subresource)
        ):
            raise errors.method_not_allowed()
        return verb

    def _answer(self, request: Request, target: _Target | None, verb: str) -> Response:
        user = self.tokens.user(request.headers.get("authorization", ""))
        if target is None:
            found = discovery.document(request.path.rstrip("/") or "/")
            if found is None:
                return Response(404, b"404 page not found\n", {"Content-Type": "text/plain; charset=utf-8"})
            return Response(200, found.encode(), {"Content-Type": "text/plain"}) if isinstance(found, str) else _json(200, found)
        access.authorize(user, verb, target.kind, target.subresource, target.namespace, target.name)
        if verb == "list":
            return self._list(request, target)
        if verb == "watch":
            return self._watch(request, target)
        manager = request.query.get("fieldManager") or request.headers.get("user-agent", "unknown").partition("/")[0]
        if verb == "get":
            return self._get(request, target)
        if verb in ("delete", "deletecollection"):
            return self._delete(request, target)
        applies = verb == "patch" and "apply-patch" in request.headers.get("content-type", "") and not target.subresource
        if applies and self.api.store.get(target.kind, target.namespace, target.name) is None:
            access.authorize(user, "create", target.kind, "", target.namespace, target.name)
        return self._write(request, target, verb, manager)

    def _get(self, request: Request, t: _Target) -> Response:
        obj = self.api.get(t.kind, t.namespace, t.name)
        if t.subresource == "log":
            words = self.logs(obj, request.query.get("container", ""), request.query.get("previous") == "true")
            if "tailLines" in request.query:
                words = b"".join(words.splitlines(keepends=True)[-int(request.query["tailLines"]) :])
            return Response(200, words, {"Content-Type": "text/plain"})
        if t.subresource == "scale":
            return _json(200, self.api.scale_of(t.kind, obj))
        return self._formatted(request, t.kind, [obj], {"resourceVersion": obj["metadata"]["resourceVersion"]}, single=obj)

    def _formatted(
        self, request: Request, kind: Kind, items: list[Json], metadata: Json, *, single: Json | None = None
    ) -> Response:
        how = _wanted(request)
        if how == "Table":
            include = request.query.get("includeObject", "Metadata")
            return _json(200, table.table(kind, items, self.api.now(), include=include, metadata=metadata))
        if how.startswith("PartialObjectMetadata"):
            if single is not None:
                return _json(200, table.partial(single))
            bare = [table.partial(i) for i in items]
            return _json(200, {"kind": how, "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": bare})
        if single is not None:
            return _json(200, single)
        # A list's items say neither kind nor version on the wire.
        bare = [{k: v for k, v in i.items() if k not in ("kind", "apiVersion")} for i in items]
        return _json(200, {"kind": f"{kind.name}List", "apiVersion": kind.api_version, "metadata": metadata, "items": bare})

    def _list(self, request: Request, t: _Target) -> Response:
        query = request.query
        keep = _selection(query)
        limit = int(query.get("limit") or 0)
        with self.api.store.changed:
            wanted = query.get("resourceVersion", "")
            if wanted.isdigit() and int(wanted) > self.api.store.version:
                raise errors.ApiError(
                    504,
                    "Timeout",
                    f"Too large resource version: {wanted}, current: {self.api.store.version}",
                    details={"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]},
                    retry_after_s=1,
                )
            page = self.api.store.page(t.kind, t.namespace, limit, query.get("continue", ""))
        items = [i for i in page.items if keep(i)]
        metadata: Json = {"resourceVersion": str(page.version)}
        if page.token:
            metadata["continue"] = page.token
            if not query.get("labelSelector") and not query.get("fieldSelector"):
                metadata["remainingItemCount"] = page.remaining
        return self._formatted(request, t.kind, items, metadata)

    def _watch(self, request: Request, t: _Target) -> Response:
        keep = _selection(request.query)
        return Response(200, headers={"Content-Type": _JSON}, stream=self._events(request, t.kind, t.namespace, keep))

    def _events(self, request: Request, kind: Kind, namespace: str, keep: Callable[[Json], bool]) -> Iterator[bytes]:
        store, query = self.api.store, request.query
        ends = clock.monotonic() + float(query.get("timeoutSeconds") or _WATCH_S)
        bookmarks = query.get("allowWatchBookmarks") in ("true", "1")
        initial = query.get("sendInitialEvents") in ("true", "1")
        show = self._shower(request, kind)
        asked = query.get("resourceVersion", "")
        with store.changed:
            cuts, marks = store.cuts, store.bookmarks
            at = int(asked) if asked.isdigit() and asked != "0" and not initial else store.version
            first = store.all(kind, namespace) if initial or not asked.isdigit() or asked == "0" else []
        for obj in first:
            if keep(obj):
                yield show("ADDED", obj)
        if initial and bookmarks:
            yield show("BOOKMARK", _bookmark(kind, at, {"k8s.io/initial-events-end": "true"}))
        while True:
            with store.changed:
                try:
                    changes = store.since(kind, at)
                except errors.ApiError as e:
                    gone = e.status()
                    changes = None
                if changes is not None and not changes and not self.stopping and store.cuts == cuts and store.bookmarks == marks:
                    left = ends - clock.monotonic()
                    if left > 0:
                        store.changed.wait(left)
                        continue
                marked, marks = store.bookmarks != marks, store.bookmarks
                cut, over = store.cuts != cuts, clock.monotonic() >= ends
                now_at = store.version
            if changes is None:
                yield json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n"
                return
            for change in changes:
                at = change.version
                if namespace and change.obj["metadata"].get("namespace") != namespace:
                    continue
                event = _seen(change.type, keep(change.obj), change.before is not None and keep(change.before))
                if event:
                    yield show(event, change.obj)
            if cut or self.stopping:
                raise Dropped
            if not changes:
                at = now_at
            if bookmarks and (marked or over):
                yield show("BOOKMARK", _bookmark(kind, at, {}))
            if over:
                return

    def _shower(self, request: Request, kind: Kind) -> Callable[[str, Json], bytes]:
        how = _wanted(request)
        include = request.query.get("includeObject", "Metadata")
        head = [True]

        def show(event: str, obj: Json) -> bytes:
            shown = obj
            if how == "Table":
                items = [] if event == "BOOKMARK" else [obj]
                meta = {"resourceVersion": obj["metadata"]["resourceVersion"]}
                shown = table.table(kind, items, self.api.now(), include=include, metadata=meta, head=head[0])
                head[0] = False
            elif how.startswith("PartialObjectMetadata"):
                shown = table.partial(obj)
            return json.dumps({"type": event, "object": shown}, separators=(",", ":")).encode() + b"\n"

        return show

    def _delete(self, request: Request, t: _Target) -> Response:
        options = _body(request) if request.body else {}
        for name in ("gracePeriodSeconds", "propagationPolicy"):
            if name in request.query:
                value = request.query[name]
                options[name] = int(value) if name == "gracePeriodSeconds" else value
        dry = bool(request.query.get("dryRun") or options.get("dryRun"))
        if t.name:
            obj, gone = self.api.delete(t.kind, t.namespace, t.name, options, dry_run=dry)
            if gone and t.kind.name != "Pod":
                return _json(200, errors.success(t.name, t.kind.group, t.kind.plural, obj["metadata"]["uid"]))
            return _json(200, obj)
        keep = _selection(request.query)
        done = [i for i in self.api.store.all(t.kind, t.namespace) if keep(i)]
        for obj in done:
            self.api.delete(t.kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"], options, dry_run=dry)
        return _json(200, {"kind": f"{t.kind.name}List", "apiVersion": t.kind.api_version, "metadata": {}, "items": done})

    def _write(self, request: Request, t: _Target, verb: str, manager: str) -> Response:
        how = request.headers.get("content-type", _JSON).partition(";")[0]
        if t.subresource == "token":
            # kubectl asks for it in a format that is not read here; all that it could say is when it shall end.
            asked = _body(request) if how == _JSON else {}
            return _json(201, accounts.token(self.api, self.tokens, t.namespace, t.name, asked))
        if "protobuf" in how or "cbor" in how:
            raise errors.unsupported_media_type("application/json, application/yaml")
        body = _body(request)
        dry = bool(request.query.get("dryRun"))
        strict = request.query.get("fieldValidation", "Warn") == "Strict"
        if t.subresource in ("scale", "eviction", "binding"):
            return self._special(t, verb, body, how, manager, dry)
        if verb == "patch" and how == "application/apply-patch+yaml":
            force = request.query.get("force") in ("true", "1")
            obj, new = self.api.apply(
                t.kind,
                t.namespace,
                t.name,
                body,
                manager=request.query.get("fieldManager", ""),
                force=force,
                subresource=t.subresource,
                dry_run=dry,
            )
            return _json(201 if new else 200, obj)
        if verb == "patch":
            obj = self.api.patch(
                t.kind, t.namespace, t.name, body, how, manager=manager, subresource=t.subresource, dry_run=dry, strict=strict
            )
            return _json(200, obj)
        if how not in (_JSON, "application/yaml"):
            raise errors.unsupported_media_type("application/json, application/yaml")
        _same_kind(body, t.kind)
        body, warnings = validation.known_fields(t.kind, body, strict=strict)
        headers = {"Warning": ", ".join(f"299 - {json.dumps(w)}" for w in warnings)} if warnings else {}
        if verb == "create":
            return _json(201, self.api.create(t.kind, t.namespace, body, manager=manager, dry_run=dry), **headers)
        sub = t.subresource
        return _json(
            200, self.api.replace(t.kind, t.namespace, t.name, body, manager=manager, subresource=sub, dry_run=dry), **headers
        )

    def _special(self, t: _Target, verb: str, body: Json, how: str, manager: str, dry: bool) -> Response:
        if t.subresource == "scale":
            if verb == "patch":
                now = self.api.scale_of(t.kind, self.api.get(t.kind, t.namespace, t.name))
                asked = (body.get("metadata") or {}).get("resourceVersion", "") if isinstance(body, dict) else ""
                now["metadata"]["resourceVersion"] = asked
                body = patches.json_patch(now, body) if how == "application/json-patch+json" else patches.merge_patch(now, body)
            return _json(200, self.api.rescale(t.kind, t.namespace, t.name, body, manager=manager, dry_run=dry))
        pod = self.api.get(t.kind, t.namespace, t.name)
        if t.subresource == "eviction":
            self.api.evict(pod, body.get("deleteOptions"))
        else:
            self.api.bind(pod, body["target"]["name"])
        return _json(201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})


def _cut(stream: Iterator[bytes]) -> Iterator[bytes]:
    yield next(stream)
    raise Dropped


def _seen(event: str, now: bool, before: bool) -> str:
    """What a change is to a watch with a selector."""
    if event == "DELETED":
        return "DELETED" if before else ""
    if now:
        return "MODIFIED" if before else "ADDED"
    return "DELETED" if before else ""


def _selection(query: dict[str, str]) -> Callable[[Json], bool]:
    labels, fields = LabelSelector(query.get("labelSelector", "")), FieldSelector(query.get("fieldSelector", ""))
    return lambda obj: labels.matches(obj) and fields.matches(obj)


def _bookmark(kind: Kind, version: int, annotations: dict[str, str]) -> Json:
    meta: Json = {"resourceVersion": str(version), "creationTimestamp": None}
    if annotations:
        meta["annotations"] = annotations
    return {"kind": kind.name, "apiVersion": kind.api_version, "metadata": meta}


def _wanted(request: Request) -> str:
    """The form of an answer that a client likes best, of those that are served.

    Raises:
        ApiError: 406, it takes none of them.
    """
    accept = request.headers.get("accept", _JSON)
    for part in accept.split(","):
        media, *params = [p.strip() for p in part.split(";")]
        given = dict(p.split("=", 1) for p in params if "=" in p)
        if media in (_JSON, "application/*", "*/*") and given.get("v", "v1") == "v1":
            return given.get("as", "")
    raise errors.ApiError(406, "NotAcceptable", "only the following media types are accepted: application/json")


def _body(request: Request) -> Any:
    text = request.body
    try:
        if text.lstrip()[:1] in (b"{", b"["):
            return json.loads(text)
        found = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as e:
        raise errors.bad_request(f"couldn't get version/kind; json parse error: {e}") from None
    if not isinstance(found, dict):
        raise errors.bad_request("the body of the request is no object")
    return found


def _same_kind(body: Json, kind: Kind) -> None:
    known = {(k.api_version, k.name) for k in KINDS}
    said = (body.get("apiVersion", kind.api_version), body.get("kind", kind.name))
    if said != (kind.api_version, kind.name):
        if said not in known:
            group, _, version = said[0].rpartition("/")
            raise errors.bad_request(f'no kind "{said[1]}" is registered for version "{group}/{version}" in scheme')
        text = f"{said[1]} in version {said[0]!r} cannot be handled as a {kind.name}"
        raise errors.bad_request(text)
    body.setdefault("apiVersion", kind.api_version)
    body.setdefault("kind", kind.name)
