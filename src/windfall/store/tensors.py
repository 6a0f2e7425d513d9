"""Named float32 tensors as safetensors bytes and files, in numpy: what the coordinator handles of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load as _load
from safetensors.numpy import save as _save

from windfall.errors import DataError
from windfall.store.files import sha256, write_atomic

Tensors = dict[str, npt.NDArray[np.float32]]


def to_bytes(tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
    """Safetensors bytes."""
    return bytes(_save({k: np.ascontiguousarray(v) for k, v in tensors.items()}, metadata))


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
    """Write durably and return the file's SHA-256."""
    write_atomic(path, [to_bytes(tensors, metadata)])
    return sha256(path)


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
