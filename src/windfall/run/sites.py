"""What a site is told at its start."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from windfall.config.schema import Config
from windfall.run.prepare import data_dir, trainer_spec
from windfall.store.rundir import RunDir


def describe_site(config: Config, run: RunDir, name: str, superlink: str, supernode_port: int) -> dict[str, Any]:
    """The contents of a local site's ``site.json``, besides its name, generation and run."""
    site = config.site_named(name)
    spec = trainer_spec(config, Path(data_dir(config, run)).resolve())
    return {
        "superlink": superlink,
        "supernode_port": supernode_port,
        "threads": site.threads,
        "snapshot_s": config.federation.snapshot_s,
        "dead_man_s": config.fleet.dead_man_s,
        "trainer": asdict(spec),
        "environment": {
            "OMP_NUM_THREADS": str(site.threads),
            "MKL_NUM_THREADS": str(site.threads),
            # Sites share this machine: a thread that waits must not spin on a core that another site needs.
            "OMP_WAIT_POLICY": "PASSIVE",
        },
    }
