"""A run's drivers: each site has its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from windfall.errors import DriverError
from windfall.fleet.driver import Driver, Owned
from windfall.fleet.drivers.local import LocalDriver
from windfall.fleet.drivers.start import Starts
from windfall.fleet.drivers.threaded import ThreadedDriver
from windfall.fleet.machine import Observation


class DriversBySite:
    """Passes each request on to the site's own driver. Implements ``fleet.driver.Driver``.

    ``local`` has all sites that no other driver is named for, those too that an earlier configuration had.
    """

    def __init__(self, local: LocalDriver, others: Mapping[str, Driver], starts: Starts | None = None) -> None:
        """``starts``: where ``others`` find what their sites are started with."""
        self._local = local
        self._others = dict(others)
        self._starts = starts
        #: Sites that could not be looked at by the last ``list_owned``, with the reason.
        self.unseen: dict[str, str] = {}

    def _of(self, site: str) -> Driver:
        return self._others.get(site, self._local)

    def ensure_up(self, site: str, generation: int) -> None:
        if site in self._others and self._starts is not None:
            self._starts.make(site, generation)
        self._of(site).ensure_up(site, generation)

    def ensure_down(self, site: str, grace_s: float, reason: str) -> None:
        self._of(site).ensure_down(site, grace_s, reason)

    def observe(self, sites: Iterable[str]) -> dict[str, Observation]:
        names = list(sites)
        found = self._local.observe([s for s in names if s not in self._others])
        for name in names:
            if name in self._others:
                found |= self._others[name].observe([name])
        return found

    def list_owned(self, run_id: str) -> list[Owned]:
        """As ``Driver`` has it, but a site that cannot be looked at is noted in ``unseen``, and hinders nobody."""
        owned = self._local.list_owned(run_id)
        self.unseen = {}

        def look(item: tuple[str, Driver]) -> list[Owned] | DriverError:
            try:
                return item[1].list_owned(run_id)
            except DriverError as e:
                return e

        if self._others:
            with ThreadPoolExecutor(min(32, len(self._others)), "look") as pool:
                for site, found in zip(self._others, pool.map(look, self._others.items()), strict=True):
                    if isinstance(found, DriverError):
                        self.unseen[site] = str(found)
                    else:
                        owned += [o for o in found if o.site == site]
        return owned

    def prepare(self, within_s: float) -> None:
        """See ``LocalDriver.prepare``."""
        self._local.prepare(within_s)

    def close(self) -> None:
        """End what the drivers keep for themselves; sites live on."""
        self._local.close()
        for driver in self._others.values():
            if isinstance(driver, ThreadedDriver):
                driver.close()

    def kill_all(self) -> None:
        """End every site at once: local ones by force, others as their platforms do it, who are asked and not waited for."""
        self._local.kill_all()
        for site, driver in self._others.items():
            try:
                driver.ensure_down(site, 0.0, "the run was stopped at once")
            except DriverError:
                continue  # its own dead-man time ends it
