"""Units and conversions, each written once.

Internally: seconds, watts, joules, grams, Unix seconds (UTC). kWh, kg and hours appear only at the edges.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

J_PER_KWH = 3.6e6

UNITS = {
    "marginal_co2": "gCO2/kWh",
    "average_co2": "gCO2/kWh",
    "price": "currency/MWh",
    "curtailed_power": "MW",
    "surplus_power": "W",
}


def kwh(joules: float) -> float:
    """Kilowatt-hours of an energy in joules."""
    return joules / J_PER_KWH


def parse_utc(text: str) -> float:
    """Unix seconds of an ISO 8601 instant. A missing offset is read as UTC.

    Raises:
        ValueError: the text is not an ISO 8601 instant.
    """
    moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def time_zone(text: str) -> tzinfo:
    """The zone that ``text`` names: Europe/Berlin (IANA), UTC, or an offset that holds all year, +10:00.

    Raises:
        ValueError: it names none.
    """
    plain = text.strip()
    offset = re.fullmatch(r"(?:UTC|GMT)?([+-])(\d{1,2})(?::?(\d{2}))?", plain)
    if offset:
        span = timedelta(hours=int(offset[2]), minutes=int(offset[3] or 0))
        if span <= timedelta(hours=15):
            return timezone(-span if offset[1] == "-" else span)
    if plain in ("UTC", "Z", "GMT"):
        return UTC
    try:
        if offset is None and re.fullmatch(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*", plain):
            return ZoneInfo(plain)
    except (OSError, ValueError, LookupError):  # ZoneInfoNotFoundError is a LookupError
        pass
    raise ValueError(
        f'timezone = "{text}" is none that is known here; give a name as Europe/Berlin, America/Chicago, Australia/Brisbane '
        "(where a machine has no list of zones: pip install tzdata), or an offset that holds all year as +10:00"
    )


def iso_utc(t: float) -> str:
    """``2026-01-11T17:05:00Z`` for Unix seconds ``t``."""
    return datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def clock_text(t: float) -> str:
    """``Jan 11 17:05`` for Unix seconds ``t`` (UTC)."""
    return datetime.fromtimestamp(t, UTC).strftime("%b %d %H:%M")


def duration_text(seconds: float) -> str:
    """``2 h 05 min``, ``5 min``, ``40 s``."""
    seconds = max(0.0, seconds)
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def counted(n: object, what: str) -> str:
    """``1 site``, ``2,000 sites``."""
    return f"{n:,} {what}{'' if n == 1 else 's'}" if isinstance(n, int) else f"{n} {what}s"
