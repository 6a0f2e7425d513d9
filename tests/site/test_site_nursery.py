"""Real agents made by a real nursery: found, adopted, ended and outlived like those that were started."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from patience import PATIENCE_S
from run.real import PARTS, command_line, wait_for, write_config
from windfall.config.load import load
from windfall.fleet.drivers.local import LocalDriver
from windfall.fleet.machine import Observed
from windfall.processes import Marked, group_members, marked
from windfall.run.prepare import prepare_run
from windfall.run.sites import describe_site, nursery_for
from windfall.site import nursery as module
from windfall.site.nursery import Nursery
from windfall.store.rundir import RunDir
from windfall.wire.flower_environment import flower_environment
from windfall.wire.probe import free_port
from windfall.wire.transport import BEAT_NAME

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks like this")]
RUN_ID = "r1"


class Place:
    """A run directory with nobody in it, and what starts its site ``a``; its SuperLink is not there."""

    def __init__(self, folder: Path) -> None:
        self.config = load(write_config(folder, {"a": [(0, 600)]}))
        self.run = RunDir(folder / "run")
        prepare_run(self.config, self.run, lambda _: None)
        made = nursery_for(self.config, self.run, RUN_ID)
        assert made is not None
        self.nursery = made
        wait_for("the nursery", lambda: made.ready())
        self.driver = self.another(made)

    def another(self, nursery: Nursery | None = None) -> LocalDriver:
        """A driver, as the next coordinator has one."""
        superlink = f"127.0.0.1:{free_port()}"
        return LocalDriver(
            self.run.sites, RUN_ID, lambda s: describe_site(self.config, self.run, s, superlink, free_port()),
            environment=flower_environment(str(self.run.root / "flower")), nursery=nursery,
        )  # fmt: skip

    def processes(self) -> list[Marked]:
        return [p for p in marked(RUN_ID, self.run.root) if p.site]

    def parts(self) -> dict[str, int]:
        """By part, the process id of the site's agent, trainer and SuperNode."""
        found = {}
        for p in self.processes():
            line = command_line(p.pid)
            found |= {part: p.pid for part, words in PARTS.items() if words in line}
        return found

    def up(self) -> dict[str, int]:
        self.driver.ensure_up("a", 1)
        # One that has just been forked has its parent's command line for a moment.
        wait_for("its parts", lambda: (self.run.sites / "a" / BEAT_NAME).exists() and len(self.parts()) == 3)
        return self.parts()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.driver.close()
    made.driver.kill_all()
    wait_for("everything to end", lambda: not made.processes() and made.driver.observe(["a"])["a"].state is not Observed.UP)


def forked(pid: int) -> bool:
    """Whether a process never executed anything: it has the nursery's room, in which there is less than it had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[46]) - int(fields[45]) > len(module._ROOM)


def test_a_site_made_in_a_nursery_outlives_it_and_is_adopted_and_ended(place: Place) -> None:
    parts = place.up()
    assert sorted(parts) == ["agent", "supernode", "trainer"]
    assert all(map(forked, parts.values()))
    assert {(p.pgid, p.generation) for p in place.processes()} == {(parts["agent"], 1)}
    assert (place.run.sites / "a" / "logs" / "trainer.log").exists()
    place.nursery.close()
    later = place.another()
    assert later.observe(["a"])["a"].state is Observed.UP
    assert [(o.site, o.generation) for o in later.list_owned(RUN_ID)] == [("a", 1)]
    # A SuperNode that ends is started, since its agent has threads by now.
    os.kill(parts["supernode"], signal.SIGKILL)
    wait_for("another SuperNode", lambda: place.parts().get("supernode", parts["supernode"]) != parts["supernode"])
    assert not forked(place.parts()["supernode"])
    later.ensure_down("a", PATIENCE_S, "enough")
    wait_for("its end", lambda: later.observe(["a"])["a"].state is Observed.ABSENT)
    assert place.processes() == []
    assert "its work is in its outbox" in (place.run.sites / "a" / "logs" / "trainer.log").read_text()


def test_what_an_agent_of_a_nursery_has_made_dies_with_it(place: Place) -> None:
    parts = place.up()
    os.kill(parts["agent"], signal.SIGKILL)
    wait_for("the others to die", lambda: group_members(parts["agent"]) == [])
    assert place.driver.observe(["a"])["a"].state is Observed.FAILED


def test_a_nursery_that_does_not_answer_is_ended_and_the_site_is_started_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ANSWER_S", 0.2)
    (own,) = [p for p in marked(RUN_ID, place.run.root) if not p.site]
    os.kill(own.pid, signal.SIGSTOP)
    parts = place.up()
    assert sorted(parts) == ["agent", "supernode", "trainer"]
    assert not any(map(forked, parts.values()))
    assert not place.nursery.ready()
    assert [p for p in marked(RUN_ID, place.run.root) if not p.site] == []
