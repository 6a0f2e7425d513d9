"""Named float32 tensors as safetensors bytes and files, in numpy: what the coordinator handles of a model.

Whole (``load_file``, ``save_file``), or tensor by tensor (``TensorFile``, ``TensorWriter``), which gives the same bytes.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load as _load
from safetensors.numpy import save as _save

from windfall.errors import DataError
from windfall.store.files import sha256
from windfall.store.streams import DurableFile

Tensors = dict[str, npt.NDArray[np.float32]]


def to_bytes(tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
    """Safetensors bytes."""
    return bytes(_save({k: np.asarray(v, order="C") for k, v in tensors.items()}, metadata))


def from_bytes(data: bytes, what: str) -> Tensors:
    """Tensors of safetensors bytes.

    Raises:
        DataError: not safetensors, or of a type that numpy cannot hold.
    """
    try:
        return dict(_load(data))
    except (SafetensorError, KeyError, ValueError, TypeError) as e:
        raise DataError(f"{what}: not readable as safetensors: {e}") from None


def save_file(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> str:
    """Write durably, without a copy of it all, and return the file's SHA-256."""
    file = DurableFile(path)
    try:
        writer = TensorWriter(file, {name: value.shape for name, value in tensors.items()}, metadata)
        for name in writer.names:
            writer.put(name, [tensors[name]])
        made = file.finish()
        file.publish()
    except BaseException:
        file.discard()
        raise
    return made.sha256


def load_file(path: Path, digest: str | None = None) -> Tensors:
    """Tensors of a file, its checksum verified if given.

    Raises:
        DataError: missing, damaged or unreadable.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: the weights file is missing") from None
    except OSError as e:
        raise DataError(f"{path}: the weights file cannot be read: {e.strerror}") from None
    if digest is not None and sha256(path) != digest:
        raise DataError(f"{path}: the weights file is damaged (its checksum is not the ledger's)")
    return from_bytes(data, str(path))


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape by name of a file's tensors, which are not read.

    Raises:
        DataError: missing, truncated or unreadable.
    """
    if not path.is_file():
        raise DataError(f"{path}: the weights file is missing")
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except (SafetensorError, OSError, ValueError) as e:
        raise DataError(f"{path}: not readable as safetensors: {e}") from None


#: Values in a piece of a tensor that is read or written piece by piece: 4 MB.
PIECE = 2**20


class Writable(Protocol):
    """Where bytes go: takes all that it is given."""

    def write(self, data: memoryview, /) -> Any: ...


class TensorWriter:
    """Writes the bytes that ``to_bytes`` gives, tensor by tensor, each in pieces if need be."""

    def __init__(self, stream: Writable, shapes: Mapping[str, tuple[int, ...]], metadata: dict[str, str] | None = None) -> None:
        """Write the header; ``shapes``: shape by name. Tensors must then come in the order of their names."""
        self._stream = stream
        #: Order of safetensors' own files where all tensors are of one type.
        self.names = sorted(shapes)
        self._sizes = [math.prod(shapes[name]) for name in self.names]
        self._done = 0
        head: dict[str, Any] = {"__metadata__": metadata} if metadata is not None else {}
        at = 0
        for name, size in zip(self.names, self._sizes, strict=True):
            head[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [at, at + 4 * size]}
            at += 4 * size
        text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        stream.write(memoryview(struct.pack("<Q", len(text)) + text))

    def put(self, name: str, pieces: Iterable[npt.NDArray[np.float32]]) -> None:
        """Write the next tensor from float32 arrays that follow each other.

        Raises:
            ValueError: another tensor's turn, or another number of values than its shape has.
        """
        expected, size = (self.names[self._done], self._sizes[self._done]) if self._done < len(self.names) else ("", 0)
        if name != expected:
            raise ValueError(f"{name}: it is the turn of {expected or 'none'}")
        found = 0
        for piece in pieces:
            if piece.dtype != np.float32:
                raise ValueError(f"{name} is {piece.dtype}, not float32")
            found += piece.size
            self._stream.write(np.asarray(piece, order="C").reshape(-1).view(np.uint8).data)
        if found != size:
            raise ValueError(f"{name}: {found} values, not {size}")
        self._done += 1

    def close(self) -> None:
        """End the file; the stream stays open. Raises ValueError if a tensor is missing."""
        if self._done < len(self.names):
            raise ValueError(f"{self.names[self._done]} has not been written")


class TensorFile:
    """A safetensors file of float32 tensors, read tensor by tensor, or mapped."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            DataError: missing, cut short, no safetensors, or not float32.
        """
        self._path = path
        #: Shape by name, in the order of the values in the file.
        self.shapes: dict[str, tuple[int, ...]] = {}
        found = shapes_in(path)  # safetensors' own reader has the first word: offsets that do not fit are refused there
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except OSError as e:
            raise DataError(f"{path}: the weights file cannot be read: {e.strerror}") from None
        try:
            (length,) = struct.unpack("<Q", os.pread(self._fd, 8, 0))
            #: Everything before the first value.
            self.head = os.pread(self._fd, 8 + length, 0)
            index: dict[str, Any] = json.loads(self.head[8:])
            index.pop("__metadata__", None)
            self._offsets: dict[str, int] = {}
            for name, entry in sorted(index.items(), key=lambda item: (*item[1]["data_offsets"], item[0])):
                if entry["dtype"] != "F32":
                    raise DataError(f"{path}: {name} is {entry['dtype']}, not float32")
                self.shapes[name] = found[name]
                self._offsets[name] = len(self.head) + entry["data_offsets"][0]
        except (struct.error, ValueError, KeyError, OSError):
            self.close()
            raise DataError(f"{path}: not readable as safetensors, or changed while it was read") from None
        except DataError:
            self.close()
            raise

    def pieces(self, name: str) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """A tensor's values in pieces, each with the place of its first; an array is good until the next is asked for.

        Raises:
            DataError: cannot be read, or has become shorter.
        """
        size, at = math.prod(self.shapes[name]), self._offsets[name]
        room = np.empty(min(size, PIECE), np.float32)
        for start in range(0, size, PIECE):
            piece = room[: min(PIECE, size - start)]
            self._read(at + 4 * start, piece, name)
            yield start, piece

    def get(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor. Raises DataError as ``pieces``."""
        value = np.empty(self.shapes[name], np.float32)
        self._read(self._offsets[name], value.reshape(-1), name)
        return value

    def mapped(self) -> Tensors:
        """All tensors as read-only arrays of the mapped file: what is not looked at takes no memory, and none is anonymous.

        The file must not become shorter while they are in use; replacing it by another of its name does no harm.
        """
        data = mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ)
        found = {}
        for name, shape in self.shapes.items():
            found[name] = np.frombuffer(data, np.float32, math.prod(shape), self._offsets[name]).reshape(shape)
        return found

    def close(self) -> None:
        """Close the file. What is mapped stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, start: int, into: npt.NDArray[np.float32], name: str) -> None:
        view, done = into.view(np.uint8).data, 0
        try:
            while done < len(view) and (got := os.preadv(self._fd, [view[done:]], start + done)):
                done += got
        except OSError as e:
            raise DataError(f"{self._path}: {name} cannot be read: {e.strerror}") from None
        if done < len(view):
            raise DataError(f"{self._path}: cut short in {name}")
