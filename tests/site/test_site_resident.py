"""A machine's agent whose run has moved to another address."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from patience import wait_for
from windfall import clock
from windfall.errors import ConfigError, TransferError
from windfall.processes import start_time
from windfall.site import resident
from windfall.store.files import read_json, write_json, write_secret
from windfall.store.residents import Assignment, Resident
from windfall.wire.bulk_server import application
from windfall.wire.start_server import StartServer
from wire.served import Served


class Run:
    """A run's folder of sites, and its endpoint, which may be anywhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.a = Resident(folder, "a")
        self._served: list[Served] = []

    def serve(self) -> str:
        """Somewhere else from now on; where."""
        self.stop()
        self._served = [Served(application(StartServer(self.folder, lambda: [], ["a"]).routes()))]
        return self._served[0].url

    def stop(self) -> None:
        for served in self._served:
            served.stop()

    def close(self) -> None:
        self.stop()
        wait_for("those who asked there to have ended", lambda: all(t.name != "assignments" for t in threading.enumerate()))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path / "sites")
    yield made
    made.close()


def never() -> bool:
    return False


def join(run: Run, folder: Path, url: str) -> None:
    write_secret(folder.parent / "token", run.a.invite(clock.wall() + 60))
    resident.join(url, folder.parent / "token", None, folder, off_command=["true"], asked=never, say=print)


def test_an_agent_takes_up_the_runs_new_address_and_ends_what_was_started_at_the_old_one(run: Run, tmp_path: Path) -> None:
    machine, said, over = tmp_path / "machine", list[str](), threading.Event()
    join(run, machine, run.serve())
    run.a.assign(Assignment(3), "secret-of-3")
    site = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    write_json(machine / "started.json", {"generation": 3, "pid": site.pid, "born": start_time(site.pid)})
    agent = resident.Machine(machine, said.append)
    thread = threading.Thread(target=agent.serve, args=(over.is_set,))
    thread.start()
    try:
        wait_for("its word", lambda: (p := run.a.presence()) is not None and (p.generation, p.state) == (3, "up"))
        url = run.serve()
        assert resident.move(f"{url}/", machine, asked=never, say=print) == "a"
        site.wait()
        wait_for("its word at the new address", lambda: (p := run.a.presence()) is not None and p.state == "failed")
    finally:
        over.set()
        thread.join()
    presence = run.a.presence()
    assert presence is not None
    assert presence.words == f"it is started again, since the run is at {url} now"
    assert f"the run is at {url} from now on" in said
    joined = read_json(machine / "joined.json")
    assert joined == {"endpoint": url, "site": "a", "off_command": ["true"]}


def test_an_address_at_which_another_run_is_changes_nothing(run: Run, tmp_path: Path) -> None:
    machine, url = tmp_path / "machine", run.serve()
    join(run, machine, url)
    other = Run(tmp_path / "others")
    there = other.serve()
    with pytest.raises(TransferError, match="this key is none of this run's"):
        resident.move(there, machine, asked=never, say=print)
    other.close()
    with pytest.raises(ConfigError, match="nothing was changed"):
        resident.move(there, machine, asked=lambda: True, say=print)
    assert (read_json(machine / "joined.json") or {})["endpoint"] == url


def test_a_machine_that_has_not_joined_cannot_move(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no machine has joined a run from here"):
        resident.move("https://coordinator.lan:9443", tmp_path, asked=never, say=print)
