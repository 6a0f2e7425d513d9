"""How messages reach sites. The coordinator pushes and polls; a site takes from its mailbox and answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from windfall.errors import DataError
from windfall.store.files import Envelope

#: In a site's folder: touched by the trainer at each heartbeat, for its agent.
BEAT_NAME = "beat"


@dataclass(frozen=True)
class Reply:
    """The answer to a message, or why there is none."""

    message_id: str
    node: str
    envelope: Envelope | None
    error: str = ""


class Transport(Protocol):
    """The coordinator's side. Never blocks; a node is an opaque name that dies with its connection."""

    @property
    def failure(self) -> str:
        """Why messages cannot go on, or an empty string."""
        ...

    def nodes(self) -> set[str]: ...

    def push(self, node: str, envelope: Envelope) -> str: ...

    def poll(self) -> list[Reply]: ...

    def close(self) -> None: ...


class Mailbox(Protocol):
    """A site's side."""

    def take(self) -> tuple[str, Envelope] | None:
        """The next message, if one has come."""
        ...

    def answer(self, message_id: str, envelope: Envelope) -> None: ...


class MemoryMailbox:
    """A site's side of a ``MemoryTransport``."""

    def __init__(self) -> None:
        self.incoming: list[tuple[str, Envelope]] = []
        self.outgoing: list[tuple[str, Envelope]] = []

    def take(self) -> tuple[str, Envelope] | None:
        return self.incoming.pop(0) if self.incoming else None

    def answer(self, message_id: str, envelope: Envelope) -> None:
        self.outgoing.append((message_id, envelope))


class MemoryTransport:
    """Messages within one process, by way of bytes as over a network. For tests and for work without Flower."""

    failure = ""

    def __init__(self) -> None:
        self._boxes: dict[str, MemoryMailbox] = {}
        self._sent = 0
        self._lost: list[Reply] = []
        #: A test may change or drop what arrives.
        self.tamper: Callable[[Envelope], list[Envelope]] = lambda e: [e]

    def connect(self, node: str) -> MemoryMailbox:
        """A new node."""
        self._boxes[node] = MemoryMailbox()
        return self._boxes[node]

    def disconnect(self, node: str) -> None:
        """A node that is gone, with what was under way."""
        self._boxes.pop(node, None)

    def nodes(self) -> set[str]:
        return set(self._boxes)

    def push(self, node: str, envelope: Envelope) -> str:
        self._sent += 1
        message_id = f"m{self._sent}"
        if node in self._boxes:
            self._boxes[node].incoming.append((message_id, Envelope.parse(b"".join(envelope.parts()), "message")))
        else:
            self._lost.append(Reply(message_id, node, None, "the node is gone"))
        return message_id

    def poll(self) -> list[Reply]:
        found, self._lost = self._lost, []
        for node, box in self._boxes.items():
            for message_id, envelope in box.outgoing:
                found += [Reply(message_id, node, e) for e in self.tamper(envelope)]
            box.outgoing.clear()
        return found

    def close(self) -> None:
        self._boxes.clear()


class FileMailbox:
    """Messages as files in a site's folder: how the ClientApp, which lives for one message, reaches the trainer."""

    def __init__(self, site_dir: Path) -> None:
        self.inbox = site_dir / "inbox"
        self.answers = site_dir / "answers"
        for folder in (self.inbox, self.answers):
            folder.mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Forget messages of an earlier life of the site: their senders no longer wait."""
        for folder in (self.inbox, self.answers):
            for file in folder.iterdir():
                file.unlink(missing_ok=True)

    def take(self) -> tuple[str, Envelope] | None:
        names = sorted(n for n in os.listdir(self.inbox) if n.endswith(".env"))
        for name in names:
            file = self.inbox / name
            try:
                envelope = Envelope.load(file)
            except DataError as e:
                file.unlink(missing_ok=True)
                self.answer(name.removesuffix(".env"), Envelope({"kind": "error", "error": str(e)}))
                continue
            file.unlink(missing_ok=True)
            return name.removesuffix(".env"), envelope
        return None

    def answer(self, message_id: str, envelope: Envelope) -> None:
        # After a crash of the machine nobody waits for it, and what it hands in is in the outbox: training waits for no disk.
        envelope.save(self.answers / f"{message_id}.env", durable=False)
