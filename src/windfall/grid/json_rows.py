"""Reads JSON as rows and columns: providers' answers (a list of objects somewhere in them), JSON lines, and what pandas writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from windfall.errors import SignalError
from windfall.grid.header import is_data
from windfall.grid.instant_texts import read_stamps

#: How deep lists of rows are looked for.
_DEPTH = 3
#: What the index of a table is called that pandas has written.
INDEX = "index"


@dataclass
class JsonRows:
    """Columns of text, and what stands beside the rows (``meta``: flat, keys of inner objects after their outer ones)."""

    header: list[str]
    cells: list[list[str]]
    rows: int
    meta: dict[str, str] = field(default_factory=dict)


def json_rows(text: str, label: str) -> JsonRows:
    """The rows in a JSON document.

    Raises:
        SignalError: it is no JSON, or has no rows.
    """
    # Numbers stay as they are written.
    decoder = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=lambda _: None)
    try:
        value = decoder.decode(text.lstrip("\ufeff"))
    except json.JSONDecodeError as e:
        lines = _lines(text, decoder)
        if lines is None:
            raise SignalError(f"{label}: is no whole JSON (line {e.lineno}: {e.msg}); fetch the file again") from None
        value = lines
    except RecursionError:
        raise SignalError(f"{label}: cannot be read as JSON: it is nested too deeply; write it as CSV") from None
    found = _rows(value, _DEPTH)
    if found is None:
        empty = value == [] or (isinstance(value, dict) and any(v == [] for v in value.values()))
        if empty:
            raise SignalError(f"{label}: holds an empty list, and no rows; fetch another time")
        named = ", ".join(list(value)[:8]) if isinstance(value, dict) else ""
        there = named or ("rows without names" if _are_rows(value) else "values alone")
        raise SignalError(
            f"{label}: JSON without rows: a list of objects is looked for (or what pandas' to_json writes), and it holds {there}; "
            "fetch the readings themselves, or write them as CSV"
        )
    if isinstance(value, dict):
        found.meta = {k: v for k, v in _flat(value).items() if k not in found.header}
    return found


def _lines(text: str, decoder: json.JSONDecoder) -> list[Any] | None:
    """One object a line; None if it is something else."""
    found = []
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            value = decoder.decode(line)
        except json.JSONDecodeError:
            return None
        if not isinstance(value, dict):
            return None
        found.append(value)
    return found


def _rows(value: Any, depth: int) -> JsonRows | None:
    if isinstance(value, list):
        return _of_list(value)
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):  # pandas, split
        return _split(value)
    index, data = value.get("index"), value.get("data")
    if isinstance(index, list) and isinstance(data, list) and len(index) == len(data):  # the same of a series
        return _table([INDEX, "value"], list(zip(index, data, strict=True)))
    whole = _of_keys(value)
    if whole is not None:
        return whole
    # The longest list of rows in it: an answer may hold lists of warnings too.
    inner = [f for v in value.values() if depth and isinstance(v, list | dict) and (f := _rows(v, depth - 1)) is not None]
    return max(inner, key=lambda f: f.rows, default=None)


def _of_list(value: list[Any]) -> JsonRows | None:
    if value and all(isinstance(v, dict) for v in value):
        flat = [_flat(v) for v in value]
        header = list(dict.fromkeys(k for row in flat for k in row))
        return JsonRows(header, [[row.get(name, "") for row in flat] for name in header], len(flat))
    # The first row has the names.
    if len(value) > 1 and _are_rows(value) and all(isinstance(c, str) for c in value[0]) and not is_data(value[0]):
        return _table([str(c) for c in value[0]], value[1:])
    return None


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, list) for v in value)


def _table(header: list[str], rows: Sequence[Sequence[Any]]) -> JsonRows:
    cells = [[_text(row[i]) if i < len(row) else "" for row in rows] for i in range(len(header))]
    return JsonRows(header, cells, len(rows))


def _split(value: Mapping[str, Any]) -> JsonRows | None:
    rows = value["data"]
    if not all(isinstance(row, list) for row in rows):
        return None
    index = value.get("index")
    if isinstance(index, list) and len(index) == len(rows):
        return _table([INDEX, *map(str, value["columns"])], [[i, *row] for i, row in zip(index, rows, strict=True)])
    return _table([str(c) for c in value["columns"]], rows)


def _of_keys(value: Mapping[str, Any]) -> JsonRows | None:
    """pandas' other forms: {column: {index: value}}, {index: {column: value}} and, of a series, {index: value}."""
    if len(value) > 1 and _are_instants(list(value)):
        if all(isinstance(v, dict) for v in value.values()):
            return _of_list([{INDEX: k, **v} for k, v in value.items()])
        if not any(isinstance(v, dict | list) for v in value.values()):
            return JsonRows([INDEX, "value"], [list(value), [_text(v) for v in value.values()]], len(value))
        return None
    if not value or not all(isinstance(v, dict) for v in value.values()):
        return None
    if (
        all(_counts(k) for k in value)
        and not any(_counts(k) for v in value.values() for k in v)
        and not _are_instants(list(next(iter(value.values()))))
    ):  # rows by their number
        return _of_list(list(value.values()))
    index = list(next(iter(value.values())))
    if len(index) < 2 or any(list(v) != index for v in value.values()):
        return None
    if any(isinstance(x, dict | list) for v in value.values() for x in v.values()):
        return None
    counted = all(map(_counts, index))
    if not counted and not _are_instants(index):
        return None
    cells = [[_text(v[k]) for k in index] for v in value.values()]
    return JsonRows([*([] if counted else [INDEX]), *value], [*([] if counted else [index]), *cells], len(index))


def _counts(key: str) -> bool:
    """Whether a key is the number of a row."""
    return key.isdigit() and len(key) < 9


def _are_instants(texts: list[str]) -> bool:
    return bool(np.isfinite(read_stamps(texts[:100]).local).mean() > 0.9)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Keys and texts of an object; those of inner objects with a point between, lists by their length alone."""
    found: dict[str, str] = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            found |= _flat(inner, f"{prefix}{key}.") if prefix.count(".") < _DEPTH else {}
        elif isinstance(inner, list):
            found[f"{prefix}{key}"] = f"[{len(inner)}]"
        else:
            found[f"{prefix}{key}"] = _text(inner)
    return found


def _text(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
