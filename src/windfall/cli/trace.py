"""`windfall trace show`: what is in a trace file, and the keys that read it."""

from __future__ import annotations

from typing import Any

import numpy as np

from windfall.cli.output import print_json
from windfall.errors import ConfigError
from windfall.grid.describe import THRESHOLDS, Description, SheetColumn, Windows, describe, suggestion, windows
from windfall.grid.resolution import span_text
from windfall.grid.sheet import listed
from windfall.grid.trace import Trace
from windfall.units import UNITS, counted, iso_utc

_MOST = 10


def show(file: str, asked: dict[str, Any], where: list[str], threshold: float | None, as_json: bool) -> int:
    """Say what is in ``file``; 2 where no signal can be made of it yet.

    Raises:
        SignalError: it cannot be read at all.
        ConfigError: an option makes no sense.
    """
    given = {key: value for key, value in asked.items() if value is not None}
    if where:
        given["where"] = dict(_pair(text) for text in where)
    found = describe(file, given)
    seen = _windows(found, threshold)
    if as_json:
        print_json(_json(found, seen))
    else:
        _print(found, seen)
    return 0 if found.trace is not None else ConfigError.exit_code


def _pair(text: str) -> tuple[str, str]:
    name, is_pair, value = text.partition("=")
    if not is_pair:
        raise ConfigError(f"--where {text}: write NAME=VALUE, of a column and the value that its rows have")
    return name.strip(), value.strip()


def _windows(found: Description, threshold: float | None) -> Windows | None:
    kind = found.table.get("type", "marginal_co2")
    limit = THRESHOLDS.get(kind) if threshold is None else threshold
    if found.trace is None or limit is None:
        return None
    return windows(found.trace, limit, kind not in ("curtailed_power", "surplus_power"))


def _unit(found: Description) -> str:
    return UNITS[found.table.get("type", "marginal_co2")].replace("currency", str(found.table.get("currency", "USD")))


def _json(found: Description, seen: Windows | None) -> dict[str, Any]:
    sheet, trace = found.sheet, found.trace
    result: dict[str, Any] = {
        "file": sheet.label, "format": sheet.form, "header_line": sheet.header_line, "rows": sheet.rows, "short_rows": sheet.short,
        "decimal": "," if sheet.decimal_comma else ".",
        "columns": [
            {"name": c.name, "kind": c.kind, "empty": c.empty, "min": c.low, "median": c.middle, "max": c.high,
             "distinct": c.distinct, "values": list(c.values)} for c in found.columns
        ],
        "layout": found.layout, "choices": found.choices, "problem": found.problem or None, "table": found.table,
        "suggestion": suggestion(found),
        "signal": None,
    }  # fmt: skip
    if trace is not None:
        values = trace.values
        result["signal"] = {
            "from": iso_utc(float(trace.times[0])), "to": _end(trace), "rows": len(values), "unit": _unit(found),
            "factor": trace.factor.value, "unit_named": trace.factor.named or None, "min": float(values.min()),
            "median": float(np.median(values)), "max": float(values.max()), "warnings": trace.warnings,
            "resolution_guessed": trace.guessed,
            "resolution": [
                {"from": iso_utc(s.begin), "period_s": s.period_s if np.isfinite(s.period_s) else 0.0, "rows": s.rows}
                for s in trace.resolution_parts()
            ],
            "holes": [{"from": iso_utc(a), "to": iso_utc(b), "seconds": b - a} for a, b in trace.holes()],
            "windows": seen and {"threshold": seen.threshold, "count": seen.count, "median_s": seen.median_s,
                                 "longest_s": seen.longest_s, "share": seen.share},
        }  # fmt: skip
    return result


def _end(trace: Trace) -> str | None:
    end = trace.signal.ends_at()
    return iso_utc(end) if np.isfinite(end) else None


def _print(found: Description, seen: Windows | None) -> None:
    sheet, trace = found.sheet, found.trace
    header = f", header in line {sheet.header_line}" if sheet.header_line > 1 else ""
    comma = ", decimal commas" if sheet.decimal_comma else ""
    print(f"{sheet.label}: {sheet.form}{header}{comma}, {counted(sheet.rows, 'row')}")
    if sheet.short:
        print(f"  {counted(sheet.short, 'row')} with fewer cells than the header")
    print("columns")
    width = min(40, max((len(c.name) for c in found.columns), default=0))
    for column in found.columns[:60]:
        print(f"  {column.name:<{width}}  {_column_text(column)}")
    if found.layout:
        read = (
            "by which it was read"
            if "layout" in found.table
            else f"and it was read otherwise (--layout {found.layout} reads it so)"
        )
        print(f'its columns are those of layout = "{found.layout}", {read}')
    for name, values in found.choices.items():
        print(f"rows of one instant differ in {name}: {listed(values)}")
    if trace is not None:
        _print_signal(found, trace, seen)
    if found.problem:
        print(f"no signal yet: {found.problem}")
    print("to read it so")
    for line in suggestion(found).splitlines():
        print(f"  {line}")


def _print_signal(found: Description, trace: Trace, seen: Windows | None) -> None:
    values, unit = trace.values, _unit(found)
    chosen = ", ".join(f"{k} = {v}" for k, v in found.table.get("where", {}).items())
    print(f"signal from `{trace.column}`" + (f" where {chosen}" if chosen else ""))
    print(f"  time        {iso_utc(float(trace.times[0]))} to {_end(trace) or 'its last change'}, {counted(len(values), 'row')}")
    low, middle, high = float(values.min()), float(np.median(values)), float(values.max())
    print(f"  values      {low:.4g} to {high:.4g}, median {middle:.4g} {unit}{_factor_text(trace)}")
    parts = trace.resolution_parts()
    for i, part in enumerate(parts[:_MOST]):
        each = _step_text(part.period_s) if np.isfinite(part.period_s) else "each until the next"
        each += " (a guess)" if trace.guessed else ""
        print(f"  {'resolution' if not i else '':<11} {each} from {iso_utc(part.begin)}, {counted(part.rows, 'row')}")
    if len(parts) > _MOST:
        print(f"  {'':<11} and {len(parts) - _MOST} more changes")
    gaps = trace.holes()
    total = sum(b - a for a, b in gaps)
    print(f"  holes       {counted(len(gaps), 'hole') + ', ' + span_text(total) + ' in all' if gaps else 'none'}")
    for a, b in sorted(gaps, key=lambda h: h[0] - h[1])[:_MOST]:
        print(f"  {'':<11} {iso_utc(a)} to {iso_utc(b)}, {span_text(b - a)}")
    if seen is not None:
        side = "at or above" if found.table.get("type") in ("curtailed_power", "surplus_power") else "under"
        print(
            f"  windows     {seen.count:,} {side} {seen.threshold:g} {unit}, median {span_text(seen.median_s)}, longest "
            f"{span_text(seen.longest_s)}, {seen.share:.1%} of the known time"
        )
    for text in trace.warnings:
        print(f"  warning: {text.removeprefix(found.sheet.label + ': ')}")


def _step_text(seconds: float) -> str:
    """A step as it is: 90 s are not two minutes."""
    return span_text(seconds) if round(seconds) % 60 == 0 else f"{seconds:g} s"


def _factor_text(trace: Trace) -> str:
    factor = trace.factor
    named = f"the file names {factor.named}" if factor.named else "the file names no unit"
    return f" ({named}; multiplied with {factor.value:.6g})" if factor.value != 1.0 else f" ({named})"


def _column_text(column: SheetColumn) -> str:
    empty = f", {column.empty:,} empty" if column.empty else ""
    if column.kind == "empty":
        return "empty"
    if column.kind == "instants":
        return f"instants{empty}"
    chosen = (
        f", {counted(column.distinct, 'value')}: {listed(column.values, 6)}"
        if column.values
        else f", {column.distinct:,} different"
    )
    if column.kind == "numbers":
        return f"numbers, {column.low:.4g} to {column.high:.4g}, median {column.middle:.4g}{empty}"
    return f"text{chosen}{empty}"
