"""What a site is told at its start."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from windfall import faults
from windfall.config.schema import Config
from windfall.energy.tariff import level_of
from windfall.errors import Permanent
from windfall.grid.credentials import variables
from windfall.processes import mark
from windfall.run.endpoint import endpoint_url
from windfall.run.training_inputs import data_dir, trainer_spec
from windfall.site.nursery import Nursery
from windfall.store.bus_factory import with_users
from windfall.store.configurations import extents
from windfall.store.files import write_json
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.train.manifest import MANIFEST_NAME, Manifest
from windfall.train.tokenizer import TOKENIZER_NAME
from windfall.wire.certificates import Certificates
from windfall.wire.flower_environment import flower_environment


def describe_site(config: Config, run: RunDir, name: str, superlink: str, supernode_port: int) -> dict[str, Any]:
    """The contents of a local site's ``site.json``, besides its name, generation and run."""
    told = {
        **_common(config, run, name), "superlink": superlink, "supernode_port": supernode_port, "bus": config.run.bus,
        "bulk": _bulk(config, run, name),
    }  # fmt: skip
    # Sites share this machine: a waiting thread must not keep a core busy that another site needs.
    told["environment"]["OMP_WAIT_POLICY"] = "PASSIVE"
    return told


def describe_elsewhere(config: Config, run: RunDir, run_id: str, name: str, generation: int, data: DataFiles) -> dict[str, Any]:
    """The same for a site on another machine, whole: what is to be fetched of it there is added by that machine."""
    told = {
        **_common(config, run, name), "site": name, "generation": generation, "run_id": run_id, "bulk": _bulk(config, run, name),
        **_bus_elsewhere(config, name), "notice_s": config.notice_s(config.site_named(name)),
    }  # fmt: skip
    told["trainer"]["data_dir"] = config.site_named(name).data or ""
    told["environment"] |= flower_environment("")
    del told["environment"]["FLWR_HOME"]
    return {**told, "data": None if told["trainer"]["data_dir"] else data.told()}


def _bus_elsewhere(config: Config, name: str) -> dict[str, str]:
    """The bus as a machine elsewhere reaches it, which has none of this machine's files."""
    if config.run.bus == "embedded":
        return {"bus": "endpoint"}
    url, _, query = config.run.bus.partition("?")
    told = {"bus": url}
    for path in parse_qs(query).get("ssl_ca_certs", ()):
        try:
            told["bus_ca"] = Path(path).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as e:
            raise Permanent(f"run.bus: {path} holds no certificates that {name} could be given ({e})") from None
    return told


class DataFiles:
    """The run's prepared data as sites on other machines fetch them: offered by the endpoint under their checksums."""

    def __init__(self, config: Config, run: RunDir) -> None:
        self._folder = Path(data_dir(config, run)).resolve()
        self._shared = run.shared
        self._told: dict[str, Any] | None = None

    def told(self) -> dict[str, Any]:
        """The manifest, and name, checksum and size of each file. Offers them."""
        if self._told is None:
            manifest = Manifest.load(self._folder)
            files = [(s.file, s.sha256, self._size(s.file)) for s in manifest.shards]
            tokenizer = self._folder / TOKENIZER_NAME
            if tokenizer.exists():
                data = tokenizer.read_bytes()
                files.append((TOKENIZER_NAME, hashlib.sha256(data).hexdigest(), len(data)))
            write_json(self._shared, {sha256: str(self._folder / name) for name, sha256, _ in files})
            self._told = {
                "hash": manifest.hash, "manifest": (self._folder / MANIFEST_NAME).read_text(encoding="utf-8"),
                "files": [{"name": n, "sha256": h, "size": s} for n, h, s in files],
            }  # fmt: skip
        return self._told

    def _size(self, name: str) -> int:
        return (self._folder / name).stat().st_size


def _common(config: Config, run: RunDir, name: str) -> dict[str, Any]:
    site = config.site_named(name)
    spec = replace(trainer_spec(config, Path(data_dir(config, run)).resolve(), _extents(run)), device=site.device)
    return {
        "threads": site.threads,
        "ranks": site.ranks,
        "step_timeout_s": config.fleet.step_timeout_s,
        "snapshot_s": config.federation.snapshot_s,
        "dead_man_s": config.fleet.dead_man_s,
        "silent_after_s": config.fleet.heartbeat_timeout_s,
        "start_timeout_s": config.fleet.start_timeout_s,
        "stop_grace_s": config.fleet.stop_grace_s,
        "gated": config.run.clock == "scaled",
        # It has a user of its own in Redis, with a password that it makes from its token.
        "bus_login": with_users(config.run.bus),
        "own_signal": own_signal(config, name) if site.own_signal else None,
        # On replayed time a second is none: there energy is modelled.
        "meter": site.meter.model_dump(mode="json") if site.meter is not None and config.run.clock == "real" else None,
        # What its level holds its GPUs to, it is told by the coordinator's signs of life.
        "power": {"gpus": site.meter.gpus if site.meter is not None else None} if _held(config, name) else None,
        "trainer": asdict(spec),
        "environment": {
            "OMP_NUM_THREADS": str(site.threads),
            "MKL_NUM_THREADS": str(site.threads),
        },
    }


def _held(config: Config, name: str) -> bool:
    """Whether a site's GPUs are held to the power of its level: on replayed time levels are modelled."""
    return config.run.clock == "real" and any(x.gpu_power_w is not None for x in config.site_named(name).power_levels)


def _bulk(config: Config, run: RunDir, name: str) -> dict[str, Any] | None:
    """Where the run's large files are; None where all of its messages are small. The token is no part of this."""
    url = endpoint_url(config, run, name)
    if url is None:
        return None
    found = {
        "url": url,
        "inline_limit_bytes": config.federation.inline_limit_bytes,
        "bandwidth_mbit_s": config.site_named(name).bandwidth_mbit_s,
    }
    if config.network.certificates:
        found["ca_file"] = str(Certificates(Path(config.network.certificates).resolve()).ca)
    return found


def nursery_for(config: Config, run: RunDir, run_id: str) -> Nursery | None:
    """What makes local sites that train on processors start sooner, where it can be had."""
    if sys.platform != "linux" or faults.VARIABLE in os.environ or all(s.device != "cpu" for s in config.site):
        return None
    withheld = variables(config)
    kept = {k: v for k, v in os.environ.items() if k not in withheld}
    env = {**kept, **flower_environment(str(run.root / "flower")), **mark(run_id, run.root)}
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
    level, under = level_of(site, config.run)
    return {
        "table": site.signal.model_dump(mode="json"), "region": site.region, "start": config.run.start, "level": level,
        "under": under,
    }  # fmt: skip
