"""Slurm driver: each life of a site is a job of its own, known by its name and comment alone.

Nothing is written down here, so no crash between submitting a job and noting its number can lose one: whoever asks looks for the
job's name first. Two jobs of one site never run at the same time, even if a submission that seemed to have failed did not: they
have one name, and Slurm starts one of a name at a time (``--dependency=singleton``).
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from windfall import clock
from windfall.config.drivers import SlurmTable
from windfall.errors import Permanent, Transient
from windfall.fleet.driver import Owned
from windfall.fleet.drivers import slurm_words as words
from windfall.fleet.drivers.asking import FOR_A_PERSON, Answer, ask, last_line
from windfall.fleet.drivers.start import Start, Starts
from windfall.fleet.machine import DriverFault, Observation, Observed
from windfall.store.files import write_secret

#: What is asked of a job: number, state, reason, time used, time limit, comment.
_FORMAT = "%A|%T|%r|%M|%l|%k"
#: Slurm sends the signal before a job's time limit up to so much earlier than it was asked to (manual page of sbatch, --signal).
_EARLY_S = 60.0
#: A job counts as running before its node has begun with it, and a signal that comes then is lost: it is sent again after so long.
_AGAIN_S = 5.0
#: How much of the end of a job's log is read for its last line (bytes).
_LOG_BYTES = 4096
#: Variables of Slurm's programs that say where Slurm is. All others are about another job, or change what is printed.
_KEPT = {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_CONF_SERVER"}
_DROPPED = ("SLURM_", "SQUEUE_", "SCANCEL_", "SACCT_", "SBATCH_WAIT", "SBATCH_ARRAY")


@dataclass(frozen=True)
class _SlurmJob:
    number: int
    state: str
    reason: str
    used: str
    limit: str
    comment: str

    @property
    def lives(self) -> bool:
        return self.state not in words.ENDED

    @property
    def generation(self) -> int | None:
        """None where the cluster has replaced the comment."""
        found = re.fullmatch(r"windfall generation (\d+)", self.comment.strip())
        return int(found[1]) if found else None


class SlurmDriver:
    """One site's jobs. Implements ``fleet.driver.Driver``; it waits for Slurm's programs."""

    def __init__(self, site: str, table: SlurmTable, run_id: str, starts: Starts) -> None:
        self._site, self._table, self._run_id, self._starts = site, table, run_id, starts
        self._name = f"windfall-{run_id}-{site}"
        self._folder = Path(table.folder) / run_id / site
        #: The job that was last seen living, or submitted, and its generation as far as that is known.
        self._followed: int | None = None
        self._generation: int | None = None
        #: When what has been asked to stop is ended by force (monotonic wall time); None if nothing has.
        self._stop_at: float | None = None
        #: Jobs that have been asked to end, with when that was last (monotonic wall time; infinite if it has been heard), and those
        #: that have been ended by force.
        self._asked: dict[int, float] = {}
        self._forced: set[int] = set()

    # -- the driver ------------------------------------------------------------------------------------------

    def ensure_up(self, site: str, generation: int) -> None:
        living = self._living()
        if living:
            job = living[-1]
            known = self._generation if job.number == self._followed else None
            if self._stop_at is None and generation == (known if job.generation is None else job.generation):
                self._follow(job.number, generation)
                return
            raise Transient(f"{site}: job {job.number} of an earlier start is still there ({job.state.lower()})")
        self._forget()
        start = self._starts.of(site, generation)
        self._lay_out(start)
        answer = self._slurm("sbatch", *self._options(generation), given=self._script(start))
        if answer.status:
            raise words.refused("sbatch", answer)
        numbers = re.findall(r"^(\d+)(?:;.*)?$", answer.out, re.MULTILINE)
        if not numbers:
            raise Transient(f"sbatch did not say which job it has submitted: {last_line(answer.out) or 'it printed nothing'}")
        self._follow(int(numbers[-1]), generation)

    def ensure_down(self, site: str, grace_s: float, reason: str) -> None:
        living = self._living()
        if not living:
            self._forget()
            return
        at = clock.monotonic() + grace_s
        self._stop_at = at if self._stop_at is None else min(at, self._stop_at)
        for job in living:
            self._end(job)

    def observe(self, sites: Iterable[str]) -> dict[str, Observation]:
        return dict.fromkeys(sites, self._look())

    def list_owned(self, run_id: str) -> list[Owned]:
        living = self._living() if run_id == self._run_id else []
        if not living:
            return []
        job = living[-1]
        self._follow(job.number, job.generation)  # should it end before it is looked at again, that is told
        return [Owned(self._site, job.generation or 0, str(job.number))]

    # -- looking ---------------------------------------------------------------------------------------------

    def _look(self) -> Observation:
        jobs = self._jobs()
        living = [job for job in jobs if job.lives]
        if living:
            return self._see(living)
        if self._followed is None or self._stop_at is not None:
            self._forget()
            return Observation(Observed.ABSENT)
        last = next((job for job in jobs if job.number == self._followed), None)
        return self._ended(last)

    def _see(self, living: list[_SlurmJob]) -> Observation:
        *older, job = living
        for one in older:
            self._cancel(one)  # submitted by a request that seemed to have failed: there is only one job of a site
        self._follow(job.number, job.generation)
        if self._stop_at is not None:
            self._end(job)
            told = "is being ended by force" if job.number in self._forced else "was asked to end"
            return Observation(Observed.STOPPING, f"job {job.number} {told}")
        if job.state in words.WAITS:
            if (why := words.waits_for_ever(job.reason)) and job.state == "PENDING":
                return Observation(
                    Observed.FAILED, f"job {job.number} can never start: {why} ({job.reason})", DriverFault.PERMANENT
                )
            waits = "its node is being made ready" if job.state == "CONFIGURING" else words.waits_for(job.reason)
            return Observation(Observed.STARTING, f"job {job.number} waits: {waits}", queued=job.state != "CONFIGURING")
        if job.state == "COMPLETING":
            return Observation(Observed.STOPPING, f"job {job.number} has ended, and its node is still cleaning up")
        return Observation(Observed.UP, f"job {job.number} is {job.state.lower()}" if job.state != "RUNNING" else "")

    def _ended(self, job: _SlurmJob | None) -> Observation:
        number = self._followed
        state, reason, limit = (job.state, job.reason, job.limit) if job else self._from_accounts()
        at_limit = False
        if job is not None:
            used_s, limit_s = words.seconds(job.used), words.seconds(job.limit)
            if used_s is not None and limit_s is not None:
                at_limit = used_s >= limit_s - self._table.term_before_s - _EARLY_S
        if not state:
            return Observation(Observed.FAILED, f"job {number} has ended, and Slurm does not know any more how")
        log = self._log(number)
        last = _end_of(log) if state == "FAILED" else ""
        told = f"job {number} {words.ended(state, reason, limit=limit, at_limit=at_limit)}" + (f": {last} ({log})" if last else "")
        return Observation(Observed.FAILED, told, planned=state == "COMPLETED" and at_limit)

    def _log(self, number: int | str | None) -> Path:
        return self._folder / "logs" / f"job-{number}.log"

    def _from_accounts(self) -> tuple[str, str, str]:
        """State, reason and time limit of the job followed, which Slurm itself has forgotten; empty if nobody knows them."""
        try:
            answer = self._slurm(
                "sacct", "-X", "-n", "-P", f"--jobs={self._followed}", "--format=State,ExitCode,Timelimit"
            )  # fmt: skip
        except (Transient, Permanent):
            return "", "", ""
        rows = [line.split("|") for line in answer.out.splitlines() if line.count("|") == 2]
        if answer.status or not rows:
            return "", "", ""
        state, code, limit = rows[-1]
        return state.split(" ")[0], "" if code == "0:0" else f"exit code {code}", limit

    def _jobs(self) -> list[_SlurmJob]:
        """What Slurm knows of the site's jobs, the newest last."""
        answer = self._slurm("squeue", "--me", "--noheader", "--states=all", f"--name={self._name}", f"--format={_FORMAT}")
        if answer.status:
            raise words.refused("squeue", answer)
        rows = [row for line in answer.out.splitlines() if len(row := line.strip().split("|", 5)) == 6 and row[0].isdigit()]
        return sorted((_SlurmJob(int(row[0]), *row[1:]) for row in rows), key=lambda job: job.number)

    def _living(self) -> list[_SlurmJob]:
        return [job for job in self._jobs() if job.lives]

    # -- ending ----------------------------------------------------------------------------------------------

    def _end(self, job: _SlurmJob) -> None:
        """Ask a job to end, and make it once its time is over."""
        assert self._stop_at is not None
        now = clock.monotonic()
        if job.state == "COMPLETING" or job.number in self._forced:
            return
        if job.state in words.WAITS or now >= self._stop_at:
            self._cancel(job)
            self._forced.add(job.number)
        elif now >= self._asked.get(job.number, -math.inf) + _AGAIN_S:
            begun = os.path.exists(self._log(job.number))
            self._cancel(job, "--signal=TERM", "--batch")
            self._asked[job.number] = math.inf if begun else now

    def _cancel(self, job: _SlurmJob, *how: str) -> None:
        answer = self._slurm("scancel", *how, str(job.number))
        if answer.status and not words.is_gone(answer):
            raise words.refused("scancel", answer)

    def _follow(self, number: int, generation: int | None) -> None:
        if generation is not None or number != self._followed:
            self._generation = generation
        self._followed = number

    def _forget(self) -> None:
        if self._followed is not None:
            with contextlib.suppress(OSError):
                (self._folder / "token").unlink(missing_ok=True)  # it was good for that job alone
        self._followed = self._generation = self._stop_at = None
        self._asked.clear()
        self._forced.clear()

    # -- submitting ------------------------------------------------------------------------------------------

    def _lay_out(self, start: Start) -> None:
        """Make the site's folder, and in it the files that the job is given."""
        try:
            (self._folder / "logs").mkdir(parents=True, exist_ok=True)
            self._folder.chmod(0o700)
            write_secret(self._folder / "token", start.token)
            if start.ca:
                write_secret(self._folder / "ca.pem", start.ca)
        except OSError as e:
            kind = Permanent if e.errno in FOR_A_PERSON else Transient
            raise kind(f"{self._site}: {e.filename or self._folder} cannot be written: {e.strerror or e}") from None

    def _options(self, generation: int) -> list[str]:
        t = self._table
        asked = {
            "partition": t.partition, "account": t.account, "qos": t.qos, "gpus": t.gpus, "gres": t.gres, "cpus-per-task": t.cpus,
            "mem": t.memory, "time": t.time_limit_min,
        }  # fmt: skip
        return [
            "--parsable", f"--job-name={self._name}", f"--comment=windfall generation {generation}", "--dependency=singleton",
            "--nodes=1", "--ntasks=1", "--no-requeue", f"--signal=B:TERM@{t.term_before_s}",
            # The user's own environment on the node, and nothing of this process's, in which there may be secrets.
            "--export=NONE", f"--chdir={self._folder}", f"--output={self._log('%j')}", "--open-mode=append",
            *(f"--{key}={value}" for key, value in asked.items() if value is not None), *t.extra,
        ]  # fmt: skip

    def _script(self, start: Start) -> str:
        _, *arguments = start.arguments(str(self._folder / "token"), str(self._folder / "ca.pem"), str(self._folder))
        setup = self._table.setup.strip()
        return "\n".join([
            "#!/bin/bash",
            f"# Windfall: site {self._site}, generation {start.generation}.",
            "umask 077",
            *(["{", setup, "} || { echo 'the setup lines of [site.slurm] failed' >&2; exit 1; }"] if setup else []),
            # In place of the shell, so that whoever signals the job signals the site: before its time limit, or to end it.
            f"exec {shlex.join([self._table.windfall, *arguments])}",
            "",
        ])  # fmt: skip

    def _slurm(self, program: str, *arguments: str, given: str = "") -> Answer:
        env = {k: v for k, v in os.environ.items() if k in _KEPT or not k.startswith(_DROPPED)}
        try:
            return ask([program, *arguments], timeout_s=self._table.timeout_s, env=env, given=given)
        except Permanent as e:
            raise Permanent(f"{e}; Slurm's programs have to be where Windfall runs, as on a login node") from None


def _end_of(log: Path) -> str:
    """The last line that a job has written, besides what Slurm writes there; empty if it cannot be read."""
    try:
        with open(log, "rb") as f:
            f.seek(max(0, f.seek(0, os.SEEK_END) - _LOG_BYTES))
            text = f.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return last_line("\n".join(line for line in text.splitlines() if not line.startswith("slurmstepd")))
