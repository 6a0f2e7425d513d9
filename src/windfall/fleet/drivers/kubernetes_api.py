"""What the Kubernetes driver says to an API server, and what that server's refusals mean.

The client is made anew after each refused login, so that a kubeconfig or a token that was renewed counts from the next request on.
A server that says how long it wants to be left alone is left alone for as long.
"""

from __future__ import annotations

import contextlib
import json
import logging
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import httpx2
import msgspec
import yaml
from lightkube import Client, KubeConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ApiError, ConfigError
from lightkube.core.resource import NamespacedResourceG, NamespacedSubResource
from lightkube.generic_resource import create_namespaced_resource
from lightkube.resources.apps_v1 import StatefulSet
from lightkube.resources.batch_v1 import Job
from lightkube.resources.core_v1 import Event, Node, PersistentVolumeClaim, Pod, Secret
from lightkube.types import CascadeType, PatchType

from windfall import clock, proxies
from windfall.config.kubernetes import KubernetesTable
from windfall.errors import DriverError, Permanent, Transient, Unauthorized

Json = dict[str, Any]
_T = TypeVar("_T")
MANAGER = "windfall"
_PATIENCE_MAX_S = 60.0
_WORKLOAD = create_namespaced_resource("kueue.x-k8s.io", "v1beta1", "Workload", "workloads")
_KINDS: dict[str, type[NamespacedResourceG]] = {
    "StatefulSet": StatefulSet, "Job": Job, "Pod": Pod, "Secret": Secret, "PersistentVolumeClaim": PersistentVolumeClaim,
    "Event": Event, "Workload": _WORKLOAD,
}  # fmt: skip
#: Codes that pass by themselves; any other refusal but a login's needs a person.
_PASSES = {408, 409, 410, 425, 429, 500, 502, 503, 504}
#: In refusals with such a code, or of a quota: words that tell otherwise.
_NEEDS_A_PERSON = ("field not declared in schema", "failed to create typed patch object", "database space exceeded")


# At its own level it tells of every request.
logging.getLogger("httpx2").setLevel(logging.WARNING)


