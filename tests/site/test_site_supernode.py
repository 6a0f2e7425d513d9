"""A real SuperLink and a real SuperNode that answers messages itself: killed at any moment, and back to a process for each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from patience import PATIENCE_S
from run.real import PARTS, command_line, wait_for
from windfall.federation.flower_attach import Attachment
from windfall.federation.flower_transport import FlowerTransport
from windfall.fleet.drivers.local import LocalDriver
from windfall.fleet.machine import Observed
from windfall.processes import marked
from windfall.run.superlink import SuperLink
from windfall.site.node_log import NodeNotes
from windfall.site.spawning import SPAWN, SPAWNING
from windfall.store.files import Envelope
from windfall.store.rundir import RunDir
from windfall.wire.flower_environment import flower_environment
from windfall.wire.probe import free_port
from windfall.wire.transport import Reply

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),  # in Flower, not in us
]
RUN_ID = "r1"


class Place:
    """A SuperLink, our end of it, and a site whose trainer only answers, in a folder that is oddly named."""

    def __init__(self, folder: Path) -> None:
        self.run = RunDir(folder / "o'brien é")
        self.run.make()
        self.link = SuperLink(self.run, RUN_ID, 0)
        self.link.start()
        self.transport = FlowerTransport(Attachment(f"127.0.0.1:{self.link.port}", wait_s=PATIENCE_S))
        self.site = self.run.sites / "a"
        self.driver = LocalDriver(
            self.run.sites, RUN_ID, lambda _: {"superlink": f"127.0.0.1:{self.link.port}", "supernode_port": free_port()},
            environment=flower_environment(str(self.run.root / "flower")),
            agent=[sys.executable, str(Path(__file__).with_name("stand_in.py"))],
        )  # fmt: skip
        self.driver.ensure_up("a", 1)
        self.replies: list[Reply] = []

    def node(self, other_than: str = "") -> str:
        """The site's node, once it is there."""
        found: set[str] = set()

        def there() -> bool:
            self.replies += self.transport.poll()
            found.update(self.transport.nodes() - {other_than})
            return bool(found)

        wait_for("the site's node", there)
        return found.pop()

    def ask(self, node: str, n: int, blob: bytes = b"", **more: Any) -> str:
        return self.transport.push(node, Envelope({"n": n, **more}, {"blob": blob} if blob else {}))

    def held(self, node: str, n: int) -> str:
        """A message that the trainer has, and keeps."""
        (self.site / "hold").touch()
        (self.site / "taken").unlink(missing_ok=True)
        message = self.ask(node, n, wait=True)

        def taken() -> bool:
            self.replies += self.transport.poll()  # nothing is sent while nobody wants to know
            return (self.site / "taken").exists()

        wait_for("the trainer to have the message", taken)
        return message

    def answer(self, message: str) -> Envelope:
        """What has been answered to a message."""

        def there() -> list[Reply]:
            self.replies += self.transport.poll()
            return [r for r in self.replies if r.message_id == message]

        wait_for("an answer", there)
        (reply,) = there()
        assert reply.envelope is not None, reply.error
        return reply.envelope

    def supernode(self, after: int = 0) -> int:
        """The process id of the site's SuperNode, once it is another than ``after``."""
        found: list[int] = []

        def there() -> list[int]:
            for p in marked(RUN_ID, self.run.root):
                line = command_line(p.pid)
                if p.site == "a" and PARTS["supernode"] in line and "windfall.site.supernode" in line and p.pid != after:
                    found.append(p.pid)
            return found

        wait_for("the SuperNode", there)
        return found[0]

    def close(self) -> None:
        self.driver.kill_all()
        self.transport.close()
        self.link.stop()
        wait_for(
            "everything to end",
            lambda: not marked(RUN_ID, self.run.root) and self.driver.observe(["a"])["a"].state is not Observed.UP,
        )


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def test_messages_of_any_size_are_answered_without_a_process_and_a_kill_in_the_middle_of_one_loses_that_one_only(
    place: Place,
) -> None:
    node = place.node()
    for n, size in enumerate((0, 1, 12_000_000)):
        blob = os.urandom(size)
        answer = place.answer(place.ask(node, n, blob))
        assert answer.header["n"] == n
        assert answer.blobs == ({"blob": blob} if size else {})
    killed = place.supernode()
    children = subprocess.run(["ps", "--ppid", str(killed), "-o", "pid="], capture_output=True, text=True, check=False)
    assert children.stdout == "", "no process has been started for a message, nor for those to come"
    lost = place.held(node, 10)
    os.kill(killed, signal.SIGKILL)
    again = place.node(other_than=node)
    (place.site / "hold").unlink()
    assert place.answer(place.ask(again, 11)).header["n"] == 11
    assert lost not in [r.message_id for r in place.replies if r.envelope is not None]
    # Asked politely in the middle of a message it ends at once, and takes everything with it.
    place.held(again, 12)
    place.driver.ensure_down("a", PATIENCE_S, "enough")
    wait_for("the site to end", lambda: place.driver.observe(["a"])["a"].state is Observed.ABSENT)
    assert [p for p in marked(RUN_ID, place.run.root) if p.site] == []


def test_a_supernode_that_ends_four_times_in_a_row_starts_a_process_for_each_message_and_says_so(place: Place) -> None:
    notes = NodeNotes(place.site)
    node, pid = place.node(), place.supernode()
    for _ in range(4):
        os.kill(pid, signal.SIGKILL)
        pid = place.supernode(after=pid)
    assert SPAWN in Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    spawning = place.node(other_than=node)
    assert place.answer(place.ask(spawning, 1, b"x" * 1000)).blobs == {"blob": b"x" * 1000}
    assert "from now on its SuperNode starts a process for each message" in (place.site / "logs" / "agent.log").read_text()
    assert SPAWNING in (place.site / "logs" / "supernode.log").read_text()
    said: list[str] = []
    wait_for("the note", lambda: said.append(notes.new()) or said[-1])
    assert said[-1].startswith("each of its messages starts a process, which costs seconds")
