"""Blobs: bytes with a size and a SHA-256, in memory or in a file, so that a large one need never lie whole in memory."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import BinaryIO, cast

from windfall.errors import DataError

#: Files are read and written in pieces of so many bytes.
CHUNK = 1 << 20
#: What file systems say that make no second name of a file.
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS, errno.EACCES}


def sync_dir(folder: Path) -> None:
    """Make a rename in ``folder`` durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@dataclass(frozen=True)
class MemoryBlob:
    """A blob that lies in memory."""

    data: bytes = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.data)

    @cached_property
    def sha256(self) -> str:
        """Hex digest."""
        return hashlib.sha256(self.data).hexdigest()

    def read(self) -> bytes:
        """All of it."""
        return self.data

    def open(self) -> BinaryIO:
        """A reader that stands at its beginning."""
        return BytesIO(self.data)

    def parts(self) -> Iterator[bytes]:
        """All of it, in pieces."""
        yield self.data

    def keep(self, path: Path) -> FileBlob:
        """Write it to ``path``, durably, whole or not at all."""
        return _copy(self, path)


@dataclass(frozen=True)
class FileBlob:
    """``size`` bytes of a file from ``offset``. The file must stay as it is for as long as this is used.

    ``sha256`` is what they must have: every method that reads all of it raises DataError if they have another.
    """

    path: Path
    size: int
    sha256: str
    offset: int = 0

    @classmethod
    def of(cls, path: Path) -> FileBlob:
        """A whole file as it is now, which is read once."""
        with open(path, "rb") as f:
            size = os.fstat(f.fileno()).st_size
            return cls(path, size, hashlib.file_digest(f, "sha256").hexdigest())

    def open(self) -> BinaryIO:
        """A reader of these bytes alone, that stands at their beginning. Nothing is checked."""
        return cast(BinaryIO, _Section(self.path, self.offset, self.size))

    def parts(self) -> Iterator[bytes]:
        """All of it, in pieces, hashed on the way. Raises DataError at the end, or where it is cut short."""
        digest, left = hashlib.sha256(), self.size
        with self.open() as f:
            while left:
                piece = f.read(min(CHUNK, left))
                if not piece:
                    raise DataError(f"{self.path}: cut short")
                left -= len(piece)
                digest.update(piece)
                yield piece
        if digest.hexdigest() != self.sha256:
            raise DataError(f"{self.path}: was changed on its way (checksum)")

    def read(self) -> bytes:
        """All of it, checked. Raises DataError."""
        return b"".join(self.parts())

    def verify(self) -> None:
        """Raise DataError if they are not what they must be."""
        for _ in self.parts():
            pass

    def keep(self, path: Path) -> FileBlob:
        """Give these bytes a second life at ``path``: another name for the file where that is possible, else a copy. Durable."""
        if self.offset == 0 and self.path.stat().st_size == self.size and self._link(path):
            return FileBlob(path, self.size, self.sha256)
        return _copy(self, path)

    def keep_whole(self, path: Path) -> FileBlob:
        """As ``keep``, and what is around these bytes in their file lives on with them where that saves copying them."""
        return FileBlob(path, self.size, self.sha256, self.offset) if self._link(path) else _copy(self, path)

    def _link(self, path: Path) -> bool:
        """Give the file a second name, durably; whether that is possible."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        try:
            os.link(self.path, temporary)
            os.replace(temporary, path)
        except OSError as e:
            if e.errno not in _NO_LINKS:
                raise
            return False
        # Two names of one file are never renamed into each other: the first one would stay.
        temporary.unlink(missing_ok=True)
        sync_dir(path.parent)
        return True


@dataclass(frozen=True)
class PiecesBlob:
    """A blob in pieces that lie in memory where they are, one behind the other, such as a header and arrays."""

    pieces: Sequence[bytes | memoryview] = field(repr=False)

    @cached_property
    def size(self) -> int:
        """Bytes."""
        return sum(len(piece) for piece in self.pieces)

    @cached_property
    def sha256(self) -> str:
        """Hex digest."""
        digest = hashlib.sha256()
        for piece in self.pieces:
            digest.update(piece)
        return digest.hexdigest()

    def read(self) -> bytes:
        """All of it, joined."""
        return b"".join(self.pieces)

    def open(self) -> BinaryIO:
        """A reader that stands at its beginning. It has a copy of all of it."""
        return BytesIO(self.read())

    def parts(self) -> Iterator[bytes | memoryview]:
        """All of it, in pieces."""
        yield from self.pieces

    def keep(self, path: Path) -> FileBlob:
        """Write it to ``path``, durably, whole or not at all."""
        return _copy(self, path)


Blob = MemoryBlob | FileBlob | PiecesBlob


class Blobs(Mapping[str, bytes]):
    """Blobs by name. As a mapping it gives bytes, and reads a file for that; ``blob`` gives them as they are."""

    def __init__(self, blobs: Mapping[str, Blob]) -> None:
        self._blobs = dict(blobs)

    def blob(self, name: str) -> Blob:
        """One of them, unread. Raises KeyError."""
        return self._blobs[name]

    def __getitem__(self, name: str) -> bytes:
        return self._blobs[name].read()

    def __contains__(self, name: object) -> bool:
        return name in self._blobs

    def __iter__(self) -> Iterator[str]:
        return iter(self._blobs)

    def __len__(self) -> int:
        return len(self._blobs)

    def __repr__(self) -> str:
        return f"Blobs({self._blobs!r})"


def _copy(blob: Blob, path: Path) -> FileBlob:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as f:
            for part in blob.parts():
                f.write(part)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        sync_dir(path.parent)
    except (OSError, DataError):
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return FileBlob(path, blob.size, blob.sha256)


class _Section(BufferedIOBase):
    """A part of a file as a file of its own, for reading."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        super().__init__()
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with this
        self._offset, self._size, self._at = offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._size - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        found = []
        while wanted:
            piece = os.pread(self._file.fileno(), wanted, self._offset + self._at)
            if not piece:
                break
            found.append(piece)
            wanted -= len(piece)
            self._at += len(piece)
        return b"".join(found)

    def readinto(self, buffer: object, /) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        wanted = min(len(view), max(0, self._size - self._at))
        done = os.preadv(self._file.fileno(), [view[:wanted]], self._offset + self._at) if wanted else 0
        self._at += done
        return done

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
