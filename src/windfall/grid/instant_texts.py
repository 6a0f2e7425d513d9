"""Reads a column of texts as dates and times: ISO 8601, the layouts of exports, numbers of seconds since 1970.

It reads only what is written, the date and time and perhaps an offset. ``zones`` makes Unix seconds of that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Offsets (s) of unambiguous abbreviations. Others (IST, CST of China) need a `timezone`.
_ABBREVIATIONS = {
    "Z": 0.0, "UTC": 0.0, "GMT": 0.0, "WET": 0.0, "WEST": 1.0, "BST": 1.0, "CET": 1.0, "CEST": 2.0, "MEZ": 1.0, "MESZ": 2.0,
    "EET": 2.0, "EEST": 3.0, "AWST": 8.0, "ACST": 9.5, "ACDT": 10.5, "AEST": 10.0, "AEDT": 11.0, "NZST": 12.0, "NZDT": 13.0,
    "EST": -5.0, "EDT": -4.0, "CST": -6.0, "CDT": -5.0, "MST": -7.0, "MDT": -6.0, "PST": -8.0, "PDT": -7.0,
}  # fmt: skip
_UTC = ("Z", "UTC", "GMT")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_TIME = (
    r"(?:(?:[T\s]\s*)(?P<H>\d{1,2})(?::(?P<M>\d{2})(?::(?P<S>\d{2})(?:[.,](?P<f>\d{1,9}))?)?)?\s*(?P<half>[AaPp]\.?[Mm]\.?)?"
    r"\s*(?:(?P<z>[Zz])|(?P<sign>[+-])(?P<zh>\d{2})(?::?(?P<zm>\d{2}))?|\(?(?P<abbr>[A-Za-z]{2,5})\)?)?(?:\[[^\]]*\])?)?"
    # An interval, as ENTSO-E writes it: its begin is what counts.
    r"(?P<rest>(?:\s+[-–]\s+|/).*)?$"
)
_LAYOUTS = [
    re.compile(text + _TIME)
    for text in (
        r"(?P<Y>\d{4})[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})",
        r"(?P<d>\d{1,2})\.(?P<m>\d{1,2})\.(?P<Y>\d{4})",
        r"(?P<a>\d{1,2})[/-](?P<b>\d{1,2})[/-](?P<Y>\d{4})",
        r"(?P<d>\d{1,2})[-\s](?P<name>[A-Za-z]{3})[a-z]*[-\s](?P<Y>\d{4})",
        r"(?P<name>[A-Za-z]{3})[a-z]*\s(?P<d>\d{1,2}),?\s(?P<Y>\d{4})",
    )
]
_COMPACT = re.compile(
    r"(?P<Y>(?:19|20)\d{2})(?P<m>0[1-9]|1[0-2])(?P<d>[0-3]\d)"
    r"(?:T?(?P<H>[0-2]\d)(?:(?P<M>[0-5]\d)(?P<S>[0-5]\d)?)?(?:(?P<z>Z)|(?P<sign>[+-])(?P<zh>\d{2}):?(?P<zm>\d{2})?)?)?$"
)
_DIGITS = ("Y", "m", "d", "a", "b", "H", "M", "S", "f", "zh", "zm")
#: At most so many layouts in one column are read at once; each length of a text, suffix and month's name makes another one.
_MOST_LAYOUTS = 300
#: The year 2170, in seconds.
_LAST = 200 * 365.25 * 86400.0


@dataclass
class InstantTexts:
    """What the texts of a column [n] say.

    ``local`` [n]: the written date and time, as if they were UTC (Unix seconds); NaN where unreadable. ``offset`` [n]: the written
    offset from UTC (s); NaN where there is none. ``hint`` [n]: the offset of a written abbreviation such as CEST, which counts only
    if no time zone is given. ``unclear``: 01/02 may be two dates, and nothing in the column decides.
    """

    local: Array
    offset: Array
    hint: Array
    unclear: bool = False
    #: Whether the texts are intervals, of which the begins were read.
    intervals: bool = False


def read_stamps(texts: Sequence[str], time_format: str | None = None, day_first: bool | None = None) -> InstantTexts:
    """Read each text, with ``time_format`` (of strptime) if it is given; ``day_first``: what 01/02 is, where that is known."""
    n = len(texts)
    found = InstantTexts(np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan))
    if not n:
        return found
    if time_format is not None:
        _formatted(texts, time_format, found)
    else:
        _read(texts, found, day_first)
    # A date outside of these two centuries is misread, or a mistake.
    found.local[~((found.local >= 0.0) & (found.local < _LAST))] = np.nan
    return found


def _read(texts: Sequence[str], found: InstantTexts, day_first: bool | None) -> None:
    """Read texts by their layout, all texts of one layout at once."""
    chars = np.array(texts)
    if not chars.dtype.itemsize:
        return
    codes = _codes(chars)
    if (codes[:, 0] <= 32).any() or any(t[-1:].isspace() for t in texts):
        chars = np.strings.strip(chars)
        codes = _codes(chars)
    lengths = np.strings.str_len(chars)
    orders: list[tuple[npt.NDArray[np.intp], Array, Array]] = []
    todo = np.arange(len(texts))
    for _ in range(_MOST_LAYOUTS):
        if not len(todo):
            break
        text = str(chars[todo[0]])
        match = _match(text)
        if match is not None:
            like = lengths[todo] == len(text)
            like[like] = _alike(codes[todo[like]], codes[todo[0]], match)
            _fill(found, codes[todo[like]], todo[like], match, orders)
        elif _number(text):
            _counted(chars, todo, found)
            like = np.isfinite(found.local[todo])
        else:
            like = chars[todo] == text
        todo = todo[~like]
    for i in todo.tolist():  # too many layouts: read the rest one by one
        match = _match(str(chars[i]))
        if match is not None:
            _fill(found, codes[i : i + 1], np.array([i]), match, orders)
    _order(found, orders, day_first)


def _codes(chars: npt.NDArray[np.str_]) -> npt.NDArray[np.uint32]:
    """The texts' characters as code points [texts, longest]."""
    return np.ascontiguousarray(chars).view(np.uint32).reshape(len(chars), -1)


