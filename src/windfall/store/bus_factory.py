"""Opens the bus that a configuration names, at either end."""

from __future__ import annotations

from pathlib import Path

from windfall.store.bus import Bus, FileBus, FileSiteBus, PacedBus, PacedSiteBus, SiteBus


def open_bus(url: str, sites_dir: Path, run_id: str, *, gated: bool) -> Bus:
    """The coordinator's end of the bus that a configuration names: `embedded`, or a Redis URL without a password.

    Raises:
        ConfigError: the URL is none of these.
    """
    if url == "embedded":
        return FileBus(sites_dir)
    from windfall.store.redis_bus import RedisBus  # redis takes a while to import, and most runs do without

    bus = RedisBus(url, run_id)
    return PacedBus(bus, FileBus(sites_dir)) if gated else bus


def open_site_bus(url: str, folder: Path, run_id: str, site: str, generation: int, *, gated: bool) -> SiteBus:
    """A site's end. Raises ConfigError as ``open_bus``."""
    if url == "embedded":
        return FileSiteBus(folder, generation)
    from windfall.store.redis_bus import RedisSiteBus

    bus = RedisSiteBus(url, run_id, site, generation)
    return PacedSiteBus(bus, FileSiteBus(folder, generation)) if gated else bus
