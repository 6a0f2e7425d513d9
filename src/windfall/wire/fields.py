"""Reading what came over a network field by field: each has its type, and what is wrong is said by the field's name.

Fields that nobody asks for are ignored, so that a newer end may say more than an older one understands.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NoReturn, TypeGuard

from windfall.errors import Refused

#: No count that comes over a network is beyond this: it must fit into the ledger, and into a float.
MOST = 2**53
#: Characters of a wrong value that are shown.
_SHOWN = 60
#: How deep lists and mappings may lie in each other.
_DEPTH = 8
_MISSING: Any = object()


class Fields:
    """A mapping from the outside. Every method raises Refused, naming the field, where it is missing or not of its type."""

    def __init__(self, raw: Any, where: str = "") -> None:
        """``where``: what is put before the names of fields. Raises Refused if ``raw`` is no mapping."""
        if not isinstance(raw, Mapping):
            raise Refused(f"{where.removesuffix('.') or 'it'} is {shown(raw)}, not a mapping")
        self._raw = raw
        self._where = where

    def __contains__(self, name: str) -> bool:
        return self._raw.get(name) is not None

    def count(self, name: str, default: int = _MISSING) -> int:
        """A number of things: whole, not negative, at most ``MOST``."""
        value = self._get(name, default)
        if not is_count(value):
            self._wrong(name, value, "a count")
        return value

    def whole(self, name: str) -> int:
        """A whole number of either sign."""
        value = self._get(name, _MISSING)
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MOST:
            self._wrong(name, value, "a whole number")
        return value

    def number(self, name: str, *, above: float = -math.inf) -> float:
        """A finite number, larger than ``above``."""
        value = finite(self._get(name, _MISSING))
        if value is None or value <= above:
            self._wrong(name, self._raw[name], "a finite number" if above == -math.inf else f"a finite number above {above:g}")
        return value

    def flag(self, name: str, default: bool = _MISSING) -> bool:
        """True or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            self._wrong(name, value, "true or false")
        return value

    def word(self, name: str, of: Collection[str] = (), default: str = _MISSING) -> str:
        """Text, one of ``of`` where some are given."""
        value = self._get(name, default)
        if not isinstance(value, str) or (of and value not in of):
            self._wrong(name, value, f"one of {', '.join(sorted(of))}" if of else "text")
        return text(value)

    def each(self, name: str) -> list[Fields]:
        """A list of mappings."""
        return [Fields(x, f"{self._where}{name}[{i}].") for i, x in enumerate(self.list(name))]

    def list(self, name: str, default: list[Any] = _MISSING) -> list[Any]:
        """A list of plain values, each of any type and none too deep; numbers are finite."""
        value = self._get(name, default)
        if not isinstance(value, list) or not _plain(value, _DEPTH):
            self._wrong(name, value, "a list of plain values")
        return list(value)

    def figures(self, name: str) -> dict[str, float]:
        """Numbers by name. One that is not finite is left out: it says nothing, and has no place in a record."""
        value = self._get(name, _MISSING)
        if not isinstance(value, Mapping):
            self._wrong(name, value, "a mapping of numbers")
        found: dict[str, float] = {}
        for key, x in value.items():
            number = finite(x)
            if number is not None:
                found[text(key)] = number
            elif not isinstance(x, float):
                raise Refused(f"{self._where}{name}.{text(key)} is {shown(x)}, not a number")
        return found

    def _get(self, name: str, default: Any) -> Any:
        value = self._raw.get(name, default)
        if value is _MISSING:
            raise Refused(f"{self._where}{name} is missing")
        return value

    def _wrong(self, name: str, value: Any, what: str) -> NoReturn:
        raise Refused(f"{self._where}{name} is {shown(value)}, not {what}")


def is_count(value: Any) -> TypeGuard[int]:
    """Whether it is a number of things."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


def finite(value: Any) -> float | None:
    """A finite number as a float; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def text(value: Any, most: int = 500) -> str:
    """Text that came over a network: whole characters, and not without end."""
    return str(value)[:most].encode("utf-8", "replace").decode()


def shown(value: Any) -> str:
    """A wrong value for a message, shortened."""
    if isinstance(value, int) and abs(value) > MOST:
        return "a number beyond any"
    found = text(repr(value), _SHOWN + 1)
    return found if len(found) <= _SHOWN else f"{found[:_SHOWN]}…"


def _plain(value: Any, depth: int) -> bool:
    if depth < 0:
        return False
    if isinstance(value, list):
        return all(_plain(x, depth - 1) for x in value)
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _plain(x, depth - 1) for k, x in value.items())
    return value is None or isinstance(value, str | bool) or finite(value) is not None
