"""Bulk transport, a site's end: fetches and gives files, goes on where it was cut off, and never hurries past its bandwidth.

It only ever connects outwards. What may pass (a server that is not there, a connection that ends, a full disk at either end) it
waits out and says so meanwhile; what will not pass (a token of another life, a file that nobody offers) is raised.
"""

from __future__ import annotations

import random
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn, TypeVar

import httpx

from windfall import clock, proxies
from windfall.errors import TransferError
from windfall.store.blobs import CHUNK, Blob, FileBlob
from windfall.store.files import DISK_ERRORS
from windfall.wire.bulk import COMPLETE, LENGTH, OFFSET, OtherBytes, Receiving, Tell, TooLong, whole

#: The first wait after a failure, doubling up to the longest; jitter takes up to half.
_WAIT_S, _LONGEST_WAIT_S, _SLICE_S = 0.25, 30.0, 0.5
#: Silence after which a connection is given up.
_TIMEOUT_S = 60.0
#: A file that comes with other bytes than its name says is asked for so often.
_TRIES = 3
#: Statuses that say: later.
_LATER = {408, 409, 425, 429, 507}
_BITS_PER_BYTE = 8

T = TypeVar("T")


class _Later(Exception):
    """It may work later, and this is what hinders it."""


class Bucket:
    """A limit of ``bytes_per_s``, with a quarter of a second's worth at once. Thread-safe."""

    def __init__(self, bytes_per_s: float, wait: Callable[[float], object], now: Callable[[], float] = clock.monotonic) -> None:
        self._rate, self._wait, self._now = bytes_per_s, wait, now
        self._lock = threading.Lock()
        self._free, self._at = bytes_per_s / 4, now()

    @property
    def piece(self) -> int:
        """A good size of pieces."""
        return max(1024, min(CHUNK, int(self._rate / 4)))

    def take(self, count: int) -> None:
        """Wait until ``count`` bytes may pass."""
        with self._lock:
            now = self._now()
            self._free = min(self._rate / 4, self._free + (now - self._at) * self._rate) - count
            self._at = now
            owed = -self._free / self._rate
        if owed > 0:
            self._wait(owed)


