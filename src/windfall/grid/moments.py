"""Finds when each row of a trace file begins, from its columns of instants, dates and hours and the configuration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, tzinfo

import numpy as np
import numpy.typing as npt

from windfall.config.signals import SignalTable
from windfall.errors import SignalError
from windfall.grid.instant_texts import InstantTexts, read_stamps
from windfall.grid.resolution import row_periods
from windfall.grid.sheet import Sheet, listed
from windfall.grid.zones import Instants, LocalTimes, hours, instants, second_marks
from windfall.units import counted, time_zone

Array = npt.NDArray[np.float64]

#: The Australian market's column of the ends of intervals, in its own time.
_AEMO = "SETTLEMENTDATE"
#: Names of columns that say the end of what a row describes.
_END = re.compile(r"(^|[^a-z])(end|ending|ende|bis|to|he)([^a-z]|$)|interval_?end|end_?time", re.IGNORECASE)
_BEGIN = re.compile(r"(^|[^a-z])(start|begin|beginning|from|von)([^a-z]|$)", re.IGNORECASE)
_IN_UTC = re.compile(r"(^|[^a-z])(utc|gmt|zulu)([^a-z+-]|$)", re.IGNORECASE)
_OFFSET = re.compile(r"(?:UTC|GMT)\s?[+-]\d{1,2}(?::?\d{2})?(?!\d)")
#: Zones that the name of a column may say.
_ZONES = {"CET/CEST": "Europe/Brussels", "MEZ/MESZ": "Europe/Berlin", "EET/EEST": "Europe/Athens", "WET/WEST": "Europe/Lisbon"}


@dataclass
class Moments:
    """When rows begin (Unix seconds, NaN where that is unreadable), how each is to be understood, and what was odd."""

    t: Array
    #: The zone that instants without an offset were taken to be of, where none was given: UTC, or what the file names.
    assumed: str
    #: Whether rows were stamped with the end of what they describe.
    ends: bool
    warnings: list[str] = field(default_factory=list)
    #: How many rows have a time that the clock skips. They are left out as unreadable ones are, and told of separately.
    never: int = 0
    #: A text that could not be read.
    unreadable: str = ""


def time_columns(table: SignalTable) -> list[str]:
    """The columns that say when a row is."""
    more = (table.hour_column, table.quarter_column, table.repeated_hour_column)
    return [table.time_column, *(c for c in more if c is not None)]


def moments(sheet: Sheet, table: SignalTable) -> Moments:
    """When each row begins.

    Raises:
        SignalError: the columns can be understood in two ways, or in none; the message names the key that decides.
    """
    texts = sheet.column(table.time_column)
    stamps = read_stamps(texts, table.time_format, sheet.day_first)
    if not table.trust_offset:
        stamps.offset[:] = stamps.hint[:] = np.nan
    if stamps.unclear:
        example = next((t.strip() for t in texts if "/" in t or "-" in t), "")
        raise SignalError(
            f"{sheet.label}: `{example}` in column {table.time_column} (time_column) may be two dates: "
            'set time_format = "%d/%m/%Y" or "%m/%d/%Y", and after it the time as it is written, %H:%M, if one is'
        )
    zone, warnings, assumed = _zone(sheet, table, stamps)
    local, stamped = LocalTimes(stamps.local, np.full(len(texts), -1, np.int8), np.full(len(texts), np.nan)), True
    if table.hour_column is not None:
        local, stamped = _with_hours(sheet, table, stamps, zone)
    elif table.repeated_hour_column is not None:
        local.fold = second_marks(sheet.column(table.repeated_hour_column))
    ends = stamped and not stamps.intervals and _is_end(sheet, table, warnings)
    found = _instants(stamps, local, zone, table.period_s, ends)
    if found.once:
        warnings.append(
            f"{sheet.label}: {listed(found.once, 3)} comes twice in {table.timezone or zone}, and once in the file: taken as the "
            "first"
        )
    if found.shuffled:
        warnings.append(
            f"{sheet.label}: {listed(found.shuffled, 3)} comes twice in {table.timezone or zone}, and rows are not in order of "
            "time, so that their order cannot tell which is which: of each the row that stands first was taken as the earlier; put "
            "the rows in order, or set repeated_hour_column"
        )
    if found.never:
        warnings.append(
            f"{sheet.label}: {counted(len(found.never), 'time')} of column {table.time_column} that "
            f"{table.timezone or zone} does not have were left out ({listed(found.never, 3)}): where the file's clock is not "
            'put forward in spring, set timezone to its offset, as "+01:00"'
        )
    unread = np.isnan(local.seconds)
    bad = np.flatnonzero(unread)
    example = ""
    if len(bad):
        example = " ".join(sheet.column(name)[int(bad[0])].strip() for name in time_columns(table)[:3])
    never = int((np.isnan(found.t) & ~unread).sum())
    return Moments(found.t, assumed, ends, warnings, never, example)


def _zone(sheet: Sheet, table: SignalTable, stamps: InstantTexts) -> tuple[tzinfo, list[str], str]:
    """The zone of times without an offset, warnings about it, and its name if it was only assumed."""
    without = np.isfinite(stamps.local) & np.isnan(stamps.offset)
    if table.timezone is not None:
        return time_zone(table.timezone), [], ""
    column = table.time_column
    offset = _OFFSET.search(column)
    said = {column.upper(): offset[0].replace(" ", "")} if offset else _ZONES
    for names, zone in said.items():
        if without.any() and names in column.upper():
            names = offset[0] if offset else names
            return time_zone(zone), [
                f'{sheet.label}: column {column} is in {names}, and was read as timezone = "{zone}"; set timezone to say so'
            ], zone  # fmt: skip
    named = without & np.isfinite(stamps.hint)
    if named.any():
        # CET or CEST gives the offset, unless a zone is configured.
        stamps.offset[named] = stamps.hint[named]
        without &= ~named
    if not without.any() or any(_IN_UTC.search(name) for name in time_columns(table)):
        return UTC, [], ""
    more = " (the files of the Australian market are in +10:00)" if column == _AEMO else ""
    text = next((t.strip() for t, w in zip(sheet.column(column), without.tolist(), strict=True) if w), "")
    return UTC, [
        f"{sheet.label}: instants as `{text}` in column {column} have no offset and are taken as UTC; "
        f"set timezone, to UTC if they are{more}"
    ], "UTC"  # fmt: skip


def _with_hours(sheet: Sheet, table: SignalTable, stamps: InstantTexts, zone: tzinfo) -> tuple[LocalTimes, bool]:
    column = table.hour_column or ""
    quarters = sheet.column(table.quarter_column) if table.quarter_column else None
    repeated = sheet.column(table.repeated_hour_column) if table.repeated_hour_column else None
    if (np.mod(stamps.local[np.isfinite(stamps.local)], 86400.0) != 0).any():
        raise SignalError(
            f"{sheet.label}: column {table.time_column} (time_column) has times of the day, and hour_column = {column} names "
            "another column of them; remove hour_column, or name a column of dates"
        )
    # These are dates with an offset. Hours are counted on their clock.
    local, stamped, wrong = hours(
        stamps.local, sheet.column(column), zone, quarters=quarters, repeated=repeated, first=table.hours_from
    )
    if wrong:
        raise SignalError(f"{sheet.label}: column {column} (hour_column): {wrong}")
    return local, stamped


def _is_end(sheet: Sheet, table: SignalTable, warnings: list[str]) -> bool:
    """Whether instants are the ends of what rows describe: as `stamp` says, else as the column's name or its texts do."""
    if table.stamp is not None:
        return table.stamp == "end"
    if not table.period_s:  # a row holds until the next one, so its instant cannot be an end
        return False
    name = table.hour_column or table.time_column
    said = name == _AEMO or (_END.search(name) is not None and _BEGIN.search(name) is None)
    texts: Sequence[str] = sheet.column(table.hour_column) if table.hour_column else ()
    late = any(t.strip().startswith("24:00") for t in texts) and not any(t.strip().startswith(("00:00", "0:00")) for t in texts)
    if said or late:
        why = "by its name" if said else "as it has 24:00 and no 00:00"
        warnings.append(
            f'{sheet.label}: column {name} holds ends of intervals, {why}, and was read so; set stamp = "end" to say so, or "start"'
        )
    return said or late


