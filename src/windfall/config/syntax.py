"""Reads a file's bytes as TOML tables. Lines that are not TOML are reported one by one, and the rest is read in spite of them.

``tomllib`` stops at the first thing that it cannot read. So that one mistake does not hide the others, such a thing is taken out,
or corrected if there is no doubt what was meant, and reading goes on.
"""

from __future__ import annotations

import codecs
import re
import tomllib
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any

from windfall.config.lines import Path, Statement, statements
from windfall.units import counted

_MOST = 30
_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_OPEN_HEADER = re.compile(r"^\s*\[+\s*([A-Za-z0-9_.-]+)[\s\]]*(#.*)?$")
#: So many lines that are not UTF-8 are told one by one.
_FEW = 3
#: Control characters other than white space are at most so large a share of a text's first bytes, or three.
_CONTROLS, _SAMPLED, _WHITE = 0.05, 10_000, b"\t\n\r\f\v"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass
class Parsed:
    """What could be read: ``text`` as it was read, its tables, and what was wrong (line, message).

    ``unread``: paths of what was taken out. These are in the file, so they must not be reported as missing.
    """

    text: str = ""
    tables: dict[str, Any] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)
    unread: set[Path] = field(default_factory=set)
    #: Nothing of it could be read.
    broken: bool = False


def parse(data: bytes, lists: frozenset[str]) -> Parsed:
    """The tables of a file; ``lists`` are the names of tables of which there may be several."""
    found = Parsed()
    if _is_binary(data):
        found.problems.append((1, "it is no text but a binary file; name a configuration (TOML, saved as UTF-8)"))
        found.broken = True
        return found
    found.text = _decoded(data, found.problems)
    lines = found.text.split("\n")
    merged: dict[str, str] = {}
    for attempt in range(_MOST):
        try:
            found.tables = _plain(tomllib.loads("\n".join(lines)))
            break
        except tomllib.TOMLDecodeError as e:
            at = _PLACE.search(str(e))
            line = min(int(at[1]), len(lines)) if at and at[1] else len(lines)
            what = _PLACE.sub("", str(e))
            written = list(statements("\n".join(lines)))
            if not _mended(what, line, lines, written, found, lists, merged, attempt):
                found.broken = True
                break
        except RecursionError:
            found.problems.append((1, "values lie too deep in each other to be read"))
            found.broken = True
            break
    else:
        found.broken = True
    for name, real in merged.items():
        extra = found.tables.pop(name, {})
        table = found.tables.get(real)
        if isinstance(table, dict):
            found.tables[real] = extra | table
    if not found.broken:
        found.text = "\n".join(f"[{merged[line[1:-1]]}]" if line[1:-1] in merged else line for line in lines)
    return found


def _mended(
    what: str, line: int, lines: list[str], written: list[Statement], found: Parsed, lists: frozenset[str],
    merged: dict[str, str], attempt: int,
) -> bool:  # fmt: skip
    """Report what is wrong at ``line`` and take it out of ``lines``, or correct it. False if that is impossible."""
    text = lines[line - 1].strip()
    declared = re.search(r"Cannot declare \(([^)]*)\) twice|Cannot mutate immutable namespace|Cannot overwrite", what)
    header = next((s for s in written if s.header and s.line == line), None)
    if header is not None and declared:
        name = ".".join(p for p in header.path if isinstance(p, str))
        first = next((s.line for s in written if s.header and s.path == header.path), line)
        if name in lists:
            found.problems.append((line, f"[{name}] stands twice (first in line {first}); there may be several: write [[{name}]]"))
            _as_lists(lines, name)
            return True
        found.problems.append((line, f"[{name}] stands twice (first in line {first}); put its keys into one"))
        if "." in name:
            return False
        alias = f"twice-{attempt}"
        merged[alias] = name
        lines[line - 1] = f"[{alias}]"
        return True
    opened = _OPEN_HEADER.match(lines[line - 1])
    if header is None and opened and "=" not in text:
        name = opened[1]
        shown = f"[[{name}]]" if name.rpartition(".")[2] in lists or name in lists else f"[{name}]"
        if lines[line - 1] == shown:
            return False
        found.problems.append((line, f"`{text}` is no header of a table; write {shown}"))
        lines[line - 1] = shown
        return True
    # The statement that cannot be read is the last one that begins at or before the line; its value may have several lines.
    begun = [s for s in written if s.line <= line]
    if begun and not begun[-1].header and (begun[-1].line == line or not _whole(lines[begun[-1].line - 1 : line - 1])):
        own = begun[-1]
        after = min((s.line for s in written if s.line > own.line), default=len(lines) + 1)
        if "Cannot overwrite" in what or declared:
            first = next((s.line for s in written if s.path == own.path), own.line)
            found.problems.append((own.line, f"`{own.path[-1]}` stands twice (first in line {first}); remove one of them"))
        else:
            found.problems.append(
                (own.line, f"cannot be read: `{_short(lines[own.line - 1])}`: {_hint(lines[own.line - 1], what)}")
            )
            found.unread.add(own.path)
        for i in range(own.line - 1, after - 1 if own.line != line else own.line):
            lines[i] = ""
        return True
    if not text:
        found.problems.append((line, f"cannot be read as TOML: {what}"))
        return False
    found.problems.append((line, f"cannot be read: `{_short(lines[line - 1])}`: {_hint(lines[line - 1], what)}"))
    lines[line - 1] = ""
    return True


