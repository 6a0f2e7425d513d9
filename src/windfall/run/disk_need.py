"""How much disk a run takes: versions, what sites keep, and large files on their way."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from windfall.config.schema import Config
from windfall.train.shape import GPTConfig
from windfall.train.sizes import gigabytes, memory_bytes

#: Copies of the model: version and its difference while a version is made (coordinator), and at a site the version that it fetches,
#: the one that it holds, its snapshot, and two cuts that nobody has acknowledged. A file on its way up is there once more at the
#: coordinator; one on its way down has a second name and takes nothing.
_AT_THE_COORDINATOR, _AT_A_SITE, _ON_ITS_WAY = 2, 5, 1
#: Below this nobody needs to be told: a run has logs and telemetry as well.
_WORTH_A_WORD = 1 << 30


@dataclass(frozen=True)
class DiskNeed:
    """Bytes, at most, with deltas as they are in float32."""

    versions: int
    sites: int
    on_their_way: int

    @property
    def total(self) -> int:
        """All of it on one disk, as sites of the local driver have it."""
        return self.versions + self.sites + self.on_their_way


def disk_need(config: Config, shape: GPTConfig) -> DiskNeed:
    """What a run of this model needs besides every n-th version, which is kept for good."""
    memory = memory_bytes(shape, optimizer=config.train.optimizer)
    sites = len(config.site)
    # Inner states that are averaged, as bf16: at the coordinator two means and each site's last, and at a site with each cut that
    # nobody has acknowledged and with the last one that somebody has.
    state = memory.optimizer // 2 if config.federation.average_inner_every else 0
    return DiskNeed(
        versions=(config.federation.keep_versions + _AT_THE_COORDINATOR) * memory.weights + (2 + sites) * state,
        # The inner state is written anew beside the old one.
        sites=sites * (_AT_A_SITE * memory.weights + 2 * memory.optimizer + (3 * state + memory.weights if state else 0)),
        on_their_way=sites * (_ON_ITS_WAY * memory.weights + memory.optimizer),
    )


def too_little(config: Config, shape: GPTConfig, folder: Path) -> str:
    """Why the run may not fit onto the disk that ``folder`` (or what there is of its path) is on; empty where it does."""
    need = disk_need(config, shape)
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    disk = os.statvfs(there)
    free = disk.f_bavail * disk.f_frsize
    if need.total < _WORTH_A_WORD or free >= need.total:
        return ""
    return (
        f"the run needs up to {gigabytes(need.total)} of disk (versions {gigabytes(need.versions)}, sites {gigabytes(need.sites)}, "
        f"files on their way {gigabytes(need.on_their_way)}), and {there} has {gigabytes(free)} free; make room, keep fewer "
        "versions, or choose another disk (--run-dir)"
    )
