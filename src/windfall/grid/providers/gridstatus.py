"""Prices of American and Canadian system operators, through the `gridstatus` package (an extra: it is large).

Written after the source of gridstatus 0.37.0: classes `CAISO`, `Ercot`, `ISONE`, `MISO`, `NYISO`, `PJM`, `SPP`, `IESO`
and `AESO`; per market a method `get_lmp_<market>` for all nodes, and the older `get_lmp`, which can be asked for one node
and is preferred for that where it is there (ERCOT: `get_spp`). Frames have `Interval Start` and `Interval End` (with time
zone), `Location` (PJM also `Location Name`, `Location Id`) and `LMP` (ERCOT `SPP`), in the operator's currency per MWh.
"""

from __future__ import annotations

import importlib
import inspect
import zipfile
from collections.abc import Callable
from typing import Any

from windfall.config.signals import SignalTable
from windfall.errors import SignalError
from windfall.grid.http import TryLater
from windfall.grid.providers.base import Tools
from windfall.grid.source import ForecastPoints, News, Point, Published, finite, one_series

_LOCATIONS = ("Location", "Location Name", "Location Id", "Location Short Name")
#: Other columns that tell series apart, and the end of a location type that is asked for by no name of its own.
_KINDS = ("Location Type", "Market", "LMP Type")
_OTHER_TYPE = "Energy Weighted"
_MEND = '; if this market settles ahead, set published = "ahead"'
_PRICES = ("LMP", "SPP")
#: Real-time markets that settle before their time comes: California's fifteen minutes do so some half an hour before.
_AHEAD = {("CAISO", "REAL_TIME_15_MIN")}
_CURRENCIES = {"IESO": "CAD", "AESO": "CAD"}
#: What the package raises where an operator's site is down or has changed: it scrapes.
_FAILURES: tuple[type[Exception], ...] = (
    OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError, AssertionError, NotImplementedError,
    zipfile.BadZipFile,
)  # fmt: skip


