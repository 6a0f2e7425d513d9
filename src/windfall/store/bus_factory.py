"""Opens the bus that a configuration names, at either end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from windfall.store.bus import Bus, FileBus, FileSiteBus, PacedBus, PacedSiteBus, SiteBus

if TYPE_CHECKING:  # redis takes a while to import, and most runs do without
    from windfall.store.redis_access import Login, SiteUsers


def with_users(url: str) -> bool:
    """Whether each site has a user of its own there: Redis over TLS."""
    return url.startswith("rediss:")


def open_bus(url: str, sites_dir: Path, run_id: str, *, gated: bool, users: SiteUsers | None = None) -> Bus:
    """The coordinator's end of the bus that a configuration names: `embedded`, or a Redis URL without a password.

    ``users``: the sites' own, in Redis.
    """
    if url == "embedded":
        return FileBus(sites_dir)
    from windfall.store.redis_bus import RedisBus

    bus = RedisBus(url, run_id, users)
    return PacedBus(bus, FileBus(sites_dir)) if gated else bus


def open_site_bus(
    url: str, folder: Path, run_id: str, site: str, generation: int, *, gated: bool, login: Login | None = None,
    pace: SiteBus | None = None,
) -> SiteBus:  # fmt: skip
    """A site's end. ``login``: its own user in Redis. ``pace``: what carries replayed time where no file of the run's does."""
    if url == "embedded":
        return FileSiteBus(folder, generation)
    from windfall.store.redis_bus import RedisSiteBus

    bus = RedisSiteBus(url, run_id, site, generation, login)
    return PacedSiteBus(bus, pace or FileSiteBus(folder, generation)) if gated else bus
