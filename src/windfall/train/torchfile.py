"""Tensors out of a PyTorch checkpoint file (.pt), without running anything that the file says.

Such a file is a zip archive: `NAME/data.pkl` describes the object in Python's pickle language, `NAME/data/KEY` hold the
tensors' bytes (https://docs.pytorch.org/docs/stable/notes/serialization.html). Unpickling may call any function that the
file names. Here nothing is unpickled (invariant 10): the description is split into instructions by the standard
library's disassembler, and a small machine follows those two dozen that a flat dictionary of plain tensors consists of.
It knows four tensor types and two constructors by name, calls none of what it reads, and refuses everything else.
"""

from __future__ import annotations

import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from windfall.errors import DataError, NoData

#: A description of ten thousand tensors is about two megabytes.
_MAX_DESCRIPTION = 64 * 1024 * 1024
_STORAGES = {
    "torch FloatStorage": torch.float32,
    "torch BFloat16Storage": torch.bfloat16,
    "torch HalfStorage": torch.float16,
    "torch DoubleStorage": torch.float64,
}
_CONVERT = "convert it to .safetensors where you trust it (docs/checkpoints.md has the two lines)"
_DICT = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_VALUES = {"BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"}
_CONSTANTS: dict[str, Any] = {"NEWTRUE": True, "NEWFALSE": False, "NONE": None}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class _Name:
    """A class or function that the description names: a name, never the thing."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """The bytes of one or more tensors, in a member of the archive."""

    key: str
    dtype: torch.dtype
    count: int


class _Mark:
    pass


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a file that holds a state dict, on the CPU, in the types that they were saved in.

    Raises:
        DataError: missing, damaged, of the format before PyTorch 1.6, or with anything in it but a flat dictionary of
            float32, bfloat16, float16 or float64 tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _ArchiveReader(path, archive).tensors()
    except FileNotFoundError:
        raise NoData(f"{path}: there is no such checkpoint") from None
    except zipfile.BadZipFile as e:
        raise DataError(
            f"{path}: cut short, or of the format before PyTorch 1.6, or no checkpoint at all ({e}); fetch it again, or {_CONVERT}"
        ) from None
    except (OSError, EOFError, NotImplementedError, RuntimeError) as e:
        raise DataError(f"{path}: not readable as a PyTorch checkpoint ({e}); fetch it again") from None


class _ArchiveReader:
    """One archive. The machine's stack holds str, int, bool, None, tuple, dict, tensors, names and marks."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path, self._archive = path, archive
        self._members = {info.filename: info for info in archive.infolist()}
        found = [name for name in self._members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(found) != 1:
            self._refuse("there is no description (data.pkl) in it; it was not written by torch")
        self._root = found[0].removesuffix("data.pkl")
        self._held: dict[_Storage, Tensor] = {}
        self._stack: list[Any] = []
        self._memo: dict[Any, Any] = {}

    def _refuse(self, why: str) -> NoReturn:
        raise DataError(
            f"{self._path}: {why}. Only a flat dictionary of plain tensors is read, and nothing in a file is run; {_CONVERT}"
        )

    def tensors(self) -> dict[str, Tensor]:
        if self._root + "byteorder" in self._members and self._bytes("byteorder", 16) != b"little":
            self._refuse("its numbers are not little-endian")
        try:
            found = self._follow(self._bytes("data.pkl", _MAX_DESCRIPTION))
        except (ValueError, IndexError, KeyError, TypeError, RuntimeError, OverflowError) as e:
            self._refuse(f"its description is malformed ({type(e).__name__}: {e})")
        if not isinstance(found, dict):
            self._refuse(f"it holds {_say(found)}, not a state dict")
        for name, value in found.items():
            if not isinstance(name, str) or not isinstance(value, Tensor):
                self._refuse(f"{name!r} in it is {_say(value)}, not a tensor")
        return found

    def _bytes(self, name: str, limit: int) -> bytes:
        info = self._members.get(self._root + name)
        if info is None:
            self._refuse(f"{name} is missing in it")
        # torch stores without compression; a compressed member could be far larger than the file.
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > limit:
            self._refuse(f"{name} in it is compressed, or larger than it can be")
        return self._archive.read(info)

    def _follow(self, description: bytes) -> Any:
        """What the description describes. Only instructions handled here exist."""
        stack, memo = self._stack, self._memo
        for instruction, argument, _ in pickletools.genops(description):
            op = instruction.name
            if op in _VALUES:
                stack.append(argument)
            elif op in _CONSTANTS:
                stack.append(_CONSTANTS[op])
            elif op in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif op in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif op == "MARK":
                stack.append(_Mark())
            elif op in _TUPLES:
                size = _TUPLES[op]
                stack.append(tuple(self._pop() for _ in range(size))[::-1])
            elif op == "TUPLE":
                stack.append(tuple(self._above_mark()))
            elif op == "EMPTY_DICT":
                stack.append({})
            elif op == "SETITEM":
                value, key = self._pop(), self._pop()
                self._dict()[self._key(key)] = value
            elif op == "SETITEMS":
                items = self._above_mark()
                self._dict().update(zip(map(self._key, items[::2]), items[1::2], strict=True))
            elif op == "GLOBAL":
                if argument not in _STORAGES and argument not in (_DICT, _TENSOR):
                    self._refuse(f"it names {str(argument).replace(' ', '.')}, which no state dict needs")
                stack.append(_Name(argument))
            elif op == "BINPERSID":
                stack.append(self._storage(self._pop()))
            elif op == "REDUCE":
                arguments, made = self._pop(), self._pop()
                stack.append(self._make(made, arguments))
            elif op == "BUILD":
                # An OrderedDict's attributes: state dicts have `_metadata` there, which says nothing of tensors.
                self._pop()
                self._dict()
            elif op == "STOP":
                return self._pop()
            elif op != "PROTO":
                self._refuse(f"its description has the instruction {op}, which no state dict needs")
        raise ValueError("it ends before its end")

    def _pop(self) -> Any:
        value = self._stack.pop()
        if isinstance(value, _Mark):
            raise ValueError("a mark where a value belongs")
        return value

    def _above_mark(self) -> list[Any]:
        at = len(self._stack) - 1
        while not isinstance(self._stack[at], _Mark):  # IndexError where there is none
            at -= 1
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items

    def _dict(self) -> dict[Any, Any]:
        if not isinstance(self._stack[-1], dict):
            raise ValueError(f"items for {_say(self._stack[-1])}")
        found: dict[Any, Any] = self._stack[-1]
        return found

    def _key(self, key: Any) -> str:
        if not isinstance(key, str):
            raise ValueError(f"a key is {_say(key)}")
        return key

    def _storage(self, given: Any) -> _Storage:
        kind, name, key, _, count = given
        if kind != "storage" or not isinstance(name, _Name) or name.name not in _STORAGES:
            raise ValueError("a tensor of an unknown type")
        if not isinstance(key, str) or not _count(count):
            raise ValueError("a tensor without a place")
        return _Storage(key, _STORAGES[name.name], count)

    def _make(self, made: Any, arguments: Any) -> Any:
        if made == _Name(_DICT) and arguments == ():
            return {}
        if made != _Name(_TENSOR):
            raise ValueError(f"a call of {_say(made)}")
        storage, offset, shape, stride = arguments[:4]
        if not isinstance(storage, _Storage) or not _count(offset) or len(shape) != len(stride):
            raise ValueError("a tensor without numbers")
        if not all(map(_count, (*shape, *stride))):
            raise ValueError("a tensor of an impossible shape")
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if 0 not in shape and last >= storage.count:
            raise ValueError(f"a tensor of shape {tuple(shape)} reaches beyond its {storage.count} numbers")
        if 0 in shape:
            return torch.empty(shape, dtype=storage.dtype)
        return self._numbers(storage).as_strided(shape, stride, offset)

    def _numbers(self, storage: _Storage) -> Tensor:
        if storage not in self._held:
            size = storage.count * storage.dtype.itemsize
            data = self._bytes(f"data/{storage.key}", size)
            if len(data) != size:
                raise ValueError(f"data/{storage.key} has {len(data)} bytes instead of {size}")
            self._held[storage] = torch.frombuffer(bytearray(data), dtype=storage.dtype)
        return self._held[storage]


def _count(value: Any) -> bool:
    """Whether a value is a size: an int of at least 0 (bool is an int in Python, and no size)."""
    return type(value) is int and value >= 0


def _say(value: Any) -> str:
    return value.name.replace(" ", ".") if isinstance(value, _Name) else f"a {type(value).__name__}"