class GridStatus:
    """Real-time or day-ahead prices of one node or hub."""

    kind = "gridstatus"

    def __init__(self, table: SignalTable, region: str, tools: Tools, module: Any = None) -> None:
        self.table = table
        self.tools = tools
        self.who = f"gridstatus:{table.iso} {table.location}"
        self._requests = 0
        self.patience_s = 0.0
        self._module = module
        ahead = table.market.startswith("DAY_AHEAD") or (str(table.iso), table.market) in _AHEAD
        self._published: Published = table.published or ("ahead" if ahead else "observed")
        #: A whole day's prices are published at once.
        self._ahead = table.market.startswith("DAY_AHEAD")

    @property
    def requests(self) -> int:
        return self._requests

    def identity(self) -> dict[str, str]:
        t = self.table
        return {"kind": self.kind, "type": t.type, "iso": str(t.iso), "market": t.market, "location": str(t.location)}

    def require(self) -> None:
        self._package()

    def fetch(self, now: float) -> News:
        # Prices of a whole day that were settled the day before: those to come are known, and a forecast besides.
        rows = self._ask("today") if self._ahead else self._ask("latest", "today")
        news = self._news(rows, now)
        if not news.points:
            raise SignalError(f"{self.who}: no usable price in {len(rows)} rows; check location and market, it is asked again")
        currency = _CURRENCIES.get(str(self.table.iso), "USD")
        if self.table.currency != currency:
            news.warnings.append(
                f'prices are in {currency}, the configuration says {self.table.currency}; set currency = "{currency}"'
            )
        return news

    def past(self, now: float, span_s: float) -> News | None:
        return self._news(self._ask("today"), now)

    def close(self) -> None:
        """It keeps no connection."""

    def _package(self) -> Any:
        if self._module is None:
            try:
                self._module = importlib.import_module("gridstatus")
            except ImportError:
                raise SignalError(
                    f"{self.who}: the package gridstatus is not installed; run: pip install 'windfall[gridstatus]'"
                ) from None
        return self._module

    def _ask(self, *dates: str) -> list[dict[str, Any]]:
        """Rows of the first of ``dates`` that the operator's method knows.

        Raises:
            SignalError: no such operator or market.
            TryLater: the operator's site did not answer, or not as the package expects.
        """
        module = self._package()
        cls = getattr(module, str(self.table.iso), None)
        if not callable(cls):
            raise SignalError(
                f"{self.who}: gridstatus has no {self.table.iso}; set iso to CAISO, Ercot, ISONE, MISO, NYISO, PJM, SPP or IESO"
            )
        own = (getattr(module, name, None) for name in ("NotSupported", "NoDataFoundException"))
        failures: tuple[type[Exception], ...] = (*_FAILURES, *(e for e in own if isinstance(e, type) and issubclass(e, Exception)))
        said = ""
        for date in dates:
            self._requests += 1
            try:
                call, kwargs = self._method(cls())
                return list(call(date=date, **kwargs).to_dict("records"))
            except failures as e:
                said = f"{type(e).__name__}: {' '.join(str(e).split())[:120]}"
        raise TryLater(f"{self.who}: gridstatus got no prices ({said}); it is asked again")

    def _method(self, iso: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
        market, location = self.table.market, self.table.location
        for name, needs in (("get_lmp", "locations"), ("get_spp", "locations"), (f"get_lmp_{market.lower()}", "")):
            method = getattr(iso, name, None)
            if method is None:
                continue
            takes = inspect.signature(method).parameters
            if needs and needs not in takes:
                continue
            kwargs: dict[str, Any] = {"market": market} if "market" in takes else {}
            # PJM is asked by number; its hubs, which it answers by default, have names.
            if "locations" in takes and (self.table.iso != "PJM" or str(location).isdecimal()):
                kwargs["locations"] = [location]
            return method, kwargs
        others = sorted(n.removeprefix("get_lmp_").upper() for n in dir(iso) if n.startswith("get_lmp_"))
        raise SignalError(
            f"{self.who}: gridstatus has no market {market} of {self.table.iso}; set market to one of {', '.join(others) or 'none'}"
        )

    def _news(self, rows: list[dict[str, Any]], now: float) -> News:
        read: list[tuple[Point, dict[str, Any]]] = []
        dropped = 0
        for row in rows:
            if self.table.location not in {str(row[c]) for c in _LOCATIONS if c in row}:
                continue
            # Texas names a load zone's price for settlement and its energy-weighted price alike.
            if str(row.get("Location Type", "")).endswith(_OTHER_TYPE):
                continue
            start, end = _seconds(row.get("Interval Start")), _seconds(row.get("Interval End"))
            price = next((row[c] for c in _PRICES if c in row), None)
            value = finite(_plain(price))
            if start is None or value is None:
                dropped += 1
                continue
            period = max(end - start, 0.0) if end is not None else 0.0
            read.append((Point(start, value, period, self.table.market), row))
        points, odd = one_series([p for p, _ in read], self.table.type, self.who, _several(read))
        coming = tuple(p for p in points if p.valid_from + p.period_s > now) if self._ahead else ()
        expected = ForecastPoints(coming, coming[-1].valid_from + coming[-1].period_s) if coming else None
        return News(points, expected, dropped + odd, published=self._published, mend=_MEND)


def _several(read: list[tuple[Point, dict[str, Any]]]) -> str:
    """What is wrong where rows of one instant have different prices: the columns that tell them apart, with their values."""
    first: dict[float, tuple[Point, dict[str, Any]]] = {}
    apart: dict[str, None] = {}
    for point, row in read:
        other, there = first.setdefault(point.valid_from, (point, row))
        if other.value != point.value:
            apart |= {
                f"{c}: {there[c]}, {row[c]}": None for c in (*_LOCATIONS, *_KINDS) if c in row and c in there and there[c] != row[c]
            }
    said = "; ".join(list(apart)[:3])
    return f"location chooses several series{f' ({said})' if said else ''}; set it to one, or choose another market"


def _seconds(moment: Any) -> float | None:
    """Unix seconds of a timestamp that has a time zone; None of any other."""
    if getattr(moment, "tzinfo", None) is None:
        return None
    try:
        return float(moment.timestamp())
    except (ValueError, OverflowError):
        return None


def _plain(value: Any) -> Any:
    """A frame's own number type as Python's."""
    return value.item() if hasattr(value, "item") else value
