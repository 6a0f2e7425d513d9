"""The coordinator's end of messages with large blobs: they are put on the shelf, and the message says which ones and how long.

A wrapper around any ``Transport``. A blob that is a whole file gets a second name in the site's folder: one file serves all sites,
and nothing is copied. Writing happens in a thread.
"""

from __future__ import annotations

import contextlib
import errno
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from windfall import clock
from windfall.errors import DataError, Refused
from windfall.store.blobs import Blob, FileBlob
from windfall.store.files import Envelope
from windfall.wire.bulk import MANIFEST, Entry, Shelf, entries, is_name, tidy, whole
from windfall.wire.fields import Fields, finite, text
from windfall.wire.transport import Reply, Transport

#: In a site's hello: it can fetch files.
FETCHES = "fetches_files"
#: After a disk that took no more it is tried again so much later.
_AGAIN_S = 5.0
#: What no message has named for so long (wall time) when a coordinator starts, none will.
_ORPHAN_S = 3600.0
#: Of a site's files on their way so many are shown.
_SHOWN = 8


def split(envelope: Envelope, limit_bytes: int) -> set[str]:
    """Which blobs are to travel as files, so that the others together are at most ``limit_bytes``: the largest ones."""
    sizes = {name: blob.size for name, blob in envelope.all_blobs().items()}
    total, large = sum(sizes.values()), set()
    for name in sorted(sizes, key=lambda n: (-sizes[n], n)):
        if total <= limit_bytes:
            break
        large.add(name)
        total -= sizes[name]
    return large


def without(envelope: Envelope, names: set[str], manifest: list[Entry]) -> Envelope:
    """The message without these blobs, which says where they are."""
    rest = {name: blob for name, blob in envelope.all_blobs().items() if name not in names}
    return Envelope.of({**envelope.header, MANIFEST: [e.as_json() for e in manifest]}, rest)


def joined(envelope: Envelope, files: dict[str, FileBlob]) -> Envelope:
    """The message as it was before ``without``. Raises DataError if a blob is there twice."""
    inline = envelope.all_blobs()
    if inline.keys() & files.keys():
        raise DataError("a blob is in the message and a file as well")
    return Envelope.of({k: v for k, v in envelope.header.items() if k != MANIFEST}, {**inline, **files})


@dataclass
class _Outgoing:
    """A message that waits for its files to be on the shelf."""

    number: str
    node: str
    site: str
    envelope: Envelope
    large: set[str]
    offered: Future[list[Entry]] | None = None
    again_at: float = float("-inf")
    names: set[str] = field(default_factory=set)


