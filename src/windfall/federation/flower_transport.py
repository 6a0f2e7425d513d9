"""The transport over Flower. One thread owns every call to the SuperLink, so that none of them delays the loop."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass

import httpx
from flwr.app import Message

from windfall import clock
from windfall.errors import DataError, FederationError
from windfall.federation.flower_attach import Attachment, Lapsed
from windfall.store.files import Envelope
from windfall.wire.records import pack, unpack
from windfall.wire.transport import Reply

#: Between two questions which nodes there are.
_LOOK_S = 0.5
#: Between two questions for a message's reply: a share of how long the message is under way, within these bounds. Each question
#: costs the SuperLink some milliseconds of processor time, which on one machine the sites' trainers pay for.
_SHARE_OF_AGE = 0.05
_LEAST_S, _MOST_S = 0.1, 1.0
#: The SuperLink may be silent for this long before the run is told.
_PATIENCE_S = 60.0


def ask_again_s(age_s: float) -> float:
    """How long (s) to wait before asking again for the reply to a message that was sent ``age_s`` ago."""
    return min(_MOST_S, max(_LEAST_S, _SHARE_OF_AGE * age_s))


@dataclass
class _UnderWay:
    """A message that has no reply yet: our name of it, to whom, and when (monotonic) it was sent and is asked for next."""

    name: str
    node: str
    sent: float
    ask_at: float


class FlowerTransport:
    """Messages over a SuperLink. Implements ``federation.transport.Transport``."""

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self._nodes: set[str] = set()
        self._out: queue.SimpleQueue[tuple[str, str, Envelope]] = queue.SimpleQueue()
        self._in: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._count = 0
        self._closing = threading.Event()
        self._polled = threading.Event()
        self._failure = ""
        self._thread = threading.Thread(target=self._run, name="flower", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> str:
        """Why messages cannot go on, or an empty string."""
        if self._attachment.lapsed:
            return self._attachment.lapsed
        if not self._thread.is_alive() and not self._closing.is_set():
            return "the thread that speaks to the SuperLink has ended (see logs/coordinator.log)"
        return self._failure

    def nodes(self) -> set[str]:
        return self._nodes

    def push(self, node: str, envelope: Envelope) -> str:
        self._count += 1
        name = f"w{self._count}"
        self._out.put((name, node, envelope))
        return name

    def poll(self) -> list[Reply]:
        self._polled.set()
        found = []
        while not self._in.empty():
            found.append(self._in.get())
        return found

    def close(self) -> None:
        self._closing.set()
        self._polled.set()
        self._thread.join(timeout=10)
        self._attachment.close()

    def _run(self) -> None:
        open_messages: dict[str, _UnderWay] = {}  # by Flower's id
        looked = -_LOOK_S
        silent_since: float | None = None
        while not self._closing.wait(_LEAST_S):
            # As often as anybody wants to know: a coordinator whose sites are all off asks once a second.
            self._polled.wait()
            self._polled.clear()
            try:
                now = clock.monotonic()
                if now - looked >= _LOOK_S:
                    looked = now
                    self._nodes = {str(n) for n in self._attachment.node_ids()}
                while not self._out.empty():
                    self._push(open_messages, *self._out.get())
                self._pull(open_messages)
                silent_since = None
            except Lapsed as e:
                self._attachment.lapsed = str(e)
                return
            except httpx.HTTPError as e:
                silent_since = silent_since or clock.monotonic()
                if clock.monotonic() - silent_since > _PATIENCE_S:
                    self._failure = f"the SuperLink has not answered for {_PATIENCE_S:.0f} s ({type(e).__name__}: {e})"

    def _push(self, open_messages: dict[str, _UnderWay], name: str, node: str, envelope: Envelope) -> None:
        message = Message(pack(envelope), dst_node_id=int(node), message_type="train")
        try:
            sent = clock.monotonic()
            open_messages[self._attachment.push(message)] = _UnderWay(name, node, sent, sent)
        except Lapsed:
            raise
        except (FederationError, httpx.HTTPError) as e:
            self._in.put(Reply(name, node, None, f"could not be sent: {e}"))

    def _pull(self, open_messages: dict[str, _UnderWay]) -> None:
        # One reply at a time: a reply is as large as the model (FACTS 2).
        for flower_id, asked in list(open_messages.items()):
            now = clock.monotonic()
            if now < asked.ask_at:
                continue
            asked.ask_at = now + ask_again_s(now - asked.sent)
            for message in self._attachment.pull([flower_id]):
                del open_messages[flower_id]
                if message.has_error():
                    self._in.put(Reply(asked.name, asked.node, None, str(message.error.reason)))
                    continue
                try:
                    self._in.put(Reply(asked.name, asked.node, unpack(message.content)))
                except (DataError, KeyError) as e:
                    self._in.put(Reply(asked.name, asked.node, None, f"unreadable reply: {e}"))
