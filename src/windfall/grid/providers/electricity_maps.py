"""Electricity Maps v3: average intensity (gCO2eq/kWh, flow-traced, life-cycle). https://app.electricitymaps.com/docs

Written after the API reference (developer hub): header `auth-token`; `/carbon-intensity/latest`, `/history` (24 h) and
`/forecast` (not in free plans), by zone or by place. Values are of the hour that begins at `datetime`, unless
`temporalGranularity` says otherwise. Without `disableCallerLookup` a place that is in no zone is answered with the zone
of the caller's own address: it is switched off, and the answer's zone is compared.
"""

from __future__ import annotations

import math
from typing import Any

from windfall.errors import SignalError
from windfall.grid.credentials import NEEDED
from windfall.grid.http import AccessDenied, NotFound, Params
from windfall.grid.providers.base import Provider
from windfall.grid.source import ForecastPoints, News, Point, finite, in_words, instant, one_series, plausible, reach

_PERIODS_S = {"hourly": 3600.0, "minutes": 60.0, "minute": 60.0, "hours": 3600.0, "hour": 3600.0}
#: Averages over longer say nothing of now.
_LONGEST_S = 6 * 3600.0
#: What `horizonHours` may be.
_HORIZONS_H = (6, 24, 48, 72)
_PAST_S = 24 * 3600.0
#: Where the plan has no forecast: asked again after this.
_NO_FORECAST_S = 86400.0


class ElectricityMaps(Provider):
    """Average intensity of one zone."""

    kind = "electricity_maps"
    base = "https://api.electricitymaps.com/v3"
    #: When the forecast is asked for again after a refusal.
    _forecast_from = -math.inf

    def identity(self) -> dict[str, str]:
        found = super().identity()
        if self.table.latitude is not None:
            found["zone"] = f"{self.table.latitude:.4f},{self.table.longitude:.4f}"
        return found

    def fetch(self, now: float) -> News:
        answer = self._get("latest")
        point = self._point(answer, answer)
        if point is None or not plausible(point.value, self.table.type):
            granularity = _granularity(answer, answer)
            if _period_s(granularity) is None:
                raise SignalError(
                    f"{self.who}: the newest value is of the granularity {str(granularity)[:40]!r}, which is none that says "
                    "what is now; it is not used (has the provider's API changed?)"
                )
            said = in_words(answer.get("carbonIntensity"))
            raise SignalError(
                f"{self.who}: the newest value is absent or no number within {reach(self.table.type)} ({said}); check the zone, it "
                "is asked again"
            )
        news = News([point])
        if self.table.forecast == "provider" and now >= self._forecast_from:
            self._forecast(now, news)
        return news

    def past(self, now: float, span_s: float) -> News | None:
        answer = self._get("history")
        points, dropped = self._points(answer, "history")
        return News([p for p in points if p.valid_from >= now - min(span_s, _PAST_S) - 3600.0], dropped=dropped)

    def _forecast(self, now: float, news: News) -> None:
        wanted = next((h for h in _HORIZONS_H if h >= self.table.horizon_h), _HORIZONS_H[-1])
        try:
            # 24 h is the default, and the one horizon that no plan minds.
            answer = self._get("forecast", {} if wanted == 24 else {"horizonHours": wanted})
        except (AccessDenied, NotFound) as e:
            self._forecast_from = now + _NO_FORECAST_S
            news.warnings.append(f"the plan has no forecast ({e.answer}); policies do without one")
            return
        points, dropped = self._points(answer, "forecast")
        news.dropped += dropped
        if points:
            news.expected = ForecastPoints(tuple(points), points[-1].valid_from + points[-1].period_s)

    def _get(self, what: str, params: Params | None = None) -> Any:
        (key,) = self.tools.credentials.need(NEEDED[self.kind], self.who)
        self.http.hide(key)
        if self.table.latitude is not None and self.table.longitude is not None:
            place: dict[str, str | int | float] = {"lat": self.table.latitude, "lon": self.table.longitude}
        else:
            place = {"zone": self.zone}
        asked = {**place, "disableCallerLookup": "true", **(params or {})}
        try:
            answer = self.http.get(f"{self.url}/carbon-intensity/{what}", asked, headers={"auth-token": key})
        except AccessDenied as e:
            raise AccessDenied(
                f"{self.who}: Electricity Maps refuses access ({e.answer}); check ELECTRICITY_MAPS_API_KEY, and that the "
                f"plan covers {'the place' if 'lat' in place else self.zone}", e.status, e.answer,
            ) from None  # fmt: skip
        zone = answer.get("zone") if isinstance(answer, dict) else None
        if not isinstance(zone, str):
            raise self.malformed("the answer names no `zone`")
        if "zone" in place and zone != self.zone:
            raise self.malformed(f"{self.zone} was asked for, and the answer is about {zone[:40]}")
        return answer

    def _points(self, answer: Any, key: str) -> tuple[list[Point], int]:
        found = [self._point(row, answer) for row in self.rows(answer, key)]
        points, odd = one_series((p for p in found if p is not None), self.table.type, self.who, self.several)
        return points, found.count(None) + odd

    def _point(self, row: Any, answer: Any) -> Point | None:
        """What a row says, plausible or not; None where it says nothing."""
        if not isinstance(row, dict):
            return None
        t, value = instant(row.get("datetime")), finite(row.get("carbonIntensity"))
        if t is None or value is None:
            return None
        period = _period_s(_granularity(row, answer))
        if period is None:
            return None
        factor = row.get("emissionFactorType", answer.get("emissionFactorType"))
        source = f"average{f', {factor}' if isinstance(factor, str) else ''}"
        if row.get("isEstimated"):
            method = row.get("estimationMethod")
            source += f", estimated{f' ({method})' if isinstance(method, str) else ''}"
        if self.table.latitude is not None:
            source += f", zone {answer.get('zone')}"
        return Point(t, value, period, source)


def _granularity(row: dict[str, Any], answer: Any) -> Any:
    return row.get("temporalGranularity", answer.get("temporalGranularity", "hourly"))


def _period_s(granularity: Any) -> float | None:
    """Seconds of `hourly`, `15_minutes`, `2_hours`; None of what is no such text, or too long to say what is now."""
    if not isinstance(granularity, str):
        return None
    count, _, unit = granularity.rpartition("_")
    if unit not in _PERIODS_S or not (count or "1").isdecimal():
        return None
    seconds = float((count or "1")[:9]) * _PERIODS_S[unit]
    return seconds if 0 < seconds <= _LONGEST_S else None
