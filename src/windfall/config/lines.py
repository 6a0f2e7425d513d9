"""Where a key stands in a TOML file. ``tomllib`` does not say, and an error without a line is half an error."""

from __future__ import annotations

import re

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")

Path = tuple[str | int, ...]


def key_lines(text: str) -> dict[Path, int]:
    """Line numbers (from 1) by path, e.g. ``("site", 1, "signal", "path")``; tables have their header's line."""
    found: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    quote = ""
    for number, line in enumerate(text.splitlines(), 1):
        if quote:
            if quote in line:
                quote = ""
            continue
        header = _HEADER.match(line)
        if header:
            table = ()
            parts = [p.strip().strip("\"'") for p in header[2].split(".")]
            for i, part in enumerate(parts):
                table += (part,)
                if header[1] == "[[" and i == len(parts) - 1:
                    counts[table] = counts.get(table, -1) + 1
                if table in counts:
                    table += (counts[table],)
            found.setdefault(table, number)
            if isinstance(table[-1], int):
                found.setdefault(table[:-1], number)
            continue
        key = _KEY.match(line)
        if key:
            path = table + tuple(p.strip().strip("\"'") for p in key[1].split("."))
            found.setdefault(path, number)
            rest = line[key.end() :]
            for mark in ('"""', "'''"):
                if rest.count(mark) == 1:
                    quote = mark
    return found


def line_of(path: Path, lines: dict[Path, int]) -> int:
    """The line of ``path``, or of its nearest ancestor that stands in the file; 1 if none does."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return 1
