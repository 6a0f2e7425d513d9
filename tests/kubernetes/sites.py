"""A site's driver at a cluster that is on a manual clock and in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from kubernetes.clients import InProcess, kubeconfig
from kubernetes.double.cluster import Cluster
from windfall.config.kubernetes import KubernetesTable
from windfall.fleet.drivers.kubernetes import KubernetesDriver
from windfall.fleet.drivers.kubernetes_api import Cluster as Api
from windfall.fleet.drivers.start import Start, Starts
from windfall.fleet.machine import Observation

RUN, SITE = "run-1", "lab"


class Starting(Starts):
    """Prepares what it is asked for."""

    def of(self, site: str, generation: int) -> Start:
        self.make(site, generation)
        return super().of(site, generation)


def table(folder: Path, **rest: Any) -> KubernetesTable:
    config = folder / "kubeconfig"
    folder.mkdir(exist_ok=True)
    if not config.exists():
        config.write_text(yaml.safe_dump(kubeconfig("http://cluster.test")))
    return KubernetesTable.model_validate({"image": "windfall:1", "kubeconfig": str(config), "gpus": 1, **rest})


def driver(cluster: Cluster, folder: Path, *, site: str = SITE, run_id: str = RUN, **rest: Any) -> KubernetesDriver:
    settings = table(folder, **rest)
    prepared = Starting(lambda s, n: Start(run_id, s, n, "https://coordinator.lan:9443", f"token-of-{s}-{n}", "-----BEGIN-----\n"))
    api = Api(settings, transport=InProcess(cluster), now=lambda: cluster.now)
    return KubernetesDriver(site, settings, run_id, prepared, cluster=api)


def look(driver: KubernetesDriver, site: str = SITE) -> Observation:
    return driver.observe([site])[site]