class BulkClient:
    """Requests of one site. A method blocks until it is done; what ``tell`` raises ends it, and ``close`` from another thread."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        bandwidth_mbit_s: float | None = None,
        verify: bool | ssl.SSLContext = True,
        timeout_s: float = _TIMEOUT_S,
        wait_s: float = _WAIT_S,
        environ: Mapping[str, str] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """``url`` of the server, with or without a path; ``verify`` is for HTTPS, as httpx takes it.

        Raises:
            TransferError: the proxy that leads to it cannot be used.
        """
        way = proxies.way(url, environ)
        if way.fault:
            raise TransferError(f"{url} cannot be asked: {way.fault}")
        self._url = url.rstrip("/")
        self._wait_s = wait_s
        self._rng = rng or random.Random()
        self._closed = threading.Event()
        self._client = httpx.Client(
            # Without TLS there are no certificates to load, which takes a while.
            timeout=timeout_s, proxy=way.proxy, trust_env=False, follow_redirects=False,
            verify=verify if url.startswith("https:") else False,
            headers={"Authorization": f"Bearer {token}", "Accept-Encoding": "identity", "User-Agent": "windfall"},
        )  # fmt: skip
        rate = bandwidth_mbit_s * 1e6 / _BITS_PER_BYTE if bandwidth_mbit_s else None
        # A link has two directions, and each its own capacity.
        self._down = Bucket(rate, self._closed.wait) if rate else None
        self._up = Bucket(rate, self._closed.wait) if rate else None

    def close(self) -> None:
        """End what is under way: it raises TransferError. What has been transferred is kept at either end."""
        self._closed.set()
        self._client.close()

    # -- fetching --------------------------------------------------------------------------------------------

    def fetch(self, sha256: str, size: int, folder: Path, tell: Tell = lambda done, trouble: None) -> FileBlob:
        """Get a file that is offered to this site into ``folder``, whole and checked; one that is there already is not asked for.

        Raises:
            TransferError: it cannot be had.
        """
        if found := whole(folder, sha256, size):
            tell(size, "")
            return found
        bad = 0

        def once(tell: Tell) -> FileBlob:
            nonlocal bad
            try:
                return self._fetch(sha256, size, folder, tell)
            except (OtherBytes, TooLong) as e:
                bad += 1
                if bad >= _TRIES:
                    raise TransferError(f"the file {sha256[:12]} cannot be had: {e}") from None
                raise _Later(str(e)) from None

        return self._until_done(once, tell)

    def _fetch(self, sha256: str, size: int, folder: Path, tell: Tell) -> FileBlob:
        folder.mkdir(parents=True, exist_ok=True)
        part = Receiving(folder, sha256, size)
        try:
            if part.offset < size or not size:
                self._get(part, tell)
            return part.finish()
        except TooLong:
            part.drop()
            raise
        finally:
            part.close()

    def _get(self, part: Receiving, tell: Tell) -> None:
        tell(part.offset, "")
        span = {"Range": f"bytes={part.offset}-"} if part.offset else {}
        with self._client.stream("GET", f"{self._url}/offers/{part.sha256}", headers=span) as answer:
            if answer.status_code not in (200, 206):
                self._refused(answer)
            begins = f"bytes {part.offset}-" if span else ""
            if span and not (answer.status_code == 206 and answer.headers.get("content-range", "").startswith(begins)):
                raise TooLong("the server does not go on where it was asked to")
            for piece in answer.iter_raw(self._down.piece if self._down else CHUNK):
                self._go_on()
                if self._down:
                    self._down.take(len(piece))
                part.write(piece)
                tell(part.offset, "")
        if part.offset < part.size:
            raise _Later("the connection ended early")

    # -- giving ----------------------------------------------------------------------------------------------

    def give(self, blob: Blob, tell: Tell = lambda done, trouble: None) -> None:
        """Send a file, of which the server may have a part already. Done when the server has it, whole and checked.

        Raises:
            TransferError: it is refused.
        """
        bad = 0

        def once(tell: Tell) -> None:
            nonlocal bad
            try:
                self._give(blob, tell)
            except OtherBytes as e:
                bad += 1  # what was there already may have been damaged: it is gone, so once more from the beginning
                if bad >= _TRIES:
                    raise TransferError(f"the file {blob.sha256[:12]} is not taken: {e}") from None
                raise _Later(str(e)) from None

        self._until_done(once, tell)

    def _give(self, blob: Blob, tell: Tell) -> None:
        url = f"{self._url}/uploads/{blob.sha256}"
        about = {LENGTH: str(blob.size)}
        answer = self._client.put(url, headers=about)
        self._require(answer)
        at = _offset(answer, blob.size)
        tell(at, "")
        if COMPLETE in answer.headers:
            return
        length = {"Content-Length": str(blob.size - at), OFFSET: str(at)}
        answer = self._client.patch(url, headers={**about, **length}, content=self._pieces(blob, at, tell))
        self._require(answer)
        if COMPLETE not in answer.headers:
            raise _Later("the connection ended early")
        tell(blob.size, "")

    def _pieces(self, blob: Blob, at: int, tell: Tell) -> Iterator[bytes]:
        # Opened for each try: who holds the file may not let go of it before it is given.
        with blob.open() as f:
            f.seek(at)
            while at < blob.size:
                self._go_on()
                piece = f.read(min(self._up.piece if self._up else CHUNK, blob.size - at))
                if not piece:
                    raise TransferError(f"the file {blob.sha256[:12]} has become shorter while it was sent")
                if self._up:
                    self._up.take(len(piece))
                yield piece
                at += len(piece)
                tell(at, "")

    # -- patience --------------------------------------------------------------------------------------------

    def _until_done(self, once: Callable[[Tell], T], tell: Tell) -> T:
        """Do it, again and again, for as long as what hinders it may pass."""
        failures = furthest = here = 0

        def note(done: int, trouble: str) -> None:
            nonlocal here
            here = done
            tell(done, trouble)

        while True:
            self._go_on()
            try:
                return once(note)
            except _Later as e:
                why = str(e)
            except httpx.HTTPError as e:
                why = f"{self._url} does not answer ({type(e).__name__})"
            except FileNotFoundError as e:
                raise TransferError(f"{e.filename} is gone, and was to be transferred") from None
            except OSError as e:
                if e.errno not in DISK_ERRORS:
                    raise
                why = f"this site's disk takes no more ({e.strerror}); make room here"
            except RuntimeError:
                self._go_on()  # of a client that has been closed meanwhile
                raise
            failures = 1 if here > furthest else failures + 1
            furthest = max(here, furthest)
            left = min(_LONGEST_WAIT_S, self._wait_s * 2 ** min(failures - 1, 20)) * self._rng.uniform(0.5, 1.0)
            while left > 0 and not self._closed.is_set():
                note(here, why)  # again and again: it may raise, when nobody waits for the file any more
                self._closed.wait(min(left, _SLICE_S))
                left -= _SLICE_S

    def _go_on(self) -> None:
        if self._closed.is_set():
            raise TransferError("ended before it was done; what has been transferred is kept")

    def _require(self, answer: httpx.Response) -> None:
        if answer.status_code != 204:
            self._refused(answer)

    def _refused(self, answer: httpx.Response) -> NoReturn:
        """Raise what a refusal means."""
        try:
            told = " ".join(answer.read()[:500].decode(errors="replace").split())
        except httpx.StreamError:
            told = ""
        said = told or f"HTTP {answer.status_code}"
        if answer.status_code == 422:
            raise OtherBytes(said)
        if answer.status_code in _LATER or answer.status_code >= 500:
            raise _Later(said)
        raise TransferError(f"{self._url} refuses: {said}")


def _offset(answer: httpx.Response, size: int) -> int:
    text = answer.headers.get(OFFSET, "")
    if not text.isdecimal() or len(text) > 15 or int(text) > size:
        raise _Later("the server does not say how much it has")
    return int(text)
