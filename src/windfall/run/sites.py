"""What a site is told at its start."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from windfall import faults
from windfall.config.schema import Config
from windfall.processes import mark
from windfall.run.bulk_server import bulk_port
from windfall.run.training_inputs import data_dir, trainer_spec
from windfall.site.nursery import Nursery
from windfall.store.configurations import extents
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.wire.flower_environment import flower_environment


def describe_site(config: Config, run: RunDir, name: str, superlink: str, supernode_port: int) -> dict[str, Any]:
    """The contents of a local site's ``site.json``, besides its name, generation and run."""
    site = config.site_named(name)
    spec = replace(trainer_spec(config, Path(data_dir(config, run)).resolve(), _extents(run)), device=site.device)
    return {
        "superlink": superlink,
        "supernode_port": supernode_port,
        "threads": site.threads,
        "ranks": site.ranks,
        "step_timeout_s": config.fleet.step_timeout_s,
        "snapshot_s": config.federation.snapshot_s,
        "dead_man_s": config.fleet.dead_man_s,
        "silent_after_s": config.fleet.heartbeat_timeout_s,
        "start_timeout_s": config.fleet.start_timeout_s,
        "stop_grace_s": config.fleet.stop_grace_s,
        "bus": config.run.bus,
        "gated": config.run.clock == "scaled",
        "bulk": _bulk(config, run, site.bandwidth_mbit_s),
        "own_signal": own_signal(config, name) if site.own_signal else None,
        "trainer": asdict(spec),
        "environment": {
            "OMP_NUM_THREADS": str(site.threads),
            "MKL_NUM_THREADS": str(site.threads),
            # Sites share this machine: a waiting thread must not keep a core busy that another site needs.
            "OMP_WAIT_POLICY": "PASSIVE",
        },
    }


def _bulk(config: Config, run: RunDir, bandwidth_mbit_s: float | None) -> dict[str, Any] | None:
    """Where the run's large files are; None where all of its messages are small. The token is no part of this."""
    port = bulk_port(run)
    if port is None:
        return None
    limit = config.federation.inline_limit_bytes
    return {"url": f"http://127.0.0.1:{port}", "inline_limit_bytes": limit, "bandwidth_mbit_s": bandwidth_mbit_s}


def nursery_for(config: Config, run: RunDir, run_id: str) -> Nursery | None:
    """What makes local sites that train on processors start sooner, where it can be had."""
    if sys.platform != "linux" or faults.VARIABLE in os.environ or all(s.device != "cpu" for s in config.site):
        return None
    env = {**os.environ, **flower_environment(str(run.root / "flower")), **mark(run_id, run.root)}
    try:
        return Nursery(run.logs / "nursery.log", env)
    except OSError as e:
        logging.getLogger("windfall").warning("sites start without a nursery: %s", e)
        return None


def _extents(run: RunDir) -> list[tuple[int, int, str]]:
    """The run's budgets, if it has had more than one."""
    ledger = Ledger.open(run.ledger, read_only=True)
    try:
        found = extents(ledger.configurations())
    finally:
        ledger.close()
    return found if len(found) > 1 else []


def own_signal(config: Config, name: str) -> dict[str, Any]:
    """What a site needs to watch its region's signal itself."""
    site = config.site_named(name)
    return {
        "table": site.signal.model_dump(mode="json"), "region": site.region, "start": config.run.start,
        "threshold_g_per_kwh": config.run.threshold_g_per_kwh,
    }  # fmt: skip
