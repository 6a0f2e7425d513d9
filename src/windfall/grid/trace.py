"""Trace files: a CSV (or .csv.gz) with a column of instants and a column of values becomes a signal.

A malformed row is left out, never guessed: the reading before it then grows old, and policies treat it as
invariant 5 says (too old to start on, later too old to stay on). What was left out is told once, in words.
"""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from windfall.config.signals import SignalTable
from windfall.errors import SignalError
from windfall.grid.signal import Leads, StepSignal
from windfall.grid.source import PLAUSIBLE
from windfall.units import UNITS, parse_utc

BUNDLED = {"paper_day": "paper_day.csv", "caiso": "caiso_moer_2020-09_2021-08.csv.gz"}


@dataclass
class Trace:
    """A loaded trace and what was odd about its file."""

    signal: StepSignal
    warnings: list[str] = field(default_factory=list)


def load_trace(table: SignalTable, region: str) -> Trace:
    """The trace that ``[site.signal]`` describes.

    Raises:
        SignalError: no such file or column, or not one usable row; the message names file, column and fix.
    """
    path = table.path or ""
    if path.startswith("bundled:"):
        name = path.removeprefix("bundled:")
        if name not in BUNDLED:
            raise SignalError(f"{path}: no such bundled trace; there are {', '.join('bundled:' + b for b in BUNDLED)}")
        with resources.as_file(resources.files("windfall.grid") / "traces" / BUNDLED[name]) as file:
            return _read(file, path, table, region)
    return _read(Path(path), path, table, region)


def _read(file: Path, label: str, table: SignalTable, region: str) -> Trace:
    wanted = table.region_value or region
    times: list[float] = []
    values: list[float] = []
    bad_time = bad_value = 0
    low, high = PLAUSIBLE[table.type]
    ahead: list[list[float]] = []
    try:
        for time_text, value_text, *forecasts in _rows(file, label, table, wanted):
            try:
                t = parse_utc(time_text)
            except ValueError:
                bad_time += 1
                continue
            value = _number(value_text)
            if not low <= value <= high:  # not a number either
                bad_value += 1
                continue
            times.append(t)
            values.append(value)
            if forecasts:
                ahead.append([_number(f) for f in forecasts])
    except FileNotFoundError:
        raise SignalError(f"{label}: no such trace file; check `path`") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as e:
        raise SignalError(f"{label}: cannot be read as CSV: {e}") from None
    if not times:
        raise SignalError(
            f"{label}: no usable row in column `{table.column}`"
            + (f" for {table.region_column} = {wanted}" if table.region_column else "")
            + f" ({bad_time} bad instants, {bad_value} bad values); check `column` and `region_value`"
        )
    t_array, v_array = np.array(times), np.array(values)
    f_array = np.array(ahead).T if ahead else np.empty((0, len(times)))
    warnings = []
    if bad_time:
        warnings.append(f"{label}: {bad_time} rows without a readable instant were left out")
    if bad_value:
        warnings.append(
            f"{label}: {bad_value} rows of `{table.column}` without a plausible number were left out; no site starts on a gap"
        )
    if np.any(np.diff(t_array) < 0):
        warnings.append(f"{label}: rows are not in order of time and were sorted")
        order = np.argsort(t_array, kind="stable")
        t_array, v_array, f_array = t_array[order], v_array[order], f_array[:, order]
    repeated = np.append(np.diff(t_array) == 0, False)
    if repeated.any():
        # The last of several rows for one instant is the revision that counts.
        warnings.append(f"{label}: {int(repeated.sum())} repeated instants; the last row of each counts")
        t_array, v_array, f_array = t_array[~repeated], v_array[~repeated], f_array[:, ~repeated]
    if table.period_s > 0:
        gaps = int((np.diff(t_array) > 1.5 * table.period_s).sum())
        usual = float(np.median(np.diff(t_array))) if len(t_array) > 1 else 0.0
        if usual > 1.5 * table.period_s:
            warnings.append(
                f"{label}: rows are {usual:g} s apart, and a reading counts as fresh for period_s = {table.period_s:g} s only: "
                f"set period_s = {usual:g}"
            )
        elif gaps:
            warnings.append(f"{label}: {gaps} gaps longer than one period of {table.period_s:g} s")
    signal = StepSignal(
        t_array,
        v_array,
        unit=UNITS[table.type],
        source=label,
        period_s=table.period_s,
        until=parse_utc(table.until) if table.until else None,
        publication_delay_s=table.publication_delay_s,
        stale_periods=table.stale_periods,
        leads=_leads(table, f_array),
        perfect=table.forecast == "perfect",
    )
    return Trace(signal, warnings)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _leads(table: SignalTable, values: npt.NDArray[np.float64]) -> Leads | None:
    if not table.forecast_columns or table.forecast == "none":
        return None
    seconds = np.array(list(table.forecast_columns.values()))
    order = np.argsort(seconds)
    return Leads(seconds[order], values[order])


def _rows(file: Path, label: str, table: SignalTable, wanted: str) -> Iterator[list[str]]:
    forecasts = list(table.forecast_columns) if table.forecast == "provider" else []
    packed = file.suffix == ".gz"
    with gzip.open(file, "rt", newline="", encoding="utf-8-sig") if packed else open(file, newline="", encoding="utf-8-sig") as f:
        reader = csv.reader(f)
        header = next(reader, [])
        needed = [table.time_column, table.column or "", *forecasts]
        needed += [table.region_column] if table.region_column else []
        absent = [c for c in needed if c not in header]
        if absent:
            hint = "; it seems to be separated by semicolons: write it with commas" if len(header) == 1 and ";" in header[0] else ""
            raise SignalError(f"{label}: no column {', '.join(absent)}; the file has {', '.join(header) or 'no header'}{hint}")
        places = [header.index(c) for c in needed]
        for row in reader:
            if len(row) <= max(places):
                if row:
                    yield ["", ""]
                continue
            if table.region_column and row[places[-1]] != wanted:
                continue
            yield [row[p] for p in places[: 2 + len(forecasts)]]
