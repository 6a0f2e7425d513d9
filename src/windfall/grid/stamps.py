"""Reads stamps, the instants that a service puts on its values, and finds out what is wrong with them.

For a stamp without an offset a person has to say on which clock it is. A stamp with an offset may be wrong too, such as local time
with a `Z` behind it. An error of whole hours shows in the difference from when the value was heard; the message names the key of
the configuration that corrects it.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, tzinfo
from typing import Any

from windfall.config.signals import SignalTable
from windfall.grid.source import News, decimal
from windfall.units import duration_text, time_zone

#: Places by the offset of their clocks from UTC (h), as examples for messages.
_PLACES = {
    -8: "America/Los_Angeles", -7: "America/Los_Angeles", -6: "America/Chicago", -5: "America/New_York", -4: "America/New_York",
    -3: "America/Sao_Paulo", 1: "Europe/Berlin", 2: "Europe/Berlin", 3: "Europe/Helsinki", 5.5: "Asia/Kolkata",
    8: "Australia/Perth", 9: "Asia/Tokyo", 9.5: "Australia/Darwin", 10: "Australia/Brisbane", 11: "Australia/Sydney",
    12: "Pacific/Auckland", 13: "Pacific/Auckland",
}  # fmt: skip
#: Offsets from UTC (h) that clocks have besides whole hours.
_ODD = (-9.5, -3.5, -2.5, 3.5, 4.5, 5.5, 5.75, 6.5, 8.75, 9.5, 10.5, 12.75, 13.75)
#: How long a service takes to publish (s), beside the configured delay.
_LATENCY_S = 900.0


class StampReader:
    """Reads a service's stamps as the configuration says."""

    def __init__(self, table: SignalTable) -> None:
        self._format = table.time_format
        self._zone: tzinfo = time_zone(table.timezone) if table.timezone else UTC
        self._trust = table.trust_offset
        self._back_s = table.period_s if table.stamp == "end" else 0.0
        #: Whether the last one read had no offset.
        self.naive = False
        #: Whether a stamp was read that may mean two instants, because clocks were set back in its hour.
        self.changed = False

    def read(self, value: Any, near: float) -> float | None:
        """The begin (Unix seconds) of the interval with the stamp ``value``; None if it is unreadable.

        If the clock shows a time twice (in autumn), it is the one closer to ``near``.
        """
        try:
            moment = self._moment(value)
            if moment is None:
                return None
            self.naive = moment.tzinfo is None
            if self.naive or not self._trust:
                moment = self._on_clock(moment.replace(tzinfo=None), near)
            return moment.timestamp() - self._back_s
        except (ValueError, OverflowError, OSError):
            return None

    def _moment(self, value: Any) -> datetime | None:
        if self._format is not None:
            known = isinstance(value, str | int) and not isinstance(value, bool)
            return datetime.strptime(str(value).strip(), self._format) if known else None
        if isinstance(value, str):
            number = decimal(value) if len(value.strip()) > 8 else value
            if isinstance(number, str):
                return datetime.fromisoformat(number.strip())
            value = number
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            return None
        # Milli-, micro- or nanoseconds: read as seconds they would be after the year 5000.
        scale = next((s for s in (1.0, 1e3, 1e6, 1e9) if value / s <= 1e11), 1e9)
        return datetime.fromtimestamp(value / scale, UTC)

    def _on_clock(self, wall: datetime, near: float) -> datetime:
        first, second = (wall.replace(tzinfo=self._zone, fold=f) for f in (0, 1))
        self.changed |= first.utcoffset() != second.utcoffset()
        return min(first, second, key=lambda m: abs(m.timestamp() - near))


def _offset_h(shift_s: float, period_s: float) -> float | None:
    """The offset from UTC (h) of a clock whose time, taken for UTC, is ``shift_s`` wrong (positive: ahead); None if there is none.

    A stamp is up to a period and some minutes older than when it is heard; one at the interval's end up to a period younger.
    """
    slack = min(period_s, 3600.0)
    fits = [h for h in (*range(-12, 15), *_ODD) if abs(h) >= 0.5 and -slack <= h * 3600.0 - shift_s <= slack + _LATENCY_S]
    return min(fits, key=lambda h: (h * 3600.0 < shift_s, abs(h * 3600.0 - shift_s))) if fits else None


def _offset_text(hours: float) -> str:
    whole, minutes = divmod(round(abs(hours) * 60), 60)
    return f"{'+' if hours > 0 else '-'}{whole:02d}:{minutes:02d}"


def _clock_text(hours: float) -> str:
    whole, minutes = divmod(round(abs(hours) * 60), 60)
    return f"UTC{'+' if hours > 0 else '-'}{whole}" + (f":{minutes:02d}" if minutes else "")


def _zone_key(hours: float, naive: bool) -> str:
    offset = _offset_text(hours)
    name = _PLACES.get(hours)
    key = f'set timezone = "{name or offset}"' + (f' (or another place, or "{offset}" all year)' if name else "")
    return key if naive else f"{key} and trust_offset = false"


def ahead_text(ahead_s: float, period_s: float, news: News) -> str:
    """Why stamps that are ``ahead_s`` ahead of our clock are not used, and what to do."""
    said = f"its stamps are {duration_text(ahead_s)} ahead of this machine's clock"
    hours = _offset_h(ahead_s, period_s)
    if hours is not None:
        said += f", which looks like local time ({_clock_text(hours)}) given as UTC"
    said += "; what it says is not used, now or later"
    if news.naive is None:
        return f"{said}: check this machine's clock{news.mend}"
    ahead = 'published = "ahead" if they are of a time to come'
    if hours is not None:
        return f"{said}: {_zone_key(hours, news.naive)}; or {ahead}; or correct this machine's clock"
    return f'{said}: check this machine\'s clock; set stamp = "end" if they mark the ends of intervals, {ahead}'


def late_text(late_s: float, period_s: float, news: News, moved: bool | None) -> str:
    """Why a newest stamp that was ``late_s`` old when it was heard is of no use, and what to do.

    ``moved``: whether newer ones come; None: that is not known yet.
    """
    said = f"its newest stamp is {duration_text(late_s)} old, too old to decide by"
    if moved is False:
        return f"{said}, and no newer one comes: the source has nothing new"
    hours = _offset_h(-late_s, period_s)
    if hours is None or (moved is None and late_s < 3600):
        return f"{said}: check this machine's clock; if the source is always so late, set publication_delay_s"
    said += f"; it looks like local time ({_clock_text(hours)}) given as UTC"
    mend = _zone_key(hours, news.naive) if news.naive is not None else "check this machine's clock"
    return f"{said}: {mend}; if the source is late instead, set publication_delay_s"
