"""Finds the header of a text of rows: the separator, the line that it stands in, and the columns' names."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from windfall.grid.instant_texts import read_stamps
from windfall.grid.numbers import numbers
from windfall.units import quantity, unknown_unit

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
#: The header is looked for in so many lines; exports have up to some dozen lines above it.
_SEARCHED = 200
#: What tells a row of names that is the header of a known kind of file.
IsHeader = Callable[[Sequence[str]], bool]


def find_header(text: str, wanted: Sequence[str], likely: Sequence[IsHeader]) -> tuple[str, int, list[str]]:
    """The separator, how many lines stand above the header, and its names.

    ``wanted`` are names that it has; of several rows that have them the one counts for which the first test of ``likely`` holds,
    or the next one.
    """
    places, lines = _candidates(text)
    separator, at, names = _header(lines, list(wanted), list(likely))
    return separator, places[at] if places else at, names


def _candidates(text: str) -> tuple[list[int], list[str]]:
    """Lines that may be the header, and where each stands."""
    begin = text.lstrip("\ufeff \t\r\n")[:2]
    if begin in ("C,", "I,"):  # AEMO: several tables in one file, each begun by a row I; the one that is meant may be the last
        lines = text.splitlines()
        found = [i for i, line in enumerate(lines) if line.lstrip("\ufeff").startswith("I,")]
        if found:
            return found, [lines[i] for i in found]
    sample = text[: 1 << 18].splitlines()[:_SEARCHED]
    return list(range(len(sample))), sample


def _header(lines: list[str], wanted: list[str], likely: list[IsHeader]) -> tuple[str, int, list[str]]:
    split = {separator: [_cells(line, separator) for line in lines] for separator in SEPARATORS}
    for test in [*likely, *([_any] if wanted else [])]:
        for separator, rows in split.items():
            for i, cells in enumerate(rows):
                if (len(cells) > 1 or wanted) and all(name in cells for name in wanted) and test(cells):
                    return separator, i, cells
    found: list[tuple[int, int, int, str, list[str]]] = []
    for separator, rows in split.items():
        counts = Counter(len(cells) for cells in rows if len(cells) > 1)
        if not counts:
            continue
        width, times = max(counts.items(), key=lambda item: (item[1], item[0]))
        at = next((i for i, cells in enumerate(rows) if len(cells) == width and not _comment(cells)), 0)
        found.append((times, width, -at, separator, rows[at]))
    if not found:
        at = next((i for i, line in enumerate(lines) if line.strip() and not _comment([line.strip()])), 0)
        return ",", at, _cells(lines[at], ",") if lines else []
    _, _, at, separator, cells = max(found)
    return separator, -at, cells


def _any(cells: Sequence[str]) -> bool:
    return True


def _cells(line: str, separator: str) -> list[str]:
    try:
        return [c.strip().strip("\ufeff") for c in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error:
        return []


def _comment(cells: list[str]) -> bool:
    # sep=; is what Excel reads the separator from.
    return cells[0].startswith("#") or not any(cells) or re.fullmatch("sep=.?", cells[0]) is not None


def is_data(cells: Sequence[str]) -> bool:
    """Whether the header is a row of data, because an instant and a number are in it."""
    dated = np.isfinite(read_stamps(cells).local)
    return bool(dated.any()) and bool((np.isfinite(numbers(cells)) | np.isfinite(numbers(cells, True)))[~dated].any())


def are_units(row: list[str]) -> bool:
    """Whether the row below the header gives units: it has a unit, and neither a number nor an instant."""
    cells = [c.strip().strip("[]()") for c in row]
    if not any(quantity(c) is not None or unknown_unit(f"[{c}]") for c in cells):
        return False
    return not (np.isfinite(read_stamps(cells).local) | np.isfinite(numbers(cells))).any()
