"""Reads files that a user names, which may be anything that has a name: a pipe that nobody writes, a device without end, a socket.

Whatever is wrong is an ``OSError`` whose ``strerror`` is a sentence's end: "odd.csv: cannot be read: it is a socket, no file".
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

#: Configurations, tokens, certificates: nobody writes more than this by hand.
SMALL_BYTES = 16 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024


def require_file(path: Path | str, *, pipes: bool = False) -> None:
    """Raise OSError where ``path`` is a device or a socket, or without ``pipes`` a pipe; also where it is not there."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if stat.S_ISFIFO(mode) and not pipes:
        raise OSError(errno.ESPIPE, "it is a pipe, and is read more than once; save what comes out of it as a file", str(path))
    if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
        kind = "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise OSError(errno.EINVAL, f"it is {kind}, no file", str(path))


def read_bytes(path: Path | str, most: int = SMALL_BYTES) -> bytes:
    """What is in a file, or comes out of a pipe that somebody writes.

    Raises:
        OSError: it is not there, cannot be read, is neither, or has more than ``most`` bytes.
    """
    require_file(path, pipes=True)
    # A pipe that nobody writes keeps whoever opens or reads it waiting for ever; so does one without this flag.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        found = bytearray()
        while (part := file.read(_CHUNK_BYTES)) != b"":
            if part is None:  # somebody has it open to write, and has not yet
                os.set_blocking(fd, True)
                continue
            found += part
            if len(found) > most:
                raise OSError(errno.EFBIG, f"it has more than {most // 1_000_000} MB, and cannot be what is wanted here", str(path))
        if not found and stat.S_ISFIFO(os.fstat(fd).st_mode):
            raise OSError(errno.EPIPE, "it is a pipe, and nothing comes out of it", str(path))
    return bytes(found)


def why(error: OSError | ValueError) -> str:
    """What kept a file from being read, for the end of a sentence."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is no text"


def read_text(path: Path | str, encoding: str = "utf-8") -> str:
    """The same as text. Raises as ``read_bytes``, and UnicodeDecodeError."""
    return read_bytes(path).decode(encoding)
