"""What a live source is: something that can be asked for news, and gives readings and forecasts in our units.

Values that are not finite numbers of a possible size, or have no readable instant, are dropped and counted. Nothing is guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal, Protocol

from windfall.errors import SignalError
from windfall.units import UNITS, iso_utc

#: How a source publishes: `observed` values; as the first point of a `forecast`, which may be minutes ahead; or `ahead`, settled
#: before their time, as day-ahead prices are.
Published = Literal["observed", "forecast", "ahead"]
#: A number as in JSON, but leading zeros and a plus sign are allowed. Other spellings that Python or a spreadsheet reads are not.
_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")

#: The range of possible values of a signal type, in its unit. Market caps and the dirtiest plants are well within it.
PLAUSIBLE = {
    "marginal_co2": (0.0, 5000.0),
    "average_co2": (0.0, 5000.0),
    "price": (-100_000.0, 100_000.0),
    "curtailed_power": (-1000.0, 1e6),
    "surplus_power": (-1e12, 1e12),
    "state_of_charge": (0.0, 1.0),
}


@dataclass(frozen=True, slots=True)
class Point:
    """``value`` (in the signal type's unit) from ``valid_from`` on, for ``period_s`` (0: the source does not say)."""

    valid_from: float
    value: float
    period_s: float = 0.0
    source: str = ""


@dataclass(frozen=True, slots=True)
class ForecastPoints:
    """A forecast: points sorted by time, and when the last one ends (Unix seconds)."""

    points: tuple[Point, ...]
    ends_at: float


@dataclass
class News:
    """The result of one request: readings, perhaps a forecast, how many values were dropped, and warnings.

    ``naive``: whether its stamps had no offset; None if no key of the configuration could say what they mean. ``mend``: what a
    person can do about stamps that are ahead, for the end of a message.
    """

    points: list[Point] = field(default_factory=list)
    expected: ForecastPoints | None = None
    dropped: int = 0
    warnings: list[str] = field(default_factory=list)
    published: Published = "observed"
    naive: bool | None = None
    mend: str = ""


class TwoValues(SignalError):
    """One answer has different values for one instant: it holds several series, and nothing says which one is meant."""


class Source(Protocol):
    """A live source of one region's signal. Used by one thread at a time."""

    #: Its name in status, readings and messages: `watttime CAISO_NORTH`.
    who: str
    #: Seconds that one question may wait for another try; 0 while polling.
    patience_s: float

    @property
    def requests(self) -> int:
        """Requests made so far."""
        ...

    def identity(self) -> dict[str, str]:
        """A text that identifies this source, without secrets."""
        ...

    def require(self) -> None:
        """Raise Unauthorized without the credentials that it needs, SignalError without a package."""
        ...

    def fetch(self, now: float) -> News:
        """The newest readings and forecast. Raises WindfallError."""
        ...

    def past(self, now: float, span_s: float) -> News | None:
        """Readings of the last ``span_s`` seconds, as far as the source has any; None if it never has. Raises WindfallError."""
        ...

    def close(self) -> None:
        """Close its connections."""
        ...


def finite(value: Any, scale: float = 1.0) -> float | None:
    """``value`` times ``scale``; None if it is no finite number.

    Text is no number, even if it could be read as one: a provider that changes its types may have changed its meaning
    (``decimal`` is for services of which that is not known).
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        scaled = float(value) * scale
    except OverflowError:
        return None
    return scaled if math.isfinite(scaled) else None


def plausible(value: float, kind: str) -> bool:
    """Whether ``value`` can be one of signal type ``kind``, in its unit."""
    low, high = PLAUSIBLE[kind]
    return low <= value <= high


def number(value: Any, kind: str, scale: float = 1.0) -> float | None:
    """``value`` times ``scale`` as a value of signal type ``kind``; None if it is no plausible number."""
    scaled = finite(value, scale)
    return scaled if scaled is not None and plausible(scaled, kind) else None


def in_words(value: Any) -> str:
    """A value for a message: numbers as they are, text shortened, anything else by its kind."""
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return f"the number {float(value):.12g}"
        except OverflowError:
            return "a number of hundreds of digits"
    names = {bool: "true or false", type(None): "null", dict: "an object", list: "a list"}
    return names.get(type(value), "something else")


def reach(kind: str) -> str:
    """What is plausible for a signal type, in words: `0 to 5,000 gCO2/kWh`."""
    low, high = PLAUSIBLE[kind]
    return f"{low:,.0f} to {high:,.0f} {UNITS[kind]}"


def one_series(points: Iterable[Point], kind: str, who: str, mend: str) -> tuple[list[Point], int]:
    """The plausible points of an answer, sorted by time, each instant once; and how many were not plausible.

    ``mend``: what is wrong with the answer, or what to do, where an instant has several values.

    Raises:
        TwoValues: an instant has different values, plausible or not.
    """
    found: dict[float, Point] = {}
    for p in points:
        first = found.setdefault(p.valid_from, p)
        if first.value != p.value:
            raise TwoValues(
                f"{who}: the answer has two values for one instant, {first.value:.12g} and {p.value:.12g} {UNITS[kind]} at "
                f"{iso_utc(p.valid_from)}: {mend}; nothing of it is used"
            )
    kept = [found[t] for t in sorted(found) if plausible(found[t].value, kind)]
    return kept, len(found) - len(kept)


def instant(value: Any, offset_s: float = 0.0) -> float | None:
    """Unix seconds of an ISO 8601 text; without an offset it is on a clock ``offset_s`` ahead of UTC. None if unreadable."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone(timedelta(seconds=offset_s)) if offset_s else UTC)
        return moment.timestamp()
    except (ValueError, OverflowError):
        return None


def decimal(value: Any) -> Any:
    """The number that a text spells (`"-40.2"`, as Prometheus and Home Assistant write it); anything else unchanged."""
    if isinstance(value, str) and len(value) < 100 and _DECIMAL.fullmatch(text := value.strip()):
        return float(text)
    return value


def points_of(
    rows: Iterable[tuple[Any, Any]], *, scale: float = 1.0, shift_s: float = 0.0, offset_s: float = 0.0, period_s: float = 0.0,
    source: str = "",
) -> tuple[list[Point], int]:  # fmt: skip
    """Points of (instant, value) rows, plausible or not (``one_series`` says); and how many rows were dropped."""
    found: list[Point] = []
    dropped = 0
    for when, what in rows:
        t, value = instant(when, offset_s), finite(what, scale)
        if t is None or value is None:
            dropped += 1
        else:
            found.append(Point(t + shift_s, value, period_s, source))
    return found, dropped
