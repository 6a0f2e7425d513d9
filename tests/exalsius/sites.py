"""A site's driver at a doubled control plane and the doubled cluster behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exalsius.double import Exalsius
from kubernetes.clients import InProcess
from kubernetes.sites import RUN, SITE, Starting
from windfall.config.exalsius import ExalsiusTable
from windfall.fleet.drivers.exalsius import ExalsiusDriver
from windfall.fleet.drivers.exalsius_api import ControlPlane
from windfall.fleet.drivers.start import Start
from windfall.fleet.machine import Observation


def table(plane: Exalsius, folder: Path, **rest: Any) -> ExalsiusTable:
    token = folder / "token"
    if not token.exists():
        token.write_text("good\n")
    pod = {"image": "windfall:1", "gpus": 1}
    given = {"host": plane.host, "cluster": "lab", "nodes": ["gpu-a"], "token_from": f"file:{token}", "kubernetes": pod}
    return ExalsiusTable.model_validate({**given, **rest})


def driver(plane: Exalsius, folder: Path, *, site: str = SITE, run_id: str = RUN, **rest: Any) -> ExalsiusDriver:
    settings = table(plane, folder, **rest)
    prepared = Starting(lambda s, n: Start(run_id, s, n, "https://coordinator.lan:9443", f"token-of-{s}-{n}"))
    control = ControlPlane(settings, now=lambda: plane.kube.now)
    return ExalsiusDriver(site, settings, run_id, prepared, control=control, transport=InProcess(plane.kube))


def look(driver: ExalsiusDriver, site: str = SITE) -> Observation:
    return driver.observe([site])[site]
