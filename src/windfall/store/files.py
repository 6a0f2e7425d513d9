"""Files that are there whole or not at all, and the envelope in which bytes travel between processes.

An envelope is a JSON header and named blobs, each with its SHA-256: what a message, an outbox entry and a spooled
contribution look like on disk. Nothing in it is ever unpickled (invariant 10).
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from windfall import faults
from windfall.errors import DataError, StoreError

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


def sync_dir(folder: Path) -> None:
    """Make a rename in ``folder`` durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: Path, parts: Iterable[bytes], *, durable: bool = True, point: str = "") -> None:
    """Write ``parts`` to ``path``: a reader sees the old file or the whole new one, after any crash if ``durable``.

    ``point`` names the fault point (``windfall.faults``) between writing and renaming.
    """
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
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_dir(path.parent)


def strict(value: Any) -> Any:
    """``value`` as JSON has it, which knows no NaN and no infinities: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(k): strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [strict(v) for v in value]
    return value


def to_json(value: Any, *, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """``value`` as strict JSON, which anybody can read."""
    return json.dumps(strict(value), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Write ``value`` as strict JSON, atomically."""
    write_atomic(path, [to_json(value).encode()], durable=durable)


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
    """A header of plain values and named blobs of bytes."""

    header: dict[str, Any]
    blobs: dict[str, bytes] = field(default_factory=dict)

    def parts(self) -> list[bytes]:
        """The serialised form, in pieces."""
        index = [[name, len(blob), hashlib.sha256(blob).hexdigest()] for name, blob in self.blobs.items()]
        head = json.dumps({"header": self.header, "blobs": index}).encode()
        return [_MAGIC, struct.pack("<Q", len(head)), hashlib.sha256(head).digest(), head, *self.blobs.values()]

    def save(self, path: Path, *, point: str = "") -> None:
        """Write to ``path``, durably; ``point`` as in ``write_atomic``."""
        write_atomic(path, self.parts(), point=point)

    @classmethod
    def parse(cls, data: bytes, what: str) -> Envelope:
        """The envelope in ``data``.

        Raises:
            DataError: truncated, changed, or not an envelope; ``what`` names it in the message.
        """
        start = _PROLOGUE
        if data[: len(_MAGIC)] != _MAGIC or len(data) < start:
            raise DataError(f"{what}: not a Windfall envelope, or cut short")
        size, digest_of_head = struct.unpack("<Q32s", data[len(_MAGIC) : start])
        if size > _MAX_HEADER or start + size > len(data):
            raise DataError(f"{what}: cut short in its header")
        if hashlib.sha256(data[start : start + size]).digest() != digest_of_head:
            raise DataError(f"{what}: its header was changed on its way (checksum)")
        try:
            head = json.loads(data[start : start + size])
            index = [(str(n), int(length), str(digest)) for n, length, digest in head["blobs"]]
            header = dict(head["header"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise DataError(f"{what}: unreadable header") from None
        blobs: dict[str, bytes] = {}
        at = start + size
        for name, length, digest in index:
            blob = data[at : at + length]
            at += length
            if len(blob) != length:
                raise DataError(f"{what}: cut short in {name}")
            if hashlib.sha256(blob).hexdigest() != digest:
                raise DataError(f"{what}: {name} was changed on its way (checksum)")
            blobs[name] = blob
        return cls(header, blobs)

    @classmethod
    def load(cls, path: Path) -> Envelope:
        """The envelope in a file. Raises DataError as ``parse``."""
        return cls.parse(path.read_bytes(), str(path))
