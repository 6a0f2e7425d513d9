"""gridstatus: prices through a package that is not installed here; a stand-in with its classes, methods and columns."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from asking import Asking, Clock, T, ask

from windfall.config.signals import SignalTable
from windfall.grid.credentials import Credentials
from windfall.grid.http import RateLimits
from windfall.grid.live import LiveSignal
from windfall.grid.providers import Tools
from windfall.grid.providers.gridstatus import GridStatus

HERE = ZoneInfo("America/Los_Angeles")


class Frame:
    """As much of a data frame as the adapter uses."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def to_dict(self, how: str) -> list[dict[str, Any]]:
        assert how == "records"
        return self.rows


class NotSupported(Exception):
    """As the package's own."""


def row(location: str, minutes: float, price: Any, column: str = "LMP", zone: Any = HERE) -> dict[str, Any]:
    start = datetime.fromtimestamp(T + minutes * 60, zone)
    return {
        "Interval Start": start,
        "Interval End": start + timedelta(minutes=5),
        "Location": location,
        "Market": "m",
        column: price,
    }


class Market:
    """An operator whose `get_lmp` can be asked for one node."""

    rows: list[dict[str, Any]]
    asked: list[tuple[str, str, list[str]]]
    fails: Exception | None = None

    def get_lmp(self, date: str, market: str, locations: list[str] | None = None, verbose: bool = False) -> Frame:
        self.asked.append((date, market, locations or []))
        if self.fails:
            raise self.fails
        return Frame(self.rows)


def source(cls: type, **keys: Any) -> GridStatus:
    table = SignalTable.model_validate({"kind": "gridstatus", "type": "price", "iso": "CAISO", "location": "TH_NP15", **keys})
    clock = Clock()
    tools = Tools(Credentials(None, {}), clock.now, clock.pause, random.Random(0), RateLimits())
    return GridStatus(table, "R", tools, SimpleNamespace(CAISO=cls, PJM=cls, Ercot=cls, NotSupported=NotSupported))


def market(rows: list[dict[str, Any]], fails: Exception | None = None) -> type[Market]:
    return type("CAISO", (Market,), {"rows": rows, "asked": [], "fails": fails})


def signal(made: GridStatus) -> LiveSignal:
    return LiveSignal(made.table, made, now=lambda: T)


def test_the_newest_price_of_the_node_is_the_reading(asking: Asking) -> None:
    cls = market([row("TH_NP15", -7, -3.25), row("TH_SP15", -2, 99.0), row("TH_NP15", -2, -8.5)])
    s = signal(source(cls))
    assert ask(s, T) == ""
    r = s.at(T)
    assert r
    assert (r.value, r.unit, r.valid_from, r.valid_until) == (-8.5, "currency/MWh", T - 120, T + 180)
    assert r.source == "gridstatus:CAISO TH_NP15 REAL_TIME_5_MIN"
    assert cls.asked == [("latest", "REAL_TIME_5_MIN", ["TH_NP15"])]


def test_autumns_repeated_hour_is_told_apart_by_its_zone() -> None:
    rows = []
    for fold, price in ((0, 10.0), (1, -20.0)):
        start = datetime(2026, 11, 1, 1, 30, fold=fold, tzinfo=HERE)
        rows.append({"Interval Start": start, "Interval End": start, "Location": "TH_NP15", "LMP": price})
    news = source(market(rows)).fetch(T)
    assert [p.value for p in news.points] == [10, -20]
    assert news.points[1].valid_from - news.points[0].valid_from == 3600


class Hourly:
    """An operator with a method per market, for all nodes; it knows no `latest`."""

    def _rows(self, date: str) -> Frame:
        if date == "latest":
            raise NotSupported("latest")
        begin = datetime.fromtimestamp(T - 120 - 2 * 3600, HERE)
        hours = [begin + timedelta(hours=h) for h in range(6)]
        return Frame([{"Interval Start": t, "Interval End": t + timedelta(hours=1), "Location Name": "TH_NP15", "LMP": h}
                      for h, t in enumerate(hours)])  # fmt: skip

    def get_lmp_real_time_hourly(self, date: str, end: str | None = None, verbose: bool = False) -> Frame:
        return Frame(self._rows(date).rows[:3])

    def get_lmp_day_ahead_hourly(self, date: str, end: str | None = None, verbose: bool = False) -> Frame:
        return self._rows(date)


def test_a_market_without_a_latest_is_asked_for_today() -> None:
    s = signal(source(Hourly, market="REAL_TIME_HOURLY"))
    assert ask(s, T) == ""
    r = s.at(T)
    assert r
    assert (r.value, r.valid_from, r.valid_until) == (2, T - 120, T - 120 + 3600)
    assert s.forecast(T, 86400) is None


def test_day_ahead_prices_to_come_are_a_forecast_and_no_sign_of_a_wrong_clock() -> None:
    s = signal(source(Hourly, market="DAY_AHEAD_HOURLY"))
    assert ask(s, T) == ""
    assert s.at(T).value == 2  # type: ignore[union-attr]
    assert s.forecast(T, 86400).values.tolist() == [2, 3, 4, 5]  # type: ignore[union-attr]
    assert s.status().warnings == ()
    assert s.starts_at() == T - 120 - 2 * 3600


