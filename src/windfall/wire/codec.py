"""How deltas travel: float32 as it is, or int8 with one scale per 256 values (FACTS 3: no measurable loss)."""

from __future__ import annotations

import numpy as np

from windfall.errors import Refused
from windfall.store.tensors import Tensors, from_bytes, to_bytes

_GROUP = 256


def encode(tensors: Tensors, codec: str) -> bytes:
    """Bytes of a delta. ``int8``: matrices are quantised, anything with fewer than two dimensions stays float32."""
    if codec == "fp32":
        return to_bytes(tensors)
    packed: dict[str, np.ndarray] = {}
    for name, value in tensors.items():
        if value.ndim < 2:
            packed[f"f|{name}"] = value
            continue
        flat = np.zeros(-(-value.size // _GROUP) * _GROUP, np.float32)
        flat[: value.size] = value.ravel()
        groups = flat.reshape(-1, _GROUP)
        scale = np.abs(groups).max(axis=1, keepdims=True) / 127.0
        safe = np.where(scale > 0, scale, 1.0)
        packed[f"q|{name}"] = np.rint(groups / safe).astype(np.int8)
        packed[f"s|{name}"] = scale.astype(np.float32)
        packed[f"d|{name}"] = np.array(value.shape, np.int64)
    return to_bytes(packed)


def decode(data: bytes, codec: str, like: Tensors) -> Tensors:
    """The delta in ``data``, with the names and shapes of ``like``.

    Raises:
        Refused: names or shapes differ, or a value is not finite.
        DataError: not safetensors.
    """
    raw = from_bytes(data, "delta")
    found: Tensors = {}
    if codec == "fp32":
        found = raw
    elif codec == "int8":
        for key, value in raw.items():
            kind, _, name = key.partition("|")
            if kind == "f":
                found[name] = value
            elif kind == "q":
                shape, scale = raw.get(f"d|{name}"), raw.get(f"s|{name}")
                if name not in like or shape is None or shape.tolist() != list(like[name].shape):
                    said, ours = None if shape is None else shape.tolist(), like[name].shape if name in like else "absent"
                    raise Refused(f"delta {name} has shape {said}, the model's is {ours}")
                groups = -(-like[name].size // _GROUP)
                if value.shape != (groups, _GROUP) or str(value.dtype) != "int8":
                    raise Refused(f"delta {name} is {value.dtype}{value.shape}, not int8{(groups, _GROUP)}")
                if scale is None or scale.shape != (groups, 1) or str(scale.dtype) != "float32" or not np.isfinite(scale).all():
                    raise Refused(f"delta {name} has no scales that fit, or some that are not finite")
                with np.errstate(over="ignore"):  # what is too large is not finite, and refused below
                    flat = (value.astype(np.float32) * scale).ravel()
                found[name] = flat[: like[name].size].reshape(shape)
    else:
        raise Refused(f"unknown codec {codec!r}")
    if found.keys() != like.keys():
        odd = sorted(found.keys() ^ like.keys())
        raise Refused(f"delta has other tensors than the model ({odd[0]}{' and more' if len(odd) > 1 else ''})")
    for name, value in found.items():
        if value.shape != like[name].shape or value.dtype != np.float32:
            raise Refused(f"delta {name} is {value.dtype}{value.shape}, the model's is float32{like[name].shape}")
        if not np.isfinite(value).all():
            raise Refused(f"delta {name} has values that are not finite")
    return found