def _instants(stamps: InstantTexts, local: LocalTimes, zone: tzinfo, period_s: float, ends: bool) -> Instants:
    """Unix seconds at which rows begin."""
    fixed = np.isfinite(stamps.offset)
    if not ends:
        found = Instants(local.seconds - stamps.offset) if fixed.all() else _placed(stamps, local, zone, fixed)
        return found
    # Ends of intervals: one period earlier on the clock (03:00, the hour that begins at two), or one period earlier in time.
    # They differ where clocks change only; the right one is the one that then makes neither a double nor a gap.
    in_time = _placed(stamps, local, zone, fixed)
    in_time.t = in_time.t - _lengths(in_time.t, period_s)
    if fixed.all():
        return in_time
    earlier = LocalTimes(local.seconds - _lengths(local.seconds, period_s), local.fold, local.elapsed)
    on_clock = _placed(stamps, earlier, zone, fixed)
    return min(on_clock, in_time, key=_trouble)


def _placed(stamps: InstantTexts, local: LocalTimes, zone: tzinfo, fixed: npt.NDArray[np.bool_]) -> Instants:
    if zone is UTC and not np.isfinite(local.elapsed).any():
        return Instants(local.seconds - np.where(fixed, stamps.offset, 0.0))
    there = LocalTimes(np.where(fixed, np.nan, local.seconds), local.fold, local.elapsed)
    found = instants(there, zone, stamps.hint)
    found.t[fixed] = (local.seconds - stamps.offset)[fixed]
    return found


def _lengths(t: Array, period_s: float) -> Array:
    """How long each row is, of rows that are known by their ends."""
    lengths = np.zeros(len(t))
    real = np.flatnonzero(np.isfinite(t))
    if len(real):
        order = real[np.argsort(t[real], kind="stable")]
        lengths[order] = row_periods(t[order], period_s, ends=True)
    return lengths


def _trouble(found: Instants) -> int:
    """How many instants are doubtful under a way of reading them: skipped by the clock, repeated, or missing among equal steps."""
    t = np.sort(found.t[np.isfinite(found.t)])
    steps = np.diff(t)
    usual = float(np.median(steps)) if len(steps) else 0.0
    return int(np.isnan(found.t).sum()) + int((steps == 0).sum()) + int((steps > 1.5 * usual).sum()) + len(found.once)
