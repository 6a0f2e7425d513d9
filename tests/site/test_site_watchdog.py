"""A trainer that hangs is ended by its agent, with or without a coordinator."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from federation.fake import CountingTrainer
from windfall.site import agent
from windfall.site.watchdog import Watchdog
from windfall.site.worker import SiteWorker
from windfall.store.bus import MemoryBus
from windfall.wire.transport import BEAT_NAME, MemoryMailbox

SITE: dict[str, Any] = {
    "site": "a",
    "generation": 1,
    "bus": "embedded",
    "silent_after_s": 20.0,
    "start_timeout_s": 50.0,
    "dead_man_s": 10.0,
}


class Machine:
    """Its clock, and the trainer's beat."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.folder, self.beats = 100.0, folder, 0
        monkeypatch.setattr("windfall.clock.monotonic", lambda: self.now)

    def beat(self) -> None:
        self.beats += 1
        (self.folder / BEAT_NAME).touch()
        os.utime(self.folder / BEAT_NAME, ns=(self.beats, self.beats))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def looks(machine: Machine, watchdog: Watchdog, seconds: int, *, beating: bool = False) -> str:
    for _ in range(seconds):
        machine.now += 1.0
        if beating:
            machine.beat()
        if said := watchdog.look():
            return said
    return ""


def test_a_trainer_that_beats_is_left_alone_and_one_that_stops_is_not(machine: Machine) -> None:
    watchdog = Watchdog(machine.folder, SITE)
    assert looks(machine, watchdog, 40) == ""  # it loads
    assert looks(machine, watchdog, 200, beating=True) == ""
    assert looks(machine, watchdog, 29) == ""
    assert looks(machine, watchdog, 5) == "its trainer has been silent for 31 s"


def test_a_trainer_that_never_comes_up_has_the_time_of_a_start(machine: Machine) -> None:
    machine.beat()  # an earlier life's
    watchdog = Watchdog(machine.folder, SITE)
    assert looks(machine, watchdog, 60) == ""
    assert looks(machine, watchdog, 2) == "its trainer did not come up for 61 s"


def test_time_in_which_the_agent_was_stopped_itself_does_not_count(machine: Machine) -> None:
    watchdog = Watchdog(machine.folder, SITE)
    machine.beat()
    watchdog.look()
    machine.now += 3600.0  # the whole site was frozen
    assert watchdog.look() == ""
    assert looks(machine, watchdog, 20, beating=True) == ""


def test_a_worker_touches_its_beat_with_each_heartbeat(machine: Machine) -> None:
    worker = SiteWorker(
        site="a", generation=1, trainer=CountingTrainer(4), mailbox=MemoryMailbox(), bus=MemoryBus().site("a", 1),
        folder=machine.folder, snapshot_s=1e9, dead_man_s=1e9,
    )  # fmt: skip
    watchdog = Watchdog(machine.folder, SITE)
    for _ in range(100):
        machine.now += 1.0
        worker.pump()
        assert watchdog.look() == ""


def test_an_agent_ends_a_trainer_that_never_beats(tmp_path: Path) -> None:
    class Hanging(agent.Agent):
        def trainer_command(self) -> list[str]:
            return [sys.executable, "-c", "import sys; sys.stdin.read(); import threading; threading.Event().wait()"]

        def node_command(self) -> list[str]:
            return [sys.executable, "-c", "import threading; threading.Event().wait()"]

        def _probe(self) -> None:
            return None

    own = Hanging(tmp_path, {**SITE, "start_timeout_s": 0.0, "dead_man_s": 0.0, "stop_grace_s": 1.0})
    while own.trainer.poll() is None:
        own.keep()
    assert own.trainer.returncode == -9
    own.end()
    assert isinstance(own.node, subprocess.Popen)
    assert own.node.returncode is not None
