"""Who owns which field: server-side apply, and what other writes do to the owners.

A set of fields is a set of paths; an element of a path is ("f", name), ("k", keys of a list's item as JSON) or ("v", value of a
set's item as JSON), as in `FieldsV1`. The rules are those of the published description of server-side apply.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from kubernetes.double import errors, schema
from kubernetes.double.schema import Json, Node

Path = tuple[tuple[str, str], ...]
_ITEM = object()
_META = ("apiVersion", "kind")
_OWN_META = (
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "generation",
    "managedFields",
    "resourceVersion",
    "generateName",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
#: What nobody owns, at the start of a path.
_STRIPPED = {(("f", name),) for name in _META} | {(("f", "metadata"), ("f", name)) for name in _OWN_META}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def leaves(value: Any, node: Node, path: Path = ()) -> dict[Path, Any]:
    """Every field of a value by its path: plain values, atomic maps and lists as a whole, and items of lists by themselves."""
    out: dict[Path, Any] = {}
    _walk(value, node, path, out)
    return out


def _walk(value: Any, node: Node, path: Path, out: dict[Path, Any]) -> None:
    if isinstance(value, dict) and value and not (path and schema.is_atomic(node)):
        for key, inner in value.items():
            _walk(inner, schema.child(node, key), (*path, ("f", key)), out)
        return
    if isinstance(value, list) and value:
        how = schema.list_type(node)
        if how == "map" and all(isinstance(i, dict) for i in value):
            inner_node = schema.item(node)
            for inner in value:
                here = (*path, ("k", _canonical(schema.item_key(node, inner))))
                out[here] = _ITEM
                for key, v in inner.items():
                    _walk(v, schema.child(inner_node, key), (*here, ("f", key)), out)
            return
        if how == "set":
            for inner in value:
                out[(*path, ("v", _canonical(inner)))] = _ITEM
            return
    if path:
        out[path] = value


def show(path: Path) -> str:
    """A path as in a conflict's message: `.spec.template.spec.containers[name="x"].image`."""
    words = []
    for kind, text in path:
        if kind == "f":
            words.append(f".{text}")
        elif kind == "k":
            words.append("[" + ",".join(f"{k}={json.dumps(v)}" for k, v in sorted(json.loads(text).items())) + "]")
        else:
            words.append(f"[={text}]")
    return "".join(words)


def encode(paths: set[Path]) -> Json:
    tree: Json = {}
    for path in sorted(paths):
        at = tree
        for kind, text in path:
            at = at.setdefault(f"{kind}:{text}", {})
        at["."] = {}
    return _without_lone_dots(tree)


def _without_lone_dots(tree: Json) -> Json:
    return {k: (v if k == "." else {} if set(v) == {"."} else _without_lone_dots(v)) for k, v in tree.items()}


def decode(tree: Json, path: Path = ()) -> set[Path]:
    if not tree:
        return {path} if path else set()
    found: set[Path] = set()
    for key, inner in tree.items():
        if key == ".":
            found.add(path)
        else:
            kind, text = key.split(":", 1)
            found |= decode(inner, (*path, (kind, text)))
    return found


@dataclass
class Owner:
    manager: str
    operation: str
    api_version: str
    subresource: str
    time: str
    fields: set[Path] = field(default_factory=set)

    @property
    def identity(self) -> tuple[str, str, str, str]:
        return (self.manager, self.operation, self.api_version, self.subresource)

    def told(self) -> str:
        words = json.dumps(self.manager)
        if self.subresource:
            words += f' with subresource "{self.subresource}"'
        if self.operation == "Update":
            words += f" using {self.api_version}"
            if self.time:
                words += f" at {self.time}"
        return words


def owners_of(obj: Json) -> list[Owner]:
    entries = obj.get("metadata", {}).get("managedFields") or []
    return [
        Owner(
            e["manager"],
            e["operation"],
            e["apiVersion"],
            e.get("subresource", ""),
            e.get("time", ""),
            decode(e.get("fieldsV1", {})),
        )
        for e in entries
        if e
    ]


def put_owners(obj: Json, owners: list[Owner]) -> None:
    entries = []
    for o in sorted((o for o in owners if o.fields), key=lambda o: (o.operation, o.time, o.manager, o.subresource)):
        entry = {"manager": o.manager, "operation": o.operation, "apiVersion": o.api_version}
        if o.time:
            entry["time"] = o.time
        entry |= {"fieldsType": "FieldsV1", "fieldsV1": encode(o.fields)}
        if o.subresource:
            entry["subresource"] = o.subresource
        entries.append(entry)
    obj["metadata"]["managedFields"] = entries


def _owned(found: dict[Path, Any], subresource: str) -> dict[Path, Any]:
    """Without what nobody owns here: names and the like, and `status` except through its own subresource."""

    def stays(path: Path) -> bool:
        if path[:1] in _STRIPPED or path[:2] in _STRIPPED:
            return False
        return (path[0][1] == "status") == (subresource == "status") or path[0][1] not in ("status", "spec", "metadata")

    return {p: v for p, v in found.items() if stays(p)}


