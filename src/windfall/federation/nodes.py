"""Nodes, the sites that they belong to, and what has been said to them and not been answered."""

from __future__ import annotations

from collections.abc import Iterator

from windfall.store.blobs import Blob
from windfall.store.files import Envelope
from windfall.wire.messages import Greeting, RoundOrder
from windfall.wire.transport import Reply, Transport

#: A node that fails to answer `hello` is asked this often again (its trainer may just have died).
_HELLO_TRIES = 5


class Nodes:
    """The federation's end of the transport."""

    def __init__(self, transport: Transport, fence: int) -> None:
        self._transport = transport
        self._fence = fence
        self._site: dict[str, str] = {}  # by node; empty until hello has been answered
        self._asked: dict[str, tuple[str, str]] = {}  # message id -> (kind, node)
        self._tries: dict[str, int] = {}

    def look(self) -> list[tuple[str, str]]:
        """Greet nodes that have come; those that are gone, each with its site."""
        listed = self._transport.nodes()
        for node in listed - self._site.keys():
            self._site[node] = ""
            self.greet(node)
        gone = self._site.keys() - listed
        return [(node, site) for node in gone if (site := self._site.pop(node))]

    def listed(self, node: str) -> bool:
        """Whether a node is there now."""
        return node in self._transport.nodes()

    def greet(self, node: str) -> None:
        """Ask a node who it is and how things stand there."""
        self._asked[self._transport.push(node, Envelope(Greeting(self._fence).header()))] = ("hello", node)

    def greet_again(self, node: str) -> bool:
        """Greet a node that failed to answer once more, a few times; False if it has been asked enough."""
        tries = self._tries[node] = self._tries.get(node, 0) + 1
        if tries > _HELLO_TRIES:
            return False
        self._site.pop(node, None)  # so that it counts as one that has just come
        return True

    def belongs(self, node: str, site: str) -> None:
        """A node has answered hello as a site."""
        self._site[node] = site

    def send(self, node: str, order: RoundOrder, blobs: dict[str, Blob]) -> str:
        """Send an order; the message's id."""
        message = self._transport.push(node, Envelope.of(order.header(), blobs))
        self._asked[message] = ("round", node)
        return message

    def replies(self) -> Iterator[tuple[str, str, str, Reply]]:
        """What has come: the kind of message that it answers, node, site (empty if unknown), reply."""
        for reply in self._transport.poll():
            kind, node = self._asked.pop(reply.message_id, ("", ""))
            if kind:
                yield kind, node, self._site.get(node, ""), reply
