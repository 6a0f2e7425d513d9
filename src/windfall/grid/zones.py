"""Converts written dates and times to Unix seconds: time zones, hours that come twice or are skipped, numbered intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
_EPOCH = datetime(1970, 1, 1)
_DAY_S = 86400.0
_HOUR = re.compile(r"(?:HE|H|hour)?\s*(\d{1,3})(?:\.0*)?\s*([AaBb*]?)", re.IGNORECASE)
_CLOCK = re.compile(r"T?(\d{1,2}):(\d{2})(?::\d{2}(?:\.\d*)?)?\s*([AaBb*]?)|([0-2]\d)([0-5]\d)")
_SECOND = frozenset({"y", "yes", "true", "t", "1", "b", "x", "*"})
#: Numbered intervals of a day: how many there may be (a long day has an hour more), and how long each is (s).
_PERIODS = ((25, 3600.0), (50, 1800.0), (100, 900.0), (150, 600.0), (300, 300.0))


@dataclass
class LocalTimes:
    """Times on the clock of some zone, a row each [n].

    ``seconds``: date and time as if they were UTC. ``fold``: 1 for the second of two equal hours, 0 for the first, -1 where the
    file does not say. ``elapsed``: for rows that number the intervals of their day, the seconds since its midnight, which is then
    in ``seconds``; NaN for rows with a time on the clock.
    """

    seconds: Array
    fold: npt.NDArray[np.int8]
    elapsed: Array


@dataclass
class Instants:
    """Unix seconds [n], NaN where there is no such time; and what was doubtful."""

    t: Array
    #: Times that the clock skips, as texts.
    never: list[str] = field(default_factory=list)
    #: How many times come twice on the clock and once in the file; the first instant is taken.
    once: list[str] = field(default_factory=list)
    #: How many times come twice in rows whose order does not tell which is which; the row that comes first is taken for the
    #: earlier.
    shuffled: list[str] = field(default_factory=list)


def local_text(seconds: float) -> str:
    """A time as text: 2024-10-27 02:00."""
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%d %H:%M")


def offsets(seconds: Array, zone: tzinfo, fold: int) -> Array:
    """Seconds from UTC of each time on the clock of ``zone``."""
    known, place = np.unique(seconds, return_inverse=True)
    found = np.empty(len(known))
    for i, s in enumerate(known.tolist()):
        span = (_EPOCH + timedelta(seconds=s)).replace(tzinfo=zone, fold=fold).utcoffset()
        found[i] = span.total_seconds() if span is not None else 0.0
    return found[place]


def instants(local: LocalTimes, zone: tzinfo, hint: Array | None = None) -> Instants:
    """Unix seconds of times on the clock of ``zone``.

    In an hour that comes twice, the file decides which one a row means (by ``fold``, or by ``hint``, the offset of an abbreviation
    such as CEST), and else the order of rows. A time that the clock skips becomes NaN.
    """
    found = Instants(np.full(len(local.seconds), np.nan))
    real = np.isfinite(local.seconds)
    s = np.where(real, local.seconds, 0.0)
    day = np.floor(s / _DAY_S) * _DAY_S
    first, second = offsets(day, zone, 0), offsets(day, zone, 1)
    after = offsets(day + _DAY_S, zone, 0)
    steady = (first == second) & (first == after) & (offsets(day + _DAY_S, zone, 1) == after)
    found.t[real] = (s - first)[real]
    numbered = np.isfinite(local.elapsed)
    found.t[numbered & real] += local.elapsed[numbered & real]
    rows = np.flatnonzero(real & ~steady & ~numbered)
    if not len(rows):
        return found
    at = s[rows]
    first, second = offsets(at, zone, 0), offsets(at, zone, 1)
    found.t[rows] = at - first
    never = first < second
    found.t[rows[never]] = np.nan
    found.never = [local_text(x) for x in sorted(set(at[never].tolist()))]
    twice = first > second
    if twice.any():
        named = None if hint is None else hint[rows[twice]]
        forward = np.sign(np.diff(local.seconds[real])).sum() >= 0
        # The order of rows decides only if the repeated hour's rows stand together, between those before and after it.
        others = np.flatnonzero(real & ~np.isin(np.arange(len(s)), rows[twice]))
        again = _second(at[twice], local.fold[rows[twice]], second[twice], named, bool(forward), found, rows[twice], others, s)
        found.t[rows[twice]] = at[twice] - np.where(again, second[twice], first[twice])
    return found


def _second(
    at: Array, fold: npt.NDArray[np.int8], second: Array, hint: Array | None, forward: bool, found: Instants,
    rows: npt.NDArray[np.intp], others: npt.NDArray[np.intp], seconds: Array,
) -> npt.NDArray[np.bool_]:  # fmt: skip
    """Which rows, all of hours that come twice, are of the second time. ``second``: the offset from UTC that holds then.

    ``forward``: whether the file's first row is its oldest. ``rows``: where they stand among all ``seconds``, and ``others``
    where those stand that come once.
    """
    again: npt.NDArray[np.bool_] = fold == 1
    said = fold >= 0
    if hint is not None:
        named = ~said & np.isfinite(hint)
        again[named] = hint[named] == second[named]
        said |= named
    # One autumn at a time, in the file's order.
    season = np.floor(at / (90 * _DAY_S))
    for one in np.unique(season[~said]):
        mine = np.flatnonzero(~said & (season == one))
        ordered = _in_order(rows[mine], others, seconds, forward)
        if ordered and not forward:
            mine = mine[::-1]
        times = at[mine]
        back = np.flatnonzero(np.diff(times) <= 0)
        pairs = len(back) > 1 and bool((np.diff(times) >= 0).all())
        if len(back) and not (ordered and (len(back) == 1 or pairs)):
            found.shuffled += [local_text(t) for t in sorted(set(times.tolist()))]
            back = np.zeros(2, np.intp)
        if len(back) == 1:
            again[mine[back[0] + 1 :]] = True
        elif len(back):
            counts: dict[float, int] = {}
            for k, t in zip(mine.tolist(), times.tolist(), strict=True):
                again[k] = counts.get(t, 0) > 0
                counts[t] = counts.get(t, 0) + 1
        else:
            found.once += [local_text(t) for t in sorted(set(times.tolist()))]
    return again


def _in_order(rows: npt.NDArray[np.intp], others: npt.NDArray[np.intp], seconds: Array, forward: bool) -> bool:
    """Whether ``rows`` stand together, after an earlier row and before a later one (or the other way round), as all rows do."""
    steps = np.sign(np.diff(seconds[others]))
    a, b = np.searchsorted(others, [rows[0], rows[-1]])
    if a != b or (steps == (1 if forward else -1)).sum() < 0.9 * np.count_nonzero(steps):
        return False
    before, after = seconds[others[max(a - 1, 0) : a]], seconds[others[a : a + 1]]
    low, high = (before, after) if forward else (after, before)
    here = seconds[rows]
    return bool((low <= here.min()).all() and (high >= here.max()).all())


def hours(
    dates: Array, texts: Sequence[str], zone: tzinfo, *, quarters: Sequence[str] | None, repeated: Sequence[str] | None,
    first: int | None,
) -> tuple[LocalTimes, bool, str]:  # fmt: skip
    """Times of a date and an hour of the day. ``first``: the number of a day's first hour, 0 or 1; None: as they look.

    Returns the times; whether they are still to be understood as the file's ``stamp`` says (a time on a clock is, a
    numbered hour begins where it begins); and what is wrong with the column as a whole, or nothing.
    """
    n = len(dates)
    fold = np.full(n, -1, np.int8)
    number, clock = np.full(n, np.nan), np.full(n, np.nan)
    known: dict[str, tuple[float, float, int]] = {}
    for i, text in enumerate(texts):
        if text not in known:
            known[text] = _hour(text.strip())
        number[i], clock[i], fold[i] = known[text]
    if repeated is not None:
        fold = second_marks(repeated)
    none = np.full(n, np.nan)
    on_clock = np.isfinite(clock)
    if on_clock.any() and on_clock.sum() >= np.isfinite(number).sum():
        intervals = any(re.search(r"\d\s*[-–]\s*\d", text) for text in known)
        return LocalTimes(dates + clock + _within(quarters, n), fold, none), quarters is None and not intervals, ""
    numbers = number[np.isfinite(number)]
    if not len(numbers):
        return LocalTimes(none, fold, none), False, ""
    low, high = numbers.min(), numbers.max()
    step = next((step for most, step in _PERIODS if high <= most), math.nan)
    if math.isnan(step):
        return LocalTimes(none, fold, none), False, f"numbers go up to {high:g}, more than a day has intervals"
    if first is None:
        if low > 0 and high < round(_day_lengths(dates, zone).min(initial=_DAY_S) / step):
            return LocalTimes(none, fold, none), False, (
                f'numbers go from {low:g} to {high:g}: whether a day begins with 0 or 1 cannot be told; set hours_from = 1 (or 0)'
            )  # fmt: skip
        first = 1 if low > 0 else 0
    position = number - first
    extra = _within(quarters, n)
    elapsed = np.where(_by_count(dates, position, step, fold, zone), position * step + extra, np.nan)
    return LocalTimes(np.where(np.isfinite(elapsed), dates, dates + position * step + extra), fold, elapsed), False, ""


def clock_times(texts: Sequence[str]) -> bool:
    """Whether a column's texts are times of the day, as 00:15 or 00:15 - 00:30, most of them, and several."""
    filled = {t.strip() for t in texts} - {""}
    return len(filled) > 1 and sum(":" in t and math.isfinite(_hour(t)[1]) for t in filled) > 0.9 * len(filled)


