"""A stateful double of exalsius' control plane over HTTP: a pool of nodes, one cluster, and how nodes join and leave it.

As its API describes it: adding answers 201 long before a node has joined (AVAILABLE, ADDED, DEPLOYED), removing answers 202 and
ends at AVAILABLE. A node that has joined is one of the doubled Kubernetes cluster, on whose clock all this happens.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import yaml

from kubernetes.clients import kubeconfig
from kubernetes.double.cluster import Cluster
from kubernetes.double.kinds import BY_NAME

Json = dict[str, Any]
NOW = "2026-01-01T00:00:00Z"
#: Beside statuses: the connection ends before anything happens; after everything has; the answer is no JSON.
DROP, LOSE, GARBLE = "drop", "lose", "garble"


@dataclass
class Fault:
    """What a request meets instead of its answer: a status, or DROP, LOSE, GARBLE. ``verb``: only such requests."""

    action: int | str
    times: int | None = None
    skip: int = 0
    verb: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    struck: int = field(default=0, init=False)
    #: The method of the last request that met it.
    struck_at: str = field(default="", init=False)


@dataclass
class Node:
    id: str
    hostname: str
    gpus: int = 1
    status: str = "AVAILABLE"
    warning: str | None = None
    #: Id of its cluster.
    cluster: str = ""
    #: What becomes of it next, and when.
    due: list[tuple[float, str]] = field(default_factory=list)

    def shown(self) -> Json:
        return {
            "id": self.id, "node_type": "SELF_MANAGED", "hostname": self.hostname, "price_per_hour": 0.0,
            "endpoint": f"{self.id}:22", "username": "ops",
            "ssh_key_id": "key-1", "node_status": self.status, "warning_message": self.warning,
            "hardware": {"gpu_count": self.gpus},
        }  # fmt: skip


class Refusal(Exception):
    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(title)
        self.status = status
        self.body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "instance": "/"}


class Exalsius:
    """The control plane. ``host`` is what a client is given."""

    def __init__(self, kube: Cluster, *, server: str = "http://cluster.test", join_s: float = 60.0, leave_s: float = 30.0) -> None:
        self.kube, self.join_s, self.leave_s = kube, join_s, leave_s
        self.cluster: Json = {"id": "c-1", "name": "lab", "cluster_type": "REMOTE", "cluster_status": "READY", "created_at": NOW}
        self.kubeconfig: str = yaml.safe_dump(kubeconfig(server))
        self.pool: dict[str, Node] = {}
        self.tokens = {"good"}
        self.faults: list[Fault] = []
        #: Every request that was made, as `GET /nodes`.
        self.asked: list[str] = []
        self._lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"control": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.host = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="exalsius", daemon=True)
        self._thread.start()

    def __enter__(self) -> Exalsius:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def node(self, name: str, **rest: Any) -> Node:
        """Put a node into the pool."""
        self.pool[f"id-{name}"] = made = Node(f"id-{name}", name, **rest)
        return made

    def members(self) -> list[str]:
        """Host names of the nodes that the cluster has, or that are on their way in or out."""
        with self._lock:
            self._go_on()
            return sorted(n.hostname for n in self.pool.values() if n.cluster == self.cluster["id"])

    # -- requests --------------------------------------------------------------------------------------------

    def answer(self, verb: str, path: str, token: str, body: Json) -> tuple[int, bytes, dict[str, str]] | None:
        """Status, body and headers; None: the connection ends."""
        with self._lock:
            self.asked.append(f"{verb} {path}")
            fault = self._struck(verb)
            if fault is not None and fault.action == DROP:
                return None
            if fault is not None and isinstance(fault.action, int):
                error = Refusal(fault.action, "Planned", "a fault of the test").body
                return fault.action, json.dumps({"detail": error}).encode(), fault.headers
            try:
                if token not in self.tokens:
                    raise Refusal(401, "Unauthorized", "the token is invalid or has expired")
                self._go_on()
                status, told = self._route(verb, path, body)
            except Refusal as e:
                status, told = e.status, {"detail": e.body}
            if fault is not None and fault.action == LOSE:
                return None
            if fault is not None:
                return 200, b"<html>", {}
            return status, json.dumps(told).encode(), {}

    def _struck(self, verb: str) -> Fault | None:
        for fault in self.faults:
            if (fault.verb and fault.verb != verb) or (fault.times is not None and fault.struck >= fault.times):
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            fault.struck += 1
            fault.struck_at = verb
            return fault
        return None

    def _route(self, verb: str, path: str, body: Json) -> tuple[int, Json]:
        if path == "/clusters" and verb == "GET":
            return 200, {"clusters": [self.cluster], "total": 1}
        if path == "/nodes" and verb == "GET":
            return 200, {"nodes": [n.shown() for n in self.pool.values()], "total": len(self.pool)}
        if (found := re.fullmatch(r"/cluster/([^/]+)/(kubeconfig|nodes)(?:/([^/]+))?", path)) is not None:
            cluster, what, node = found.groups()
            if cluster != self.cluster["id"]:
                raise Refusal(404, "Not Found", f"cluster {cluster} not found")
            routes: dict[tuple[str, str, bool], Callable[[], tuple[int, Json]]] = {
                ("GET", "kubeconfig", False): lambda: (200, {"kubeconfig": self.kubeconfig}),
                ("GET", "nodes", False): lambda: (200, self._membership()),
                ("POST", "nodes", False): lambda: self._add(body),
                ("DELETE", "nodes", True): lambda: self._remove(node),
            }
            route = routes.get((verb, what, node is not None))
            if route is not None:
                return route()
        raise Refusal(404, "Not Found", f"{verb} {path}: no such endpoint")

    def _membership(self) -> Json:
        ids = [n.id for n in self.pool.values() if n.cluster == self.cluster["id"]]
        return {"cluster_id": self.cluster["id"], "control_plane_node_ids": ["id-control"], "worker_node_ids": ids}

    def _add(self, body: Json) -> tuple[int, Json]:
        wanted = [self._known(row["node_id"]) for row in body["nodes_to_add"]]
        for node in wanted:
            if node.status != "AVAILABLE" or node.cluster:
                raise Refusal(409, "Conflict", f"node {node.id} is not available")
        now = self.kube.now
        for node in wanted:
            node.cluster = self.cluster["id"]
            node.due = [(now + self.join_s / 4, "ADDED"), (now + self.join_s, "DEPLOYED")]
        return 201, self._membership()

    def _remove(self, name: str) -> tuple[int, Json]:
        node = self._known(name)
        if node.cluster != self.cluster["id"]:
            raise Refusal(404, "Not Found", f"node {name} is not in the cluster")
        if node.status != "DEPLOYED" or node.due:
            raise Refusal(409, "Conflict", f"node {name} is being {'removed' if node.status == 'DEPLOYED' else 'deployed'}")
        node.due = [(self.kube.now + self.leave_s, "AVAILABLE")]
        return 202, {"node_id": name}

    def _known(self, name: str) -> Node:
        if name not in self.pool:
            raise Refusal(404, "Not Found", f"node {name} not found")
        return self.pool[name]

    def _go_on(self) -> None:
        """What has become of nodes since the last request."""
        for node in self.pool.values():
            while node.due and self.kube.now >= node.due[0][0]:
                _, node.status = node.due.pop(0)
                with self.kube.store.changed:
                    if node.status == "DEPLOYED":
                        self.kube.node(node.hostname, gpus=node.gpus)
                    elif node.status == "AVAILABLE":
                        node.cluster = ""
                        self.kube.kubelets.pop(node.hostname).stop()
                        self.kube.api.delete(BY_NAME["Node"], "", node.hostname)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    control: Exalsius

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        answer = self.control.answer(self.command, self.path.removeprefix("/v1").partition("?")[0], token, body)
        if answer is None:
            self.close_connection = True
            return
        status, told, headers = answer
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(told)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(told)
        self.wfile.flush()

    do_GET = do_POST = do_DELETE = _serve

    def log_message(self, format: str, *args: Any) -> None:
        return
