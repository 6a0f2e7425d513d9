"""What the exalsius driver says to that control plane, and what its refusals mean.

The official client makes the requests. Its answers are read here rather than by its models, which refuse a whole list for one node
whose status they do not know.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import Any

import urllib3
from exalsius_api_client import ApiClient, ClustersApi, Configuration, NodesApi
from exalsius_api_client.exceptions import ApiException, OpenApiException
from exalsius_api_client.models.cluster_add_node_request import ClusterAddNodeRequest
from exalsius_api_client.models.cluster_node_to_add import ClusterNodeToAdd

from windfall import clock, proxies
from windfall.config.exalsius import ExalsiusTable
from windfall.errors import DriverError, Permanent, Transient, Unauthorized
from windfall.fleet.drivers.asking import ask, last_line
from windfall.grid.credentials import by_reference

Json = dict[str, Any]
_PATIENCE_MAX_S = 60.0
#: Of an answer no more than this is read (bytes).
_MOST = 20_000_000
#: How long a renewal that did not help is not tried again.
_RENEW_AGAIN_S = 60.0
#: Refusals that pass by themselves. A conflict is: somebody else was at it, so look again.
_PASSES = {408, 409, 425, 429}


class OutOfDate(Transient):
    """The node or cluster is not in the state that was read before (409)."""


class NotThere(Permanent):
    """The node or cluster is not there (404)."""


class ControlPlane:
    """One account at exalsius. Every method raises Transient, Permanent or Unauthorized, and waits for the answer."""

    def __init__(self, table: ExalsiusTable, *, now: Callable[[], float] = clock.monotonic) -> None:
        self._table, self._now = table, now
        self._client: ApiClient | None = None
        self._lock = threading.Lock()
        self._quiet_until = float("-inf")
        self._asked_for_quiet = ""
        self._renew_after = float("-inf")
        #: How many requests have been made.
        self.requests = 0

    def clusters(self) -> list[Json]:
        """All clusters of the account."""
        return _rows(self._ask(lambda c, **how: ClustersApi(c).list_clusters_without_preload_content(**how)), "clusters")

    def kubeconfig(self, cluster: str) -> str:
        """The kubeconfig of a cluster, as YAML. It is a secret."""
        answer = self._ask(lambda c, **how: ClustersApi(c).get_cluster_kubeconfig_without_preload_content(cluster, **how))
        text = answer.get("kubeconfig")
        if not isinstance(text, str) or not text:
            raise Transient("exalsius gives no kubeconfig for the cluster yet")
        return text

    def members(self, cluster: str) -> set[str]:
        """Ids of the worker nodes that a cluster has, those too that are still on their way in or out."""
        answer = self._ask(lambda c, **how: ClustersApi(c).get_nodes_without_preload_content(cluster, **how))
        ids = answer.get("worker_node_ids")
        if not isinstance(ids, list):
            raise _strange("worker_node_ids")
        return {str(i) for i in ids}

    def nodes(self) -> list[Json]:
        """The nodes of the pool."""
        return _rows(self._ask(lambda c, **how: NodesApi(c).list_nodes_without_preload_content(**how)), "nodes")

    def add(self, cluster: str, nodes: list[str]) -> None:
        """Ask for nodes to join a cluster as workers, which takes minutes."""
        wanted = ClusterAddNodeRequest(nodes_to_add=[ClusterNodeToAdd(node_id=n, node_role="WORKER") for n in nodes])
        self._ask(lambda c, **how: ClustersApi(c).add_nodes_without_preload_content(cluster, wanted, **how))

    def remove(self, cluster: str, node: str) -> None:
        """Ask for a node to leave a cluster, which takes minutes."""
        self._ask(lambda c, **how: ClustersApi(c).delete_node_from_cluster_without_preload_content(cluster, node, **how))

    # -- one request -----------------------------------------------------------------------------------------

    def _ask(self, do: Callable[..., Any]) -> Json:
        left_s = self._quiet_until - self._now()
        if left_s > 0:
            raise Transient(f"{self._asked_for_quiet} (asked for {left_s:.0f} s of quiet)")
        try:
            return self._once(do)
        except Unauthorized:
            if not self._table.renew_command or self._now() < self._renew_after:
                raise
        self._renew_after = self._now() + _RENEW_AGAIN_S
        self._renew()
        answer = self._once(do)
        self._renew_after = float("-inf")
        return answer

    def _once(self, do: Callable[..., Any]) -> Json:
        client = self._connected()
        client.configuration.access_token = self._token()
        self.requests += 1
        try:
            response = do(client, _request_timeout=self._table.timeout_s)
            status, headers, body = response.status, response.headers, response.read(_MOST, decode_content=True)
            response.release_conn()
        except urllib3.exceptions.NewConnectionError as e:  # for urllib3 this is a timeout, too
            raise Transient(f"{self._table.host} cannot be reached: {last_line(str(e))}") from None
        except urllib3.exceptions.TimeoutError:
            raise Transient(f"{self._table.host} has not answered for {self._table.timeout_s:g} s") from None
        except (urllib3.exceptions.HTTPError, ApiException, OSError) as e:
            told = str(e.reason if isinstance(e, ApiException) else e)
            kind = Permanent if "certificate verify failed" in told.lower() else Transient
            raise kind(f"{self._table.host} cannot be reached: {last_line(' '.join(told.split()))}") from None
        except (OpenApiException, ValueError) as e:
            raise Permanent(f"{self._table.host} cannot be asked: {last_line(str(e))}") from None
        if not 200 <= status < 300:
            raise self._refusal(status, headers.get("Retry-After", ""), body)
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise _strange("a JSON object")
        return answer

    def _connected(self) -> ApiClient:
        with self._lock:
            if self._client is None:
                way = proxies.way(self._table.host)
                if way.fault:
                    raise Permanent(f"{self._table.host} cannot be reached: {way.fault}")
                settings = Configuration(host=self._table.host)
                settings.proxy = way.proxy
                # By its own default it repeats requests, follows a redirect with the token, and sleeps as long as an answer tells.
                settings.retries = urllib3.Retry(False)  # type: ignore[assignment]
                self._client = ApiClient(settings)
            return self._client

    def _token(self) -> str:
        return by_reference(self._table.token_from, "token_from")

    def _renew(self) -> None:
        answer = ask(self._table.renew_command, timeout_s=self._table.timeout_s, env=os.environ)
        if answer.status:
            told = last_line(answer.err) or "it said nothing on standard error"
            raise Unauthorized(f"the token was refused, and renew_command ended with status {answer.status}: {told}")

    def _refusal(self, status: int, retry_after: str, body: bytes) -> DriverError:
        told = f"exalsius: {_words(body) or 'no reason given'} ({status})"
        if status in (429, 503) and (waits := _seconds(retry_after)):
            self._asked_for_quiet = told
            self._quiet_until = self._now() + min(waits, _PATIENCE_MAX_S)
        if status == 401:
            return Unauthorized(told)
        if status == 404:
            return NotThere(told)
        if status == 409:
            return OutOfDate(told)
        return (Transient if status in _PASSES or status >= 500 else Permanent)(told)


def _rows(answer: Json, key: str) -> list[Json]:
    found = answer.get(key)
    if not isinstance(found, list) or not all(isinstance(row, dict) and isinstance(row.get("id"), str) for row in found):
        raise _strange(key)
    return found


def _strange(what: str) -> Transient:
    return Transient(f"exalsius gives an answer that is none of its own: no {what} in it")


def _words(body: bytes) -> str:
    """What an answer says of its refusal: `{"detail": {"title", "detail", …}}`, or whatever stands there instead."""
    text = body.decode("utf-8", "replace")
    try:
        detail = json.loads(text)["detail"]
        told = f"{detail['title']}: {detail['detail']}" if isinstance(detail, dict) else json.dumps(detail)
    except (ValueError, KeyError, TypeError, RecursionError):
        told = "" if text.lstrip().startswith("<") else text
    return last_line(" ".join(told.split()))


def _seconds(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0
