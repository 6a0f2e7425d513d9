"""Writes files so that they are there whole or not at all, and defines the envelope in which bytes travel between processes.

An envelope is a JSON header and named blobs, each with its SHA-256. Messages, outbox entries and spooled contributions are
envelopes. Nothing in one is ever unpickled (invariant 10).
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from windfall import faults
from windfall.errors import DataError, StoreError
from windfall.store.blobs import Blob, Blobs, FileBlob, MemoryBlob
from windfall.store.blobs import sync_dir as sync_dir

#: What a full, read-only or broken disk says.
DISK_ERRORS = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM}

_MAGIC = b"WFENV2\n\0"
#: Before the header: the magic, its length, its SHA-256.
_PROLOGUE = len(_MAGIC) + 8 + 32
_MAX_HEADER = 64 * 1024 * 1024


@contextmanager
def telling_of_the_disk(root: Path) -> Iterator[None]:
    """Raise StoreError in one sentence where something of the run in ``root`` cannot be written."""
    try:
        yield
    except OSError as e:
        if e.errno not in DISK_ERRORS:
            raise
        raise StoreError(
            f"{e.filename or root}: cannot be written ({e.strerror}); nothing is lost. Make room or give write access, then "
            "run again with the same run directory"
        ) from e


#: Names of what a process has open. Such a file must be written where it is open, or whoever opened it keeps the old one.
_DESCRIPTORS = (Path("/dev/fd"), Path("/proc/self/fd"))
_STANDARD = (Path("/dev/stdout"), Path("/dev/stderr"))


def write_atomic(path: Path, parts: Iterable[bytes | memoryview], *, durable: bool = True, point: str = "") -> None:
    """Write ``parts`` to ``path``: a reader sees the old file or the whole new one, after any crash if ``durable``.

    A link stays one: what it leads to is written. What is no file (a pipe, a device) is written to as it is.
    ``point`` names the fault point (``windfall.faults``) between writing and renaming.
    """
    if path.exists() and (not path.is_file() or path.parent in _DESCRIPTORS or path in _STANDARD):
        with open(_opened(path) if path.is_fifo() else path, "wb") as f:
            f.writelines(parts)
        return
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as f:
            for part in parts:
                f.write(part)
            if durable:
                f.flush()
                os.fsync(f.fileno())
        if point:
            faults.reach(point, temporary)
        os.replace(temporary, path)
    except (OSError, DataError):
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_dir(path.parent)


def _opened(pipe: Path) -> int:
    """A pipe, to write. Raises OSError where nobody has it open to read: it would be waited for for ever."""
    try:
        fd = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        if e.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "it is a pipe that nobody reads", str(pipe)) from None
        raise
    os.set_blocking(fd, True)
    return fd


def strict(value: Any) -> Any:
    """``value`` with NaN and infinities replaced by None, because JSON has no such numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(k): strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [strict(v) for v in value]
    return value


