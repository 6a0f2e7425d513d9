"""Handles instants that several rows have: finds the columns by which different rows can be told apart."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from windfall.errors import SignalError
from windfall.grid.instant_texts import read_stamps
from windfall.grid.numbers import numbers
from windfall.grid.sheet import Sheet, listed
from windfall.grid.zones import clock_times
from windfall.units import iso_utc

Array = npt.NDArray[np.float64]

#: How many instants are looked at to find what tells their rows apart.
_LOOKED_AT = 500
#: A column that chooses rows has at most so many values.
_MOST_VALUES = 2000
#: Names of columns that are parts of a time, and the keys that read them.
PARTS = {
    "hour_column": re.compile(r"(^|[^a-z])(hours?|hr|he|hour_?ending|stunde|settlement_?period|periode?)([^a-z]|$)", re.IGNORECASE),
    "quarter_column": re.compile(r"(^|[^a-z])(q|qh|quarter|interval|minute|viertelstunde)([^a-z]|$)", re.IGNORECASE),
}
_FRACTION = re.compile(r"[-+]?\d+[.,]\d+")


def clashes(times: Array, values: Array) -> npt.NDArray[np.intp]:
    """Places i of sorted ``times`` where row i and row i + 1 are of one instant and differ. ``values``: one column or several."""
    columns = values if values.ndim == 2 else values[None, :]
    differ = ~((columns[:, 1:] == columns[:, :-1]) | (np.isnan(columns[:, 1:]) & np.isnan(columns[:, :-1]))).all(axis=0)
    return np.flatnonzero((np.diff(times) == 0) & differ)


def what_differs(
    sheet: Sheet, rows: npt.NDArray[np.intp], times: Array, at: npt.NDArray[np.intp], apart: list[str]
) -> dict[str, list[str]]:
    """The columns whose values differ among rows of one instant, those that tell most rows apart first, and their values.

    ``rows`` are the places in ``sheet`` of the rows in order of ``times``, ``at`` those of ``clashes``; ``apart`` are columns that
    are known to be something else (instants and values).
    """
    # A column that chooses rows has the same few values at each instant. Numbers of rows or revisions have as many values as rows.
    together = int(np.unique(times[at], return_counts=True)[1].max()) + 1
    most = min(_MOST_VALUES, max(len(rows) // 2, 3 * together))
    pairs = [(int(rows[i]), int(rows[i + 1])) for i in at[:_LOOKED_AT].tolist()]
    found: list[tuple[bool, int, int, str, list[str]]] = []
    for name, cells in zip(sheet.header, sheet.cells, strict=True):
        if name in apart or not name:
            continue
        telling = sum(cells[a] != cells[b] for a, b in pairs)
        if not telling:
            continue
        there = sorted({c.strip() for c in cells} - {""})
        if len(there) > most or _measures(there):  # prices differ too, but cannot choose rows
            continue
        # Columns of names come before columns of numbers.
        found.append((_bare(there), -telling, len(there), name, there))
    return {name: there for *_, name, there in sorted(found)}


def enough(
    sheet: Sheet, rows: npt.NDArray[np.intp], times: Array, at: npt.NDArray[np.intp], columns: dict[str, list[str]]
) -> list[str]:
    """The first of ``columns`` that together tell the rows of each instant apart; all of them if they cannot."""
    groups = [rows[times == t].tolist() for t in np.unique(times[at])[:20]]
    chosen: list[str] = []
    # Numbers of groups, versions or hours are used only if names do not suffice.
    names = [name for name, there in columns.items() if not _bare(there)]

    def told(names: list[str]) -> int:
        cells = [sheet.column(name) for name in names]
        return sum(len({tuple(c[i] for c in cells) for i in group}) for group in groups)

    for some in (names, list(columns)):
        while told(chosen) < sum(map(len, groups)):
            left = [name for name in some if name not in chosen]
            best = max(left, key=lambda name: told([*chosen, name]), default=None)
            if best is None or told([*chosen, best]) == told(chosen):
                break
            chosen.append(best)
    return chosen


def _bare(there: list[str]) -> bool:
    """Whether values are numbers, all of them."""
    return bool(np.isfinite(numbers(there)).all())


def only_dates(cells: Sequence[str]) -> bool:
    """Whether a column of instants has no times of the day."""
    return not any(":" in c or "T" in c for c in cells[:200])


def _measures(there: list[str]) -> bool:
    """Whether values look measured, or are instants, so that they cannot choose rows."""
    sample = there[:200]
    fractions = sum(_FRACTION.fullmatch(v) is not None for v in sample)
    return fractions > len(sample) / 2 or float(np.isfinite(read_stamps(sample).local).mean()) > 0.9


class Contradicting(SignalError):
    """Rows of one instant have different values.

    ``columns`` (with their values) tell them apart; ``where`` is an example of a choice.
    """

    def __init__(self, message: str, columns: dict[str, list[str]], where: dict[str, str]) -> None:
        super().__init__(message)
        self.columns, self.where = columns, where


def contradicting(
    sheet: Sheet, rows: npt.NDArray[np.intp], times: Array, values: Array, at: npt.NDArray[np.intp], apart: list[str], naive: bool
) -> Contradicting:
    """The error for rows of one instant that differ: how many, which columns tell them apart, and what to set.

    ``apart`` begins with the column of instants.
    """
    first = int(at[0])
    shown = f"{values[first]:g} and {values[first + 1]:g} at {iso_utc(float(times[first]))}"
    count = len(np.unique(times[at]))
    text = f"{count:,} instants have rows with different values ({shown})" if count > 1 else f"rows have different values ({shown})"
    columns = what_differs(sheet, rows, times, at, apart)
    if columns:
        each = "; ".join(f"{name}: {listed(there, 8)}" for name, there in list(columns.items())[:4])
        parts = {key: name for name in reversed(columns) for key, known in PARTS.items() if known.search(name)}
        if only_dates(sheet.column(apart[0])):
            clock = next((name for name in columns if clock_times(columns[name])), None)
            parts = {"hour_column": clock} if clock else parts
        if parts:
            keys = " and ".join(f"{key} = {toml_value(name)}" for key, name in parts.items())
            text += f"; {each}: is the time of the day in them? set {keys}"
            return Contradicting(f"{sheet.label}: {text}", {}, {})
        where = {name: _first(columns[name]) for name in enough(sheet, rows, times, at, columns)}
        keys = ", ".join(f"{toml_key(name)} = {toml_value(value)}" for name, value in where.items())
        text += f"; they differ in {each}: choose rows with where = {{ {keys} }}, or region_column and region_value"
        return Contradicting(f"{sheet.label}: {text}", columns, where)
    hint = ""
    if naive and count <= 24:
        hint = ", or, where they are of the hour that comes twice as clocks go back, set timezone"
    text += f', and no column tells them apart: if the later row revises the earlier, set repeated = "last"{hint}'
    return Contradicting(f"{sheet.label}: {text}", {}, {})


def _first(there: list[str]) -> str:
    """A value as an example: of prices' parts the price."""
    return next((v for v in there if v in ("LMP", "LMP_PRC", "TOTAL")), there[0])


def toml_value(value: Any) -> str:
    """A text or a number as TOML writes it."""
    return json.dumps(value, ensure_ascii=False)


def toml_key(name: str) -> str:
    """A name as a key of TOML."""
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else toml_value(name)
