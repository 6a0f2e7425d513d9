"""How fast models have trained on this machine, kept in the user's cache folder. `check` uses it to say how long a run will take.

If the file cannot be read or written nothing is known, and nothing else changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from windfall import clock
from windfall.config.schema import Config, SiteTable
from windfall.store.files import read_json, write_json
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.store.telemetry_metrics import LOSS

#: So many of a run's newest steps are used: they show best how fast the site will be.
_STEPS = 200
#: Measurements kept, the newest ones.
_MOST = 500


@dataclass(frozen=True)
class Speed:
    """What a kind of site does on this machine: tokens per second of wall time, and how long its processes take to start.

    ``version_s``: wall seconds that a version takes beside its steps, for being sent, written and evaluated.
    """

    tokens_per_s: float
    at: float
    start_s: float | None = None
    version_s: float | None = None


def cache_file(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Where measurements are kept; None for a user without a home."""
    base = environment.get("XDG_CACHE_HOME") or ""
    if not base.startswith("/"):
        try:
            base = str(Path.home() / ".cache")
        except RuntimeError:
            return None
    return Path(base) / "windfall" / "speeds.json"


def site_key(config: Config, site: SiteTable, vocab_size: int) -> str:
    """What a site's speed depends on: the machine, the model's shape, the step, the device and its threads and ranks."""
    m, t = config.model, config.train
    said: dict[str, Any] = {
        "machine": [platform.node(), platform.machine(), os.cpu_count()],
        "model": [m.depth, m.width, m.head_dim, m.sequence_length, vocab_size],
        "step": [t.batch_sequences, t.micro_batch_sequences, t.optimizer, t.precision, t.compile, t.checkpoint_activations],
        "site": [site.device, site.threads, site.ranks],
    }
    return json.dumps(said, separators=(",", ":"))


def run_key(config: Config) -> str:
    """What the length of a whole run depends on: everything but its name and port, on this machine."""
    raw = config.model_dump(
        mode="json", exclude={"run": {"name"}, "federation": {"port"}, "backtest": True, "counterfactual": True}
    )
    raw["machine"] = [platform.node(), os.cpu_count()]
    return hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()[:24]


def known_speed(config: Config, site: SiteTable, vocab_size: int, file: Path | None) -> Speed | None:
    """The last measurement of such a site on this machine."""
    found = _entry(file, "sites", site_key(config, site, vocab_size))
    rate, at, start, version = (_number(found.get(k)) for k in ("tokens_per_s", "at", "start_s", "version_s"))
    return Speed(rate, at or 0.0, start, version) if rate is not None and rate > 0 else None


def known_run(config: Config, file: Path | None) -> tuple[float, float] | None:
    """Wall seconds that this very run took when it was last done here, and when (Unix seconds) that was."""
    found = _entry(file, "runs", run_key(config))
    wall, at = _number(found.get("wall_s")), _number(found.get("at"))
    return None if wall is None or at is None else (wall, at)


def keep_speed(config: Config, site: SiteTable, vocab_size: int, speed: Speed, file: Path | None) -> bool:
    """Keep a measurement; False where it cannot be kept."""
    return _keep(file, {"sites": {site_key(config, site, vocab_size): asdict(speed)}})


def keep_run(config: Config, wall_s: float, file: Path | None) -> bool:
    """Keep how long a run took that was done in one go; False where it cannot be kept."""
    return _keep(file, {"runs": {run_key(config): {"wall_s": wall_s, "at": clock.wall()}}})


def shown_by(run: RunDir, site: SiteTable) -> Speed | None:
    """The speed of a site's last steps in a run, and how long its starts took. Raises StoreError if the run cannot be read."""
    telemetry = Telemetry.open(run.telemetry, read_only=True)
    try:
        rate = _rate(telemetry, site.name)
        return None if rate is None else Speed(round(rate, 2), clock.wall(), _start_s(telemetry, site.name))
    finally:
        telemetry.close()


def _rate(telemetry: Telemetry, site: str) -> float | None:
    """The median speed of a site's last steps."""
    steps = telemetry.newest_metrics(LOSS, _STEPS, site)
    rates = [r for step in steps if (r := _number(step.more.get("tokens_per_s_wall"))) is not None]
    return statistics.median(rates) if rates else None


def _start_s(telemetry: Telemetry, site: str) -> float | None:
    """The median wall time of a site's starts."""
    begun: float | None = None
    took = []
    for row in telemetry.states(site):
        if row.state == "provisioning":
            begun = row.t_wall
        elif row.state == "ready" and begun is not None:
            took.append(row.t_wall - begun)
            begun = None
    return round(statistics.median(took), 1) if took else None


def _entry(file: Path | None, kind: str, key: str) -> dict[str, Any]:
    try:
        kept = read_json(file) if file is not None else None
    except OSError:
        kept = None
    found = kept.get(kind) if isinstance(kept, dict) else None
    entry = found.get(key) if isinstance(found, dict) else None
    return entry if isinstance(entry, dict) else {}


def _keep(file: Path | None, new: dict[str, dict[str, Any]]) -> bool:
    if file is None:
        return False
    try:
        kept = read_json(file)
        merged: dict[str, dict[str, Any]] = {}
        for kind in ("sites", "runs"):
            old = kept.get(kind) if isinstance(kept, dict) else None
            entries = new.get(kind, {})
            rest = {k: v for k, v in old.items() if k not in entries} if isinstance(old, dict) else {}
            merged[kind] = dict([*rest.items(), *entries.items()][-_MOST:])
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, merged)
    except OSError:
        return False  # the folder cannot be written, so the next `check` says that nothing is known
    return True


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
