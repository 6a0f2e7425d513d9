"""Slurm driver with a real Slurm: a controller and a node on this machine, whose jobs run a script in place of a site."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.driver_conformance import DriverConformance, Rig, look, until
from fleet.site_scripts import Site, prepared, start
from fleet.slurm_cluster import SlurmCluster
from patience import wait_for
from windfall.config.drivers import SlurmTable
from windfall.errors import DriverError, Permanent, Transient
from windfall.fleet.drivers.slurm import SlurmDriver
from windfall.fleet.machine import DriverFault, Observed

pytestmark = pytest.mark.slow
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    yield cluster
    cluster.close()


class RealRig(Site):
    """A site of its own on the cluster."""

    run_id = "run-1"
    kinds: tuple[type[DriverError], ...] = (Permanent, Transient)

    def __init__(self, folder: Path, cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder / "program")
        self.site, self.cluster, self.shared = f"s{next(_numbers)}", cluster, folder / "shared"
        self.name = f"windfall-{self.run_id}-{self.site}"
        self._environment = monkeypatch
        self._environment.setenv("SLURM_CONF", str(cluster.conf))

    def driver(self, **settings: object) -> SlurmDriver:
        given = {"folder": str(self.shared), "windfall": str(self.program), **settings}
        return SlurmDriver(self.site, SlurmTable(**given), self.run_id, prepared(start(self.run_id)))  # type: ignore[arg-type]

    def refuse(self, kind: type[DriverError] | None) -> None:
        if kind is Transient:
            self.cluster.stop_controller()
        elif kind is Permanent:
            self._environment.setenv("SBATCH_CONSTRAINT", "nothing-has-this")
        else:
            self._environment.delenv("SBATCH_CONSTRAINT", raising=False)
            self.cluster.go_on()


@pytest.fixture
def rig(tmp_path: Path, cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealRig]:
    rig = RealRig(tmp_path, cluster, monkeypatch)
    yield rig
    rig.refuse(None)
    cluster.run("scancel", f"--name={rig.name}")
    rig.die()
    cluster.wait_idle()


class TestRealSlurm(DriverConformance):
    @pytest.fixture
    def rig(self, rig: RealRig) -> Rig:
        return rig


def test_a_job_is_told_before_its_time_limit_ends_in_order_and_the_next_one_follows(rig: RealRig) -> None:
    # Slurm rounds a limit up to minutes, and looks at it every few seconds: some half a minute of the job's one.
    driver = rig.driver(time_limit_min=1, term_before_s=50)
    driver.ensure_up(rig.site, 1)
    until(driver, rig.site, Observed.UP)
    words = until(driver, rig.site, Observed.FAILED).words
    assert words.endswith("ended in order before its time limit (1:00); what it could not hand in is in its outbox")
    assert rig.cluster.states(rig.name) == ["COMPLETED"]
    logs = rig.shared / rig.run_id / rig.site / "logs"
    assert "told to end" in next(logs.iterdir()).read_text()
    driver.ensure_down(rig.site, 600.0, "its job has ended")
    until(driver, rig.site, Observed.ABSENT)
    driver.ensure_up(rig.site, 2)
    until(driver, rig.site, Observed.UP)


def test_a_job_that_waits_says_for_what_and_can_be_taken_back(rig: RealRig) -> None:
    rig.cluster.run("sbatch", f"--cpus-per-task={rig.cluster.cpus}", "--job-name=other", "--output=/dev/null", "--wrap=sleep 1000")
    wait_for("the other job", lambda: rig.cluster.states("other")[-1:] == ["RUNNING"])
    driver = rig.driver()
    driver.ensure_up(rig.site, 1)
    wait_for("the reason", lambda: "what it asks for is in use (Resources)" in look(driver, rig.site).words)
    assert look(driver, rig.site).queued
    assert [o.generation for o in rig.driver().list_owned(rig.run_id)] == [1]
    driver.ensure_down(rig.site, 600.0, "not wanted any more")
    until(driver, rig.site, Observed.ABSENT)
    rig.cluster.run("scancel", "--name=other")
    assert not (rig.folder / "arguments").exists(), "it never began"


def test_a_job_on_a_closed_partition_waits_and_one_that_asks_for_too_long_has_failed(rig: RealRig) -> None:
    driver = rig.driver(partition="closed")
    driver.ensure_up(rig.site, 1)
    wait_for("the reason", lambda: "takes jobs and starts none (PartitionDown)" in look(driver, rig.site).words)
    driver.ensure_down(rig.site, 600.0, "another partition")
    until(driver, rig.site, Observed.ABSENT)
    driver = rig.driver(time_limit_min=100)
    driver.ensure_up(rig.site, 2)
    seen = until(driver, rig.site, Observed.FAILED)
    assert seen.fault is DriverFault.PERMANENT
    assert "can never start" in seen.words
    driver.ensure_down(rig.site, 600.0, "it can never start")
    until(driver, rig.site, Observed.ABSENT)


def test_a_partition_that_is_not_there_is_refused_in_slurms_words(rig: RealRig) -> None:
    with pytest.raises(Permanent, match="invalid partition specified: nope; Batch job submission failed: Invalid partition name"):
        rig.driver(partition="nope").ensure_up(rig.site, 1)


def test_a_node_that_goes_down_takes_its_job_and_is_named_as_the_reason(rig: RealRig) -> None:
    driver = rig.driver()
    driver.ensure_up(rig.site, 1)
    until(driver, rig.site, Observed.UP)
    rig.cluster.run("scontrol", "update", f"nodename={rig.cluster.node}", "state=down", "reason=test")
    try:
        assert until(driver, rig.site, Observed.FAILED).words.endswith(" lost its node")
        assert driver.list_owned(rig.run_id) == []
        driver.ensure_down(rig.site, 600.0, "it lost its node")
        until(driver, rig.site, Observed.ABSENT)
        driver.ensure_up(rig.site, 2)
        wait_for("the reason", lambda: "down, drained or reserved" in look(driver, rig.site).words)
    finally:
        rig.cluster.run("scontrol", "update", f"nodename={rig.cluster.node}", "state=resume")
    until(driver, rig.site, Observed.UP)


def test_two_jobs_of_one_site_never_run_at_the_same_time(rig: RealRig) -> None:
    driver = rig.driver()
    driver.ensure_up(rig.site, 1)
    until(driver, rig.site, Observed.UP)
    # As if a submission that had seemed to fail went through now.
    late = [*driver._options(2), f"--wrap={rig.program}"]
    assert rig.cluster.run("sbatch", *late).strip().isdigit()
    wait_for("Slurm to have looked", lambda: "Dependency" in rig.cluster.run("squeue", "-h", f"--name={rig.name}", "-o", "%r"))
    assert sorted(rig.cluster.states(rig.name)) == ["PENDING", "RUNNING"]
    after = rig.driver()
    assert [o.generation for o in after.list_owned(rig.run_id)] == [2], "the newest counts"
    until(after, rig.site, Observed.UP)
    assert rig.cluster.states(rig.name) == ["CANCELLED", "RUNNING"]
