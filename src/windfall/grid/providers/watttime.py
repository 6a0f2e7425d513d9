"""WattTime v3: marginal intensity (co2_moer), forecast up to 72 h, history. https://docs.watttime.org

Written after the API's description (docs.watttime.org) and the official client (watttime 1.4.0). `GET /login` with basic
auth gives a token for 30 minutes. The first point of `/v3/forecast` is the newest value there is ("real-time"); the rest
is the forecast. `/v3/historical` answers at most 32 days a request and may be revised. Points are five minutes apart,
unless `meta.data_point_period_seconds` says otherwise; instants are UTC; `meta.warnings` are for people. Limits: 3,000
requests, of those 100 logins, in any five minutes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from windfall.config.signals import SignalTable
from windfall.errors import SignalError
from windfall.grid.cache import SignalCache
from windfall.grid.credentials import NEEDED
from windfall.grid.http import AccessDenied, Params, said_in
from windfall.grid.providers.base import Provider, Tools
from windfall.grid.source import ForecastPoints, News, Point, in_words, instant, number, one_series, points_of
from windfall.units import iso_utc

#: 1 lb is 0.45359237 kg (exactly), so 1 lb/MWh is 0.45359237 g/kWh.
G_PER_KWH = {"lbs_co2_per_mwh": 0.45359237}
_SIGNAL = "co2_moer"
_PERIOD_S = 300.0
#: What a granularity can be.
_PERIODS_S = (1.0, 86400.0)
_MAX_HORIZON_H = 72
_MAX_PAST_S = 32 * 86400.0
#: Tokens live 30 minutes; a new one is fetched a little before.
_TOKEN_S = 28 * 60.0
#: Regions are redrawn now and then; WattTime asks to look them up again at least monthly.
_ZONE_S = 28 * 86400.0
#: Of the 3,000 requests some room is left for logins, which are counted apart.
_REQUESTS = ("requests", 2900, 300.0)
_LOGINS = ("logins", 100, 300.0)


@dataclass(frozen=True)
class _Data:
    """An answer that was checked: (instant, value) rows, their factor to g/kWh and period, and what the model is called."""

    rows: list[tuple[Any, Any]]
    scale: float
    period_s: float
    model: str
    warnings: list[str] = field(default_factory=list)


class WattTime(Provider):
    """Marginal intensity of one WattTime region, in g/kWh."""

    kind = "watttime"
    base = "https://api.watttime.org"

    def __init__(self, table: SignalTable, region: str, tools: Tools) -> None:
        super().__init__(table, region, tools)
        self._token = ""
        self._token_ends = -math.inf
        self._placed = table.latitude is not None
        if self._placed:
            place = {"kind": self.kind, "url": self.url, "place": f"{table.latitude:.4f},{table.longitude:.4f}"}
            self._zones = SignalCache(tools.folder, place, table.type)
            self.zone = self._zones.zone(tools.now(), _ZONE_S) or ""
            self.who = self.http.who = f"{self.kind}:{self.zone or region}"

    def identity(self) -> dict[str, str]:
        found = super().identity()
        if self._placed:
            found["zone"] = f"{self.table.latitude:.4f},{self.table.longitude:.4f}"
        return found

    def fetch(self, now: float) -> News:
        ahead = 0 if self.table.forecast == "none" else min(math.ceil(self.table.horizon_h), _MAX_HORIZON_H)
        answer = self._region_data("/v3/forecast", {"horizon_hours": ahead})
        data = self._checked(answer)
        timed = [(t, what) for when, what in data.rows if (t := instant(when)) is not None]
        if not timed:
            raise self.malformed("no point has a readable `point_time`")
        # The first point is the present. Where it is no number the second, a forecast, must not stand for it.
        first, value = min(timed, key=lambda row: row[0])
        points, dropped = self._points(data, "forecast")
        if number(value, self.table.type, data.scale) is None:
            raise SignalError(
                f"{self.who}: the newest point ({iso_utc(first)}) has no usable value ({in_words(value)}); it is asked again"
            )
        expected = ForecastPoints(tuple(points), points[-1].valid_from + data.period_s) if ahead and len(points) > 1 else None
        return News(points[:1], expected, dropped, data.warnings, published="forecast")

    def past(self, now: float, span_s: float) -> News | None:
        news = News()
        edges = [now - span_s]
        while edges[-1] < now:
            edges.append(min(edges[-1] + _MAX_PAST_S, now))
        for begin, end in pairwise(edges):
            answer = self._region_data("/v3/historical", {"start": iso_utc(begin), "end": iso_utc(end)})
            data = self._checked(answer)
            points, dropped = self._points(data, "historical")
            news.points += points
            news.dropped += dropped
            news.warnings += data.warnings
        return news

    def _points(self, data: _Data, what: str) -> tuple[list[Point], int]:
        read, dropped = points_of(data.rows, scale=data.scale, period_s=data.period_s, source=f"{_SIGNAL} {what}{data.model}")
        points, odd = one_series(read, self.table.type, self.who, self.several)
        return points, dropped + odd

    def _region_data(self, path: str, params: Params) -> Any:
        region = self._region()
        try:
            return self._get(path, {"region": region, "signal_type": _SIGNAL, **params})
        except AccessDenied as e:
            if e.status != 403:
                raise
            raise AccessDenied(
                f"{self.who}: WattTime refuses region {region} for {path} ({e.answer}); where the account's plan does not cover "
                f"region {region}, set zone to one that it covers (free accounts see CAISO_NORTH), or extend the plan",
                403, e.answer,
            ) from None  # fmt: skip

    def _region(self) -> str:
        if not self.zone:
            place = {"latitude": self.table.latitude or 0.0, "longitude": self.table.longitude or 0.0}
            answer = self._get("/v3/region-from-loc", {"signal_type": _SIGNAL, **place})
            region = answer.get("region") if isinstance(answer, dict) else None
            if not isinstance(region, str) or not region:
                raise self.malformed("the place's answer has no `region`")
            self.zone = region
            self.who = self.http.who = f"{self.kind}:{region}"
            self._zones.save_zone(region, self.tools.now())
        return self.zone

    def _get(self, path: str, params: Params) -> Any:
        renewed = self._log_in() if self.tools.now() >= self._token_ends else False
        try:
            return self.http.get(self.url + path, params, headers=self._bearer(), limit=_REQUESTS)
        except AccessDenied as e:
            if e.status != 401 or renewed:
                raise
        # A token may end early: one new login, and no more, or a wrong password would be tried for ever.
        self._log_in()
        return self.http.get(self.url + path, params, headers=self._bearer(), limit=_REQUESTS)

    def _bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"}

    def _log_in(self) -> bool:
        name, password = self.tools.credentials.need(NEEDED[self.kind], self.who)
        self.http.hide(password)
        self._token_ends = -math.inf
        try:
            answer = self.http.get(f"{self.url}/login", auth=(name, password), limit=_LOGINS)
        except AccessDenied as e:
            user = self.tools.credentials.named("WATTTIME_USERNAME")
            raise AccessDenied(
                f"{self.who}: WattTime refuses the login ({e.answer}); check {user} and WATTTIME_PASSWORD", e.status, e.answer
            ) from None
        token = answer.get("token") if isinstance(answer, dict) else None
        if not isinstance(token, str) or not token:
            raise self.malformed("the login's answer has no `token`")
        self.http.hide(token)
        self._token, self._token_ends = token, self.tools.now() + _TOKEN_S
        return True

    def _checked(self, answer: Any) -> _Data:
        """What an answer holds. The region and the unit must be what was asked for."""
        data = self.rows(answer, "data")
        meta = answer.get("meta")
        if not isinstance(meta, dict):
            raise self.malformed("the answer has no `meta`")
        units = meta.get("units")
        if not isinstance(units, str) or units not in G_PER_KWH:
            raise SignalError(f"{self.who}: values are in {units!r}, not in lbs_co2_per_mwh; none is used")
        for key, asked in (("region", self.zone), ("signal_type", _SIGNAL)):
            if meta.get(key, asked) != asked:
                raise self.malformed(f"{asked} was asked for, and the answer is about {str(meta.get(key))[:40]}")
        model = meta.get("model")
        date = model.get("date") if isinstance(model, dict) else None
        rows = [(p.get("point_time"), p.get("value")) if isinstance(p, dict) else (None, None) for p in data]
        warnings = meta.get("warnings")
        told = [self.http.public(said_in(w))[:200] for w in (warnings if isinstance(warnings, list) else [warnings])]
        return _Data(
            rows, G_PER_KWH[units], _period_of(meta, rows), f", model {date}" if isinstance(date, str) else "",
            [f"WattTime says: {text}" for text in told if text],
        )  # fmt: skip


def _period_of(meta: dict[str, Any], rows: list[tuple[Any, Any]]) -> float:
    """Seconds from one point to the next: as the answer says, else as its first two points are apart."""
    told = meta.get("data_point_period_seconds")
    if told is None:
        times = sorted(t for t in (instant(when) for when, _ in rows) if t is not None)
        told = times[1] - times[0] if len(times) > 1 else _PERIOD_S
    known = isinstance(told, int | float) and _PERIODS_S[0] <= told <= _PERIODS_S[1]
    return float(told) if known else _PERIOD_S