def second_marks(texts: Sequence[str]) -> npt.NDArray[np.int8]:
    """1 where a mark says the second of two equal hours (Y, true, 1), else 0."""
    marks = {text: int(text.strip().lower() in _SECOND) for text in set(texts)}
    return np.array([marks[text] for text in texts], np.int8)


def _hour(text: str) -> tuple[float, float, int]:
    """A number of an hour, or seconds of a time on the clock; and 1 (B) or 0 (A) where it says which of two equal hours it is."""
    begin = re.split(r"\s*[-–]\s*", text, maxsplit=1)[0].strip() if not text.startswith("-") else text
    clock = _CLOCK.fullmatch(begin)
    if clock is None and begin != text and begin.isdigit():  # 00 - 01
        return math.nan, int(begin) * 3600.0, -1
    if clock is not None:
        hour, minute = int(clock[1] or clock[4]), int(clock[2] or clock[5])
        good = hour * 60 + minute <= 1440 and minute < 60
        return math.nan, hour * 3600.0 + minute * 60.0 if good else math.nan, _fold(clock[3] or "")
    number = _HOUR.fullmatch(begin)
    return (float(number[1]), math.nan, _fold(number[2])) if number is not None else (math.nan, math.nan, -1)


def _fold(letter: str) -> int:
    return {"": -1, "a": 0}.get(letter.lower(), 1)


