"""OpenElectricity v4: prices and curtailed power of Australian regions. https://docs.openelectricity.org.au

Written after the API reference, the official client (openelectricity 0.12.0) and the server's own source
(opennem/opennem, api/market). `GET /v4/market/network/{network}`, `Authorization: Bearer`. `date_start` and `date_end` are
network time without an offset: NEM +10:00, WEM +08:00, no daylight saving. A five-minute instant is the END of its
interval ("14:35 represents 14:30 to 14:35", curtailment guide), so readings begin five minutes before it. Five-minute
data are answered for at most eight days a request, published some minutes late, and cached by the service for five.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from windfall.config.signals import SignalTable
from windfall.errors import SignalError
from windfall.grid.credentials import NEEDED
from windfall.grid.http import NotFound, instant_text
from windfall.grid.providers.base import Provider, Tools
from windfall.grid.source import News, Point, one_series, points_of

_METRICS = {"price": ("price", "$/MWh"), "curtailed_power": ("curtailment", "MW")}
_OFFSETS_S = {"NEM": 10 * 3600.0, "WEM": 8 * 3600.0}
_PERIOD_S = 300.0
#: How far back a poll looks: what is published late or revised is within.
_RECENT_S = 2 * 3600.0
_MAX_PAST_S = 7 * 86400.0
#: No rows in the range that was asked for.
_NO_DATA = 416


class OpenElectricity(Provider):
    """Price (AUD/MWh) or curtailed power (MW) of one network region."""

    kind = "openelectricity"
    base = "https://api.openelectricity.org.au/v4"

    def __init__(self, table: SignalTable, region: str, tools: Tools) -> None:
        super().__init__(table, region, tools)
        if table.network not in _OFFSETS_S:
            raise SignalError(f"{self.who}: no network {table.network}; set network to {' or '.join(_OFFSETS_S)}")
        self._offset_s = _OFFSETS_S[table.network]
        self._metric, self._unit = _METRICS[table.type]
        if table.type == "curtailed_power" and table.network != "NEM":
            raise SignalError(f"{self.who}: curtailment is published for the NEM only; use a price, or a region of the NEM")

    def identity(self) -> dict[str, str]:
        return {**super().identity(), "network": self.table.network}

    def fetch(self, now: float) -> News:
        news = self._range(now - _RECENT_S, None)
        if not news.points:
            raise SignalError(
                f"{self.who}: no usable value of the last {_RECENT_S / 3600:.0f} h; check the zone, it is asked again"
            )
        if self.table.type == "price" and self.table.currency != "AUD":
            news.warnings.append(f'prices are in AUD, the configuration says {self.table.currency}; set currency = "AUD"')
        return news

    def past(self, now: float, span_s: float) -> News | None:
        news = News()
        edges = [now - span_s]
        while edges[-1] < now:
            edges.append(min(edges[-1] + _MAX_PAST_S, now))
        for begin, end in pairwise(edges):
            part = self._range(begin, end)
            news.points += part.points
            news.dropped += part.dropped
        return news

    def _range(self, begin: float, end: float | None) -> News:
        (key,) = self.tools.credentials.need(NEEDED[self.kind], self.who)
        self.http.hide(key)
        # Rounded to whole intervals, so that the service's cache can serve many.
        params: dict[str, str | int | float] = {
            "metrics": self._metric, "interval": "5m", "primary_grouping": "network_region", "network_region": self.zone,
            "date_start": instant_text(begin // _PERIOD_S * _PERIOD_S, self._offset_s),
        }  # fmt: skip
        if end is not None:
            params["date_end"] = instant_text(end // _PERIOD_S * _PERIOD_S, self._offset_s)
        url = f"{self.url}/market/network/{self.table.network}"
        try:
            answer = self.http.get(url, params, headers={"Authorization": f"Bearer {key}"})
        except NotFound as e:
            if e.status != _NO_DATA:
                raise
            return News()
        return self._news(answer)

    def _news(self, answer: Any) -> News:
        if isinstance(answer, dict) and answer.get("success") is False:
            raise self.malformed(f"the service says that it failed{self.says(answer)}")
        series = [s for s in self.rows(answer, "data") if isinstance(s, dict) and s.get("metric") == self._metric]
        if not series:
            raise self.malformed(f"the answer has no series `{self._metric}`")
        news = News()
        read: list[Point] = []
        for one in series:
            if one.get("unit") != self._unit:
                raise SignalError(f"{self.who}: values are in {str(one.get('unit'))[:20]!r}, not in {self._unit}; none is used")
            if one.get("interval", "5m") != "5m":
                raise self.malformed(f"five-minute values were asked for, and the answer has {str(one.get('interval'))[:20]}")
            results = one.get("results")
            for result in results if isinstance(results, list) else []:
                if not isinstance(result, dict) or self._region_of(result) != self.zone:
                    continue
                data = result.get("data")
                pairs = data if isinstance(data, list) else []
                rows = [tuple(r) if isinstance(r, list) and len(r) == 2 else (None, None) for r in pairs]
                points, dropped = points_of(
                    rows, shift_s=-_PERIOD_S, offset_s=self._offset_of(one), period_s=_PERIOD_S, source=self._metric
                )
                read += points
                news.dropped += dropped
        news.points, odd = one_series(read, self.table.type, self.who, self.several)
        news.dropped += odd
        return news

    @staticmethod
    def _region_of(result: dict[str, Any]) -> str | None:
        columns = result.get("columns")
        if not isinstance(columns, dict):
            return None
        return columns.get("region") or columns.get("network_region")

    def _offset_of(self, series: dict[str, Any]) -> float:
        """Seconds from UTC of instants without an offset."""
        text = series.get("network_timezone_offset")
        if not isinstance(text, str):
            return self._offset_s
        try:
            sign = -1.0 if text.startswith("-") else 1.0
            hours, minutes = text.lstrip("+-").split(":")
            return sign * (int(hours) * 3600.0 + int(minutes) * 60.0)
        except ValueError:
            return self._offset_s
