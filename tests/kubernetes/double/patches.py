"""Patches: JSON merge patch (RFC 7386), JSON patch (RFC 6902), and the strategic merge patch that `kubectl` sends."""

from __future__ import annotations

from typing import Any

from kubernetes.double import errors, schema
from kubernetes.double.schema import Node

ACCEPTED = ", ".join(
    f"application/{t}" for t in ("json-patch+json", "merge-patch+json", "strategic-merge-patch+json", "apply-patch+yaml")
)


def merge_patch(live: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return schema.copy(patch)
    out = dict(live) if isinstance(live, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merge_patch(out.get(key), value)
    return out


def strategic(live: Any, patch: Any, node: Node) -> Any:
    """Lists with a merge key are merged by it, sets of plain values united, everything else replaced; `$` directives obeyed."""
    if not isinstance(patch, dict):
        return schema.copy(patch)
    out = dict(live) if isinstance(live, dict) else {}
    how = patch.get("$patch")
    if how == "replace":
        return schema.copy({k: v for k, v in patch.items() if k != "$patch"})
    if how == "delete":
        return {}
    if "$retainKeys" in patch:
        out = {k: v for k, v in out.items() if k in patch["$retainKeys"]}
    for key, value in patch.items():
        if key in ("$patch", "$retainKeys") or key.startswith("$setElementOrder/"):
            continue
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.split("/", 1)[1]
            out[name] = [v for v in out.get(name, []) if v not in value]
        elif value is None:
            out.pop(key, None)
        else:
            inner = schema.child(node, key)
            out[key] = _list(out.get(key), value, inner) if isinstance(value, list) else strategic(out.get(key), value, inner)
    for key, order in patch.items():
        if key.startswith("$setElementOrder/"):
            name = key.split("/", 1)[1]
            _sort(out, name, order, schema.child(node, name))
    return out


def _list(live: Any, patch: list[Any], node: Node) -> list[Any]:
    if "merge" not in str(schema.resolve(node).get("x-kubernetes-patch-strategy", "")):
        return list(schema.copy(patch))
    out = list(live or [])
    key = schema.resolve(node).get("x-kubernetes-patch-merge-key")
    if key is None:
        return [*out, *(v for v in patch if v not in out)]
    for change in patch:
        if change == {"$patch": "replace"}:
            return [schema.copy(c) for c in patch if "$patch" not in c]
        if key not in change:
            raise errors.bad_request(f"map: {change} does not contain declared merge key: {key}")
        at = next((i for i, v in enumerate(out) if v.get(key) == change[key]), None)
        if change.get("$patch") == "delete":
            out = [v for i, v in enumerate(out) if i != at]
        elif at is None:
            out.append(schema.copy(change))
        else:
            out[at] = strategic(out[at], change, schema.item(node))
    return out


def _sort(out: dict[str, Any], name: str, order: list[Any], node: Node) -> None:
    key = schema.resolve(node).get("x-kubernetes-patch-merge-key")
    place = {(o[key] if key and isinstance(o, dict) else o): i for i, o in enumerate(order)}
    if isinstance(out.get(name), list):
        out[name] = sorted(out[name], key=lambda v: place.get(v.get(key) if key and isinstance(v, dict) else v, len(place)))


def json_patch(live: Any, operations: Any) -> Any:
    if not isinstance(operations, list):
        raise errors.bad_request("error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    out = schema.copy(live)
    for op in operations:
        *parents, last = [p.replace("~1", "/").replace("~0", "~") for p in op["path"].split("/")[1:]]
        at = out
        try:
            for step in parents:
                at = at[int(step)] if isinstance(at, list) else at[step]
            _operate(at, last, op)
        except (KeyError, IndexError, ValueError, TypeError):
            raise errors.invalid(
                "",
                "",
                "",
                [
                    (
                        op["path"],
                        "FieldValueInvalid",
                        "the server rejected our request due to an error in "
                        f"our request: {op['op']} operation does not apply: doc is missing path",
                    )
                ],
            ) from None
    return out


def _operate(at: Any, last: str, op: dict[str, Any]) -> None:
    if op["op"] == "test":
        if (at[int(last)] if isinstance(at, list) else at.get(last)) != op["value"]:
            raise errors.ApiError(422, "Invalid", f"testing value {op['path']} failed: test failed")
    elif op["op"] == "remove":
        del at[int(last) if isinstance(at, list) else last]
    elif isinstance(at, list) and op["op"] == "add":
        at.insert(len(at) if last == "-" else int(last), op["value"])
    else:
        if op["op"] == "replace" and last not in at and not isinstance(at, list):
            raise KeyError(last)
        at[int(last) if isinstance(at, list) else last] = op["value"]