def to_json(value: Any, *, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """``value`` as strict JSON text."""
    return json.dumps(strict(value), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Write ``value`` as strict JSON, atomically."""
    write_atomic(path, [to_json(value).encode()], durable=durable)


def write_secret(path: Path, secret: str) -> None:
    """Write what only this user may read; at no moment may anybody else."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(fd, secret.encode())
    finally:
        os.close(fd)
    os.replace(temporary, path)


def read_json(path: Path) -> Any | None:
    """The JSON in ``path``; None if the file is absent or not (yet) JSON."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@dataclass(frozen=True)
class Envelope:
    """A header of plain values and named blobs of bytes, any of which may be a file (``of``, ``load`` with a limit)."""

    header: dict[str, Any]
    blobs: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, header: dict[str, Any], blobs: Mapping[str, bytes | Blob]) -> Envelope:
        """One whose blobs may be files, which stay where they are."""
        return cls(header, Blobs({n: MemoryBlob(b) if isinstance(b, bytes) else b for n, b in blobs.items()}))

    def blob(self, name: str) -> Blob:
        """A blob without reading it: its size, SHA-256 and a reader. Raises KeyError."""
        if isinstance(self.blobs, Blobs):
            return self.blobs.blob(name)
        return MemoryBlob(self.blobs[name])

    def all_blobs(self) -> dict[str, Blob]:
        """Every blob by its name, unread."""
        return {name: self.blob(name) for name in self.blobs}

    def parts(self) -> Iterator[bytes | memoryview]:
        """The serialised form, in pieces. Raises DataError if a file is not what it was any more."""
        blobs = self.all_blobs()
        index = [[name, blob.size, blob.sha256] for name, blob in blobs.items()]
        head = json.dumps({"header": self.header, "blobs": index}).encode()
        yield from (_MAGIC, struct.pack("<Q", len(head)), hashlib.sha256(head).digest(), head)
        for blob in blobs.values():
            yield from blob.parts()

    def save(self, path: Path, *, durable: bool = True, point: str = "") -> None:
        """Write to ``path``; ``durable`` and ``point`` as in ``write_atomic``."""
        write_atomic(path, self.parts(), durable=durable, point=point)

    @classmethod
    def parse(cls, data: bytes, what: str) -> Envelope:
        """The envelope in ``data``.

        Raises:
            DataError: truncated, changed, or not an envelope; ``what`` names it in the message.
        """
        header, index = _read_head(BytesIO(data), len(data), what)
        blobs: dict[str, bytes] = {}
        for name, start, length, digest in index:
            blob = data[start : start + length]
            if len(blob) != length:
                raise DataError(f"{what}: cut short in {name}")
            if hashlib.sha256(blob).hexdigest() != digest:
                raise DataError(f"{what}: {name} was changed on its way (checksum)")
            blobs[name] = blob
        return cls(header, blobs)

    @classmethod
    def load(cls, path: Path, *, in_memory_up_to: int | None = None, check: bool = True) -> Envelope:
        """The envelope in a file. With ``in_memory_up_to`` larger blobs stay in it and are read piece by piece.

        Raises:
            DataError: as ``parse``. Without ``check`` a blob that stays in the file is checked only when it is read.
        """
        if in_memory_up_to is None:
            return cls.parse(path.read_bytes(), str(path))
        size = path.stat().st_size
        return cls.within(FileBlob(path, size, ""), str(path), in_memory_up_to=in_memory_up_to, check=check)

    @classmethod
    def within(cls, blob: Blob, what: str, *, in_memory_up_to: int, check: bool = True) -> Envelope:
        """The envelope that a blob holds, as ``load``; the blob itself is not checked, as its parts have checksums of their own."""
        if not isinstance(blob, FileBlob):
            return cls.parse(blob.read(), what)
        blobs: dict[str, bytes | Blob] = {}
        with blob.open() as f:
            header, index = _read_head(f, blob.size, what)
            for name, start, length, digest in index:
                if start + length > blob.size:
                    raise DataError(f"{what}: cut short in {name}")
                part = FileBlob(blob.path, length, digest, blob.offset + start)
                try:
                    if length <= in_memory_up_to:
                        blobs[name] = part.read()
                        continue
                    if check:
                        part.verify()
                except DataError:
                    raise DataError(f"{what}: {name} was changed on its way (checksum)") from None
                blobs[name] = part
        return cls.of(header, blobs)

    @classmethod
    def header_of(cls, path: Path) -> dict[str, Any]:
        """The header in a file, whose blobs are neither read nor checked. Raises DataError as ``parse``."""
        with open(path, "rb") as f:
            return _read_head(f, os.fstat(f.fileno()).st_size, str(path))[0]


def _read_head(f: BinaryIO, size: int, what: str) -> tuple[dict[str, Any], list[tuple[str, int, int, str]]]:
    """Header, and each blob's name, place, length and SHA-256, of an envelope of ``size`` bytes. Raises DataError."""
    prologue = f.read(_PROLOGUE)
    if prologue[: len(_MAGIC)] != _MAGIC or len(prologue) < _PROLOGUE:
        raise DataError(f"{what}: not a Windfall envelope, or cut short")
    length, digest_of_head = struct.unpack("<Q32s", prologue[len(_MAGIC) :])
    if length > _MAX_HEADER or _PROLOGUE + length > size:
        raise DataError(f"{what}: cut short in its header")
    head = f.read(length)
    if hashlib.sha256(head).digest() != digest_of_head:
        raise DataError(f"{what}: its header was changed on its way (checksum)")
    try:
        parsed = json.loads(head)
        index, at = [], _PROLOGUE + length
        for name, length, digest in parsed["blobs"]:
            if int(length) < 0:
                raise ValueError
            index.append((str(name), at, int(length), str(digest)))
            at += int(length)
        return dict(parsed["header"]), index
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise DataError(f"{what}: unreadable header") from None
