"""Slurm driver: what it asks of Slurm's programs, and what it makes of their answers."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.driver_conformance import DriverConformance, Rig, look, until
from fleet.fake_slurm import FakeSlurm
from fleet.site_scripts import KINDS, SAID, Site, prepared, start
from windfall.config.drivers import SlurmTable
from windfall.errors import DriverError, Permanent, Transient, Unauthorized
from windfall.fleet.drivers.slurm import SlurmDriver
from windfall.fleet.drivers.slurm_words import seconds
from windfall.fleet.machine import DriverFault, Observation, Observed


class SlurmRig(Site):
    """A fake Slurm, and a script for a site."""

    site, run_id = "a", "run-1"
    kinds: tuple[type[DriverError], ...] = KINDS

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "program")
        self.slurm = FakeSlurm(folder / "slurm")
        self.shared = folder / "shared"

    def driver(self, **settings: object) -> SlurmDriver:
        given = {"folder": str(self.shared), "windfall": str(self.program), **settings}
        return SlurmDriver(self.site, SlurmTable(**given), self.run_id, prepared(start(self.run_id)))  # type: ignore[arg-type]

    def refuse(self, kind: type[DriverError] | None) -> None:
        self.slurm.refuse_all(kind)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmRig]:
    rig = SlurmRig(tmp_path)
    monkeypatch.setenv("PATH", f"{rig.slurm.programs}:{os.environ['PATH']}")
    yield rig
    rig.die()


class TestSlurm(DriverConformance):
    @pytest.fixture
    def rig(self, rig: SlurmRig) -> Rig:
        return rig


def test_a_job_is_given_what_the_table_says_and_its_secrets_as_files_that_only_its_user_may_read(rig: SlurmRig) -> None:
    driver = rig.driver(
        partition="gpu", account="lab", qos="low", gpus=4, cpus=16, memory="64G", time_limit_min=120, term_before_s=240,
        extra=["--constraint=a100"], setup="export MARK=set",
    )  # fmt: skip
    driver.ensure_up("a", 3)
    until(driver, "a", Observed.UP)
    folder = rig.shared / "run-1" / "a"
    options = (rig.slurm.state / "1.options").read_text().splitlines()
    for option in (
        "--job-name=windfall-run-1-a", "--comment=windfall generation 3", "--partition=gpu", "--account=lab", "--qos=low",
        "--gpus=4", "--cpus-per-task=16", "--mem=64G", "--time=120", "--signal=B:TERM@240", "--no-requeue", "--export=NONE",
        "--dependency=singleton", "--constraint=a100", f"--output={folder}/logs/job-%j.log",
    ):  # fmt: skip
        assert option in options
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    token = folder / "token"
    assert token.read_text() == "secret-of-a-3"
    assert {stat.S_IMODE(f.stat().st_mode) for f in (token, folder / "ca.pem")} == {0o600}
    assert rig.arguments() == [
        "site", "start", "--endpoint", "https://coordinator.example:8443", "--token-file", str(token),
        "--ca-file", str(folder / "ca.pem"), "--folder", str(folder),
    ]  # fmt: skip
    assert "export MARK=set" in (rig.slurm.state / "1.sh").read_text()
    seen = "".join(f.read_text() for f in rig.slurm.state.iterdir())
    assert "secret-of" not in seen


def test_setup_lines_that_fail_fail_the_start_and_say_so(rig: SlurmRig) -> None:
    driver = rig.driver(setup="false")
    driver.ensure_up("a", 1)
    words = until(driver, "a", Observed.FAILED).words
    assert words.startswith("job 1 failed (NonZeroExitCode): the setup lines of [site.slurm] failed (")
    assert rig.living() == 0


def test_a_job_that_fails_is_told_with_the_last_line_of_its_log(rig: SlurmRig) -> None:
    rig.break_starts()
    driver = rig.driver()
    driver.ensure_up("a", 1)
    log = rig.shared / "run-1" / "a" / "logs" / "job-1.log"
    assert until(driver, "a", Observed.FAILED).words == f"job 1 failed (NonZeroExitCode): {SAID} ({log})"


#: What sbatch says, and whom it concerns.
_FAILED = "Batch job submission failed: "
_LIMIT = f"{_FAILED}Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
_REFUSED: list[tuple[type[DriverError], list[str]]] = [
    (Permanent, ["invalid partition specified: gpuu", f"{_FAILED}Invalid partition name specified"]),
    (Permanent, [f"{_FAILED}Invalid account or account/partition combination specified"]),
    (Permanent, [f"{_FAILED}Invalid qos specification"]),
    (Permanent, [f"{_FAILED}Invalid feature specification"]),
    (Permanent, ["Invalid generic resource (gres) specification"]),
    (Permanent, ["Memory specification can not be satisfied", f"{_FAILED}Requested node configuration is not available"]),
    (Permanent, [f"{_FAILED}Requested time limit is invalid (missing or exceeds some limit)"]),
    (Permanent, ["QOSMaxCpuPerUserLimit", _LIMIT]),
    (Transient, ["QOSMaxSubmitJobPerUserLimit", _LIMIT]),
    (Transient, ["AssocMaxSubmitJobLimit", _LIMIT]),
    (Transient, [f"{_FAILED}Unable to contact slurm controller (connect failure)"]),
    (Transient, [f"{_FAILED}Socket timed out on send/recv operation"]),
    (Transient, [f"{_FAILED}Slurm backup controller in standby mode"]),
    (Transient, [f"{_FAILED}Zero Bytes were transmitted or received"]),
    (Transient, [f"{_FAILED}Resource temporarily unavailable"]),
    (Transient, [f"{_FAILED}Required partition not available (inactive or drain)"]),
    (Unauthorized, [f"{_FAILED}Access/permission denied"]),
    (Unauthorized, [f"{_FAILED}Invalid user id"]),
    (Unauthorized, [f"{_FAILED}User's group not permitted to use this partition"]),
    (Unauthorized, ['Munge encode failed: Failed to access "/run/munge/munge.socket.2"', f"{_FAILED}Unspecified error"]),
    (Unauthorized, [f"{_FAILED}Protocol authentication error"]),
]


@pytest.mark.parametrize(("kind", "said"), _REFUSED)
def test_what_sbatch_refuses_is_for_nobody_for_a_person_or_for_who_has_credentials(
    rig: SlurmRig, kind: type[DriverError], said: list[str]
) -> None:
    rig.slurm.refuse("sbatch", "".join(f"sbatch: error: {line}\n" for line in said))
    driver = rig.driver()
    with pytest.raises(DriverError) as error:
        driver.ensure_up("a", 1)
    assert (type(error.value), str(error.value)) == (kind, f"sbatch: {'; '.join(said)}")
    assert look(driver, "a") == Observation(Observed.ABSENT)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("sbatch: unrecognized option '--bogus'\nTry \"sbatch --help\" for more information\n", "unrecognized option '--bogus'"),
        ("", "it ended with status 1 and said nothing"),
    ],
)
def test_a_refusal_in_no_words_that_are_known_is_for_a_person(rig: SlurmRig, said: str, told: str) -> None:
    rig.slurm.refuse("sbatch", said)
    with pytest.raises(Permanent) as error:
        rig.driver().ensure_up("a", 1)
    assert (type(error.value), str(error.value)) == (Permanent, f"sbatch: {told}")


def test_a_program_that_is_not_there_is_named(rig: SlurmRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Permanent, match=r"squeue cannot be run here: No such file.*login node") as error:
        rig.driver().ensure_up("a", 1)
    assert type(error.value) is Permanent


def test_a_program_that_does_not_answer_is_ended_and_asked_again(rig: SlurmRig) -> None:
    (rig.slurm.programs / "squeue").write_text("#!/bin/bash\necho 'squeue: error: waiting' >&2\nsleep 1000 & wait\n")
    with pytest.raises(Transient, match=r"squeue has not ended within 3 s: squeue: error: waiting"):
        rig.driver(timeout_s=3).ensure_up("a", 1)


@pytest.mark.parametrize(
    ("reason", "state", "words"),
    [
        ("None", Observed.STARTING, "job 1 waits: Slurm has not looked at it yet"),
        ("Resources", Observed.STARTING, "job 1 waits: what it asks for is in use (Resources)"),
        ("Priority", Observed.STARTING, "job 1 waits: jobs with more priority are before it (Priority)"),
        (
            "QOSMaxJobsPerUserLimit", Observed.STARTING,
            "job 1 waits: the user has as many jobs as the quality of service allows (QOSMaxJobsPerUserLimit)",
        ),
        (
            "ReqNodeNotAvail, UnavailableNodes:n[1-2]", Observed.STARTING,
            "job 1 waits: nodes that it could have are down, drained or reserved (ReqNodeNotAvail, UnavailableNodes:n[1-2])",
        ),
        ("PartitionDown", Observed.STARTING, "job 1 waits: the partition takes jobs and starts none (PartitionDown)"),
        ("SomethingNew", Observed.STARTING, "job 1 waits: SomethingNew"),
        (
            "PartitionTimeLimit", Observed.FAILED,
            "job 1 can never start: its time limit is longer than the partition's; lower time_limit_min (PartitionTimeLimit)",
        ),
        (
            "QOSMaxCpuPerJobLimit", Observed.FAILED,
            "job 1 can never start: it asks for more, or less, than a job may have (QOSMaxCpuPerJobLimit)",
        ),
    ],
)  # fmt: skip
def test_a_job_that_waits_says_why_and_one_that_waits_in_vain_has_failed(
    rig: SlurmRig, reason: str, state: Observed, words: str
) -> None:
    rig.slurm.say("queue", f"PENDING|{reason}\n")
    driver = rig.driver()
    driver.ensure_up("a", 1)
    seen = look(driver, "a")
    fault = DriverFault.PERMANENT if state is Observed.FAILED else None
    assert seen == Observation(state, words, fault, queued=state is Observed.STARTING)
    driver.ensure_down("a", 600.0, "not wanted any more")
    assert until(driver, "a", Observed.ABSENT) == Observation(Observed.ABSENT)
    assert rig.slurm.calls("scancel") == ["scancel 1"], "there is nobody whom to ask"


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("TIMEOUT|TimeLimit", "was ended at its time limit (2:00:00), as it had not ended by itself; raise term_before_s"),
        ("NODE_FAIL|NodeDown", "lost its node"),
        ("OUT_OF_MEMORY|OutOfMemory", "was ended as it ran out of memory"),
        ("PREEMPTED|None", "was ended for a job with more priority"),
        ("BOOT_FAIL|BadNode", "could not start, as its node did not come up"),
        ("CANCELLED|None", "was cancelled, and not by this run"),
        ("COMPLETED|None", "ended by itself"),
        ("FAILED|JobLaunchFailure", "could not be started, or was killed"),
        ("NEWSTATE|None", None),
    ],
)
def test_a_job_that_ended_unasked_is_told_in_words_until_it_is_cleared(rig: SlurmRig, state: str, words: str | None) -> None:
    rig.slurm.say("queue", "RUNNING|None\n")
    rig.slurm.say("limit", "1:00|2:00:00")
    driver = rig.driver()
    driver.ensure_up("a", 1)
    assert look(driver, "a") == Observation(Observed.UP)
    rig.slurm.say("1.state", f"{state}\n")
    if words is None:
        assert look(driver, "a") == Observation(Observed.UP, "job 1 is newstate"), "a state of a later Slurm is no end"
        return
    assert [look(driver, "a") for _ in range(2)] == [Observation(Observed.FAILED, f"job 1 {words}")] * 2
    assert look(rig.driver(), "a") == Observation(Observed.ABSENT), "who did not see it live does not miss it"
    rig.slurm.say("1.state", "RUNNING|None\n")
    after = rig.driver()
    assert [o.generation for o in after.list_owned("run-1")] == [1]
    rig.slurm.say("1.state", f"{state}\n")
    assert look(after, "a") == Observation(Observed.FAILED, f"job 1 {words}"), "who has taken it over does"
    driver.ensure_down("a", 600.0, "it failed")
    assert look(driver, "a") == Observation(Observed.ABSENT)


def test_a_job_that_ends_in_order_near_its_time_limit_has_handed_in(rig: SlurmRig) -> None:
    rig.slurm.say("queue", "RUNNING|None\n")
    driver = rig.driver(time_limit_min=120, term_before_s=300)
    driver.ensure_up("a", 1)
    rig.slurm.say("limit", "1:54:30|2:00:00")
    rig.slurm.say("1.state", "COMPLETED|None\n")
    told = "job 1 ended in order before its time limit (2:00:00); what it could not hand in is in its outbox"
    assert look(driver, "a") == Observation(Observed.FAILED, told, planned=True)


@pytest.mark.parametrize(
    ("accounts", "words"),
    [
        ("FAILED|3:0|02:00:00\n", "failed (exit code 3:0)"),
        ("CANCELLED by 1000|0:0|02:00:00\n", "was cancelled, and not by this run"),
        ("TIMEOUT|0:0|02:00:00\n", "was ended at its time limit (02:00:00), as it had not ended by itself; raise term_before_s"),
        (None, "has ended, and Slurm does not know any more how"),
    ],
)
def test_what_slurm_has_forgotten_its_accounts_may_know(rig: SlurmRig, accounts: str | None, words: str) -> None:
    rig.slurm.say("queue", "RUNNING|None\n")
    driver = rig.driver()
    driver.ensure_up("a", 1)
    rig.slurm.say("1.forgotten", "")
    if accounts is None:
        rig.slurm.refuse("sacct", "Slurm accounting storage is disabled\n")
    else:
        rig.slurm.say("accounts", accounts)
    assert look(driver, "a") == Observation(Observed.FAILED, f"job 1 {words}")


def test_a_site_is_asked_to_end_and_ended_by_force_when_its_grace_is_over(rig: SlurmRig) -> None:
    rig.be_stubborn()
    driver = rig.driver()
    driver.ensure_up("a", 1)
    until(driver, "a", Observed.UP)
    for _ in range(2):
        driver.ensure_down("a", 600.0, "off")
        assert look(driver, "a") == Observation(Observed.STOPPING, "job 1 was asked to end")
    asked = rig.slurm.calls("scancel")
    assert set(asked) == {"scancel --signal=TERM --batch 1"}
    driver.ensure_down("a", 0.0, "the run was stopped at once")
    until(driver, "a", Observed.ABSENT)
    assert rig.slurm.calls("scancel")[len(asked) :] == ["scancel 1"]


def test_a_job_that_was_submitted_although_sbatch_seemed_to_fail_is_the_only_one(rig: SlurmRig) -> None:
    rig.slurm.say("queue", "PENDING|Priority\n")
    first = rig.driver()
    first.ensure_up("a", 1)  # and the coordinator is killed before it has noted anything
    driver = rig.driver()
    driver.ensure_up("a", 1)
    assert len(rig.slurm.calls("sbatch")) == 1
    with pytest.raises(Transient, match=r"job 1 of an earlier start is still there \(pending\)"):
        driver.ensure_up("a", 2)
    # Two of them, as somebody's submission went through much later: the newest counts, and the other is taken away.
    rig.slurm.say("2.name", "windfall-run-1-a\n")
    rig.slurm.say("2.comment", "windfall generation 2\n")
    rig.slurm.say("2.state", "PENDING|Dependency\n")
    assert look(driver, "a").words == "job 2 waits: an earlier job of this site has not ended (Dependency)"
    assert rig.slurm.calls("scancel") == ["scancel 1"]
    assert [(o.generation, o.handle) for o in driver.list_owned("run-1")] == [(2, "2")]


def test_a_cluster_that_greets_and_changes_comments_is_understood(rig: SlurmRig) -> None:
    rig.slurm.say("banner", "Welcome to the cluster\nYour balance: 12 h\n")
    rig.slurm.say("queue", "RUNNING|None\n")
    driver = rig.driver()
    driver.ensure_up("a", 4)
    rig.slurm.say("1.comment", "(null)\n")
    driver.ensure_up("a", 4)
    assert len(rig.slurm.calls("sbatch")) == 1
    assert [(o.generation, o.handle) for o in rig.driver().list_owned("run-1")] == [(0, "1")], "found, and of no known generation"


def test_nothing_of_another_job_or_of_secrets_reaches_slurms_programs(rig: SlurmRig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SLURM_JOB_ID": "7",
        "SQUEUE_STATES": "RUNNING",
        "SBATCH_WAIT": "1",
        "SLURM_CONF": "/x",
        "SBATCH_QOS": "q",
    }.items():
        monkeypatch.setenv(name, value)
    (rig.slurm.programs / "squeue").write_text(f"#!/bin/bash\nenv > {rig.slurm.state}/env\n")
    look(rig.driver(), "a")
    names = {line.partition("=")[0] for line in (rig.slurm.state / "env").read_text().splitlines()}
    assert names & {"SLURM_JOB_ID", "SQUEUE_STATES", "SBATCH_WAIT", "SLURM_CONF", "SBATCH_QOS"} == {"SLURM_CONF", "SBATCH_QOS"}


@pytest.mark.parametrize(
    ("text", "found"),
    [("0:12", 12.0), ("59:00", 3540.0), ("2:00:00", 7200.0), ("1-01:00:05", 90005.0), ("UNLIMITED", None), ("INVALID", None)],
)
def test_times_are_read_as_slurm_writes_them(text: str, found: float | None) -> None:
    assert seconds(text) == found
