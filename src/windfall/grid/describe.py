"""Describes a trace file: its columns, the signal that it would make, and the configuration table that reads it so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from windfall.config.signals import SignalTable
from windfall.errors import ConfigError, SignalError
from windfall.grid.layouts import headers, recognised
from windfall.grid.magnitude import named_unit
from windfall.grid.numbers import numbers
from windfall.grid.repeated import PARTS, Contradicting, only_dates, toml_key, toml_value
from windfall.grid.sheet import Sheet, read_sheet
from windfall.grid.trace import Trace, holds_instants, load_trace, trace_file
from windfall.grid.zones import clock_times
from windfall.units import quantity_in

Array = npt.NDArray[np.float64]

#: Thresholds of windows where none is given: the default criterion, and a negative price.
THRESHOLDS = {"marginal_co2": 100.0, "average_co2": 100.0, "price": 0.0}
_FEW = 60
_REPEATED = re.compile(r"repeated|dst_?flag", re.IGNORECASE)
_PRICE = re.compile(r"(^|[^a-z])(lmp|rrp|spp|price|preis|prix|precio)", re.IGNORECASE)
_CARBON = re.compile(r"moer|aoer|co2|carbon|emission|intensity", re.IGNORECASE)
_START = re.compile(r"start|begin|from|von|utc|gmt", re.IGNORECASE)


@dataclass(frozen=True)
class SheetColumn:
    """A column: ``kind`` is instants, numbers, text or empty; ``values`` are those of a column that could choose rows."""

    name: str
    kind: str
    empty: int
    low: float | None = None
    middle: float | None = None
    high: float | None = None
    values: tuple[str, ...] = ()
    distinct: int = 0


@dataclass
class Description:
    """A file as it was understood. ``problem`` says why there is no ``trace``; ``where`` are the values chosen as an example."""

    sheet: Sheet
    columns: list[SheetColumn]
    table: dict[str, Any]
    trace: Trace | None = None
    problem: str = ""
    #: Columns that tell rows of one instant apart, with their values.
    choices: dict[str, list[str]] = field(default_factory=dict)
    #: Notes on keys of ``table`` that a person has to check.
    notes: dict[str, str] = field(default_factory=dict)
    #: The layout that its columns are those of, if any.
    layout: str | None = None


def describe(path: str, asked: dict[str, Any]) -> Description:
    """Read ``path``; keys of `[site.signal]` that are not in ``asked`` are guessed, or what a layout knows that the file has.

    Raises:
        SignalError: the file cannot be read, or not as it is asked for.
        ConfigError: ``asked`` is no table.
    """
    table = _table({"path": path, "column": "?", **asked})
    with trace_file(path) as file:
        named = [asked[k] for k in ("time_column", "column", "hour_column") if k in asked]
        sheet = read_sheet(
            file, path, names=[*named, *asked.get("where", {})], decimal=asked.get("decimal"), likely=headers(table.layout)
        )
    if not sheet.rows:
        raise SignalError(f"{path}: {sheet.form}: there is no row below the header; fetch the file again")
    columns = [_column(name, cells, sheet.decimal_comma) for name, cells in zip(sheet.header, sheet.cells, strict=True)]
    if table.layout is not None:
        known = {"type": table.type, **({"currency": table.currency} if table.type == "price" else {})}
        found = Description(sheet, columns, {"path": path, **asked, **known}, layout=table.layout)
        try:
            found.trace = load_trace(_table({"path": path, **asked}), "")
        except SignalError as e:
            found.problem = str(e)
        return found
    if len(columns) == 1 and columns[0].kind == "text":
        raise SignalError(f"{path}: has one column, {columns[0].name[:60]!r}, of text: a trace has instants and values")
    return _by_layout(_by_guess(sheet, columns, path, asked), path, asked)


def _by_guess(sheet: Sheet, columns: list[SheetColumn], path: str, asked: dict[str, Any]) -> Description:
    guessed = _guess(sheet, columns, asked)
    found = Description(sheet, columns, {"path": path, **guessed, **asked}, layout=recognised(sheet.header))
    if "time_column" not in found.table or "column" not in found.table:
        lacking = "instants; name it with --time-column" if "time_column" not in found.table else "values; name it with --column"
        found.problem = f"{path}: no column looks like {lacking}"
        return found
    try:
        found.trace = _load(found)
        if "period_s" not in asked:
            found.table["period_s"] = _period(found.trace)
            if not found.trace.guessed:
                found.trace = _load(found)
    except SignalError as e:
        found.problem = str(e)
        return found
    _settle(found, asked)
    return found


def _by_layout(found: Description, path: str, asked: dict[str, Any]) -> Description:
    """The file as the layout that it has reads it, where that is so and nothing else was asked for."""
    if found.layout is None or set(asked) - {"where"}:
        return found
    chosen = found.table.get("where", {})
    known = {"path": path, "layout": found.layout, **({"where": chosen} if chosen else {})}
    try:
        found.trace = load_trace(_table(known), "")
    except SignalError:
        return found
    table = _table(known)
    found.table = {**known, "type": table.type, **({"currency": table.currency} if table.type == "price" else {})}
    found.problem, found.notes = "", {k: v for k, v in found.notes.items() if k == "where"}
    return found


def _table(raw: dict[str, Any]) -> SignalTable:
    try:
        return SignalTable.model_validate(raw)
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        key = "".join(f"{part}: " for part in first["loc"][:1])
        raise ConfigError(f"{key}{str(first['msg']).removeprefix('Value error, ')}") from None


def _load(found: Description) -> Trace:
    """The trace; of rows that contradict each other some are chosen, as an example."""
    for _ in range(3):
        try:
            return load_trace(_table(found.table), found.table.get("region_value", ""))
        except Contradicting as e:
            if not e.where:
                raise
            found.choices |= e.columns
            found.table["where"] = {**found.table.get("where", {}), **e.where}
    return load_trace(_table(found.table), "")


def _settle(found: Description, asked: dict[str, Any]) -> None:
    """What the file showed becomes keys, so that the table that is suggested says it."""
    trace, table = found.trace, found.table
    assert trace is not None
    if trace.ends:
        table["stamp"] = "end"
    if trace.assumed:
        table["timezone"] = trace.assumed
    if trace.assumed == "UTC":
        found.notes["timezone"] = "instants have no offset: say what clock they are of"
    if trace.guessed:
        found.notes["period_s"] = "a guess: a single row shows no pace"
    if table.get("period_s") == 0 and "period_s" not in asked:
        found.notes["period_s"] = "rows come at no steady pace: each was taken to hold until the next"
    if "where" in table and "where" not in asked:
        found.notes["where"] = "an example: choose"
    if trace.factor.named and trace.factor.value != 1.0 and "unit" not in asked and "scale" not in asked:
        table["unit"] = trace.factor.named


def _period(trace: Trace) -> float:
    """How long a row counts: the newest resolution, else what most steps are; 0 where rows come as they like."""
    steps = np.diff(trace.times)
    if not len(steps) or (steps <= 1.5 * trace.periods[:-1]).mean() >= 0.5:
        return float(trace.periods[-1])
    usual = float(np.median(steps))
    return usual if ((steps > usual / 1.12) & (steps < usual * 1.12)).mean() >= 0.5 else 0.0


def _column(name: str, cells: Sequence[str], decimal_comma: bool) -> SheetColumn:
    filled = [c for c in cells if c.strip()]
    empty = len(cells) - len(filled)
    if not filled:
        return SheetColumn(name, "empty", empty)
    values = numbers(filled, decimal_comma)
    real = values[np.isfinite(values)]
    distinct = sorted({c.strip() for c in filled[:50_000]})
    few = tuple(distinct[:_FEW]) if len(distinct) <= max(2, len(filled) // 2) else ()
    # Twelve digits are a number, or an instant: ten and more, all alike, count seconds.
    if holds_instants(filled) and not (len(real) == len(filled) and max(map(len, filled[:200])) < 8):
        return SheetColumn(name, "instants", empty, distinct=len(distinct))
    if len(real) >= 0.8 * len(filled):
        low, middle, high = float(real.min()), float(np.median(real)), float(real.max())
        return SheetColumn(name, "numbers", empty, low, middle, high, few if len(distinct) <= 30 else (), len(distinct))
    return SheetColumn(name, "text", empty, values=few, distinct=len(distinct))


def _guess(sheet: Sheet, columns: list[SheetColumn], asked: dict[str, Any]) -> dict[str, Any]:
    """Which columns hold instants and values, and what the values mean."""
    found: dict[str, Any] = {}
    times = [c for c in columns if c.kind == "instants"]
    if "time_column" not in asked and times:
        # The column with the most different instants: dates of trading and of publication repeat.
        best = max(times, key=lambda c: (c.name == "time_utc", c.distinct, bool(_START.search(c.name))))
        found["time_column"] = best.name
    time_column = asked.get("time_column", found.get("time_column"))
    if time_column and "hour_column" not in asked and only_dates(sheet.column(time_column)):
        found |= _hours(sheet, columns)
    taken = {time_column, *found.values(), *(asked.get(k) for k in ("hour_column", "quarter_column", "repeated_hour_column"))}
    if "column" not in asked:
        rest = [c for c in columns if c.kind == "numbers" and c.name not in taken]
        if rest:
            found["column"] = max(rest, key=_likeliness).name
    column = asked.get("column", found.get("column", ""))
    if "type" not in asked:
        unit = named_unit(sheet, column)[0]
        kind = unit.kind if unit else ""
        if kind == "price" or (not kind and (_PRICE.search(column) or "LMP_TYPE" in sheet.header)):
            found["type"] = "price"
        elif kind == "power":
            found["type"] = "curtailed_power" if "curtail" in column.lower() else "surplus_power"
        elif "intensity" in column.lower() and "marginal" not in column.lower():
            found["type"] = "average_co2"
    if "currency" not in asked and (unit := named_unit(sheet, column)[0]) is not None and unit.currency:
        found["currency"] = unit.currency
    return found


def _hours(sheet: Sheet, columns: list[SheetColumn]) -> dict[str, Any]:
    """Columns of hours and quarters beside a column of dates. Times of the day are told by their texts, numbers by their names."""
    found: dict[str, Any] = {}
    clock = [c.name for c in columns if c.kind == "text" and clock_times(sheet.column(c.name))]
    # A time of the day needs no quarter.
    if clock:
        found["hour_column"] = next((name for name in clock if PARTS["hour_column"].search(name)), clock[0])
    for key, names in {**PARTS, "repeated_hour_column": _REPEATED}.items():
        likely = [c.name for c in columns if names.search(c.name) and c.kind != "empty" and c.name not in found.values()]
        likely = [name for name in likely if key == "repeated_hour_column" or not _REPEATED.search(name)]
        if likely and not (clock and key in PARTS) and (key == "hour_column" or "hour_column" in found):
            found[key] = likely[0]
    return found


def _likeliness(column: SheetColumn) -> tuple[bool, bool, bool]:
    """How likely a column of numbers holds the signal's values and not, say, an hour or an identifier; comparable only."""
    name = column.name
    unit = quantity_in(name)
    return (
        unit is not None,
        bool(_CARBON.search(name) or _PRICE.search(name) or name == "value"),
        not column.values,
    )