def updated(old: Json | None, new: Json, node: Node, manager: str, api_version: str, subresource: str, now: str) -> None:
    """Work out ``new``'s owners after a create, replace or patch: what changed belongs to ``manager``, and to nobody else."""
    before = leaves(old, node) if old is not None else {}
    after = leaves(new, node)
    changed = {p for p, v in after.items() if p not in before or not _same(before[p], v)}
    gone = set(before) - set(after)
    owners = owners_of(old) if old is not None else []
    identity = (manager, "Update", api_version, subresource)
    mine = next((o for o in owners if o.identity == identity), None)
    changed_by_me = set(_owned({p: after[p] for p in changed}, subresource))
    for owner in owners:
        if owner is not mine:
            owner.fields -= changed_by_me | gone
    if mine is None:
        mine = Owner(manager, "Update", api_version, subresource, now)
        owners.append(mine)
    fields = (mine.fields | changed_by_me) - gone
    if fields != mine.fields or changed_by_me:
        mine.time = now
    mine.fields = fields
    put_owners(new, owners)


def _same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and a == b)


def applied(
    live: Json | None, config: Json, node: Node, manager: str, api_version: str, subresource: str, now: str, *, force: bool
) -> Json:
    """The object after ``manager`` applied ``config``, with its owners.

    Raises:
        ApiError: 409, another manager owns a field that would change.
    """
    wanted = set(_owned(leaves(config, node), subresource))
    owners = owners_of(live) if live is not None else []
    identity = (manager, "Apply", api_version, subresource)
    mine = next((o for o in owners if o.identity == identity), None)
    others = [o for o in owners if o is not mine]
    base = live if live is not None else {}
    merged = merge(base, config, node)
    before, after = leaves(base, node), leaves(merged, node)
    changing = {p for p in wanted if p in before and not _same(before[p], after.get(p))}
    clashes = [(o, sorted(o.fields & changing)) for o in others if o.fields & changing]
    if clashes and not force:
        raise _conflict(clashes)
    for owner, paths in clashes:
        owner.fields -= set(paths)
    if mine is not None:
        theirs = set().union(*(o.fields for o in others)) if others else set()
        _give_up(merged, mine.fields - wanted - theirs, theirs | wanted, node)
    else:
        mine = Owner(manager, "Apply", api_version, subresource, now)
        owners.append(mine)
    if wanted != mine.fields or changing:
        mine.time = now
    mine.fields = wanted
    put_owners(merged, owners)
    return merged


def _conflict(clashes: list[tuple[Owner, list[Path]]]) -> errors.ApiError:
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {o.told()}", "field": show(p)}
        for o, paths in clashes
        for p in paths
    ]
    if len(causes) == 1:
        owner, (path,) = clashes[0]
        message = f"Apply failed with 1 conflict: conflict with {owner.told()}: {show(path)}"
    else:
        lines = []
        for owner, paths in sorted(clashes, key=lambda c: c[0].manager):
            lines += [f"conflicts with {owner.told()}:", *(f"- {show(p)}" for p in paths)]
        message = f"Apply failed with {len(causes)} conflicts: " + "\n".join(lines)
    return errors.ApiError(409, "Conflict", message, details={"causes": causes})


def merge(live: Any, config: Any, node: Node, *, top: bool = True) -> Any:
    """``config`` laid over ``live``: maps and keyed lists are merged, everything else is replaced."""
    if isinstance(config, dict) and isinstance(live, dict) and (top or not schema.is_atomic(node)):
        merged = dict(live)
        for key, value in config.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = merge(live[key], value, schema.child(node, key), top=False) if key in live else schema.copy(value)
        return merged
    if isinstance(config, list) and isinstance(live, list):
        how = schema.list_type(node)
        if how == "set":
            return [*live, *(v for v in config if v not in live)]
        if how == "map":
            return _merge_items(live, config, node)
    return schema.copy(config)


def _merge_items(live: list[Any], config: list[Any], node: Node) -> list[Any]:
    there = {_canonical(schema.item_key(node, i)): i for i in live}
    merged = []
    for inner in config:
        key = _canonical(schema.item_key(node, inner))
        merged.append(merge(there.pop(key), inner, schema.item(node), top=False) if key in there else schema.copy(inner))
    return [*merged, *there.values()]


def _give_up(merged: Json, paths: set[Path], kept: set[Path], node: Node) -> None:
    """Take away what its last owner no longer says. An item of a list goes as a whole, or keeps its keys."""
    gone: list[Path] = []
    for path in sorted(paths, key=len):
        if any(path[: len(g)] == g for g in gone):
            continue
        if any(p[: len(path)] == path for p in kept):
            continue
        if path[-1][0] == "f" and path[-2:-1] and path[-2][0] == "k" and path[-1][1] in json.loads(path[-2][1]):
            continue
        gone.append(path)
        _remove(merged, path, node, kept, ())


def _remove(value: Any, path: Path, node: Node, kept: set[Path], here: Path) -> bool:
    """Take a field away, in copies of what is on the way to it. True if what it was in is empty now, and nobody says it."""
    kind, text = path[0]
    if kind == "f":
        if not isinstance(value, dict) or text not in value:
            return False
        if len(path) == 1:
            del value[text]
        else:
            value[text] = schema.copy(value[text])
            if _remove(value[text], path[1:], schema.child(node, text), kept, (*here, path[0])):
                del value[text]
        return not value and here not in kept
    if not isinstance(value, list):
        return False
    for i, inner in enumerate(value):
        name = _canonical(schema.item_key(node, inner)) if kind == "k" else _canonical(inner)
        if name == text:
            if len(path) == 1:
                del value[i]
            else:
                _remove(inner, path[1:], schema.item(node), kept, (*here, path[0]))
            break
    return not value and here not in kept
