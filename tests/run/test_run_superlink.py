"""Looking after the SuperLink: started again whenever it ends or falls silent, given up only if it cannot work."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from windfall import clock
from windfall.errors import RunError
from windfall.run import kept
from windfall.run.superlink import SuperLink
from windfall.store.rundir import RunDir


class Stand(SuperLink):
    """Starts something else in its place."""

    command = ("sleep", "1000")

    def start(self) -> None:
        self._child = subprocess.Popen(self.command)
        self._started = clock.monotonic()


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Stand]:
    made = Stand(RunDir(tmp_path), "run-1", 0)
    yield made
    made.stop()


def end(link: Stand, number: signal.Signals) -> None:
    assert link._child is not None
    link._child.send_signal(number)
    link._child.wait()


def test_one_that_is_killed_is_started_again_however_often(link: Stand) -> None:
    link.start()
    for _ in range(10):
        end(link, signal.SIGKILL)
        assert link.keep() == "the SuperLink ended with status -9; started again"
    assert not list(Path(link._folder).glob("damaged-*"))


def test_one_that_ends_by_itself_every_time_gets_a_new_database_and_is_given_up(link: Stand) -> None:
    (link._folder / "superlink.db").write_text("broken")
    link.command = ("false",)
    link.start()

    def live_on() -> None:
        for _ in range(10):
            assert link._child is not None
            link._child.wait()
            link.keep()

    with pytest.raises(RunError, match=r"ends as soon as it is started \(status 1\)"):
        live_on()
    assert (link._folder / "damaged-superlink.db").read_text() == "broken"


def test_one_that_ends_without_ever_having_answered_has_not_worked_however_long_that_took(
    link: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine so busy that it takes half a minute to fail."""
    (link._folder / "superlink.db").write_text("broken")
    now = [100.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    link.command = ("false",)
    link.start()
    for _ in range(3):
        assert link._child is not None
        link._child.wait()
        now[0] += 30
        assert link.keep() == "the SuperLink ended with status 1; started again"
    assert (link._folder / "damaged-superlink.db").read_text() == "broken"


@pytest.mark.parametrize(("answered", "after_s"), [(True, 45), (False, 300)])
def test_one_that_accepts_and_says_nothing_is_ended_and_has_longer_while_it_starts(
    link: Stand, monkeypatch: pytest.MonkeyPatch, answered: bool, after_s: int
) -> None:
    """A frozen process: the system still takes its connections."""
    monkeypatch.setattr(kept, "_PROBE_TIMEOUT_S", 0.02)
    now = [100.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    with socket.socket() as s:
        s.bind(("127.0.0.1", link.port))
        s.listen()
        link.start()
        if answered:
            link._heard = now[0]
        for _ in range(after_s // 5):
            assert link.keep() == ""
            now[0] += 5
        assert link.keep() == ""
        now[0] += 5
        assert link.keep() == f"the SuperLink has not answered for {after_s} s; ending it"
    assert link._child is not None
    assert link._child.wait() == -signal.SIGKILL
    assert "started again" in link.keep()
