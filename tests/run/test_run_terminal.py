"""Terminals and signals: a run goes on when its terminal closes, drains when it is asked to, and its clock stands while it does.

Real processes that live short (``faults.tree``).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults import tree
from patience import PATIENCE_S
from run.real import command_line, versions, wait_for
from windfall import clock
from windfall.processes import marked
from windfall.run.asking import ask
from windfall.run.requests import Request, outcome, running
from windfall.store.files import read_json
from windfall.store.ledger import Ledger
from windfall.store.rundir import SUPERVISOR_LOCK, RunDir
from windfall.store.telemetry import Event, Telemetry

pytestmark = pytest.mark.slow


#: Nobody is given up here, however slow the machine is.
PATIENT = {
    "heartbeat_timeout_s": 300.0, "coordinator_timeout_s": 300.0, "dead_man_s": 300.0, "start_timeout_s": 300.0,
    "drain_timeout_s": 300.0,
}  # fmt: skip
#: Five ticks a second at most: what a test does to a run that has its first version comes before its last one.
PACED = {"speed": 300.0}
#: Tokens: nobody reaches the end of it.
ENDLESS = tree.TOKENS_PER_STEP * 10_000


class AtTerminal:
    """A run whose terminal is ours to close."""

    def __init__(self, root: Path, *, wrapper: tuple[str, ...] = (), **settings: float) -> None:
        tree.make(root, **{**PATIENT, **PACED, **settings})
        self.run, self.run_id = root / "run", tree.run_id(root)
        self.ours, theirs = os.openpty()
        # As a shell does: the run leads its terminal's session, and is told when that closes.
        lead = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
        self.child = subprocess.Popen(
            [sys.executable, "-c", lead, *wrapper, *tree.command("tree"), str(root)], stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True, cwd=root, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        os.close(theirs)
        wait_for("a version", lambda: versions(self.run) >= 1)

    def close(self) -> None:
        os.close(self.ours)

    def events(self, *kinds: str) -> list[Event]:
        telemetry = Telemetry.open(RunDir(self.run).telemetry, read_only=True)
        try:
            return [e for _, e in telemetry.events() if e.kind in kinds]
        finally:
            telemetry.close()

    def newest_lease(self) -> int:
        """The epoch of the newest lease of a."""
        ledger = Ledger.open(RunDir(self.run).ledger, read_only=True)
        try:
            return max((lease.epoch for lease in ledger.live_leases("a")), default=0)
        finally:
            ledger.close()

    def processes(self) -> list[int]:
        """What lives of it."""
        ours = [self.child.pid] if self.child.poll() is None else []
        return [*ours, *(p.pid for p in marked(self.run_id, self.run) if p.pid != self.child.pid)]

    def tell(self, number: signal.Signals) -> None:
        """A signal to every process of it."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, number)

    def end(self) -> int:
        code = self.child.wait(timeout=PATIENCE_S)
        assert marked(self.run_id, self.run) == []
        return code


@pytest.fixture
def runs() -> Iterator[list[AtTerminal]]:
    """What is left of them is cleared away."""
    made: list[AtTerminal] = []
    yield made
    for one in made:
        one.child.kill()
        one.child.wait()
        one.tell(signal.SIGKILL)


@pytest.mark.parametrize("wrapper", [(), ("nohup",)], ids=["plain", "nohup"])
def test_a_run_whose_terminal_closes_goes_on_to_its_end(tmp_path: Path, runs: list[AtTerminal], wrapper: tuple[str, ...]) -> None:
    r = AtTerminal(tmp_path / "r", wrapper=wrapper)
    runs.append(r)
    r.close()
    r.tell(signal.SIGHUP)  # and whoever else says so
    assert r.end() == 0
    assert r.events("interrupted", "leaving", "resumed") == []
    assert len(r.events("done")) == 1


def test_a_run_without_its_terminal_drains_when_it_is_asked_to(tmp_path: Path, runs: list[AtTerminal]) -> None:
    r = AtTerminal(tmp_path / "r", budget_tokens=ENDLESS)
    runs.append(r)
    r.close()
    r.child.send_signal(signal.SIGINT)
    assert r.end() == 130
    assert len(r.events("interrupted")) == 1
    db = sqlite3.connect(r.run / "ledger.db")
    assert db.execute("SELECT COUNT(*) FROM spans WHERE state = 'leased'").fetchone() == (0,), "sites have handed in"
    db.close()


def test_what_was_stopped_for_longer_than_every_time_out_goes_on_as_if_nothing_had_been(
    tmp_path: Path, runs: list[AtTerminal]
) -> None:
    """Heartbeats and the coordinator may be 10 s late here; everything is stopped for 13 s."""
    r = AtTerminal(tmp_path / "r", heartbeat_timeout_s=10.0, coordinator_timeout_s=10.0, dead_man_s=10.0)
    runs.append(r)
    r.tell(signal.SIGSTOP)
    clock.pause(13)
    beat = read_json(RunDir(r.run).beat)
    r.tell(signal.SIGCONT)
    assert r.end() == 0
    assert beat is not None
    assert r.events("adopted", "resumed", "interrupted", "swept") == [], "the same coordinator, the same sites"
    assert [e.detail for e in r.events("state") if e.detail["now"] == "failed"] == []


def test_the_next_coordinator_lets_a_cut_happen_where_run_time_stands(tmp_path: Path, runs: list[AtTerminal]) -> None:
    """The second site to answer it brings the first one's cut forward to that very moment, before any more time is granted."""
    r = AtTerminal(tmp_path / "r")
    runs.append(r)
    wait_for("both sites to train", lambda: any(e.detail.get("mode") == "federated" for e in r.events("round")))
    late = next(p for p in marked(r.run_id, r.run) if p.site == "b" and "\0faults.trainer\0" in command_line(p.pid))
    os.kill(late.pid, signal.SIGSTOP)
    first = int((read_json(RunDir(r.run).beat) or {})["pid"])
    os.kill(first, signal.SIGSTOP)  # so that it lends nothing more
    before = r.newest_lease()
    os.kill(first, signal.SIGKILL)
    wait_for("a lease of a, which is there alone", lambda: r.newest_lease() > before)
    os.kill(late.pid, signal.SIGCONT)
    assert r.end() == 0
    assert {e.site for e in r.events("adopted")} == {"a", "b"}
    assert [e.detail for e in r.events("state") if e.detail["now"] == "failed"] == []


def test_a_run_that_is_asked_to_stop_ends_as_by_ctrl_c_and_the_next_start_goes_on_to_the_end(
    tmp_path: Path,
) -> None:
    root = tmp_path / "t"
    run = tree.make(root, **PATIENT)
    first = tree.start(root)
    wait_for("a supervisor", lambda: running(run, SUPERVISOR_LOCK))
    # No coordinator runs yet: it waits for the one that is being started.
    id = ask(run, Request("stop", None, "ann@desk", "night"))
    said = first.communicate(timeout=PATIENCE_S)[0]
    assert first.returncode == 130, said
    found = outcome(run, id)
    assert found is not None
    assert found.state == "applied"
    assert marked(tree.run_id(root), run.root) == []
    second = tree.start(root)
    said = second.communicate(timeout=PATIENCE_S)[0]
    assert second.returncode == 0, said
    telemetry = Telemetry.open(run.telemetry, read_only=True)
    kinds = [e.kind for _, e in telemetry.events() if e.kind in ("started", "stop_asked", "interrupted", "resumed", "done")]
    telemetry.close()
    assert kinds == ["started", "stop_asked", "interrupted", "resumed", "done"]
