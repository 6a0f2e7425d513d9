"""Compressed files as streams of what is in them: gzip, bzip2, xz and zstd, by the file's name.

Whatever does not end as it should is an error that names the file: half a download, a damaged block, something else behind the
last member. Files of several members one behind the other (`cat a.gz b.gz`, pigz, pzstd) are read whole.
"""

from __future__ import annotations

import bz2
import codecs
import io
import lzma
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from windfall.errors import DataError

#: What compressed files are called, and how they begin.
PACKED = {
    ".gz": "gzip", ".gzip": "gzip", ".bz2": "bzip2", ".xz": "xz", ".lzma": "xz", ".zst": "zstd", ".zstd": "zstd",
}  # fmt: skip
MAGIC = {"gzip": b"\x1f\x8b", "bzip2": b"BZh", "xz": b"\xfd7zXZ\0", "zstd": b"\x28\xb5\x2f\xfd"}
_CHUNK_BYTES = 2**16


def packing_of(path: Path) -> str:
    """How a file is compressed by its name: "gzip", "bzip2", "xz", "zstd"; "" where it is not."""
    return PACKED.get(path.suffix.lower(), "")


def open_plain(path: Path) -> IO[bytes]:
    """What is in the file, unpacked. Raises DataError where it cannot be opened; reading raises it where the file is damaged."""
    kind = packing_of(path)
    try:
        if not kind:
            return path.open("rb")
        return io.BufferedReader(_Unpacked(path, kind), 2**20)
    except OSError as error:
        raise unreadable(path, error) from error


def head(path: Path, count: int) -> bytes:
    """The first bytes of what is in the file, at most `count`. Raises DataError as `open_plain` and reading do."""
    with open_plain(path) as file:
        try:
            return file.read(count)
        except OSError as error:
            raise unreadable(path, error) from error


def skip(file: IO[bytes], path: Path, count: int) -> None:
    """Go on to byte `count` of what is in a file that was just opened."""
    if not packing_of(path):
        file.seek(count)
        return
    while count > 0 and (chunk := file.read(min(count, 2**20))):
        count -= len(chunk)


def plain_size(path: Path) -> int:
    """Bytes of what is in the file. Unpacks it once. Raises DataError where it is damaged."""
    size = 0
    with open_plain(path) as file:
        try:
            if not packing_of(path):
                return path.stat().st_size
            while chunk := file.read(2**20):
                size += len(chunk)
        except OSError as error:
            raise unreadable(path, error) from error
    return size


def unreadable(path: Path | str, error: OSError) -> DataError:
    """The message for a file that the system does not give."""
    return DataError(f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions")


def is_text(data: bytes) -> bool:
    """Whether the first bytes of a file are UTF-8 text; a character that the cut took apart does not count."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return b"\0" not in data


class _Unpacked(io.RawIOBase):
    """The members of a compressed file, one behind the other."""

    def __init__(self, path: Path, kind: str) -> None:
        self._path, self._kind = path, kind
        self._file = path.open("rb")
        self._make, self._errors = _decoder(kind)
        self._decoder: Any = None
        self._rest = b""
        self._out = b""
        self._members = 0

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._out:
            if not self._more():
                return 0
        count = min(len(buffer), len(self._out))
        buffer[:count] = self._out[:count]
        self._out = self._out[count:]
        return count

    def _more(self) -> bool:
        """Unpack a little more; False at the end."""
        data, self._rest = self._rest or self._file.read(_CHUNK_BYTES), b""
        if self._decoder is None:
            if self._members:
                data = data.lstrip(b"\0")  # tapes and block devices are padded
                if not data:
                    data = self._file.read(_CHUNK_BYTES)
                    self._rest = data
                    return bool(data)
            elif data and not self._begins_right(data):
                raise self._other(data)
            if not data:
                raise self._damaged("it is empty")
            self._decoder = self._make()
            self._members += 1
        elif not data:
            raise self._damaged("it ends too early")
        try:
            self._out = self._decoder.decompress(data)
        except self._errors as error:
            raise self._damaged(str(error)) from error
        if self._decoder.eof:
            self._rest = self._decoder.unused_data
            self._decoder = None
        return True

    def _damaged(self, why: str) -> DataError:
        return DataError(f"{self._path}: not a whole {self._kind} file ({why}); fetch it again")

    def _begins_right(self, data: bytes) -> bool:
        # .lzma has no magic number; zstd may begin with frames that are for others.
        skippable = self._kind == "zstd" and data[1:4] == b"\x2a\x4d\x18"
        return skippable or self._path.suffix.lower() == ".lzma" or data.startswith(MAGIC[self._kind])

    def _other(self, data: bytes) -> DataError:
        for kind, magic in MAGIC.items():
            if data.startswith(magic):
                return DataError(f"{self._path}: not a whole {self._kind} file but {kind} by its content; name it so")
        if is_text(data[:1024]):
            return DataError(f"{self._path}: not a whole {self._kind} file but plain text; name it without its last ending")
        return self._damaged("it begins as something else")


def _decoder(kind: str) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    if kind == "gzip":
        return (lambda: zlib.decompressobj(31)), (zlib.error,)
    if kind == "bzip2":
        return bz2.BZ2Decompressor, (OSError, ValueError)
    if kind == "xz":
        return lzma.LZMADecompressor, (lzma.LZMAError,)
    zstd = _zstd()
    return cast("Callable[[], Any]", zstd.ZstdDecompressor), (zstd.ZstdError,)


def _zstd() -> Any:
    """Python's own zstd, which came with 3.14, or the same for older ones."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd
