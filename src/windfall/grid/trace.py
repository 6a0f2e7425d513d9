"""Makes a signal of a trace file, which has rows with an instant and a value.

Malformed rows are left out; nothing is guessed. The reading before such a row grows old, and policies treat it by invariant 5: it
becomes too old to start on, and later too old to stay on. A warning says what was left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from windfall.config.signals import SignalTable
from windfall.errors import SignalError
from windfall.grid.instant_texts import read_stamps
from windfall.grid.laid_out import UNSET_S, resolved
from windfall.grid.layouts import headers
from windfall.grid.magnitude import Factor, factor_of, unlikely
from windfall.grid.moments import Moments, moments, time_columns
from windfall.grid.numbers import looks_grouped, no_values, numbers
from windfall.grid.repeated import clashes, contradicting
from windfall.grid.resolution import ResolutionPart, holes, holes_text, resolution_parts, row_periods
from windfall.grid.sheet import Sheet, listed, read_sheet
from windfall.grid.signal import Leads, StepSignal
from windfall.grid.source import PLAUSIBLE
from windfall.units import UNITS, counted, duration_text, iso_utc, parse_utc

Array = npt.NDArray[np.float64]

BUNDLED = {"paper_day": "paper_day.csv", "caiso": "caiso_moer_2020-09_2021-08.csv.gz"}
#: Values may be missing, because one column may begin later than others. But if this share of the instants is unreadable, the file
#: is not understood.
_UNREADABLE = 0.5


@dataclass
class Trace:
    """A loaded trace and what was odd about its file."""

    signal: StepSignal
    warnings: list[str] = field(default_factory=list)
    #: The rows that count: when each begins, how long it counts (s), and its value in the unit of the type.
    times: Array = field(default_factory=lambda: np.empty(0))
    periods: Array = field(default_factory=lambda: np.empty(0))
    values: Array = field(default_factory=lambda: np.empty(0))
    #: From the file's numbers to these values.
    factor: Factor = field(default_factory=lambda: Factor(1.0))
    #: The zone that instants without an offset were taken to be of, where none was given; whether they were taken as the ends
    #: of what rows describe.
    assumed: str = ""
    ends: bool = False
    #: The column that was read.
    column: str = ""
    #: Whether nothing shows how long its one row counts.
    guessed: bool = False

    def holes(self) -> list[tuple[float, float]]:
        """From when to when rows are missing (Unix seconds)."""
        return holes(self.times, self.periods)

    def resolution_parts(self) -> list[ResolutionPart]:
        """The parts of one resolution each."""
        return resolution_parts(self.times, self.periods)


@contextmanager
def trace_file(path: str) -> Iterator[Path]:
    """The file that ``path`` names, one of the bundled ones too.

    Raises:
        SignalError: no bundled trace has that name.
    """
    if not path.startswith("bundled:"):
        yield Path(path)
        return
    name = path.removeprefix("bundled:")
    if name not in BUNDLED:
        raise SignalError(f"{path}: no such bundled trace; there are {', '.join('bundled:' + b for b in BUNDLED)}")
    with resources.as_file(resources.files("windfall.grid") / "traces" / BUNDLED[name]) as file:
        yield file


def load_trace(table: SignalTable, region: str) -> Trace:
    """The trace that ``[site.signal]`` describes.

    Raises:
        SignalError: no such file or column, not one usable row, or rows that contradict each other; the message names file,
            column and fix.
    """
    label = table.path or ""
    if table.layout is not None:
        return _of_layout(table, region)
    where = {**({table.region_column: table.region_value or region} if table.region_column else {}), **table.where}
    ahead = list(table.forecast_columns) if table.forecast == "provider" else []
    with trace_file(label) as file:
        try:
            sheet = read_sheet(
                file, label, names=[*time_columns(table), table.column or "", *ahead], where=where, decimal=table.decimal
            )
        except SignalError as e:
            raise _explained(e, file, table) from None
    if not sheet.rows:
        raise SignalError(f"{label}: no usable row in column `{table.column}`: the file has a header and no rows")
    if not len(sheet.column(table.time_column)):
        raise SignalError(f"{label}: no usable row in column `{table.column}` for {_no_match(sheet, where)}")
    return _TraceReader(sheet, table, ahead).trace()


def _of_layout(table: SignalTable, region: str) -> Trace:
    """The trace of a file that is laid out as ``table.layout`` says."""
    label = table.path or ""
    named = [table.column, table.hour_column, table.quarter_column, table.repeated_hour_column, table.region_column]
    named += [*table.where, *table.forecast_columns]
    with trace_file(label) as file:
        sheet = read_sheet(
            file, label, names=[n for n in named if n is not None], where=table.where, decimal=table.decimal,
            likely=headers(table.layout),
        )  # fmt: skip
    if not sheet.rows:
        raise SignalError(f"{label}: the file has a header and no rows; fetch it again")
    if sheet.cells and not len(sheet.cells[0]):
        raise SignalError(f"{label}: no row has {_no_match(sheet, table.where)}")
    known, said = resolved(sheet, table, region)
    if not len(sheet.column(known.time_column)):
        raise SignalError(f"{label}: no row has {_no_match(sheet, known.where)}")
    ahead = list(table.forecast_columns) if table.forecast == "provider" else []
    found = _TraceReader(sheet, known, ahead, paced=table.period_s != UNSET_S).trace()
    found.warnings[:0] = said
    return found


def _explained(error: SignalError, file: Path, table: SignalTable) -> SignalError:
    """The error for a missing column. If it is the default of `time_column`, it says which columns hold instants."""
    if "no column" not in str(error) or table.time_column not in str(error).partition(";")[0]:
        return error
    sheet = read_sheet(file, table.path or "")
    likely = [h for h, cells in zip(sheet.header, sheet.cells, strict=True) if h and holds_instants(cells)]
    hint = f" (`{likely[0]}` looks like it)" if likely else ""
    return SignalError(f"{error}; time_column names the column of instants{hint}: set it")


def holds_instants(cells: object) -> bool:
    """Whether a column's texts are instants or dates, most of them."""
    sample = [str(c) for c in list(cells)[:200] if str(c).strip()]  # type: ignore[call-overload]
    stamps = read_stamps(sample)
    # Dates count as well whose day and month cannot be told apart.
    return bool(sample) and (stamps.unclear or float(np.isfinite(stamps.local).mean()) > 0.9)


def _no_match(sheet: Sheet, where: dict[str, str]) -> str:
    """Says which value of `where` the file does not have, and which ones it has."""
    for name, value in where.items():
        there = sheet.seen.get(name, [])
        if value not in there:
            return f"{name} = {value}; there are {listed(there)}: check region_value, or where"
    return " and ".join(f"{name} = {value}" for name, value in where.items()) + ": each is there, not together; check where"


class _TraceReader:
    """Reads one file: leaves out and counts rows that cannot be used, and sorts the others."""

    def __init__(self, sheet: Sheet, table: SignalTable, ahead: list[str], *, paced: bool = True) -> None:
        """``paced``: whether a person has said in `period_s` how long rows count."""
        self.sheet, self.table, self.ahead, self.paced = sheet, table, ahead, paced
        self.label = sheet.label
        self.warnings: list[str] = []
        #: Rows whose value is a mark for none.
        self.marked = np.zeros(len(sheet.column(table.column or "")), bool)

    def trace(self) -> Trace:
        table, sheet = self.table, self.sheet
        when = moments(sheet, table)
        texts = sheet.column(table.column or "")
        factor = factor_of(sheet, table)
        raw = self._without_marks(numbers(texts, sheet.decimal_comma), table.column or "")
        values = raw * factor.value
        low, high = PLAUSIBLE[table.type]
        with np.errstate(invalid="ignore"):
            good = (values >= low) & (values <= high)
        timed = np.isfinite(when.t)
        rows = np.flatnonzero(timed & good)
        self._left_out(when, timed, good, raw, len(rows))
        self.warnings += when.warnings
        if sheet.unclear and looks_grouped(texts):
            way = "1.234,5" if sheet.decimal_comma else "1,234.5"
            self.warnings.append(
                f"{self.label}: numbers of `{table.column}` as {next(t for t in texts if looks_grouped([t])).strip()} were read "
                f'as in {way}; set decimal = "," or "." to say which it is'
            )
        self.warnings += [f"{self.label}: {w}" for w in factor.warnings]
        said = unlikely(values[rows], table, sheet)
        self.warnings += [f"{self.label}: {said}"] if said else []
        rows = self._in_order(rows, when)
        columns = np.array(
            [values] + [self._without_marks(numbers(sheet.column(c), sheet.decimal_comma), c) * factor.value for c in self.ahead]
        )
        rows = self._once(rows, when, columns)
        times, periods = when.t[rows], self._periods(when.t[rows])
        uniform = bool(len(periods)) and periods.max() <= periods.min() * 1.12
        period_s = float(np.median(periods)) if uniform else table.period_s
        signal = StepSignal(
            times,
            values[rows],
            unit=UNITS[table.type],
            source=self.label,
            period_s=period_s,
            until=parse_utc(table.until) if table.until else None,
            publication_delay_s=table.publication_delay_s,
            stale_periods=table.stale_periods,
            leads=_leads(table, columns[1:, rows]),
            perfect=table.forecast == "perfect",
            periods=None if uniform or not table.period_s else periods,
        )
        # One row is no pace, and nobody has said one.
        guessed = len(times) == 1 and "period_s" not in table.model_fields_set
        if guessed:
            self.warnings.append(
                f"{self.label}: has a single row, which shows no pace: that it counts for {period_s:g} s is a guess; set period_s"
            )
        assumed, ends = when.assumed, when.ends
        return Trace(signal, self.warnings, times, periods, values[rows], factor, assumed, ends, table.column or "", guessed)

    def _left_out(self, when: Moments, timed: npt.NDArray[np.bool_], good: npt.NDArray[np.bool_], raw: Array, usable: int) -> None:
        """Say how many rows cannot be used, and show one of each kind; an error where none can, or most instants cannot."""
        table, n = self.table, len(timed)
        bad_time = int((~timed).sum()) - when.never
        good = good | self.marked
        bad_value = int((timed & ~good).sum())
        which = f"column {table.time_column} (time_column)"
        which += f" with {table.hour_column} (hour_column)" if table.hour_column else ""
        shown_time = _example(when.unreadable) if when.unreadable else "they are empty"
        at = np.flatnonzero(timed & ~good)
        shown_value = _example(self.sheet.column(table.column or "")[int(at[0])]) if len(at) else ""
        if not usable or bad_time > _UNREADABLE * n:
            parts = []
            if bad_time:
                parts.append(
                    f"{bad_time} bad instants in {which}, {shown_time}: name the column of instants, or set time_format as for "
                    "strptime"
                )
            if self.marked.any():
                parts.append(f"{int(self.marked.sum())} values that stand for none")
            if bad_value:
                parts.append(f"{bad_value} bad values, {shown_value}{self._why(raw[at])}")
            what = "most rows cannot be read" if usable else f"no usable row in column `{table.column}`"
            raise SignalError(f"{self.label}: {what} ({'; '.join(parts)})")
        if bad_time:
            self.warnings.append(f"{self.label}: {bad_time} rows without a readable instant in {which} were left out, {shown_time}")
        if bad_value:
            self.warnings.append(
                f"{self.label}: {bad_value} rows of `{table.column}` without a plausible number were left out, {shown_value}"
                f"{self._why(raw[at])}; no site starts on a gap"
            )

    def _without_marks(self, raw: Array, column: str) -> Array:
        """The numbers, NaN for those that are marks for no value; that is told."""
        found = no_values(raw)
        for mark, count in found.items():
            self.warnings.append(
                f"{self.label}: {count:,} rows of `{column}` are {mark:g}, which stands for no value in many files, and were left "
                "out; no site starts on a gap"
            )
        at = np.isin(raw, list(found))
        if column == self.table.column:
            self.marked = at
        return np.where(at, np.nan, raw)

    def _why(self, left: Array) -> str:
        """Why numbers are not plausible, where they are numbers."""
        table = self.table
        real = left[np.isfinite(left)]
        if not len(real):
            return ""
        if table.type in ("marginal_co2", "average_co2") and (real < 0).mean() > 0.5:
            return f"; {table.type} is never below 0: are they prices? set type"
        low, high = PLAUSIBLE[table.type]
        return f"; {table.type} is within {low:g} and {high:g} {UNITS[table.type]}: check unit and type"

    def _in_order(self, rows: npt.NDArray[np.intp], when: Moments) -> npt.NDArray[np.intp]:
        steps = np.diff(when.t[rows])
        if not (steps < 0).any():
            return rows
        self.warnings.append(f"{self.label}: rows are not in order of time and were sorted")
        ordered: npt.NDArray[np.intp] = rows[np.argsort(when.t[rows], kind="stable")]
        return ordered

    def _once(self, rows: npt.NDArray[np.intp], when: Moments, columns: Array) -> npt.NDArray[np.intp]:
        """Keep each instant once. Rows of one instant with different values are an error."""
        times = when.t[rows]
        repeated = np.append(np.diff(times) == 0, False)
        if not repeated.any():
            return rows
        table, count = self.table, int(repeated.sum())
        at = clashes(times, columns[:, rows])
        if not len(at):
            self.warnings.append(f"{self.label}: {counted(count, 'repeated row')} with equal values; one of each counts")
        elif table.repeated == "last":
            self.warnings.append(
                f"{self.label}: {count} repeated instants, {len(at)} with another value; the last row of each counts, as "
                "`repeated` says"
            )
        else:
            apart = [*time_columns(table), table.column or "", *self.ahead, *table.where]
            raise contradicting(self.sheet, rows, times, columns[0, rows], at, apart, when.assumed == "UTC")
        kept: npt.NDArray[np.intp] = rows[~repeated]
        return kept

    def _periods(self, times: Array) -> Array:
        """How long each row counts (s) [n]: what the file shows, if that is several periods or another one than `period_s`."""
        table, n = self.table, len(times)
        if not table.period_s:
            return np.full(n, np.inf)
        periods = row_periods(times, table.period_s)
        parts = resolution_parts(times, periods)
        if len(parts) == 1 and table.period_s / 1.05 < parts[0].period_s < table.period_s * 1.05:
            periods = np.full(n, table.period_s)
        if len({round(p.period_s) for p in parts}) > 1:
            shown = ", ".join(f"{duration_text(p.period_s)} from {iso_utc(p.begin)}" for p in parts[:4])
            more = f" and {len(parts) - 4} more changes" if len(parts) > 4 else ""
            self.warnings.append(f"{self.label}: rows are {shown}{more}; each counts as fresh for as long as its own step")
        elif self.paced and len(periods) and not table.period_s / 1.05 < periods[0] < table.period_s * 1.05:
            self.warnings.append(
                f"{self.label}: rows are {periods[0]:g} s apart, and count as fresh for that long, not for period_s = "
                f"{table.period_s:g} s: set period_s = {periods[0]:g}"
            )
        usual = float(np.median(np.diff(times))) if n > 1 else 0.0
        found = holes(times, periods)
        if usual > 1.5 * periods.max():
            self.warnings.append(
                f"{self.label}: rows are {usual:g} s apart, and a reading counts as fresh for period_s = {table.period_s:g} s "
                f"only: set period_s = {usual:g}, or 0 where a row stands for all the time until the next"
            )
        elif found:
            self.warnings.append(f"{self.label}: {holes_text(found)}")
        return periods


def _example(cell: str) -> str:
    shown = " ".join(cell.split())[:40]
    return f"for example `{shown}`" if shown else "for example an empty cell"


def _leads(table: SignalTable, values: Array) -> Leads | None:
    if not table.forecast_columns or table.forecast == "none":
        return None
    seconds = np.array(list(table.forecast_columns.values()))
    order = np.argsort(seconds)
    return Leads(seconds[order], values[order])