def _match(text: str) -> re.Match[str] | None:
    compact = _COMPACT.match(text)
    if compact is not None and (len(text) != 10 or not text.isdigit()):  # ten digits are seconds since 1970
        return compact
    return next((m for layout in _LAYOUTS if (m := layout.match(text))), None)


def _alike(codes: npt.NDArray[np.uint32], first: npt.NDArray[np.uint32], match: re.Match[str]) -> npt.NDArray[np.bool_]:
    """Which texts have the layout of the one that matched: digits where it has digits, else the same characters."""
    groups = match.re.groupindex
    length = len(match.string)
    digit, free = np.zeros(codes.shape[1], bool), np.zeros(codes.shape[1], bool)
    for name in _DIGITS:
        if name in groups and match.start(name) >= 0:
            digit[match.start(name) : match.end(name)] = True
    if "rest" in groups and match.start("rest") >= 0:
        free[match.start("rest") : length] = True
    fixed = ~(digit | free)
    fixed[length:] = False
    alike = np.ones(len(codes), bool)
    for k in range(length):
        if digit[k]:
            alike &= codes[:, k] - np.uint32(48) <= 9  # smaller code points wrap around
        elif fixed[k]:
            alike &= codes[:, k] == first[k]
    return alike


def _fill(
    found: InstantTexts, codes: npt.NDArray[np.uint32], rows: npt.NDArray[np.intp], match: re.Match[str],
    orders: list[tuple[npt.NDArray[np.intp], Array, Array]],
) -> None:  # fmt: skip
    """Read ``rows``, whose texts have the layout of ``match``."""
    groups = match.re.groupindex
    found.intervals = found.intervals or ("rest" in groups and match.start("rest") >= 0)

    def has(name: str) -> bool:
        return name in groups and match.start(name) >= 0

    def value(name: str) -> Array:
        total = np.zeros(len(rows), np.uint32)
        if has(name):
            for k in range(match.start(name), match.end(name)):
                total = total * np.uint32(10) + (codes[:, k] - np.uint32(48))
        return total.astype(np.float64)

    hour, minute, second = value("H"), value("M"), value("S")
    seconds = hour * 3600 + minute * 60 + second
    good = (minute < 60) & (second <= 60) & (seconds <= 86400)
    if has("f"):
        seconds += value("f") / 10 ** (match.end("f") - match.start("f"))
    if has("half"):
        good &= (hour >= 1) & (hour <= 12)
        seconds += ((hour % 12) - hour + (12 if match["half"][0] in "pP" else 0)) * 3600
    if has("sign"):
        found.offset[rows] = (value("zh") * 3600 + value("zm") * 60) * (-1 if match["sign"] == "-" else 1)
    elif has("z"):
        found.offset[rows] = 0.0
    elif has("abbr"):
        known = _ABBREVIATIONS.get(match["abbr"].upper())
        if known is None:
            good[:] = False
        else:
            (found.offset if match["abbr"].upper() in _UTC else found.hint)[rows] = (known or 0.0) * 3600
    year = value("Y")
    if has("a"):
        # Which of the two numbers is the day is decided for the whole column.
        orders.append((rows, value("a"), value("b")))
        found.local[rows] = np.where(good, seconds + year * 1e10, np.nan)
        return
    month = np.full(len(rows), float(_month(match["name"]))) if has("name") else value("m")
    found.local[rows] = np.where(good, _days(year, month, value("d")) * 86400 + seconds, np.nan)


