"""A site's end of messages with large blobs: fetched before the message is given out, sent before the answer is.

A wrapper around any ``Mailbox``. Both happen in a thread; who takes and answers goes on meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windfall import clock
from windfall.errors import DataError, TransferError
from windfall.store.blobs import FileBlob
from windfall.store.files import Envelope
from windfall.wire.bulk import MANIFEST, Entry, Tell, entries, tidy
from windfall.wire.bulk_client import BulkClient
from windfall.wire.bulk_transport import FETCHES, joined, split, without
from windfall.wire.transport import Mailbox

#: What an earlier life of the site has fetched, in whole or in part, is of use for so long (wall time).
_KEEP_S = 24 * 3600.0


class _Superseded(TransferError):
    """Nobody waits for it any more."""


@dataclass
class _Job:
    """The files of one message, on their way."""

    message_id: str
    envelope: Envelope
    manifest: list[Entry]
    direction: str
    total: int
    since_wall: float
    future: Future[Envelope] | None = None
    dropped: bool = False
    #: Of the files before this one, and of this one.
    before: int = 0
    here: int = 0
    blob: str = ""
    trouble: str = ""
    #: Something of its files was at the other end already, so that its time says nothing of the link.
    resumed: bool = False

    def told(self) -> dict[str, Any]:
        return {
            "direction": self.direction, "name": self.blob, "done": self.before + self.here, "of": self.total,
            "since_wall": self.since_wall, "trouble": self.trouble,
        }  # fmt: skip


class BulkMailbox:
    """Implements ``wire.transport.Mailbox``.

    A file that a message brings (a ``FileBlob``) is there until the message is answered: who needs it longer gives it a name of his
    own (``keep``). A message that comes while the files of one before it are under way takes its place: a site's node carries one
    at a time, so that nobody waits for the answer to the first one any more. What has come of its files is kept.
    """

    def __init__(self, mailbox: Mailbox, client: BulkClient, folder: Path, *, inline_limit_bytes: int) -> None:
        """``folder`` of the site's own; what earlier lives have fetched is used."""
        self._mailbox = mailbox
        self._client = client
        self._folder = folder
        self._limit = inline_limit_bytes
        self._executor = ThreadPoolExecutor(2, "files")
        self._fetching: _Job | None = None
        self._sending: list[_Job] = []
        self._held: dict[str, set[str]] = {}  # by message: names of its files
        #: Bytes per second at which the newest answer was sent, with all that delayed it; None before the first.
        self.sent_bytes_per_s: float | None = None
        tidy(folder, older_than_s=_KEEP_S)

    def take(self) -> tuple[str, Envelope] | None:
        """The next message, if one has come with all of its files."""
        self._pass_on_answers()
        taken = self._mailbox.take()
        if taken is not None:
            self._supersede()
            message_id, envelope = taken
            if MANIFEST not in envelope.header:
                return taken
            try:
                manifest = entries(envelope.header)
            except DataError as e:
                self._refuse(message_id, str(e))
                return None
            self._fetching = job = self._job(message_id, envelope, manifest, "down")
            self._held[message_id] = {e.sha256 for e in manifest}
            job.future = self._executor.submit(self._fetch, job)
        return self._fetched()

    def _fetched(self) -> tuple[str, Envelope] | None:
        job = self._fetching
        if job is None or job.future is None or not job.future.done():
            return None
        self._fetching = None
        try:
            return job.message_id, job.future.result()
        except (TransferError, DataError, OSError) as e:
            self._refuse(job.message_id, f"its files cannot be fetched: {e}")
            return None

    def _refuse(self, message_id: str, why: str) -> None:
        self._mailbox.answer(message_id, Envelope({"kind": "error", "error": why}))
        self._let_go(message_id)

    def _supersede(self) -> None:
        if self._fetching is not None:
            self._fetching.dropped = True
            self._held.pop(self._fetching.message_id, None)  # its files stay: it will be sent again
            self._fetching = None
        for job in self._sending:
            job.dropped = True

    def answer(self, message_id: str, envelope: Envelope) -> None:
        """Send an answer: at once, or when its files have been sent."""
        if envelope.header.get("kind") == "hello":
            envelope = Envelope({**envelope.header, FETCHES: True}, envelope.blobs)
        large = split(envelope, self._limit)
        self._let_go(message_id)
        if not large:
            self._mailbox.answer(message_id, envelope)
            return
        blobs = envelope.all_blobs()
        sizes = [Entry(name, "", blobs[name].size) for name in sorted(large)]
        job = self._job(message_id, envelope, sizes, "up")
        self._sending.append(job)
        job.future = self._executor.submit(self._give, job)

    def _pass_on_answers(self) -> None:
        for job in list(self._sending):
            if job.future is None or not job.future.done():
                continue
            self._sending.remove(job)
            try:
                self._mailbox.answer(job.message_id, job.future.result())
            except _Superseded:
                continue
            except (TransferError, DataError, OSError) as e:
                # What was to be sent is in the site's outbox.
                self._mailbox.answer(job.message_id, Envelope({"kind": "error", "error": f"its files cannot be sent: {e}"}))

    def _let_go(self, message_id: str) -> None:
        """Remove the files of a message that has been answered, unless another one has them too."""
        names = self._held.pop(message_id, set())
        for name in names - set().union(*self._held.values()):
            (self._folder / name).unlink(missing_ok=True)

    # -- in the thread ---------------------------------------------------------------------------------------

    def _job(self, message_id: str, envelope: Envelope, manifest: list[Entry], direction: str) -> _Job:
        return _Job(message_id, envelope, manifest, direction, sum(e.size for e in manifest), clock.wall())

    def _fetch(self, job: _Job) -> Envelope:
        files: dict[str, FileBlob] = {}
        for e in job.manifest:
            files[e.blob] = self._client.fetch(e.sha256, e.size, self._folder, self._telling(job, e.blob))
            job.before, job.here = job.before + e.size, 0
        return joined(job.envelope, files)

    def _give(self, job: _Job) -> Envelope:
        sent, began = [], clock.monotonic()
        for e in job.manifest:
            blob = job.envelope.blob(e.blob)
            self._client.give(blob, self._telling(job, e.blob))
            job.before, job.here = job.before + e.size, 0
            sent.append(Entry(e.blob, blob.sha256, blob.size))
        took = clock.monotonic() - began
        if took > 0 and not job.resumed:
            self.sent_bytes_per_s = job.total / took
        return without(job.envelope, {e.blob for e in sent}, sent)

    @staticmethod
    def _telling(job: _Job, blob: str) -> Tell:
        heard = 0

        def tell(done: int, trouble: str) -> None:
            nonlocal heard
            if job.dropped:
                raise _Superseded("another message has come")
            heard += not trouble
            # The first word is ours; the second says how much the other end has already.
            job.resumed = job.resumed or (heard == 2 and done > 0)
            job.blob, job.here, job.trouble = blob, done, trouble

        tell(0, "")
        return tell

    # -- what is under way -----------------------------------------------------------------------------------

    def transfers(self) -> list[dict[str, Any]]:
        """What is under way: direction (up, down), the blob's name, bytes done and of how many, since when, what hinders it."""
        jobs = [*([self._fetching] if self._fetching else []), *self._sending]
        return [job.told() for job in jobs if not job.dropped and not (job.future and job.future.done())]

    def words(self) -> str:
        """What is under way, for people; empty if nothing is."""
        for said in self.transfers():
            verb = "fetching" if said["direction"] == "down" else "sending"
            return f"{verb} {said['name'] or 'files'}, {100 * said['done'] // max(1, said['of'])} %"
        return ""

    def telling(self, say: Callable[[dict[str, Any]], None], every_s: float = 1.0) -> Callable[[], None]:
        """What to call often: ``say`` hears of transfers at most every ``every_s``, and once when there are none any more.

        It is told ``transfers``, and ``sent_bytes_per_s`` where that is known.
        """
        at, last, measured = float("-inf"), False, self.sent_bytes_per_s

        def look() -> None:
            nonlocal at, last, measured
            now = clock.monotonic()
            if now - at < every_s:
                return
            at = now
            under_way, rate = self.transfers(), self.sent_bytes_per_s
            if under_way or last or rate != measured:
                say({"transfers": under_way} | ({} if rate is None else {"sent_bytes_per_s": rate}))
            last, measured = bool(under_way), rate

        return look

    def busy(self) -> bool:
        """Whether answers are still to be sent. It goes on only while ``take`` is called."""
        return bool(self._sending)

    def sent_bytes(self) -> int:
        """How much there is at the other end of the answers that are under way."""
        return sum(job.before + job.here for job in self._sending)

    def close(self) -> None:
        """End what is under way. What has been transferred is kept."""
        self._client.close()
        self._executor.shutdown(cancel_futures=True)