def _whole(lines: list[str]) -> bool:
    """Whether a key and its value are complete in ``lines``, so that the next line does not belong to them."""
    try:
        tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError:
        return False
    return True


def _as_lists(lines: list[str], name: str) -> None:
    """Every ``[name]`` as ``[[name]]``."""
    for i, line in enumerate(lines):
        if re.match(rf"^\s*\[\s*{re.escape(name)}\s*\]\s*(#.*)?$", line):
            lines[i] = f"[[{name}]]"


def _hint(line: str, what: str) -> str:
    """What to write instead of a line that is no TOML."""
    _, sep, value = line.partition("=")
    value = value.strip()
    if not sep:
        return "write a key, = and its value; text that is only for people begins with #"
    if not value or value.startswith("#"):
        return "a value is missing after ="
    if re.match(r"[“”„‘’«»]", value):
        return 'put text between plain quotes: "…"'
    if re.match(r"(true|false|yes|no|on|off)\b", value, re.IGNORECASE):
        return "write true or false, in small letters"
    if re.match(r"-?\d+,\d+\s*(#.*)?$", value):
        return f"write a point for the decimals: {re.split(r'[ #]', value)[0].replace(',', '.')}"
    if re.match(r"-?\.\d|-?\d+\.\s*(#.*)?$", value):
        return "a number has digits on both sides of its point: 0.5"
    if re.match(r"0\d", value):
        return "a number does not begin with 0"
    if re.match(r"-?\d[\d_.]*\s*[A-Za-z%/]", value):
        return "a number stands alone, without a unit: the key's name has it"
    if "\\" in value and value.startswith('"'):
        return r"a backslash has a meaning between double quotes: write '…' around the text, or / instead of it"
    if value.startswith(('"', "'")) and value.count(value[0]) == 1:
        return "the closing quote is missing"
    if value.startswith("[") and "]" not in value:
        return "the closing ] is missing"
    if re.match(r"[A-Za-z/~.]", value):
        return f'put text between quotes: "{_short(value)}"'
    return what[0].lower() + what[1:]


def _short(text: str) -> str:
    text = text.strip()
    return text if len(text) <= 60 else text[:59] + "…"


def _is_binary(data: bytes) -> bool:
    """Whether a file is no text at all: each of its lines would be a mistake of its own."""
    if data.startswith(_UTF16):
        return False
    controls = sum(byte < 32 and byte not in _WHITE for byte in data[:_SAMPLED])
    return b"\0" in data or controls > max(3, _CONTROLS * len(data[:_SAMPLED]))


def _decoded(data: bytes, problems: list[tuple[int, str]]) -> str:
    """A file as text. A byte-order mark is no part of it, and line ends are those of any system."""
    if data.startswith(_UTF16):
        problems.append((1, "the file is UTF-16, as some Windows programs write it; save it as UTF-8"))
        text = data.decode("utf-16", errors="replace")
    else:
        data = data.removeprefix(codecs.BOM_UTF8)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            strange: list[tuple[int, str]] = []
            for number, line in enumerate(data.split(b"\n"), 1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as e:
                    shown = _short(line.decode("latin-1"))
                    strange.append((number, f"byte 0x{line[e.start]:02x} is not UTF-8 (`{shown}`?); save the file as UTF-8"))
            problems += strange[:_FEW]
            if len(strange) > _FEW:  # saved in another encoding: one mistake, not one for each of its lines
                others = counted(len(strange) - _FEW - 1, "other line")
                problems.append((strange[_FEW][0], f"here and in {others} it is not UTF-8 either"))
            text = data.decode("utf-8", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _plain(value: Any) -> Any:
    """Tables with TOML's instants as texts, so that they may be written with or without quotes."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return value