def _month(name: str) -> int:
    return _MONTHS.index(name.lower()) + 1 if name.lower() in _MONTHS else 0


def _days(year: Array, month: Array, day: Array) -> Array:
    """Days since 1970; NaN where there is no such day."""
    good = (month >= 1) & (month <= 12) & (day >= 1) & (year >= 1)
    months = ((np.where(good, year, 1970) - 1970) * 12 + np.where(good, month, 1) - 1).astype(np.int64)
    known, place = np.unique(months, return_inverse=True)
    begin = known.astype("datetime64[M]")
    days = begin.astype("datetime64[D]").astype(np.int64)
    ends = (begin + 1).astype("datetime64[D]").astype(np.int64)
    found = days[place] + day - 1
    return np.where(good & (found < ends[place]), found, np.nan)


def _order(found: InstantTexts, orders: list[tuple[npt.NDArray[np.intp], Array, Array]], known: bool | None) -> None:
    """Day and month of dates written as 01/02/2024: a whole column has one order."""
    if not orders:
        return
    day_first = known is True or (known is None and any((a > 12).any() for _, a, _ in orders))
    month_first = known is False or (known is None and any((b > 12).any() for _, _, b in orders))
    found.unclear = day_first == month_first
    for rows, a, b in orders:
        year = found.local[rows] // 1e10
        seconds = found.local[rows] - year * 1e10
        bad = np.isnan(year) | found.unclear
        day, month = (a, b) if day_first else (b, a)
        found.local[rows] = np.where(bad, np.nan, _days(np.where(bad, 1970.0, year), month, day) * 86400 + seconds)


def _number(text: str) -> bool:
    return re.fullmatch(r"(\d{9,10}|\d{13}|\d{16}|\d{19})(\.\d*)?", text) is not None


def _counted(chars: npt.NDArray[np.str_], rows: npt.NDArray[np.intp], found: InstantTexts) -> None:
    """Unix seconds of numbers that count seconds, milli-, micro- or nanoseconds since 1970: whichever lies in this century."""
    for i in rows.tolist():
        text = str(chars[i])
        if _number(text):
            digits = len(text.partition(".")[0])
            found.local[i] = float(text) / 10 ** (0 if digits <= 10 else 3 if digits <= 13 else 6 if digits <= 16 else 9)
            found.offset[i] = 0.0


def _formatted(texts: Sequence[str], time_format: str, found: InstantTexts) -> None:
    known: dict[str, tuple[float, float]] = {}
    for i, text in enumerate(texts):
        if text not in known:
            known[text] = _strptime(text.strip(), time_format)
        found.local[i], found.offset[i] = known[text]


def _strptime(text: str, time_format: str) -> tuple[float, float]:
    late = 0.0
    try:
        moment = datetime.strptime(text, time_format)
    except ValueError:
        # 24:00 is the end of a day, which strptime does not know.
        if "24" not in text or "%H" not in time_format:
            return np.nan, np.nan
        for at in [m.start() for m in re.finditer("24", text)]:
            try:
                moment = datetime.strptime(text[:at] + "00" + text[at + 2 :], time_format)
            except ValueError:
                continue
            if moment.hour == moment.minute == moment.second == 0:
                late = 86400.0
                break
        else:
            return np.nan, np.nan
    offset = moment.utcoffset()
    local = moment.replace(tzinfo=UTC).timestamp() + late
    return local, np.nan if offset is None else offset.total_seconds()
