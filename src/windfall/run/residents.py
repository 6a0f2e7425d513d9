"""An operator's end of machines that join a run."""

from __future__ import annotations

from pathlib import Path

from windfall.config.load import stored
from windfall.errors import ConfigError
from windfall.run.endpoint import endpoint_url
from windfall.store.residents import Resident
from windfall.store.rundir import RunDir


def resident_of(root: Path, name: str) -> tuple[Resident, str | None]:
    """The files of a run's resident site, and the address of the run's endpoint.

    Raises:
        ConfigError: there is no such site, or its driver is another one.
        StoreError: there is no run.
    """
    run = RunDir(root).open_existing()
    config = stored(run.config.read_text(encoding="utf-8"))
    site = next((s for s in config.site if s.name == name), None)
    if site is None:
        raise ConfigError(f"{name}: no such site in this run; there are {', '.join(s.name for s in config.site)}")
    if site.driver != "resident":
        raise ConfigError(f'{name}: its driver is {site.driver}; only machines of driver = "resident" join by themselves')
    return Resident(run.sites, name), endpoint_url(config, run, name)
