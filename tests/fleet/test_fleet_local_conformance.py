"""The local driver does what every driver does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.driver_conformance import DriverConformance, Rig
from fleet.site_scripts import Site
from windfall.errors import DriverError, Permanent
from windfall.fleet.driver import Driver
from windfall.fleet.drivers.local import LocalDriver


class LocalRig(Site):
    """This machine."""

    site, run_id = "a", "run-1"
    kinds: tuple[type[DriverError], ...] = (Permanent,)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "program")
        self._sites = folder / "sites"
        self._drivers: list[LocalDriver] = []

    def driver(self) -> Driver:
        self._drivers.append(LocalDriver(self._sites, self.run_id, lambda site: {}, agent=[str(self.program)]))
        return self._drivers[-1]

    def close(self) -> None:
        """End all sites, and see their processes off: they are this process's own."""
        for driver in self._drivers:
            driver.kill_all()
            for agent in driver._agents.values():
                if agent.child is not None:
                    agent.child.wait()

    def refuse(self, kind: type[DriverError] | None) -> None:
        self.program.chmod(0o755 if kind is None else 0o644)


class TestLocal(DriverConformance):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Iterator[Rig]:
        rig = LocalRig(tmp_path)
        yield rig
        rig.close()
