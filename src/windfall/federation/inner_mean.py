"""The mean of several sites' inner optimizer states, file to file and piece by piece: work for a thread beside the loop.

A state is safetensors of moments (bf16 as sites send them; float32 is taken too) and of single numbers: counters, and the
like, which are each site's own and are not averaged. The mean is weighted by tokens, worked out in float32 and written as its
inputs are, so that it costs as many bytes on its way back.

Memory: three pieces of 4 MB. Whatever a site may have sent is read as it is: what does not fit, or is not finite, is refused.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from windfall.errors import DataError, Refused
from windfall.store.blobs import Blob, FileBlob
from windfall.store.files import telling_of_the_disk
from windfall.store.streams import DurableFile, Made
from windfall.wire.rounding import LARGEST, Floats

#: Values in a piece.
_PIECE = 2**20
#: A header that is longer is none of ours.
_LONGEST_HEAD = 64 * 2**20
_BYTES = {"BF16": 2, "F32": 4}


@dataclass(frozen=True)
class StatePart:
    """One site's inner state, at one of its cuts."""

    site: str
    generation: int
    cut: int
    #: What its work counts for.
    tokens: int
    #: Safetensors.
    state: Blob


class _Out(Protocol):
    def write(self, data: bytes | memoryview, /) -> object: ...


def averages_inner(version: int, every: int) -> bool:
    """Whether inner states are averaged where sites make ``version`` together: of ``every`` versions at one, or never (0)."""
    return every > 0 and version % every == 0


def mean_name(number: int) -> str:
    """File name of the mean that goes with version ``number``."""
    return f"mean-v{number:06d}.safetensors"


def write_mean(parts: Sequence[StatePart], path: Path) -> Made:
    """Write the mean to ``path``, durably.

    Raises:
        Refused: a state is no state, or not one of the same model as the others, or not finite. No file has been made.
        StoreError: the disk is full.
    """
    with telling_of_the_disk(path.parent), ExitStack() as stack:
        file = DurableFile(path)
        stack.callback(file.discard)
        stream_mean(parts, file)
        made = file.finish()
        file.publish()
        return made


def stream_mean(parts: Sequence[StatePart], out: _Out) -> None:
    """Write the mean to ``out``. Raises Refused, after it may have written something of it."""
    states = [_PartFile(part) for part in parts]
    first = states[0]
    for other in states[1:]:
        if other.moments.keys() != first.moments.keys():
            odd = sorted(other.moments.keys() ^ first.moments.keys())[0]
            raise Refused(f"the inner states of {first.site} and {other.site} are of two models: only one has {odd}")
        for name, entry in first.moments.items():
            if (other.moments[name].kind, other.moments[name].shape) != (entry.kind, entry.shape):
                raise Refused(f"the inner states of {first.site} and {other.site} are of two models: {name} differs")
    # Larger types first, so that every tensor's place is a multiple of its type's size.
    order = sorted(first.moments, key=lambda n: (-_BYTES[first.moments[n].kind], n))
    head: dict[str, object] = {}
    at = 0
    for name in order:
        entry = first.moments[name]
        end = at + entry.count * _BYTES[entry.kind]
        head[name] = {"dtype": entry.kind, "shape": list(entry.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.write(struct.pack("<Q", len(text)) + text)
    for name in order:
        for piece in _mean(states, name):
            out.write(piece)


def _mean(states: Sequence[_PartFile], name: str) -> Iterator[memoryview]:
    """A tensor's mean, in pieces: a running weighted mean, as ``merge.weighted_mean`` has it."""
    entry = states[0].moments[name]
    for start in range(0, entry.count, _PIECE):
        stop = min(entry.count, start + _PIECE)
        mean = np.zeros(stop - start, np.float32)
        total = 0
        for state in states:
            value = state.values(name, start, stop)
            if not (np.abs(value) <= LARGEST).all():
                raise Refused(f"the inner state of {state.site} is not finite in {name}, or far too large")
            total += state.tokens
            value -= mean
            value *= np.float32(state.tokens / total if total else 0.0)
            mean += value
        yield _as_bf16(mean).data if entry.kind == "BF16" else mean.view(np.uint8).data


def _as_bf16(value: Floats) -> npt.NDArray[np.uint8]:
    """Rounded to nearest, ties to even; of finite values."""
    bits = value.view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    return (rounded >> np.uint32(16)).astype("<u2").view(np.uint8)


@dataclass(frozen=True)
class _MomentTensor:
    kind: str
    shape: tuple[int, ...]
    count: int
    begin: int


class _PartFile:
    """One state, of which nothing is read before it is asked for."""

    def __init__(self, part: StatePart) -> None:
        """Raises Refused if it is no state."""
        self.site, self.tokens = part.site, part.tokens
        try:
            data = _bytes_of(part.state)
            (length,) = struct.unpack("<Q", data[:8])
            if length > min(_LONGEST_HEAD, len(data) - 8):
                raise ValueError("cut short in its header")
            head = json.loads(bytes(data[8 : 8 + length]))
            self._values = data[8 + length :]
            #: By name, in it all that is more than one number.
            self.moments: dict[str, _MomentTensor] = {}
            for name, said in head.items():
                if name == "__metadata__":
                    continue
                shape, (begin, end) = tuple(map(int, said["shape"])), map(int, said["data_offsets"])
                count = math.prod(shape)
                if min(shape, default=0) < 0 or count <= 1:
                    continue
                kind = said["dtype"]
                if kind not in _BYTES or not 0 <= begin <= end <= len(self._values) or count * _BYTES[kind] != end - begin:
                    raise ValueError(f"{str(name)[:80]} does not fit")
                self.moments[name] = _MomentTensor(kind, shape, count, begin)
        except DataError as e:
            raise Refused(f"the inner state of {part.site}: {e}") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, struct.error) as e:
            raise Refused(f"the inner state of {part.site} is not readable as safetensors: {e}") from None
        if not self.moments:
            raise Refused(f"the inner state of {part.site} has no moments")

    def values(self, name: str, start: int, stop: int) -> Floats:
        """A piece of a tensor as float32, to be written to."""
        entry = self.moments[name]
        size = _BYTES[entry.kind]
        here = self._values[entry.begin + start * size : entry.begin + stop * size]
        if entry.kind == "F32":
            return np.frombuffer(here, "<f4").astype(np.float32)
        return (np.frombuffer(here, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def _bytes_of(blob: Blob) -> memoryview:
    """All of it; a file is read once, to check it, and then mapped. Raises DataError if it is not what it was."""
    if not isinstance(blob, FileBlob):
        return memoryview(blob.read())
    blob.verify()
    with open(blob.path, "rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return data[blob.offset : blob.offset + blob.size]
