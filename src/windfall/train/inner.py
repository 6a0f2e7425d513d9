"""A stored inner optimizer state: named tensors as safetensors, written from where they lie and read where they lie."""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Mapping

import torch

from windfall.errors import DataError
from windfall.store.blobs import Blob, FileBlob, PiecesBlob

_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16"}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}
#: A header that is longer is none of ours.
_LONGEST = 64 * 2**20


def packed(state: Mapping[str, torch.Tensor]) -> PiecesBlob:
    """``state`` (on the CPU) as safetensors, of which its tensors are pieces: nothing is copied, and nothing in it may change."""
    head: dict[str, object] = {}
    pieces: list[bytes | memoryview] = [b""]
    at = 0
    # Larger types first, as safetensors has it, so that every tensor's place is a multiple of its type's size.
    for name in sorted(state, key=lambda n: (-state[n].element_size(), n)):
        tensor = state[name].contiguous()
        size = tensor.numel() * tensor.element_size()
        head[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        pieces.append(tensor.reshape(-1).view(torch.uint8).numpy().data)
        at += size
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    pieces[0] = struct.pack("<Q", len(text)) + text
    return PiecesBlob(pieces)


def unpacked(data: bytes | Blob) -> dict[str, torch.Tensor]:
    """The tensors of safetensors, not to be written to: those of a file are mapped and take no memory that the system cannot take
    back. The file must stay as it is while they are used.

    Raises:
        DataError: unreadable.
    """
    try:
        if isinstance(data, FileBlob):
            return _tensors(_mapped(data))
        return _tensors(memoryview(bytearray(data if isinstance(data, bytes) else data.read())))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, struct.error) as e:
        raise DataError(f"inner optimizer state: not readable as safetensors: {e}") from None


def _mapped(blob: FileBlob) -> memoryview:
    fd = os.open(blob.path, os.O_RDONLY)
    try:
        return memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_PRIVATE))[
            blob.offset : blob.offset + blob.size
        ]
    finally:
        os.close(fd)


def _tensors(data: memoryview) -> dict[str, torch.Tensor]:
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(_LONGEST, len(data) - 8):
        raise ValueError("cut short in its header")
    head = json.loads(bytes(data[8 : 8 + length]))
    head.pop("__metadata__", None)
    values = data[8 + length :]
    found = {}
    for name, entry in head.items():
        dtype, (begin, end) = _TYPES[entry["dtype"]], entry["data_offsets"]
        shape = [int(n) for n in entry["shape"]]
        count = torch.Size(shape).numel()
        if not 0 <= begin <= end <= len(values) or min(shape, default=0) < 0 or count * dtype.itemsize != end - begin:
            raise ValueError(f"{name} does not fit")
        # A copy where a type would not lie where its size asks for.
        here = values[begin:end]
        flat = torch.frombuffer(here, dtype=torch.uint8) if count else torch.empty(0, dtype=torch.uint8)
        if flat.data_ptr() % dtype.itemsize:
            flat = flat.clone()
        found[name] = flat.view(dtype).reshape(shape)
    return found
