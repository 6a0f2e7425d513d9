"""The types of the published OpenAPI document: what a field is, how lists are merged, and what is wrong with an object.

The document is the one of Kubernetes 1.37 as the package `kubernetes-validate` carries it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

Json = dict[str, Any]
Node = dict[str, Any]
VERSION = "v1.37.0"
#: What the document does not say: defaults of keys of lists.
KEY_DEFAULTS = {"protocol": "TCP"}
_REF = "#/$defs/"


@cache
def definitions() -> dict[str, Node]:
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"{VERSION}-local"
    found: dict[str, Node] = json.loads((folder / "_definitions.json").read_text(encoding="utf-8"))["$defs"]
    return found


def resolve(node: Node | None) -> Node:
    """What a node refers to, with what it says itself about merging. Empty: anything may be here."""
    if not node:
        return {}
    if "$ref" in node:
        target = definitions()[node["$ref"].removeprefix(_REF)]
        own = {k: v for k, v in node.items() if k.startswith("x-kubernetes")}
        return {**target, **own} if own else target
    if "allOf" in node:
        return resolve(node["allOf"][0])
    return node


def root(model: str) -> Node:
    return definitions()[model] if model else {}


def child(node: Node, key: str) -> Node:
    """The node of a field. Nodes are parts of the document, or live as long as what is kept of them here."""
    known = _children.get((id(node), key))
    if known is None:
        known = _children[id(node), key] = (node, _child(node, key))
    return known[1]


_children: dict[tuple[int, str], tuple[Node, Node]] = {}


def _child(node: Node, key: str) -> Node:
    node = resolve(node)
    properties = node.get("properties")
    if properties is not None:
        return resolve(properties.get(key))
    extra = node.get("additionalProperties")
    return resolve(extra) if isinstance(extra, dict) else {}


def item(node: Node) -> Node:
    return resolve(resolve(node).get("items"))


def is_atomic(node: Node) -> bool:
    """Whether a map is owned and replaced as a whole. One that the document says nothing of is not."""
    return resolve(node).get("x-kubernetes-map-type") == "atomic"


def list_type(node: Node) -> str:
    return str(resolve(node).get("x-kubernetes-list-type", "atomic"))


def item_key(node: Node, value: Any) -> Json:
    keys = resolve(node).get("x-kubernetes-list-map-keys", [])
    return {k: value.get(k, KEY_DEFAULTS.get(k)) for k in keys if value.get(k, KEY_DEFAULTS.get(k)) is not None}


def unknown_fields(value: Any, node: Node, path: str = "") -> Iterator[str]:
    """Paths of fields that the type does not have, such as `spec.template.spec.containers[0].imgae`."""
    node = resolve(node)
    if isinstance(value, dict):
        known = node.get("properties")
        for key, inner in value.items():
            here = f"{path}.{key}" if path else key
            if known is not None and key not in known:
                yield here
            else:
                yield from unknown_fields(inner, child(node, key), here)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from unknown_fields(inner, item(node), f"{path}[{i}]")


def prune(value: Any, node: Node) -> Any:
    """A copy without fields that the type does not have."""
    node = resolve(node)
    if isinstance(value, dict):
        known = node.get("properties")
        return {k: prune(v, child(node, k)) for k, v in value.items() if known is None or k in known}
    if isinstance(value, list):
        return [prune(v, item(node)) for v in value]
    return value


_GO = {"integer": "int32", "boolean": "bool", "string": "string", "number": "float64"}


def wrong_types(value: Any, node: Node, path: str = "") -> Iterator[tuple[str, str, str]]:
    """(path, what it is, what it should be in Go's words) of every value of a wrong type."""
    node = resolve(node)
    wanted = node.get("type")
    allowed = [wanted] if isinstance(wanted, str) else list(wanted or [])
    kind = _json_type(value)
    if value is not None and allowed and kind not in allowed and not (kind == "integer" and "number" in allowed):
        if isinstance(value, dict | list):
            yield path, "object" if isinstance(value, dict) else "array", _GO.get(allowed[0], allowed[0])
        else:
            yield (
                path,
                "string" if kind == "string" else kind.replace("integer", "number").replace("boolean", "bool"),
                _go(allowed[0], node),
            )
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from wrong_types(inner, child(node, key), f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in value:
            yield from wrong_types(inner, item(node), path)


def _go(name: str, node: Node) -> str:
    return "int64" if node.get("format") == "int64" else _GO.get(name, name)


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    if isinstance(value, list):
        return "array"
    return "object"


def missing_fields(value: Any, node: Node, path: str = "") -> Iterator[str]:
    """Required fields that are not there."""
    node = resolve(node)
    if isinstance(value, dict):
        for key in node.get("required", ()):
            if value.get(key) is None:
                yield f"{path}.{key}" if path else key
        for key, inner in value.items():
            yield from missing_fields(inner, child(node, key), f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from missing_fields(inner, item(node), f"{path}[{i}]")


def copy(value: Any) -> Any:
    """A deep copy of a JSON value."""
    if isinstance(value, dict):
        return {k: copy(v) for k, v in value.items()}
    if isinstance(value, list):
        return [copy(v) for v in value]
    return value