class Cluster:
    """One namespace of one cluster. Every method raises Transient, Permanent or Unauthorized, and waits for the answer."""

    def __init__(
        self, table: KubernetesTable, *, transport: httpx2.BaseTransport | None = None, now: Callable[[], float] = clock.monotonic,
        kubeconfig: Callable[[], KubeConfig] | None = None,
    ) -> None:  # fmt: skip
        """``transport``: in the network's place, for tests. ``kubeconfig``: in that of the table's, asked for each new client."""
        self._kubeconfig = kubeconfig
        self._now = now
        self._table = table
        self._transport = transport
        self._client: Client | None = None
        self._lock = threading.Lock()
        self._quiet_until = float("-inf")
        self._asked_for_quiet = ""
        #: How many requests have been made.
        self.requests = 0

    @property
    def namespace(self) -> str:
        """Where everything of the site is."""
        return self._table.namespace or (self._client.namespace if self._client is not None else "") or "default"

    def apply(self, obj: Json) -> Json:
        """Server-side apply. What another manager has changed of what this driver says is taken back: it is the driver's."""
        kind = _KINDS[obj["kind"]]
        name = obj["metadata"]["name"]
        how = {"patch_type": PatchType.APPLY, "field_manager": MANAGER, "force": True}
        return _plain(self._ask(lambda c: c.patch(kind, name, obj, namespace=self.namespace, **how)))  # type: ignore[call-overload]

    def get(self, kind: str, name: str) -> Json | None:
        """One object; None if there is none."""
        found = self._unless_gone(lambda c: c.get(_KINDS[kind], name, namespace=self.namespace))
        return _plain(found) if found is not None else None

    def node(self, name: str) -> Json | None:
        """A node; None if there is none."""
        found = self._unless_gone(lambda c: c.get(Node, name))
        return _plain(found) if found is not None else None

    def all(self, kind: str, *, labels: dict[str, Any] | None = None, fields: dict[str, Any] | None = None) -> list[Json]:
        """The objects of a kind that a selector selects, in the order of their making."""
        found = self._ask(lambda c: list(c.list(_KINDS[kind], namespace=self.namespace, labels=labels, fields=fields)))
        return sorted(
            (_plain(o) for o in found), key=lambda o: (o["metadata"].get("creationTimestamp") or "", o["metadata"]["name"])
        )

    def scale(self, name: str, replicas: int) -> bool:
        """Set a StatefulSet's replicas; False if there is none."""
        patch = {"spec": {"replicas": replicas}}
        kind: type[NamespacedSubResource] = StatefulSet.Scale
        done = self._unless_gone(
            lambda c: c.patch(
                kind, name, patch, namespace=self.namespace, patch_type=PatchType.MERGE, field_manager=MANAGER
            )
        )  # fmt: skip
        return done is not None

    def delete(self, kind: str, name: str, *, grace_s: int | None = None) -> None:
        """Delete an object, and in the background what it owns. One that is not there is no error."""
        self._unless_gone(
            lambda c: c.delete(
                _KINDS[kind], name, namespace=self.namespace, grace_period=grace_s, cascade=CascadeType.BACKGROUND
            ) or True
        )  # fmt: skip

    def close(self) -> None:
        """Give connections back."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _unless_gone(self, do: Callable[[Client], _T]) -> _T | None:
        try:
            return self._ask(do)
        except _Gone:
            return None

    def _ask(self, do: Callable[[Client], _T]) -> _T:
        left_s = self._quiet_until - self._now()
        if left_s > 0:
            raise Transient(f"{self._asked_for_quiet} (asked for {left_s:.0f} s of quiet)")
        with self._meaning():
            client = self._connected()
            self.requests += 1
            return do(client)

    def _connected(self) -> Client:
        with self._lock:
            if self._client is None:
                table = self._table
                if self._kubeconfig is not None:
                    config = self._kubeconfig()
                else:
                    config = KubeConfig.from_file(table.kubeconfig) if table.kubeconfig else KubeConfig.from_env()
                one = config.get(table.context)
                if one is not None and one.user is None:
                    one = one._replace(user=User())
                way = proxies.way(one.cluster.server) if one is not None else proxies.ProxyRoute()
                if way.fault:
                    raise Permanent(f"{self._where()} cannot be reached: {way.fault}")
                timeout = httpx2.Timeout(table.timeout_s)
                self._client = Client(one, namespace=table.namespace, timeout=timeout, transport=self._transport, proxy=way.proxy)
            return self._client

    @contextlib.contextmanager
    def _meaning(self) -> Iterator[None]:
        """Turns what the client raises into the driver's errors, in the cluster's words."""
        try:
            yield
        except httpx2.HTTPStatusError as e:
            raise self._refusal(e) from None
        except httpx2.TimeoutException:
            raise Transient(f"{self._where()} has not answered for {self._table.timeout_s:g} s") from None
        except httpx2.TransportError as e:
            wrong = "certificate verify failed" in str(e).lower()
            raise (Permanent if wrong else Transient)(
                f"{self._where()} cannot be reached: {_line(str(e) or type(e).__name__)}"
            ) from None
        except ConfigError as e:
            self.close()
            login = "returned" in str(e) or "oken file" in str(e)
            raise (Unauthorized if login else Permanent)(f"{self._where()}: {_line(str(e))}") from None
        except (KeyError, AssertionError, yaml.YAMLError, ssl.SSLError, httpx2.InvalidURL, msgspec.ValidationError) as e:
            if self._client is not None:
                raise Transient(f"{self._where()} gives an answer that is no object of Kubernetes: {_line(str(e))}") from None
            raise Permanent(f"{self._where()}: its kubeconfig cannot be used ({type(e).__name__}: {_line(str(e))})") from None
        except (ValueError, msgspec.MsgspecError) as e:
            raise Transient(f"{self._where()} gives an answer that is no object of Kubernetes: {_line(str(e))}") from None
        except (OSError, subprocess.SubprocessError) as e:
            self.close()
            raise Unauthorized(f"{self._where()}: its login cannot be had: {_line(str(e))}") from None

    def _where(self) -> str:
        context = f"context {self._table.context}" if self._table.context else "the cluster"
        server = self._client.config.cluster.server if self._client is not None else ""
        return f"{context}{f' at {server}' if server else ''}"

    def _refusal(self, e: httpx2.HTTPStatusError) -> DriverError:
        code, words = e.response.status_code, _words(e)
        told = f"{words} ({code})"
        if code == 401:
            refused = Unauthorized(f"{self._where()} refuses the login: {told}")
            self.close()
            return refused
        if code == 404 and f'namespaces "{self.namespace}" not found' not in words and "could not find" not in words:
            return _Gone(told)
        waits = _retry_after_s(e)
        if waits:
            self._asked_for_quiet = told
            self._quiet_until = self._now() + min(waits, _PATIENCE_MAX_S)
        if code == 403 and "exceeded quota" in words:
            return Transient(told)
        if code in _PASSES and not any(w in words for w in _NEEDS_A_PERSON):
            return Transient(told)
        return Permanent(told)


class _Gone(Permanent):
    """What was asked for is not there."""


def _plain(obj: Any) -> Json:
    found: Json = obj.to_dict()
    return found


def _words(e: httpx2.HTTPStatusError) -> str:
    if isinstance(e, ApiError) and e.status.message:
        return _line(e.status.message)
    text = e.response.text
    with contextlib.suppress(
        ValueError, KeyError, TypeError
    ):  # a Status that says of itself that it is something else, or that it is JSON in some character set
        text = str(json.loads(text)["message"])
    text = _line(text)
    return text if text and not text.startswith("<") else e.response.reason_phrase or "no reason given"


def _line(text: str) -> str:
    """One line of bounded length."""
    text = " ".join(text.split())
    return text if len(text) <= 500 else f"{text[:497]}..."


def _retry_after_s(e: httpx2.HTTPStatusError) -> float:
    try:
        return max(0.0, float(e.response.headers.get("retry-after", "0")))
    except ValueError:
        return 0.0
