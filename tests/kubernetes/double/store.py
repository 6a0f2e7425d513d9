"""What etcd is to an API server: objects under one counting resource version, their history, and snapshots for long lists.

An object that is stored is never changed again; who wants to change one writes a new one.
"""

from __future__ import annotations

import base64
import bisect
import json
import threading
from dataclasses import dataclass

from kubernetes.double import errors
from kubernetes.double.kinds import KINDS, Kind
from kubernetes.double.schema import Json

Key = tuple[str, str]
_SNAPSHOTS = 50


@dataclass(frozen=True)
class Change:
    """One event of a watch. ``before`` is what the object was, for watches with a selector."""

    version: int
    type: str
    obj: Json
    before: Json | None


@dataclass(frozen=True)
class Page:
    items: list[Json]
    version: int
    token: str
    remaining: int | None


class Store:
    def __init__(self, *, first_version: int = 0, history: int = 10_000) -> None:
        self.version = first_version
        self.changed = threading.Condition(threading.RLock())
        self._history_length = history
        self._objects: dict[str, dict[Key, Json]] = {k.qualified: {} for k in KINDS}
        self._history: dict[str, list[Change]] = {k.qualified: [] for k in KINDS}
        #: Watches from before this version have lost events.
        self._oldest: dict[str, int] = {k.qualified: first_version for k in KINDS}
        self._snapshots: dict[tuple[str, int], list[Json]] = {}
        #: Goes up when watches have to look again for another reason than a change.
        self.pokes = 0
        self.bookmarks = 0
        self.cuts = 0

    def get(self, kind: Kind, namespace: str, name: str) -> Json | None:
        return self._objects[kind.qualified].get((namespace, name))

    def all(self, kind: Kind, namespace: str = "") -> list[Json]:
        """Objects of a kind in order of namespace and name; all namespaces if ``namespace`` is empty."""
        with self.changed:
            found = self._objects[kind.qualified]
            return [found[k] for k in sorted(found) if not namespace or k[0] == namespace]

    def put(self, kind: Kind, obj: Json) -> Json:
        return self._commit(kind, obj, "")

    def remove(self, kind: Kind, obj: Json) -> Json:
        return self._commit(kind, obj, "DELETED")

    def _commit(self, kind: Kind, obj: Json, how: str) -> Json:
        with self.changed:
            key = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
            objects = self._objects[kind.qualified]
            before = objects.get(key)
            self.version += 1
            obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
            if how == "DELETED":
                objects.pop(key, None)
            else:
                objects[key] = obj
                how = "MODIFIED" if before else "ADDED"
            history = self._history[kind.qualified]
            history.append(Change(self.version, how, obj, before))
            if len(history) > self._history_length:
                self._oldest[kind.qualified] = history[len(history) // 2].version
                del history[: len(history) // 2 + 1]
            self.changed.notify_all()
            return obj

    def compact(self) -> None:
        """Forget all history: watches and lists from earlier versions are told 410."""
        with self.changed:
            for name, history in self._history.items():
                self._oldest[name] = self.version
                history.clear()
            self._snapshots.clear()
            self.changed.notify_all()

    def since(self, kind: Kind, version: int) -> list[Change]:
        """Changes after a version.

        Raises:
            ApiError: 410, some of them are forgotten.
        """
        oldest = self._oldest[kind.qualified]
        if version < oldest:
            raise errors.too_old(version, oldest)
        history = self._history[kind.qualified]
        return history[bisect.bisect_right(history, version, key=lambda c: c.version) :]

    def page(self, kind: Kind, namespace: str, limit: int, token: str) -> Page:
        """A piece of a list as it was when its first piece was read."""
        with self.changed:
            start = 0
            version = self.version
            if token:
                version, start = _open(token)
                items = self._snapshots.get((f"{kind.qualified}/{namespace}", version))
                if items is None:
                    raise errors.expired(
                        "The provided continue parameter is too old to display a consistent list result. You can start a new list "
                        "without the continue parameter, or use the continue token in this response to retrieve the remainder of "
                        "the results. Continuing with the provided token results in an inconsistent list - objects that were "
                        "created, modified, or deleted between the time the first chunk was returned and now may show up in the "
                        "list."
                    )
            else:
                items = self.all(kind, namespace)
            end = start + limit if limit else len(items)
            more = end < len(items)
            if more:
                self._snapshots[(f"{kind.qualified}/{namespace}", version)] = items
                if len(self._snapshots) > _SNAPSHOTS:
                    del self._snapshots[next(iter(self._snapshots))]
            return Page(items[start:end], version, _seal(version, end) if more else "", len(items) - end if more else None)

    def bookmark(self) -> None:
        """Send every watch that wants them a bookmark."""
        with self.changed:
            self.bookmarks += 1
            self.changed.notify_all()

    def cut_watches(self) -> None:
        """Break every open watch off, as a load balancer does."""
        with self.changed:
            self.cuts += 1
            self.changed.notify_all()


def _seal(version: int, start: int) -> str:
    return base64.urlsafe_b64encode(json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": start}).encode()).decode()


def _open(token: str) -> tuple[int, int]:
    try:
        found = json.loads(base64.urlsafe_b64decode(token))
        return int(found["rv"]), int(found["start"])
    except (ValueError, KeyError, TypeError):
        raise errors.bad_request("continue key is not valid") from None
