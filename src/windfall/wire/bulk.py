"""Bulk transport, what both ends share: how a file is named, announced, received piece by piece, and kept.

Files that are too large for a message travel over HTTP beside it; the site asks, in both directions. A file's name is the SHA-256
of its bytes (64 hex digits). Any other name is refused, so that none leads out of its folder; a file that is sent twice is one; and
what is there in part is always a part of the same bytes. While it is received its name is `.NAME.SIZE.part`; it has its own only
when it is whole, has the right bytes and is on the disk.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windfall import clock
from windfall.errors import DataError, TransferError
from windfall.store.blobs import CHUNK, FileBlob, sync_dir

#: In a message's header: what of its blobs travels beside it.
MANIFEST = "bulk"
#: Of a request that announces or sends a piece: where it begins, and how long the whole file is.
OFFSET, LENGTH = "Upload-Offset", "Upload-Length"
#: Of an answer: the file is there, whole and checked.
COMPLETE = "Upload-Complete"
#: The site's token, in its own folder, until the site has read it.
TOKEN_NAME = "bulk-token"
_NAME = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"\.([0-9a-f]{64})\.(\d{1,15})\.part")
#: No file is larger: what says so is malformed.
_LARGEST = 1 << 50
_MOST_BLOBS = 10_000


def is_name(text: object) -> bool:
    """Whether ``text`` can be the name of a file."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


@dataclass(frozen=True)
class Entry:
    """A blob of a message that travels as a file."""

    blob: str
    sha256: str
    size: int

    def as_json(self) -> dict[str, Any]:
        """As it stands in a header."""
        return {"blob": self.blob, "file": self.sha256, "size": self.size, "sha256": self.sha256}


def entries(header: Mapping[str, Any]) -> list[Entry]:
    """What a message's header says of files. Raises DataError if it is malformed."""
    raw = header.get(MANIFEST, [])
    if not isinstance(raw, list) or len(raw) > _MOST_BLOBS:
        raise DataError("the list of its files is malformed")
    found = []
    for x in raw:
        if not isinstance(x, dict) or not isinstance(x.get("blob"), str) or not is_name(x.get("sha256")):
            raise DataError("the list of its files is malformed")
        size = x.get("size")
        if type(size) is not int or not 0 <= size < _LARGEST or x.get("file") != x["sha256"]:
            raise DataError("the list of its files is malformed")
        found.append(Entry(x["blob"], x["sha256"], size))
    if len({e.blob for e in found}) < len(found):
        raise DataError("two of its files are one blob")
    return found


def whole(folder: Path, sha256: str, size: int) -> FileBlob | None:
    """A file that has been received, if it is there."""
    path = folder / sha256
    try:
        return FileBlob(path, size, sha256) if path.stat().st_size == size else None
    except FileNotFoundError:
        return None


def received(folder: Path, sha256: str, size: int) -> int:
    """How many bytes of a file are there, whole or in part."""
    if whole(folder, sha256, size):
        return size
    try:
        return min(size, _part(folder, sha256, size).stat().st_size)
    except FileNotFoundError:
        return 0


def _part(folder: Path, sha256: str, size: int) -> Path:
    return folder / f".{sha256}.{size}.part"


class TooLong(DataError):
    """More bytes than announced."""


class OtherBytes(DataError):
    """Bytes of another SHA-256 than announced."""


class Receiving:
    """A file that is being received: what is there of it already, and what comes."""

    def __init__(self, folder: Path, sha256: str, size: int) -> None:
        """Go on with what is there, which is read for that. Raises OSError."""
        self._folder, self.sha256, self.size = folder, sha256, size
        self._path = _part(folder, sha256, size)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        self._digest = hashlib.sha256()
        #: Bytes that are there.
        self.offset = 0
        if os.fstat(self._fd).st_size > size:
            os.ftruncate(self._fd, 0)
        while piece := os.read(self._fd, CHUNK):
            self._digest.update(piece)
            self.offset += len(piece)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append ``data``.

        Raises:
            TooLong: it is longer than announced.
            OSError: the disk takes no more; what it has taken counts.
        """
        view = memoryview(data)
        if self.offset + len(view) > self.size:
            raise TooLong(f"more than the {self.size:,} bytes that were announced")
        while view:
            # By hand: of a write that fails half way the first half is there, and is hashed.
            count = os.write(self._fd, view)
            self._digest.update(view[:count])
            self.offset += count
            view = view[count:]

    def finish(self) -> FileBlob:
        """Give the file, all of whose bytes have come, its name, durably.

        Raises:
            OtherBytes: they are others than announced; nothing of it is kept.
        """
        if self._digest.hexdigest() != self.sha256:
            self.drop()
            raise OtherBytes("its SHA-256 is another than announced; nothing of it is kept")
        os.fsync(self._fd)
        self.close()
        path = self._folder / self.sha256
        try:
            os.replace(self._path, path)
        except FileNotFoundError:
            if not path.exists():  # else somebody else who received the same file was faster
                raise
        sync_dir(self._folder)
        return FileBlob(path, self.size, self.sha256)

    def drop(self) -> None:
        """Keep nothing of it."""
        self.close()
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of it; what is there stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def parts_in(folder: Path) -> list[Path]:
    """Files that are there in part, the oldest first."""
    found = []
    for path in _files(folder):
        if _PART.fullmatch(path.name):
            try:
                found.append((path.stat().st_mtime, path))
            except FileNotFoundError:
                continue
    return [path for _, path in sorted(found)]


def tidy(folder: Path, *, older_than_s: float, but: set[str] | None = None) -> list[Path]:
    """Remove files, whole or in part, that nobody has written for so long (wall time) and ``but`` does not name. What is gone."""
    gone = []
    for path in _files(folder):
        try:
            if path.name not in (but or ()) and clock.wall() - path.stat().st_mtime >= older_than_s:
                path.unlink()
                gone.append(path)
        except FileNotFoundError:
            continue
    return gone


def _files(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(p for p in folder.iterdir() if p.is_file() and not p.is_symlink())
    except FileNotFoundError:
        return


#: Bytes that have been transferred of a file, and what hinders it at present (empty: nothing).
Tell = Callable[[int, str], None]


class Shelf:
    """The coordinator's files: what is offered to each site (`to/SITE`), and what each has sent (`from/SITE`)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def offered(self, site: str) -> Path:
        """The folder of files that a site may get."""
        return self.root / "to" / site

    def sent(self, site: str) -> Path:
        """The folder of files that a site has sent."""
        return self.root / "from" / site


def read_token(folder: Path) -> str:
    """The token that the site in ``folder`` was started with; the file is gone then, so that it is in no copy of the folder.

    Raises:
        TransferError: it is not there.
    """
    path = folder / TOKEN_NAME
    try:
        token = path.read_text(encoding="ascii").strip()
        path.unlink()
    except (OSError, UnicodeDecodeError) as e:
        raise TransferError(f"{path}: the site's token cannot be read ({e}); start the site again") from None
    return token
