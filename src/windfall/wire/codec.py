"""A difference file: named float32 tensors, rounded by a codec, written and read tensor by tensor.

The same bytes serve both directions and every codec, in a message or in a file::

    8 bytes   magic
    4         version of the format, little-endian (like every number here)
    4         length of the header
    32        SHA-256 of the version, the length and the header
    header    JSON: {"codec", "group", "tensors": [[name, shape, kind, bytes of its payload], ...]}
    then for each tensor, in the order of the header:
    payload   ``fp32``, ``bf16``: the values
              ``int8``, ``int4``, ``int2``: factor (float32, a power of two), codes (groups of 256, the last filled up), a
              float16 scale for each group. A value is code × (scale × factor). In int4's bytes are values i (low half) and i + 128
              of a group, in int2's values i, i + 64, i + 128 and i + 192
    32        SHA-256 of the payload

The length is known before the first value is (``encoded_size``), and no tensor but the one at hand is in memory at either
end. A reader takes nothing that does not fit the shapes it was made with, and allocates nothing before it knows.

How exact it is (of the difference between a value and what was sent; tensors with fewer than two dimensions are exact):

===== =====================================================================
fp32  exact
bf16  at most 2^-8 of the value
int8  at most 1/253 of the largest value of its group, rounded half to even
int4  at most 1/13.9 of the largest value of its group, rounded half to even
int2  four levels: 0.35 of normal values' root mean square; never more than the values themselves
===== =====================================================================

Groups whose largest value is less than 2^-27 of the tensor's are rounded as if it were that.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from windfall.errors import DataError, Refused
from windfall.store.tensors import Tensors, Writable
from windfall.wire.rounding import CODECS, GROUP, Bytes, Floats, kind_of, pack, payload_bytes, unpack

Shapes = Mapping[str, tuple[int, ...]]

__all__ = ["CODECS", "DifferenceReader", "DifferenceWriter", "Shapes", "decode", "encode", "encoded_size"]

_MAGIC = b"WFDIFF\n\0"
_FORMAT = 1
_DIGEST = 32
_PROLOGUE = len(_MAGIC) + 8 + _DIGEST


def encoded_size(shapes: Shapes, codec: str) -> int:
    """Bytes of a difference file.

    Raises:
        Refused: no such codec.
    """
    index = _index(shapes, codec)
    return _PROLOGUE + len(_header(index, codec)) + sum(length + _DIGEST for _, _, _, length in index)


def encode(tensors: Tensors, codec: str) -> bytes:
    """The difference file of tensors that fit into memory twice. Raises Refused as ``DifferenceWriter.put``."""
    pieces = _Pieces()
    with DifferenceWriter(pieces, {name: value.shape for name, value in tensors.items()}, codec) as writer:
        for name, value in tensors.items():
            writer.put(name, value)
    return b"".join(pieces.all)


def decode(data: bytes, shapes: Shapes) -> Tensors:
    """All tensors of a difference file. Raises Refused and DataError as ``DifferenceReader`` does."""
    with DifferenceReader(data, shapes) as reader:
        return dict(reader)


class DifferenceWriter:
    """Writes a difference file to a stream."""

    def __init__(self, stream: Writable, shapes: Shapes, codec: str) -> None:
        """Write the header.

        Args:
            stream: takes whole buffers, and keeps none of them (they are used again).
            shapes: shape by name, in the order in which the tensors will come.
            codec: one of ``CODECS``.

        Raises:
            Refused: no such codec.
        """
        self._stream = stream
        index = _index(shapes, codec)
        self._left = {name: (tuple(shape), kind) for name, shape, kind, _ in reversed(index)}
        head = _header(index, codec)
        numbers = struct.pack("<II", _FORMAT, len(head))
        stream.write(memoryview(_MAGIC + numbers + hashlib.sha256(numbers + head).digest() + head))

    def put(self, name: str, value: Any, out: Floats | None = None) -> Floats:
        """Write the next tensor.

        Args:
            name: the one whose turn it is by the order of ``shapes``.
            value: float32, a numpy array or a torch tensor on any device (a GPU rounds it itself). Not changed.
            out: where what was sent is to be put: float32, contiguous, of this shape; may be ``value``.

        Returns:
            What was really sent: the values that a reader will get.

        Raises:
            Refused: another tensor's turn, another shape or type, or values that are not finite, or far too large for a
                difference (the stream is then of no use any more).
        """
        if not self._left:
            raise Refused(f"{name}: all tensors have been written")
        expected = next(reversed(self._left))
        shape, kind = self._left[expected]
        if name != expected:
            raise Refused(f"{name}: it is the turn of {expected}")
        if tuple(value.shape) != shape or str(value.dtype).removeprefix("torch.") != "float32":
            raise Refused(f"{name} is {value.dtype}{tuple(value.shape)}, not float32{shape}")
        sent = np.empty(shape, np.float32) if out is None else out
        if sent.shape != shape or sent.dtype != np.float32 or not sent.flags.c_contiguous:
            raise ValueError(f"{name}: the array for what is sent is {sent.dtype}{sent.shape}, not contiguous float32{shape}")
        digest = hashlib.sha256()

        def emit(piece: memoryview) -> None:
            digest.update(piece)
            self._stream.write(piece)

        flat = np.asarray(value).reshape(-1) if isinstance(value, np.ndarray | np.generic) else value.detach().reshape(-1)
        try:
            pack(flat, kind, emit, sent.reshape(-1))
        except Refused as e:
            raise Refused(f"{name} has {e}") from None
        self._stream.write(memoryview(digest.digest()))
        del self._left[expected]
        return sent

    def close(self) -> None:
        """End the file; the stream stays open. Raises Refused if a tensor is missing."""
        if self._left:
            raise Refused(f"{len(self._left)} tensors have not been written, the first of them {next(reversed(self._left))}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()


class DifferenceReader:
    """Reads a difference file, tensor by tensor, in any order and by several threads at once."""

    def __init__(self, source: bytes | Path, shapes: Shapes, what: str = "", *, offset: int = 0, size: int | None = None) -> None:
        """Read and check the header.

        Args:
            source: the file's bytes, or where it is.
            shapes: what it has to hold, in whatever order.
            what: how messages name it; a path is named by itself.
            offset, size: where it lies in ``source``, if that holds something else too.

        Raises:
            Refused: a version, codec, group, name or shape that is not ours.
            DataError: missing, unreadable, cut short or changed.
        """
        self._what = what or (str(source) if isinstance(source, Path) else "a difference")
        self._data = source if isinstance(source, bytes) else b""
        self._file = -1
        if isinstance(source, Path):
            try:
                self._file = os.open(source, os.O_RDONLY)
            except OSError as e:
                raise DataError(f"{self._what}: cannot be opened: {e.strerror}") from None
        try:
            available = (os.fstat(self._file).st_size if isinstance(source, Path) else len(source)) - offset
            self._offset, self.size = offset, available if size is None else min(size, available)
            self.codec, self._places = self._read_header(shapes)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[tuple[str, Floats]]:
        for name in self._places:
            yield name, self.get(name)

    @property
    def names(self) -> list[str]:
        """Names in the file's order."""
        return list(self._places)

    def get(self, name: str, out: Floats | None = None) -> Floats:
        """A tensor, read and checked anew.

        Args:
            name: one of the shapes'.
            out: where to put it: float32, contiguous, of its shape.

        Raises:
            Refused: it has values that are not finite.
            DataError: unreadable, cut short or changed.
        """
        shape, kind, start, length = self._places[name]
        values = np.empty(shape, np.float32) if out is None else out
        if values.shape != shape or values.dtype != np.float32 or not values.flags.c_contiguous:
            raise ValueError(f"{name}: the array to read into is {values.dtype}{values.shape}, not contiguous float32{shape}")
        flat = values.reshape(-1)
        payload = flat.view(np.uint8) if kind == "fp32" else np.empty(length, np.uint8)
        self._read(start, payload, name)
        digest = np.empty(_DIGEST, np.uint8)
        self._read(start + length, digest, name)
        if hashlib.sha256(payload.data).digest() != digest.tobytes():
            raise DataError(f"{self._what}: {name} was changed on its way (checksum)")
        try:
            unpack(payload, kind, flat)
        except Refused as e:
            raise Refused(f"{self._what}: {name} has {e}") from None
        return values

    def verify(self) -> None:
        """Read everything once, keeping nothing. Raises as ``get``."""
        largest = max((math.prod(shape) for shape, *_ in self._places.values()), default=0)
        room = np.empty(largest, np.float32)
        for name, (shape, *_) in self._places.items():
            self.get(name, room[: math.prod(shape)].reshape(shape))

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_header(self, shapes: Shapes) -> tuple[str, dict[str, tuple[tuple[int, ...], str, int, int]]]:
        """The codec, and by name: shape, kind, offset and length."""
        prologue = np.empty(_PROLOGUE, np.uint8)
        self._read(0, prologue, "its beginning")
        raw = prologue.tobytes()
        if raw[: len(_MAGIC)] != _MAGIC:
            raise DataError(f"{self._what}: not a difference file")
        numbers = raw[len(_MAGIC) : len(_MAGIC) + 8]
        version, length = struct.unpack("<II", numbers)
        if version != _FORMAT:
            raise Refused(f"{self._what}: format {version} of difference files, known is {_FORMAT}")
        # Ours for the same tensors; spaces and escapes may differ.
        expected = max(len(_header(_index(shapes, codec), codec)) for codec in CODECS)
        if length > 8 * expected + 4096:
            raise Refused(f"{self._what}: a header of {length} bytes, for tensors that take {expected}")
        if _PROLOGUE + length > self.size:
            raise DataError(f"{self._what}: cut short in its header")
        head = np.empty(length, np.uint8)
        self._read(_PROLOGUE, head, "its header")
        if hashlib.sha256(numbers + head.tobytes()).digest() != raw[-_DIGEST:]:
            raise DataError(f"{self._what}: its header was changed on its way (checksum)")
        codec, index = self._parse(head.tobytes())
        if sorted(index) != sorted(shapes):
            odd = sorted(set(index) ^ set(shapes))
            raise Refused(f"{self._what}: other tensors than the model ({odd[0]}{' and more' if len(odd) > 1 else ''})")
        places = {}
        at = _PROLOGUE + length
        for name, said in index.items():
            shape = tuple(shapes[name])
            kind = kind_of(shape, codec)
            size = payload_bytes(math.prod(shape), kind)
            if said[0] != list(shape):
                raise Refused(f"{self._what}: {name} has shape {_short(said[0])}, the model's is {list(shape)}")
            if said[1:] != [kind, size]:
                raise Refused(f"{self._what}: {name} is {_short(said[1:])}, by {codec} it is {[kind, size]}")
            places[name] = (shape, kind, at, size)
            at += size + _DIGEST
        if at != self.size:
            raise DataError(f"{self._what}: {self.size} bytes, not {at}: {'cut short' if self.size < at else 'too long'}")
        return codec, places

    def _parse(self, head: bytes) -> tuple[str, dict[str, list[Any]]]:
        """Codec, and by name what the header says of it: a list of shape, kind and length if it is honest."""
        try:
            said = json.loads(head)
            codec, group, tensors = said["codec"], said["group"], said["tensors"]
            index = {name: [shape, kind, length] for name, shape, kind, length in tensors}
        except (ValueError, TypeError, KeyError, RecursionError):
            raise Refused(f"{self._what}: unreadable header") from None
        if codec not in CODECS:
            raise Refused(f"{self._what}: unknown codec {_short(codec)}; known are {', '.join(CODECS)}")
        if group != GROUP:
            raise Refused(f"{self._what}: groups of {_short(group)} values, known are those of {GROUP}")
        if len(tensors) != len(index) or not all(isinstance(name, str) for name in index):
            raise Refused(f"{self._what}: a tensor is named twice, or by no name")
        return codec, index

    def _read(self, start: int, into: Bytes, part: str) -> None:
        view, start = into.data, self._offset + start
        if self._file < 0:
            found = self._data[start : start + len(view)]
            done = len(found)
            view[:done] = found
        else:
            done = 0
            try:
                while done < len(view) and (got := os.preadv(self._file, [view[done:]], start + done)):
                    done += got
            except OSError as e:
                raise DataError(f"{self._what}: {part} cannot be read: {e.strerror}") from None
        if done < len(view):
            raise DataError(f"{self._what}: cut short in {part}")


class _Pieces:
    def __init__(self) -> None:
        self.all: list[bytes] = []

    def write(self, data: memoryview, /) -> None:
        self.all.append(bytes(data))


def _index(shapes: Shapes, codec: str) -> list[tuple[str, list[int], str, int]]:
    """What the header says of each tensor."""
    if codec not in CODECS:
        raise Refused(f"unknown codec {_short(codec)}; known are {', '.join(CODECS)}")
    found = []
    for name, shape in shapes.items():
        kind = kind_of(tuple(shape), codec)
        found.append((name, list(shape), kind, payload_bytes(math.prod(shape), kind)))
    return found


def _header(index: list[tuple[str, list[int], str, int]], codec: str) -> bytes:
    return json.dumps({"codec": codec, "group": GROUP, "tensors": index}, separators=(",", ":")).encode()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
