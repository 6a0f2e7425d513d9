"""The OpenAPI document of the JSON behind the page. Its schemas are those of the typed values that the answers are made of."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import TypeAdapter

from windfall import __version__
from windfall.run.requests import KINDS, LIVE_KEYS
from windfall.ui.web.look import Whole
from windfall.ui.web.looks import ListedRun
from windfall.view.against import Other
from windfall.view.curves import Loss, Rates
from windfall.view.event_pages import EventPage
from windfall.view.instant import Instant
from windfall.view.lanes import Lane

_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}


def _schemas(*kinds: type) -> dict[str, Any]:
    """JSON schemas of dataclasses, under their names, with what they are made of."""
    found: dict[str, Any] = {}
    for kind in kinds:
        made = TypeAdapter(kind).json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
        found |= made.pop("$defs", {})
        found[kind.__name__] = made
    return {name: _without_places(s) for name, s in found.items()}


def _without_places(schema: Any) -> Any:
    """Lists of numbers at fixed places as lists of numbers: not every reader of 3.1 knows `prefixItems`."""
    if isinstance(schema, list):
        return [_without_places(x) for x in schema]
    if not isinstance(schema, dict):
        return schema
    made = {k: _without_places(v) for k, v in schema.items() if k != "prefixItems"}
    return {**made, "items": {"type": "number"}} if "prefixItems" in schema else made


def _parameter(name: str, about: str, schema: dict[str, Any], *, of: str = "query", required: bool = False) -> dict[str, Any]:
    more = {"explode": True, "style": "form"} if schema.get("type") == "array" else {}
    return {"name": name, "in": of, "required": required or of == "path", "description": about, "schema": schema, **more}


def _whole(name: str, about: str, least: int, most: int) -> dict[str, Any]:
    return _parameter(name, about, {"type": "integer", "minimum": least, "maximum": most})


_NUMBER = {"type": "number", "minimum": 0, "maximum": 253402300799}
_TEXT = {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}Z$"}


def _instant(name: str, about: str, *, required: bool = False) -> dict[str, Any]:
    return _parameter(
        name, about + " (run time: Unix seconds, or as 2026-01-11T17:14Z)", {"anyOf": [_NUMBER, _TEXT]}, required=required
    )


_REFUSALS = {
    "400": "a parameter is wrong", "401": "the token is missing or wrong", "403": "from another site", "404": "it is not there",
    "421": "asked for by another host's name", "503": "it cannot be read now",
}  # fmt: skip

_WAITS_FOR = {"type": "string", "description": "what a request that waits waits for; empty where none does"}


def _get(about: str, parameters: list[dict[str, Any]], schema: dict[str, Any], *, of_run: bool = True) -> dict[str, Any]:
    run = [_parameter("run", "the run's name in the list of runs", {"type": "string", "minLength": 1}, of="path")] if of_run else []
    answers: dict[str, Any] = {"200": {"description": about, "content": {"application/json": {"schema": schema}}}}
    answers["304"] = {"description": "the asker has it already (If-None-Match)"}
    for status, why in _REFUSALS.items():
        answers[status] = {"description": why, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    return {"get": {"summary": about, "parameters": [*run, *parameters], "responses": answers}}


def _asked() -> dict[str, Any]:
    """A request with its outcome, as answers hold it."""
    text, number = {"type": "string"}, {"type": ["number", "null"]}
    maybe = {"type": ["string", "null"]}
    return _object(
        id=text, kind=text, site=maybe, who=text, why=text, for_s=number, key=text, value={}, extend=maybe, expect=maybe, at=number,
        state={"enum": ["waiting", "applied", "refused"]}, reason=text, t_run=number, t_wall=number, what=text,
    )  # fmt: skip


def _ask() -> dict[str, Any]:
    """A request as it is sent."""
    texts = {
        "site": "of hold, release and drain", "who": "who asks", "why": "the reason, kept with the run",
        "for": "for how much run time: 90s, 30m, 2h, 1.5d", "key": "of set, with or without its table: " + ", ".join(LIVE_KEYS),
        "expect": "what the asker saw; refused if that is not so any more",
    }  # fmt: skip
    more = {k: {"type": ["string", "null"], "maxLength": 500, "description": about} for k, about in texts.items()}
    return {
        "type": "object", "required": ["kind"], "additionalProperties": False,
        "properties": {
            "kind": {"enum": list(KINDS)}, **more, "for_s": {"type": ["number", "null"], "description": "the same in seconds"},
            "value": {"description": "of set: a number, a text, or null to take it away"},
            "extend": {"enum": ["warmdown", "hold", None], "description": "of a larger budget after its warm-down has begun"},
            "id": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$", "description": "the asker's: asked twice, done once"},
        },
    }  # fmt: skip


def _post() -> dict[str, Any]:
    answers = {
        status: {"description": why, "content": {"application/json": {"schema": _ref("Error")}}}
        for status, why in {
            **_REFUSALS, "413": "it is too long", "415": "it is no JSON by its header",
            "422": "it can be seen that it will be refused",
        }.items()
    }  # fmt: skip
    taken = _object(request=_ref("Asked"), waits_for=_WAITS_FOR)
    return {
        "post": {
            "summary": "Ask something of the run: durable, done once, at a tick. Takes the token",
            "parameters": [_parameter("run", "the run's name in the list of runs", {"type": "string", "minLength": 1}, of="path")],
            "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("Ask")}}},
            "responses": {"202": {"description": "left", "content": {"application/json": {"schema": taken}}}, **answers},
            "security": [{"token": []}],
        }
    }


def _ref(kind: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{kind}"}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _array(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


@cache
def document() -> dict[str, Any]:
    """The document."""
    seconds, span = {"type": "number"}, [_instant("from", "from when"), _instant("to", "until when")]
    points = _whole("points", "at most about so many points; least and greatest are kept", 10, 2000)
    block = {"type": "array", "items": seconds, "minItems": 3, "maxItems": 3}
    of = "/api/v1/runs/{run}"
    schemas = _schemas(Whole, ListedRun, Other, Loss, Rates, EventPage, Instant, Lane)
    loss = {**schemas["Loss"]["properties"], "budget": {"type": "integer"}}
    rates = {**schemas["Rates"]["properties"], "from": seconds, "to": seconds}
    paths = {
        "/api/v1/runs": _get(
            "Runs, the one last written to first",
            [_parameter("search", "part of the name", {"type": "string", "maxLength": 200}),
             _whole("offset", "how many to pass over", 0, 2**53), _whole("limit", "how many", 1, 100)],
            _object(total={"type": "integer"}, runs=_array(_ref("ListedRun"))), of_run=False,
        ),
        of: _get("Where a run stands", [], _ref("Whole")),
        f"{of}/lanes": _get(
            "What regions said and what sites did",
            [*span, points, _parameter("site", "only these sites", _array({"type": "string"}))],
            _object(
                **{"from": seconds, "to": seconds}, blocks=_array({"type": "string"}), modes=_array({"type": "string"}),
                mode=_array(block), lanes=_array(_ref("Lane")),
            ),
        ),
        f"{of}/loss": _get(
            "What was learned, over tokens",
            [_whole("from_tokens", "from so many tokens on", 0, 2**53), _whole("to_tokens", "until so many", 0, 2**53), points],
            {"type": "object", "required": list(loss), "properties": loss},
        ),
        f"{of}/emissions": _get(
            "Cumulative kg CO2, and what they are measured against", [*span, points],
            _object(
                **{"from": seconds, "to": seconds}, t=_array(seconds), kg=_array(seconds), against=_array(_ref("Other")),
                against_state={"enum": ["there", "loading", "not computable"]}, against_why={"type": "string"},
            ),
        ),
        f"{of}/rates": _get(
            "Throughput, stalls and bytes by site", [*span, _whole("parts", "into so many equal parts", 1, 500)],
            {"type": "object", "required": list(rates), "properties": rates},
        ),
        f"{of}/events": _get(
            "Events in words, newest first",
            [_whole("before", "only those with a smaller id", 0, 2**53), _whole("limit", "at most so many", 1, 500),
             _parameter("kind", "only of these kinds", {**_array({"type": "string"}), "maxItems": 100}),
             _parameter("site", "only of this site; run: of none", {"type": "string"}),
             _parameter("search", "words that all have to be in it", {"type": "string", "maxLength": 200}),
             _instant("at", "only until then")],
            _ref("EventPage"),
        ),
        f"{of}/moment": _get("How things stood at an instant, and why", [_instant("t", "when", required=True)], _ref("Instant")),
        f"{of}/samples/{{version}}": _get(
            "What a version wrote",
            [_parameter("version", "the version", {"type": "integer", "minimum": 0, "maximum": 10**15 - 1}, of="path")],
            _object(
                version={"type": "integer"}, val_bpb={"type": ["number", "null"]}, prompt={"type": "string"},
                text={"type": "string"},
            ),
        ),
        f"{of}/requests": {
            **_get(
                "What was asked of the run, and what has become of it",
                [_whole("limit", "the last so many that were taken up", 1, 500)],
                _object(requests=_array(_ref("Asked")), waits_for=_WAITS_FOR),
            ),
            **_post(),
        },
        f"{of}/requests/{{id}}": _get(
            "What has become of a request",
            [_parameter("id", "the request's id", {"type": "string", "minLength": 1}, of="path")],
            _object(request=_ref("Asked"), waits_for=_WAITS_FOR),
        ),
        "/api/v1/openapi.json": _get("This document", [], {"type": "object"}, of_run=False),
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Windfall dashboard", "version": __version__,
            "description": "What a run's page is made of. Instants are run time in Unix seconds unless they say wall. "
            "`/api/v1/runs/{run}/stream` is a stream of server-sent events (`words`, `happened`, `missed`) and not described here.",
        },
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Error": _ERROR, "Asked": _asked(), "Ask": _ask()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }  # fmt: skip