@dataclass(frozen=True)
class Windows:
    """Times in which a series is under a threshold (power: at or above it)."""

    threshold: float
    count: int
    median_s: float
    longest_s: float
    #: Share of the known time.
    share: float


def windows(trace: Trace, threshold: float, below: bool) -> Windows:
    """The windows of a trace; a hole ends one."""
    signal = trace.signal
    end = signal.ends_at() if np.isfinite(signal.ends_at()) else float(trace.times[-1])
    c = signal.between(signal.starts_at(), end)
    with np.errstate(invalid="ignore"):
        inside = (c.values < threshold) if below else (c.values >= threshold)
    edges = np.diff(np.concatenate(([False], inside, [False])).astype(np.int8))
    begins, ends = c.starts[np.flatnonzero(edges == 1)], c.ends[np.flatnonzero(edges == -1) - 1]
    lengths = ends - begins
    known = float((c.ends - c.starts)[np.isfinite(c.values)].sum())
    middle, longest = (float(np.median(lengths)), float(lengths.max())) if len(lengths) else (0.0, 0.0)
    return Windows(threshold, len(lengths), middle, longest, float(lengths.sum()) / known if known else 0.0)


def suggestion(found: Description) -> str:
    """A `[site.signal]` that reads the file as it was read here."""
    table, notes = found.table, found.notes
    lines = ["[site.signal]", 'kind = "trace"']
    for key, value in table.items():
        if isinstance(value, dict):
            inner = ", ".join(f"{toml_key(k)} = {toml_value(v)}" for k, v in value.items())
            lines.append(f"{key} = {{ {inner} }}" + (f"  # {notes[key]}" if key in notes else ""))
        else:
            lines.append(f"{key} = {toml_value(value)}" + (f"  # {notes[key]}" if key in notes else ""))
    return "\n".join(lines)
