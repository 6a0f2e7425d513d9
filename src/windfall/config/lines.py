"""Where a key stands in a TOML file. ``tomllib`` does not say, and an error without a line is half an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_NAME = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_DOTTED = rf"{_NAME}(?:\s*\.\s*{_NAME})*"
_HEADER = re.compile(rf"^\s*(?:\[\s*(?P<one>{_DOTTED})\s*\]|\[\[\s*(?P<several>{_DOTTED})\s*\]\])\s*(#.*)?$")
_KEY = re.compile(rf"^\s*({_DOTTED})\s*=")

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Statement:
    """A table's header or a key with its value: its path, and its first line (from 1)."""

    line: int
    path: Path
    header: bool


def statements(text: str) -> Iterator[Statement]:
    """Every header and key of a file, in order. A list of tables counts its tables: ``("site", 1, "signal", "path")``."""
    counts: dict[Path, int] = {}
    table: Path = ()
    quote = ""
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if quote:
            if quote in line:
                quote = ""
            continue
        header = _HEADER.match(line)
        if header:
            table = ()
            parts = _parts(header["one"] or header["several"])
            for i, part in enumerate(parts):
                table += (part,)
                if header["several"] and i == len(parts) - 1:
                    counts[table] = counts.get(table, -1) + 1
                if table in counts:
                    table += (counts[table],)
            yield Statement(number, table, True)
            continue
        key = _KEY.match(line)
        if key:
            yield Statement(number, table + _parts(key[1]), False)
            rest = line[key.end() :]
            for mark in ('"""', "'''"):
                if rest.count(mark) == 1:
                    quote = mark


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(p.strip("\"'") for p in re.findall(_NAME, dotted))


def key_lines(text: str) -> dict[Path, int]:
    """Line numbers (from 1) by path; tables have their first header's line."""
    found: dict[Path, int] = {}
    for s in statements(text):
        found.setdefault(s.path, s.line)
        if s.header and isinstance(s.path[-1], int):
            found.setdefault(s.path[:-1], s.line)
    return found


def line_of(path: Path, lines: dict[Path, int]) -> int:
    """The line of ``path``, or of its nearest ancestor that stands in the file; 1 if none does."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return 1
