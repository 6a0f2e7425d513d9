"""The driver of machines that are always there does what every driver does, with a real agent and a real endpoint."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.driver_conformance import DriverConformance, Rig
from fleet.site_scripts import Site, prepared, start
from patience import wait_for
from windfall import clock
from windfall.errors import DriverError, Transient
from windfall.fleet.driver import Driver
from windfall.fleet.drivers.resident import ResidentDriver
from windfall.site.resident import Machine, join
from windfall.store.residents import Resident
from windfall.wire.bulk_server import application
from windfall.wire.start_server import StartServer
from wire.served import Served


class ResidentRig(Site):
    """A machine that has joined through an endpoint, with a script for a site."""

    site, run_id = "a", "run-1"
    kinds: tuple[type[DriverError], ...] = (Transient,)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "program")
        self._files = Resident(folder / "sites", self.site)
        self._over = threading.Event()
        self._later_s = 0.0
        self._served = Served(application(StartServer(folder / "sites", list, [self.site], self._over.is_set).routes()))
        (folder / "token").write_text(self._files.invite(clock.wall() + 600))
        machine = folder / "machine"
        join(self._served.url, folder / "token", None, machine, off_command=[], asked=lambda: False, say=lambda text: None)
        self._machine = Machine(machine, lambda text: None, program=(str(self.program),))
        self._agent = threading.Thread(target=self._machine.serve, args=(self._over.is_set,), daemon=True)
        self._agent.start()
        wait_for("its first word", self._files.presence)

    def driver(self) -> Driver:
        return ResidentDriver(
            self.site, self._files._dir.parent, self.run_id, prepared(start(self.run_id)), away_after_s=60,
            now=lambda: clock.wall() + self._later_s,
        )  # fmt: skip

    def refuse(self, kind: type[DriverError] | None) -> None:
        self._later_s = 0.0 if kind is None else 3600.0  # for so long nobody has heard of it

    def close(self) -> None:
        self._over.set()
        self._agent.join()
        wait_for("its last question to be answered", lambda: all(t.name != "assignments" for t in threading.enumerate()))
        self._machine.close()
        self._served.stop()
        self.die()  # what it has started outlives it
        if (started := self._machine._started) is not None and started.child is not None:
            started.child.wait()


class TestResident(DriverConformance):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Iterator[Rig]:
        rig = ResidentRig(tmp_path)
        yield rig
        rig.close()