def _within(quarters: Sequence[str] | None, n: int) -> Array:
    """Seconds into the hour: of quarters 1 to 4, six or twelve intervals, or minutes."""
    if quarters is None:
        return np.zeros(n)
    values = np.array([float(m[0]) if (m := re.match(r"\d+", q.strip().lstrip("Qq"))) else np.nan for q in quarters])
    real = values[np.isfinite(values)]
    if not len(real):
        return values
    if real.min() >= 1 and real.max() <= 12:
        parts = next(p for p in (2, 4, 6, 12) if real.max() <= p)
        return (values - 1) * 3600.0 / parts
    if real.min() == 0 and real.max() <= 3:
        return values * 900.0
    return np.where(values < 60, values * 60.0, np.nan)


def _day_lengths(dates: Array, zone: tzinfo) -> Array:
    """Seconds that each of the days has: 23, 24 or 25 hours."""
    midnights = np.unique(dates[np.isfinite(dates)])
    return _DAY_S + offsets(midnights, zone, 0) - offsets(midnights + _DAY_S, zone, 0)


def _by_count(dates: Array, position: Array, step: float, fold: npt.NDArray[np.int8], zone: tzinfo) -> npt.NDArray[np.bool_]:
    """Which rows lie on a day of 23 or 25 hours and number its intervals one after the other, as they pass.

    Else the numbers are those of a clock: one comes twice, or is left out. Half and quarter hours are always numbered as
    they pass.
    """
    found = np.zeros(len(dates), bool)
    real = np.isfinite(dates) & np.isfinite(position)
    midnights = np.unique(dates[real])
    for midnight, span in zip(midnights.tolist(), _day_lengths(midnights, zone).tolist(), strict=True):
        if span == _DAY_S:
            continue
        mine = real & (dates == midnight)
        whole = round(_DAY_S / step)
        if step < 3600 or (span > _DAY_S and position[mine].max() >= whole):
            found |= mine
        elif span < _DAY_S and position[mine].max() < whole - 1:
            # An hour that the clock leaves out and that is there is no hour of a clock.
            here = np.unique(position[mine])
            at = midnight + here * step
            found |= mine & bool((offsets(at, zone, 0) < offsets(at, zone, 1)).any())
    return found