def test_texas_has_settlement_point_prices() -> None:
    class Texas:
        def get_spp(self, date: str, end: str | None = None, market: str | None = None, locations: Any = "ALL") -> Frame:
            return Frame([row(locations[0], -2, 31.0, "SPP")])

    s = signal(source(Texas, iso="Ercot", location="HB_WEST", market="REAL_TIME_15_MIN"))
    assert ask(s, T) == ""
    assert s.at(T).value == 31  # type: ignore[union-attr]


def test_pjm_is_asked_by_number_or_for_its_hubs() -> None:
    cls = market([row("WESTERN HUB", -2, 12.0)])
    assert ask(signal(source(cls, iso="PJM", location="WESTERN HUB")), T) == ""
    ask(signal(source(cls, iso="PJM", location="51288")), T)
    assert [a[2] for a in cls.asked] == [[], ["51288"]]


@pytest.mark.parametrize("fails", [ValueError("no table"), OSError("down"), KeyError("LMP"), NotSupported("no"), TypeError("x"),
                                   RuntimeError("y"), IndexError("z")])  # fmt: skip
def test_whatever_breaks_inside_the_package_passes_and_is_no_value(fails: Exception) -> None:
    s = signal(source(market([], fails)))
    assert "gridstatus got no prices" in ask(s, T)
    assert s.at(T) is None


@pytest.mark.parametrize("rows", [[], [row("OTHER", -2, 1.0)], [row("TH_NP15", -2, float("nan"))], [row("TH_NP15", -2, "5")],
                                  [row("TH_NP15", -2, 5.0, zone=None)], [{"Location": "TH_NP15"}]])  # fmt: skip
def test_rows_without_a_price_or_a_zone_are_no_value(rows: list[dict[str, Any]]) -> None:
    s = signal(source(market(rows)))
    assert "no usable price" in ask(s, T)
    assert s.at(T) is None


def test_unknown_operators_and_markets_are_told() -> None:
    assert "gridstatus has no XISO" in ask(signal(source(Market, iso="XISO")), T)
    assert "set market to one of DAY_AHEAD_HOURLY, REAL_TIME_HOURLY" in ask(signal(source(Hourly, market="WEEKLY")), T)


def test_the_currency_is_the_operators() -> None:
    s = signal(source(market([row("TH_NP15", -2, 1.0)]), currency="EUR"))
    ask(s, T)
    assert 'set currency = "USD"' in s.status().warnings[0]


def test_without_the_package_the_command_to_install_it_is_told(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gridstatus", None)
    s = asking.signal("gridstatus", type="price", iso="CAISO", location="TH_NP15")
    assert "pip install 'windfall[gridstatus]'" in (s.lacking() or "")
    assert "pip install 'windfall[gridstatus]'" in ask(s, T)
    assert s.at(T) is None


def test_prices_of_the_day_ahead_are_used_when_their_hour_comes_without_asking_again() -> None:
    s = signal(source(Hourly, market="DAY_AHEAD_HOURLY"))
    assert ask(s, T) == ""
    r = s.at(T - 120 + 7200)
    assert r
    assert (r.value, r.known_at, r.is_fresh(T - 120 + 7200)) == (4, T, True)


def test_a_real_time_price_far_ahead_is_refused_unless_its_market_settles_ahead() -> None:
    rows = [row("TH_NP15", -2, 50.0), row("TH_NP15", 28, -8.5)]
    s = signal(source(market(rows)))
    said = ask(s, T)
    assert "its stamps are 28 min ahead of this machine's clock" in said
    assert 'set published = "ahead"' in said
    assert s.at(T) is None
    assert s.at(T + 28 * 60) is None
    for keys in ({"market": "REAL_TIME_15_MIN"}, {"published": "ahead"}):
        s = signal(source(market(rows), **keys))
        assert ask(s, T) == ""
        assert [s.at(t).value for t in (T, T + 28 * 60)] == [50, -8.5]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("column", "there"),
    [("Market", ("REAL_TIME_5_MIN", "HASP")), ("Location Type", ("Node", "Hub")), ("Location Id", (7, 8))],
)
def test_several_series_of_one_location_are_no_reading_and_are_told_apart(column: str, there: tuple[Any, Any]) -> None:
    rows = [{**row("TH_NP15", -2, price), column: kind} for price, kind in zip((50.0, -50.0), there, strict=True)]
    s = signal(source(market(rows)))
    said = ask(s, T)
    assert "two values for one instant, 50 and -50 currency/MWh at 2026-05-03T10:00:00Z: location chooses several series" in said
    assert f"({column}: {there[0]}, {there[1]})" in said
    assert s.at(T) is None
    s = signal(source(market([rows[0], {**rows[1], "LMP": 50.0}])))
    assert ask(s, T) == ""
    assert s.at(T).value == 50  # type: ignore[union-attr]


def test_a_load_zone_of_texas_is_its_price_for_settlement_not_the_energy_weighted_one() -> None:
    kinds = ("Load Zone", "Load Zone Energy Weighted")
    rows = [{**row("LZ_WEST", -2, price, "SPP"), "Location Type": kind} for price, kind in zip((31.0, -29.0), kinds, strict=True)]

    class Texas:
        def get_spp(self, date: str, market: str | None = None, locations: Any = "ALL") -> Frame:
            return Frame(rows)

    s = signal(source(Texas, iso="Ercot", location="LZ_WEST", market="REAL_TIME_15_MIN"))
    assert ask(s, T) == ""
    assert s.at(T).value == 31  # type: ignore[union-attr]
