"""A file that is written piece by piece and hashed on the way, and that is there whole or not at all."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from windfall.store.files import sync_dir


@dataclass(frozen=True)
class Made:
    """A file that has been written."""

    name: str
    size: int
    sha256: str


class DurableFile:
    """What ``write_atomic`` does, for something too large to be in memory: write, ``finish``, ``publish``.

    Nothing has the file's name before ``publish``; ``discard`` leaves nothing behind at any time before it.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        """``path``: the name that it will have. ``durable``: it is to be there after a crash of the machine too. Raises OSError."""
        self._path = path
        self._durable = durable
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._file = open(self._temporary, "wb")  # noqa: SIM115 - open until it is finished or discarded
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes | memoryview, /) -> None:
        """Write and hash all of ``data``. Raises OSError."""
        self._digest.update(data)
        self._size += self._file.write(data)

    def finish(self) -> Made:
        """Bring everything to the disk. Raises OSError."""
        self._file.flush()
        if self._durable:
            os.fsync(self._file.fileno())
        self._file.close()
        return Made(self._path.name, self._size, self._digest.hexdigest())

    def publish(self) -> None:
        """Give it its name, durably. Raises OSError."""
        os.replace(self._temporary, self._path)
        if self._durable:
            sync_dir(self._path.parent)

    def discard(self) -> None:
        """Remove what has been written."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)