class BulkTransport:
    """Implements ``wire.transport.Transport``.

    A file that a reply brings (a ``FileBlob``) is there until the next ``poll``: who needs it longer gives it a name of his own
    (``keep``). What was offered to a site is there until the site has answered.
    """

    def __init__(
        self, transport: Transport, shelf: Shelf, *, inline_limit_bytes: int, sites: Collection[str],
        tell: Callable[[str, str], None] = lambda site, trouble: None,
    ) -> None:  # fmt: skip
        """``tell`` hears, by site, what keeps its files from the shelf (a full disk), and an empty text when it is over."""
        self._transport = transport
        self._shelf = shelf
        self._limit = inline_limit_bytes
        self._sites = sites
        self._tell = tell
        self._executor = ThreadPoolExecutor(1, "shelf")
        self._count = 0
        self._site_of: dict[str, str] = {}
        self._waiting: deque[_Outgoing] = deque()
        #: By the wrapped transport's number: ours, and for a message with files its site and their names.
        self._open: dict[str, tuple[str, str, set[str]]] = {}
        self._given: list[Path] = []
        self._lost: list[Reply] = []

    @property
    def failure(self) -> str:
        """Why messages cannot go on, or an empty string."""
        return self._transport.failure

    def nodes(self) -> set[str]:
        return self._transport.nodes()

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)
        self._transport.close()

    # -- to sites --------------------------------------------------------------------------------------------

    def push(self, node: str, envelope: Envelope) -> str:
        self._count += 1
        number = f"b{self._count}"
        site = self._site_of.get(node, "")
        large = split(envelope, self._limit) if site else set()
        self._waiting.append(_Outgoing(number, node, site, envelope, large))
        self._send_on()
        return number

    def _send_on(self) -> None:
        """Send what is ready, in each node's order."""
        held: set[str] = set()
        left: deque[_Outgoing] = deque()
        while self._waiting:
            m = self._waiting.popleft()
            try:
                ready = m.node not in held and self._is_ready(m)
            except DataError as e:
                self._lost.append(Reply(m.number, m.node, None, f"could not be sent: {e}"))
                continue
            if not ready:
                held.add(m.node)
                left.append(m)
        self._waiting = left

    def _is_ready(self, m: _Outgoing) -> bool:
        """Whether the message has been sent. Raises DataError if a blob is not what it was any more."""
        if not m.large:
            self._open[self._transport.push(m.node, m.envelope)] = (m.number, m.site, set())
            return True
        if m.offered is None:
            if clock.monotonic() < m.again_at:
                return False
            m.offered = self._executor.submit(self._offer, m.site, {n: m.envelope.blob(n) for n in sorted(m.large)})
        if not m.offered.done():
            return False
        try:
            manifest = m.offered.result()
        except OSError as e:
            if e.errno == errno.ENOENT:
                raise DataError(f"{e.filename} is gone") from None
            m.offered, m.again_at = None, clock.monotonic() + _AGAIN_S
            self._tell(m.site, f"its files cannot be written ({e.strerror}): it waits for them; make room")
            return False
        self._tell(m.site, "")
        sent = self._transport.push(m.node, without(m.envelope, m.large, manifest))
        self._open[sent] = (m.number, m.site, {e.sha256 for e in manifest})
        return True

    def _offer(self, site: str, blobs: dict[str, Blob]) -> list[Entry]:
        """Put blobs where the site can fetch them. Raises OSError, DataError."""
        folder = self._shelf.offered(site)
        folder.mkdir(parents=True, exist_ok=True)
        found = []
        for name, blob in blobs.items():
            if not is_name(blob.sha256):
                raise DataError(f"the blob {name} has no SHA-256")
            if whole(folder, blob.sha256, blob.size) is None:
                same = (whole(self._shelf.offered(s), blob.sha256, blob.size) for s in self._sites)
                (next((s for s in same if s), None) or blob).keep(folder / blob.sha256)
            found.append(Entry(name, blob.sha256, blob.size))
        return found

    # -- from sites ------------------------------------------------------------------------------------------

    def poll(self) -> list[Reply]:
        for path in self._given:
            path.unlink(missing_ok=True)
        self._given.clear()
        self._send_on()
        found, self._lost = self._lost, []
        for reply in self._transport.poll():
            number, site, _ = self._open.pop(reply.message_id, (reply.message_id, "", set()))
            found.append(self._resolved(Reply(number, reply.node, reply.envelope, reply.error)))
            if site:
                self._answered(number, site)
        return found

    def _resolved(self, reply: Reply) -> Reply:
        """A reply with its files."""
        if reply.envelope is None:
            return reply
        header = reply.envelope.header
        site = header.get("site")
        if header.get("kind") == "hello" and isinstance(site, str) and site in self._sites:
            self._site_of.pop(reply.node, None)
            if header.get(FETCHES) is True:
                self._site_of[reply.node] = site
        if MANIFEST not in header:
            return reply
        try:
            if not isinstance(site, str) or site not in self._sites or self._site_of.get(reply.node, site) != site:
                raise DataError("it names files and not whose they are")
            files: dict[str, FileBlob] = {}
            for e in entries(header):
                file = whole(self._shelf.sent(site), e.sha256, e.size)
                if file is None:
                    raise DataError(f"the file of its {e.blob} is not here")
                files[e.blob] = file
            envelope = joined(reply.envelope, files)
        except DataError as e:
            return Reply(reply.message_id, reply.node, None, f"its answer cannot be read: {e}")
        self._given += [f.path for f in files.values()]
        return Reply(reply.message_id, reply.node, envelope, reply.error)

    def _answered(self, number: str, site: str) -> None:
        """Let go of what was offered to a site with messages up to this one: it takes one at a time."""
        gone = [k for k, (n, s, _) in self._open.items() if s == site and int(n[1:]) < int(number[1:])]
        for k in gone:
            self._open[k] = (self._open[k][0], site, set())
        named = set().union(*(names for _, s, names in self._open.values() if s == site))
        if any(m.site == site and m.offered is not None for m in self._waiting):
            return  # its files are being written just now
        tidy(self._shelf.offered(site), older_than_s=float("-inf"), but=named)


def transfers(said: Any, generation: int) -> list[dict[str, Any]]:
    """What a site of this generation says of its files on their way (``BulkMailbox.transfers``), as far as it is well formed."""
    if not isinstance(said, dict) or said.get("generation") != generation or not isinstance(said.get("transfers"), list):
        return []
    found = []
    for x in said["transfers"][:_SHOWN]:
        with contextlib.suppress(Refused, AttributeError):
            f = Fields(x)
            found.append(
                {
                    "direction": f.word("direction", of=("up", "down")), "name": text(f.word("name", default=""), 80),
                    "done": f.count("done"), "of": f.count("of"), "since_wall": f.number("since_wall"),
                    "trouble": text(f.word("trouble", default=""), 300),
                }
            )  # fmt: skip
    return found


def sent_bytes_per_s(said: Any, generation: int) -> float | None:
    """The bytes per second at which a site of this generation says that its newest large answer was sent; None if it says none."""
    if not isinstance(said, dict) or said.get("generation") != generation:
        return None
    rate = finite(said.get("sent_bytes_per_s"))
    return rate if rate is not None and rate > 0 else None


def clear_orphans(shelf: Shelf, living: Collection[str]) -> list[Path]:
    """At a coordinator's start: remove what no message will name any more. What is gone.

    What an earlier coordinator offered to a site that lives stays until the site has answered this one, so that no transfer is cut;
    what a site has sent in the last hour stays, as it may be about to name it.
    """
    gone = []
    for side, folders in ((shelf.root / "to", living), (shelf.root / "from", ())):
        for folder in sorted(side.iterdir()) if side.is_dir() else ():
            if folder.is_dir() and folder.name not in folders:
                gone += tidy(folder, older_than_s=_ORPHAN_S if side.name == "from" else float("-inf"))
    return gone


def leftovers(shelf: Shelf) -> list[Path]:
    """Of a run that nobody runs: every file on its way. Sites keep what they have to hand in and send it again."""
    return [p for side in ("to", "from") for p in sorted((shelf.root / side).glob("*/*")) if p.is_file()]
