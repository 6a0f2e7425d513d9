"""The exalsius driver does what every driver does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exalsius.double import Exalsius, Fault
from exalsius.sites import driver
from fleet.driver_conformance import Rig, until
from kubernetes.rig import PodConformance, PodRig
from windfall.errors import DriverError, Permanent, Transient, Unauthorized
from windfall.fleet.driver import Driver
from windfall.fleet.machine import Observed

REFUSALS: dict[type[DriverError], int] = {Transient: 503, Permanent: 403, Unauthorized: 401}


class ExalsiusRig(PodRig):
    """A pool of one node, and a cluster for it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.plane = Exalsius(self.cluster, join_s=0.1, leave_s=0.1)
        self.plane.node("gpu-a")
        self.cluster.live(0.02)

    def driver(self) -> Driver:
        return driver(self.plane, self._folder, site=self.site)

    def refuse(self, kind: type[DriverError] | None) -> None:
        self.plane.faults = [] if kind is None else [Fault(REFUSALS[kind])]


class TestExalsius(PodConformance):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Iterator[ExalsiusRig]:
        made = ExalsiusRig(tmp_path)
        with made.plane:
            yield made
            members, living = made.plane.members(), made.living()
            made.cluster.close()
            assert living or not members, "a node stays in the cluster only while something runs on it"

    def test_the_next_coordinator_finds_the_site_goes_on_with_it_and_ends_it(self, rig: Rig) -> None:
        """Here nothing runs before the node has joined, for which somebody has to look."""
        rig.driver().ensure_up(rig.site, 7)
        after = rig.driver()
        assert [(o.site, o.generation) for o in after.list_owned(rig.run_id)] == [(rig.site, 7)]
        until(after, rig.site, Observed.UP)
        after.ensure_down(rig.site, 600.0, "off")
        until(after, rig.site, Observed.ABSENT)
        assert rig.living() == 0
