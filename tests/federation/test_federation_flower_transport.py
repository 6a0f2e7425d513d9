"""The transport over Flower: how often it asks, and what it makes of answers."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from flwr.app import Message
from flwr.app.error import Error

from windfall.federation import flower_attach
from windfall.federation.flower_transport import FlowerTransport, ask_again_s
from windfall.store.files import Envelope
from windfall.wire.records import pack
from windfall.wire.transport import Reply


def test_a_reply_is_asked_for_often_at_first_and_at_least_once_a_second() -> None:
    def questions(until_s: float) -> int:
        count, age = 0, 0.0
        while age < until_s:
            count, age = count + 1, age + ask_again_s(age)
        return count

    assert ask_again_s(0.0) == 0.1
    assert ask_again_s(10.0) == 0.5
    assert ask_again_s(3600.0) == 1.0
    # Ten times a second throughout would be 600 for a round of a minute.
    assert questions(1.05) == 11
    assert questions(60.0) == pytest.approx(108, abs=1)


class _Attachment:
    """A SuperLink in memory: a reply is there when a test says so."""

    def __init__(self) -> None:
        self.lapsed = ""
        self.pushed: list[Message] = []
        self.replies: dict[str, Message] = {}
        self.asked: list[str] = []
        self.was_asked = threading.Event()

    def node_ids(self) -> list[int]:
        return [7]

    def push(self, message: Message) -> str:
        self.pushed.append(message)
        return f"m{len(self.pushed)}"

    def pull(self, ids: list[str]) -> list[Message]:
        self.asked += ids
        self.was_asked.set()
        return [self.replies.pop(i) for i in ids if i in self.replies]

    def close(self) -> None:
        return None


def _first(transport: FlowerTransport) -> Reply:
    while not (found := transport.poll()):
        assert not transport.failure
    return found[0]


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who Flower takes this process for, which attaching to a SuperLink sets."""
    for name, value in (("_task_id", 1), ("_run_id", 2), ("_node_id", 3)):
        monkeypatch.setattr(flower_attach.TaskIdentity, name, value)


@pytest.mark.parametrize("broken", [False, True])
def test_a_reply_that_comes_later_than_it_is_first_asked_for_is_given_once(broken: bool) -> None:
    link: Any = _Attachment()
    transport = FlowerTransport(link)
    try:
        name = transport.push("7", Envelope({"kind": "hello"}))
        while not link.was_asked.wait(0.01):
            assert transport.poll() == []
            assert not transport.failure
        sent = link.pushed[0]
        sent.metadata._message_id = "m1"
        reply = (
            Message(Error(code=0, reason="out of memory"), reply_to=sent)
            if broken
            else Message(pack(Envelope({"kind": "hello", "site": "a"})), reply_to=sent)
        )
        link.replies["m1"] = reply
        found = _first(transport)
        assert (found.message_id, found.node) == (name, "7")
        if broken:
            assert found.envelope is None
            assert found.error == "out of memory"
        else:
            assert found.envelope is not None
            assert found.envelope.header["site"] == "a"
        asked = len(link.asked)
        assert link.asked == ["m1"] * asked
        transport.poll()
        assert transport.nodes() == {"7"}
    finally:
        transport.close()
    assert len(link.asked) == asked, "what has been answered is asked for no more"
