"""The driver of machines that are always there: it meets the endpoint in the site's files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from windfall.errors import Permanent, Transient
from windfall.fleet.driver import Owned
from windfall.fleet.drivers.resident import ResidentDriver
from windfall.fleet.drivers.start import Start, Starts
from windfall.fleet.machine import Observation, Observed
from windfall.store.residents import Assignment, Presence, Resident


class Machine:
    """A site `a`, its driver, a clock, and what its machine says."""

    def __init__(self, folder: Path, *on_command: str) -> None:
        self.now = 1000.0
        self.files = Resident(folder, "a")
        self.starts = Starts(lambda site, generation: Start("r", site, generation, "https://x:1", f"secret-{generation}"))
        self.folder, self._on = folder, on_command
        self.driver = self.another()

    def another(self) -> ResidentDriver:
        return ResidentDriver("a", self.folder, "r", self.starts, away_after_s=30, on_command=self._on, now=lambda: self.now)

    def join(self) -> None:
        self.files.join(self.files.invite(self.now + 10), self.now)

    def say(self, generation: int, state: str, words: str = "", *, asleep: bool = False) -> None:
        self.files.said(Presence(generation, state, words, asleep, self.now))

    def up(self, generation: int) -> None:
        self.starts.make("a", generation)
        self.driver.ensure_up("a", generation)

    def seen(self) -> Observation:
        return self.driver.observe(["a"])["a"]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_life_from_start_to_end(machine: Machine) -> None:
    machine.join()
    machine.say(0, "absent")
    assert machine.seen().state is Observed.ABSENT
    machine.up(3)
    assert machine.files.assignment() == Assignment(3)
    assert machine.files.take_token() == "secret-3"
    assert machine.seen() == Observation(Observed.STARTING, "its machine has been asked to start it")
    machine.say(3, "up")
    assert machine.seen().state is Observed.UP
    machine.up(3)
    assert machine.files.take_token() == "", "it is there already: nothing is asked again"
    machine.driver.ensure_down("a", 20, "its window is over")
    assert machine.files.assignment() == Assignment(0, 20, "its window is over")
    assert machine.seen().state is Observed.STOPPING
    machine.say(3, "stopping")
    assert machine.seen().state is Observed.STOPPING
    machine.say(0, "absent")
    assert machine.seen().state is Observed.ABSENT


def test_what_ends_by_itself_has_failed_with_the_machines_words_until_it_is_cleared_away(machine: Machine) -> None:
    machine.join()
    machine.say(0, "absent")
    machine.up(1)
    machine.say(1, "failed", "it ended by itself with status 1")
    assert machine.seen() == Observation(Observed.FAILED, "it ended by itself with status 1")
    machine.driver.ensure_down("a", 0, "failed")
    assert machine.seen().state is Observed.ABSENT


def test_a_machine_that_never_joined_is_away_or_silent_is_told_and_not_started(machine: Machine) -> None:
    with pytest.raises(Transient, match="no machine has joined as a; run `windfall site invite RUN a`"):
        machine.seen()
    with pytest.raises(Transient, match="no machine has joined"):
        machine.up(1)
    machine.join()
    with pytest.raises(Transient, match="has joined and not been heard since"):
        machine.seen()
    machine.say(0, "absent")
    machine.now += 31
    with pytest.raises(Transient, match="has not been heard for 31 s; is it off, or out of reach"):
        machine.seen()
    with pytest.raises(Transient):
        machine.up(1)
    assert machine.files.assignment().generation == 0


def test_the_next_coordinator_finds_what_runs_and_does_not_know_of_one_that_is_away(machine: Machine) -> None:
    assert machine.another().list_owned("r") == []
    machine.join()
    machine.say(0, "absent")
    machine.up(5)
    machine.say(5, "up")
    assert machine.another().list_owned("r") == [Owned("a", 5, "a")]
    assert machine.another().list_owned("another run") == []
    machine.now += 31
    with pytest.raises(Transient, match="not been heard"):
        machine.another().list_owned("r")


def test_a_machine_that_sleeps_is_off_and_is_woken_by_its_command(tmp_path: Path) -> None:
    woken = tmp_path / "woken"
    machine = Machine(tmp_path, sys.executable, "-c", f"open({str(woken)!r}, 'w').close()")
    machine.join()
    machine.say(0, "absent", asleep=True)
    machine.now += 3600
    assert machine.seen() == Observation(Observed.ABSENT, "sleeps")
    assert machine.another().list_owned("r") == []
    machine.up(2)
    assert woken.exists()
    assert machine.seen() == Observation(Observed.STARTING, "was woken")
    machine.say(2, "up")
    assert machine.seen().state is Observed.UP


@pytest.mark.parametrize(
    ("command", "error", "said"),
    [
        ([sys.executable, "-c", "raise SystemExit('no such host')"], Transient, "ended with 1: no such host"),
        (["/no/such/program"], Permanent, "cannot be run: No such file"),
    ],
)
def test_a_command_that_cannot_wake_it_is_told(tmp_path: Path, command: list[str], error: type[Exception], said: str) -> None:
    machine = Machine(tmp_path, *command)
    machine.join()
    machine.say(0, "absent", asleep=True)
    machine.now += 3600
    with pytest.raises(error, match=said):
        machine.up(2)


def test_files_that_are_malformed_are_as_none(machine: Machine) -> None:
    machine.join()
    (machine.folder / "a" / "presence.json").write_text('{"generation": "x"}')
    (machine.folder / "a" / "assignment.json").write_text("[1]")
    assert machine.files.presence() is None
    assert machine.files.assignment() == Assignment()
