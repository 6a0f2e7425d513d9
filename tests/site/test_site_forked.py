"""A forked process is found, named, logged and ended like one that was started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from patience import PATIENCE_S
from windfall import clock
from windfall.processes import mark, marked, settled, start_time
from windfall.site import nursery
from windfall.site.forked import Forked, may_fork

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks like this")

_ROOM = "-" * 8192
#: A parent with room, that forks what it is told to and says how that ended.
PARENT = """
import json, os, sys
from pathlib import Path
from windfall import clock
from windfall.site.forked import fork

def says():
    print("says", os.getsid(0) == os.getpid(), os.environ.get("WHO"), "ROOM" in os.environ, sys.stdin.read() == "", flush=True)
    return 7

def fails():
    raise OSError("nothing that its parent catches")

def leaves():
    sys.exit(5)

def lives():
    clock.pause(600)

asked = json.loads(Path(sys.argv[1]).read_text())
try:
    child = fork(
        asked["command"], globals()[asked["main"]], log=Path(asked["log"]), env=asked["env"], own_session=asked["session"],
        with_parent=not asked["session"],
    )
except OSError:
    print("the parent caught what was its child's")
    raise
print(child.pid, flush=True)
print(child.wait(), flush=True)
"""


class Family:
    """A parent that forks one child."""

    def __init__(self, folder: Path, main: str, *, session: bool = True, more: tuple[str, ...] = ()) -> None:
        self.folder, self.log = folder, folder / "logs" / "child.log"
        self.command = [sys.executable, "-c", "print('executed', flush=True)", str(folder / "o'brien é"), *more]
        env = {**os.environ, **mark("r1", folder, "a", 3), "WHO": "child"}
        asked = {"command": self.command, "main": main, "log": str(self.log), "env": settled(env), "session": session}
        (folder / "asked.json").write_text(json.dumps(asked))
        self.parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(folder / "asked.json"), _ROOM], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "ROOM": _ROOM},
        )  # fmt: skip
        assert self.parent.stdout is not None
        self.child = int(self.parent.stdout.readline())

    def code(self) -> int:
        assert self.parent.stdout is not None
        code = int(self.parent.stdout.read())
        self.parent.stdout.close()
        assert self.parent.wait() == 0
        return code

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")


def wait_until_gone(pid: int) -> None:
    deadline = clock.monotonic() + PATIENCE_S
    while start_time(pid) is not None:
        assert clock.monotonic() < deadline
        clock.pause(0.01)


@pytest.mark.parametrize("session", [True, False])
def test_it_has_its_own_environment_log_and_session_and_its_exit_code_is_heard(tmp_path: Path, session: bool) -> None:
    family = Family(tmp_path, "says", session=session)
    assert family.code() == 7
    assert family.said() == f"says {session} child False True\n"


def test_others_find_it_by_its_mark_and_its_command_as_soon_as_it_is_there(tmp_path: Path) -> None:
    family = Family(tmp_path, "lives")
    (found,) = marked("r1", tmp_path)
    assert (found.pid, found.pgid, found.site, found.generation) == (family.child, family.child, "a", 3)
    words = Path(f"/proc/{family.child}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    assert [os.fsdecode(w) for w in words] == family.command
    os.kill(family.child, signal.SIGTERM)
    assert family.code() == -signal.SIGTERM
    assert marked("r1", tmp_path) == []


def test_it_dies_with_its_parent_where_it_was_to(tmp_path: Path) -> None:
    family = Family(tmp_path, "lives", session=False)
    family.parent.kill()
    family.parent.wait()
    family.parent.stdout.close()  # type: ignore[union-attr]
    wait_until_gone(family.child)


def test_an_error_is_its_own_and_its_traceback_is_in_its_log(tmp_path: Path) -> None:
    family = Family(tmp_path, "fails")
    assert family.code() == 1
    assert "OSError: nothing that its parent catches" in family.said()


def test_it_may_leave_as_any_process_does(tmp_path: Path) -> None:
    assert Family(tmp_path, "leaves").code() == 5


def test_without_room_for_its_command_line_it_executes_its_command(tmp_path: Path) -> None:
    family = Family(tmp_path, "says", more=("x" * 2 * len(_ROOM),))
    assert family.code() == 0
    assert family.said() == "executed\n"


# -- what agents begin -----------------------------------------------------------------------------------------


class Begun:
    """What was forked and what was started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, born_here: bool, threads: bool) -> None:
        self.forked: list[list[str]] = []
        self.started: list[list[str]] = []
        monkeypatch.setattr(nursery, "_born_here", born_here)
        monkeypatch.setattr(nursery, "may_fork", lambda: not threads)
        monkeypatch.setattr(nursery, "fork", lambda command, main, **_: self.forked.append(command))
        monkeypatch.setattr(nursery, "spawn", lambda command, **_: self.started.append(command))


TRAINER = [sys.executable, "-m", "windfall.site.trainer_process", "/folder"]
OTHER = [sys.executable, "other.py", "--trainer", "/folder"]


@pytest.mark.parametrize(
    ("born_here", "threads", "command", "forks"),
    [(True, False, TRAINER, True), (True, True, TRAINER, False), (False, False, TRAINER, False), (True, False, OTHER, False)],
)
def test_only_who_was_made_in_a_nursery_and_has_no_threads_forks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, born_here: bool, threads: bool, command: list[str], forks: bool
) -> None:
    begun = Begun(monkeypatch, born_here=born_here, threads=threads)
    nursery.begin(command, log=tmp_path / "log", env={})
    assert (begun.forked, begun.started) == (([command], []) if forks else ([], [command]))


def test_a_process_with_threads_may_not_fork() -> None:
    code = "import threading; from windfall.site.forked import may_fork; a = may_fork(); " + (
        "e = threading.Event(); t = threading.Thread(target=e.wait); t.start(); print(a, may_fork()); e.set()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
    assert isinstance(may_fork(), bool)


def test_a_child_that_somebody_else_has_asked_after_has_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    forked: Any = Forked(child.pid)
    assert forked.poll() == 1
    forked.kill()
    forked.terminate()
