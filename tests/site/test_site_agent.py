"""What an agent does about a SuperNode that ends: another one, in time, and in the end one that starts processes for messages."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from energy.capped import Gpus
from windfall.site.agent import Agent
from windfall.site.power_cap import PowerCap
from windfall.site.spawning import BROKEN_STATUS, SPAWN


class Ends:
    """A process that ends when it is told to."""

    pid = 0

    def __init__(self) -> None:
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        return self.returncode or 0

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


class Machine:
    """An agent, its clock, and what it has started."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **site: Any) -> None:
        self.now = 100.0
        self.started: list[list[str]] = []
        monkeypatch.setattr("windfall.clock.monotonic", lambda: self.now)
        monkeypatch.setattr("windfall.site.agent.answers", lambda *_: False)
        monkeypatch.setattr("windfall.site.agent.begin", self._begin)
        told = {"site": "a", "generation": 1, "superlink": "127.0.0.1:1", "supernode_port": 2, "bus": "embedded", **site}
        self.agent = Agent(folder, told)

    def _begin(self, command: list[str], **_: Any) -> Ends:
        self.started.append(command)
        return Ends()

    @property
    def spawns(self) -> list[bool]:
        """Of each SuperNode so far: whether it was asked to start processes."""
        return [SPAWN in command for command in self.started if "flower-supernode" in command]

    def ends(self, after_s: float, status: int = -9) -> None:
        """The SuperNode ends, and the agent looks until it has started another."""
        self.now += after_s
        assert isinstance(self.agent.node, Ends)
        self.agent.node.returncode, before = status, len(self.started)
        while len(self.started) == before:
            self.agent.keep()
            self.now += 0.25


def test_trainer_and_supernode_start_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch)
    assert [c[2] for c in machine.started] == ["windfall.site.trainer_process", "windfall.site.supernode"]
    machine.agent.keep()
    assert len(machine.started) == 2


def test_a_supernode_that_is_killed_now_and_then_goes_on_answering_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, monkeypatch)
    for _ in range(3):
        machine.ends(1.0)
    for _ in range(10):
        machine.ends(61.0)
    assert machine.spawns == [False] * 14


def test_one_that_ends_again_and_again_starts_a_process_for_each_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(tmp_path, monkeypatch)
    for _ in range(6):
        machine.ends(1.0)
    machine.ends(100.0)
    assert machine.spawns == [False] * 4 + [True] * 4
    assert capsys.readouterr().out.count("a: from now on its SuperNode starts a process for each message") == 1


def test_one_that_cannot_answer_does_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch)
    machine.ends(500.0, BROKEN_STATUS)
    assert machine.spawns == [False, True]


def test_a_site_may_be_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Machine(tmp_path, monkeypatch, messages="spawn").spawns == [True]


def test_gpus_are_given_back_what_they_were_held_to_before_a_life_and_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus = Gpus()
    monkeypatch.setitem(sys.modules, "pynvml", gpus)
    assert PowerCap(tmp_path).hold(200.0) == "", "a life that then died with its agent"
    machine = Machine(tmp_path, monkeypatch)
    assert set(gpus.limits.values()) == {350_000}
    assert PowerCap(tmp_path).hold(200.0) == ""
    machine.agent.end()
    assert set(gpus.limits.values()) == {350_000}
    assert PowerCap(tmp_path).hold(200.0) == ""
    gpus.refuses = {0, 1}
    machine.agent.end()
    assert "a: GPU GPU-1 cannot be held to its 350 W of before" in capsys.readouterr().err
