"""Triggers: when a site may be on, as an expression over its signals: ``moer < 100 or price <= 0``.

Grammar: comparisons ``NAME < NUMBER`` (also ``<=``, ``>``, ``>=``), joined by ``and`` and ``or`` (``and`` binds tighter),
with parentheses. A recursive descent parser reads it; nothing is evaluated as code.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_TOKEN = re.compile(r"\s*(?:(<=|>=|<|>)|([()])|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|([A-Za-z][A-Za-z0-9_-]*)|(\S))")


_LONGEST = 500


@dataclass(frozen=True, slots=True)
class Comparison:
    """One signal against one level, in the signal's own unit."""

    signal: str
    operator: str
    level: float

    def names(self) -> set[str]:
        """The signals that it is about."""
        return {self.signal}

    @property
    def text(self) -> str:
        """As it would be written."""
        short = f"{self.level:g}"
        return f"{self.signal} {self.operator} {short if float(short) == self.level else repr(self.level)}"

    @property
    def below(self) -> bool:
        """Whether it is true for low values."""
        return self.operator in ("<", "<=")

    def holds(self, value: float) -> bool:
        """Whether it is true of ``value``."""
        match self.operator:
            case "<":
                return value < self.level
            case "<=":
                return value <= self.level
            case ">":
                return value > self.level
            case _:
                return value >= self.level


@dataclass(frozen=True, slots=True)
class Joined:
    """Several triggers: ``any`` of them (or), or ``all`` (and)."""

    how: str
    parts: tuple[Trigger, ...]

    def names(self) -> set[str]:
        """The signals that it is about."""
        return set().union(*(p.names() for p in self.parts))

    @property
    def text(self) -> str:
        """As it would be written."""
        inner = [f"({p.text})" if isinstance(p, Joined) and p.how == "any" and self.how == "all" else p.text for p in self.parts]
        return (" or " if self.how == "any" else " and ").join(inner)


Trigger = Comparison | Joined


def parse_trigger(text: str) -> Trigger:
    """The trigger that ``text`` writes.

    Raises:
        ValueError: it is not a trigger; the message says where it stops making sense.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"trigger {text[:40]!r}...: longer than {_LONGEST} characters; write it shorter")
    tokens = [next((kind, found) for kind, found in zip("oxnws", m.groups(), strict=True) if found is not None)
              for m in _TOKEN.finditer(text)]  # fmt: skip
    place = 0

    def peek() -> tuple[str, str]:
        return tokens[place] if place < len(tokens) else ("end", "the end")

    def take(kind: str, what: str) -> str:
        nonlocal place
        found, word = peek()
        if found != kind:
            raise ValueError(f"trigger {text!r}: {what} is missing before {word}; write for example `moer < 100 or price <= 0`")
        place += 1
        return word

    def joined(word: str, inner: object) -> Trigger:
        nonlocal place
        parts = [inner()]  # type: ignore[operator]
        while peek() == ("w", word):
            place += 1
            parts.append(inner())  # type: ignore[operator]
        return parts[0] if len(parts) == 1 else Joined("any" if word == "or" else "all", tuple(parts))

    def either() -> Trigger:
        return joined("or", both)

    def both() -> Trigger:
        return joined("and", one)

    def one() -> Trigger:
        nonlocal place
        if peek() == ("x", "("):
            place += 1
            inner = either()
            if take("x", "`)`") != ")":
                raise ValueError(f"trigger {text!r}: `)` is missing")
            return inner
        name = take("w", "a signal's name")
        operator = take("o", "one of < <= > >=")
        level = float(take("n", "a number"))
        if not math.isfinite(level):
            raise ValueError(f"trigger {text!r}: the number after {name} {operator} is too large")
        return Comparison(name, operator, level)

    found = either()
    if place < len(tokens):
        raise ValueError(f"trigger {text!r}: {tokens[place][1]} is not expected there; join comparisons with `and` or `or`")
    return found
