"""A run with a site in a doubled cluster, whose kubelets run real agents, trainers and SuperNodes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from kubernetes.clients import kubeconfig, messages
from kubernetes.double.cluster import Cluster
from kubernetes.double.routes import Request, Response
from kubernetes.double.runtime import Processes
from run.real import Living, events, status, windfall, write_config
from run.secrets_scan import Scan, scanning
from windfall import clock

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, **{k: os.environ[k] for k in ("PYTHONPATH", "LANG") if k in os.environ}}
    with Cluster(tmp_path / "cluster", start=clock.wall(), runtime=Processes(), environment=environment) as made:
        made.node("node", gpus=1)
        made.kueue(gpus=1)
        made.start()
        made.live()
        yield made


@contextmanager
def sent_to(cluster: Cluster, scan: Scan) -> Iterator[None]:
    """Keep what a cluster is asked for, but for the Secrets that hold a life's token."""
    handle = cluster.routes.handle

    def kept(request: Request) -> Response:
        if "/secrets" not in request.path:
            scan.sent.append(f"{request.path} {request.query}".encode() + request.body)
        return handle(request)

    cluster.routes.handle = kept  # type: ignore[method-assign]
    yield


def config_with_kubernetes(folder: Path, cluster: Cluster, certificates: Path, queue: str) -> Path:
    """Two sites, of which `far` is a pod."""
    config = write_config(folder, {"near": [(0, 500)], "far": [(20, 500)]}, budget=128 * 400)
    (folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig(cluster.server.url)))
    text = config.read_text(encoding="utf-8")
    before, name, after = text.partition('name = "far"\n')
    after = after.replace("[site.signal]", f'[site.kubernetes]\nimage = "windfall:1"\ngpus = 1\n{queue}'
                          f'kubeconfig = "{folder / "kubeconfig"}"\n[site.signal]', 1)  # fmt: skip
    text = f'{before}{name}driver = "kubernetes"\n{after}\n[network]\ncertificates = "{certificates}"\n'
    config.write_text(text, encoding="utf-8")
    return config


#: The queued kind is tried in `make verify-anywhere`; what it asks of a cluster, every suite of the driver holds.
KINDS = {"stateful-set": "", **({"queued-jobs": 'queue = "gpus"\n'} if os.environ.get("WINDFALL_LONG") == "1" else {})}


@pytest.mark.parametrize("queue", KINDS.values(), ids=KINDS)
def test_a_pod_trains_with_a_local_site_over_tls_and_is_released(tmp_path: Path, cluster: Cluster, queue: str) -> None:
    certificates, run = tmp_path / "certs", tmp_path / "run"
    assert windfall("certs", "init", certificates, "--address", "127.0.0.1").returncode == 0
    config = config_with_kubernetes(tmp_path, cluster, certificates, queue)
    with scanning(tmp_path) as scan, sent_to(cluster, scan), Living(config, run) as living:
        code = living.end()
        assert code == 0, living.said + str(messages(cluster, "BackOff"))
    assert status(run)["sites"]["far"]["tokens"] > 0
    assert [e["detail"] for e in events(run, "error", "stranger", "refused")] == []
    states = [e["detail"]["now"] for e in events(run, "state") if e["site"] == "far"]
    assert states[:3] == ["provisioning", "ready", "training"]
    assert states[-1] == "off"
    assert (cluster.all("Pod"), cluster.running(), cluster.all("Secret"), cluster.all("Job")) == ([], [], [], [])
    assert len(cluster.all("PersistentVolumeClaim")) == 1, "its disk is there for the next run of this directory"
    assert scan.sent
    scan.require_clean()
