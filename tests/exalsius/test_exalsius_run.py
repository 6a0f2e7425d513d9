"""A run with a site on a node of a doubled pool: real agents, trainers and SuperNodes in the cluster that the node joins."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from exalsius.double import Exalsius
from kubernetes.double.cluster import Cluster
from kubernetes.double.runtime import Processes
from kubernetes.test_kubernetes_run import config_with_kubernetes, sent_to
from run.real import Living, events, status, windfall
from run.secrets_scan import scanning
from windfall import clock
from windfall.store.files import write_secret

pytestmark = pytest.mark.slow
TOKEN = "an-access-token-of-exalsius"


def config_with_exalsius(folder: Path, cluster: Cluster, certificates: Path, host: str) -> Path:
    config = config_with_kubernetes(folder, cluster, certificates, "")
    text = config.read_text(encoding="utf-8").replace('driver = "kubernetes"', 'driver = "exalsius"')
    pod = f'kubeconfig = "{folder / "kubeconfig"}"\n'
    assert pod in text
    text = text.replace(pod, "")
    node = f'[site.exalsius]\nhost = "{host}"\ncluster = "lab"\nnodes = ["gpu-a"]\ntoken_from = "file:{folder / "token"}"\n'
    config.write_text(text.replace("[site.kubernetes]", f"{node}[site.exalsius.kubernetes]"), encoding="utf-8")
    return config


def test_a_node_joins_a_pod_trains_on_it_with_a_local_site_and_the_node_is_given_back(tmp_path: Path) -> None:
    certificates, run = tmp_path / "certs", tmp_path / "run"
    assert windfall("certs", "init", certificates, "--address", "127.0.0.1").returncode == 0
    write_secret(tmp_path / "token", TOKEN)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, **{k: os.environ[k] for k in ("PYTHONPATH", "LANG") if k in os.environ}}
    with Cluster(tmp_path / "cluster", start=clock.wall(), runtime=Processes(), environment=environment) as cluster:
        cluster.start()
        cluster.live()
        with Exalsius(cluster, server=cluster.server.url, join_s=1.0, leave_s=0.5) as plane:
            plane.node("gpu-a")
            plane.tokens = {TOKEN}
            with (
                scanning(tmp_path) as scan,
                sent_to(cluster, scan),
                Living(config_with_exalsius(tmp_path, cluster, certificates, plane.host), run) as living,
            ):
                code = living.end()
                assert code == 0, living.said
            assert status(run)["sites"]["far"]["tokens"] > 0
            states = [e["detail"]["now"] for e in events(run, "state") if e["site"] == "far"]
            assert states[:3] == ["provisioning", "ready", "training"]
            assert states[-1] == "off"
            assert plane.members() == []
            assert plane.pool["id-gpu-a"].status == "AVAILABLE"
            assert (cluster.all("Pod"), cluster.running(), cluster.all("Secret")) == ([], [], [])
            assert TOKEN.encode() in scan.secrets
            scan.require_clean()
