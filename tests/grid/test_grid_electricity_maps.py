"""Electricity Maps: the hour, the zone that answers, estimates, and plans without forecasts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from asking import SECRETS, Asking, T, ask, value
from servers import ElectricityMapsServer, Fault

from windfall.grid.live import LiveSignal

HOUR = T - 120


@pytest.fixture
def server(asking: Asking) -> Iterator[ElectricityMapsServer]:
    with ElectricityMapsServer(asking.clock.now) as made:
        yield made


def signal(asking: Asking, server: ElectricityMapsServer, region: str = "DE", **keys: Any) -> LiveSignal:
    return asking.signal("electricity_maps", region, type="average_co2", base_url=server.url + "/v3", **keys)


def test_the_newest_hour_is_the_reading_and_holds_for_its_hour(asking: Asking, server: ElectricityMapsServer) -> None:
    server.estimated = "TIME_SLICER_AVERAGE"
    s = signal(asking, server)
    assert ask(s, T) == ""
    r = s.at(T)
    assert r
    assert (r.value, r.unit, r.valid_from, r.valid_until) == (302, "gCO2/kWh", HOUR, HOUR + 3600)
    assert r.source == "electricity_maps:DE average, lifecycle, estimated (TIME_SLICER_AVERAGE)"
    assert r.is_fresh(HOUR + 3600)
    assert server.asked[0].query == {"zone": "DE", "disableCallerLookup": "true"}
    f = s.forecast(T, 4 * 3600.0)
    assert f
    assert f.values.tolist() == [200, 201, 202, 203, 204]
    assert f.ends_at == T + 4 * 3600


def test_the_horizon_is_one_that_the_api_has(asking: Asking, server: ElectricityMapsServer) -> None:
    assert ask(signal(asking, server, horizon_h=30.0), T) == ""
    assert server.asked[-1].query["horizonHours"] == "48"
    assert ask(signal(asking, server, horizon_h=500.0), asking.later(400)) == ""
    assert server.asked[-1].query["horizonHours"] == "72"


def test_a_plan_without_forecasts_is_a_warning_and_not_asked_again_soon(asking: Asking, server: ElectricityMapsServer) -> None:
    server.forecasts = False
    s = signal(asking, server)
    for _ in range(3):
        assert ask(s, asking.later(300)) == ""
    assert server.paths().count("/v3/carbon-intensity/forecast") == 1
    assert "no forecast (HTTP 403: Access denied)" in s.status().warnings[0]
    assert value(s, asking.clock.t) == 302
    assert s.forecast(asking.clock.t, 3600) is None


def test_a_place_is_asked_for_by_its_coordinates(asking: Asking, server: ElectricityMapsServer) -> None:
    s = signal(asking, server, "somewhere", latitude=52.5, longitude=13.4, forecast="none")
    assert ask(s, T) == ""
    assert server.asked[0].query == {"lat": "52.5", "lon": "13.4", "disableCallerLookup": "true"}
    assert s.at(T).source.endswith("zone DE")  # type: ignore[union-attr]


def test_another_zones_answer_is_not_taken_for_ours(asking: Asking, server: ElectricityMapsServer) -> None:
    server.faults.append(Fault(200, '{"zone": "FR", "carbonIntensity": 20, "datetime": "2026-05-03T10:00:00.000Z"}'))
    s = signal(asking, server)
    assert "DE was asked for, and the answer is about FR" in ask(s, T)
    assert s.at(T) is None


@pytest.mark.parametrize("bad", ["302", None, True, -5, 1e7, float("nan"), [302]])
def test_what_is_no_plausible_number_is_no_reading(asking: Asking, server: ElectricityMapsServer, bad: Any) -> None:
    server.value = bad
    s = signal(asking, server)
    said = ask(s, T)
    assert "absent or no number within 0 to 5,000 gCO2/kWh" in said
    if isinstance(bad, int | float) and not isinstance(bad, bool):
        assert f"(the number {bad:.12g})" in said
    assert s.at(T) is None


def test_offsets_are_converted_and_a_missing_one_is_utc(asking: Asking, server: ElectricityMapsServer) -> None:
    s = signal(asking, server, forecast="none")
    for text in ("2026-05-03T12:00:00+02:00", "2026-05-03T10:00:00"):
        server.faults.append(Fault(200, f'{{"zone": "DE", "carbonIntensity": 1, "datetime": "{text}"}}'))
        ask(s, asking.later(400))
        assert s.at(asking.clock.t).valid_from == HOUR  # type: ignore[union-attr]


def test_a_wrong_key_and_an_unknown_zone_are_told(asking: Asking, server: ElectricityMapsServer) -> None:
    assert "HTTP 404: No data for zone XX" in ask(signal(asking, server, "XX"), T)
    asking.environ["ELECTRICITY_MAPS_API_KEY"] = "wr0ng-s3cret"
    said = ask(signal(asking, server), T)
    assert "HTTP 401: Invalid auth-token); check ELECTRICITY_MAPS_API_KEY, and that the plan covers DE" in said
    assert not any(secret in said for secret in SECRETS)


@pytest.mark.parametrize(
    "fault", [Fault(500), Fault(429), Fault(drop=True), Fault(200, "<html>", kind="text/html"), Fault(200, "null")]
)
def test_no_fault_ever_becomes_a_value(asking: Asking, server: ElectricityMapsServer, fault: Fault) -> None:
    server.faults.append(fault)
    s = signal(asking, server)
    assert ask(s, T)
    assert s.at(T) is None


def test_the_last_day_is_loaded_once(asking: Asking, server: ElectricityMapsServer) -> None:
    s = signal(asking, server)
    ask(s, T)
    s.load_past(T, 28 * 86400.0)
    assert s.starts_at() == HOUR - 23 * 3600
    assert s.history(T, 86400).values.tolist() == [302] * 24


@pytest.mark.parametrize(
    ("granularity", "period_s"), [("hourly", 3600), ("30_minutes", 1800), ("5_minutes", 300), ("2_hours", 7200)]
)
def test_a_granularity_says_how_long_a_value_holds(
    asking: Asking, server: ElectricityMapsServer, granularity: str, period_s: float
) -> None:
    body = f'{{"zone": "DE", "carbonIntensity": 1, "datetime": "2026-05-03T10:00:00Z", "temporalGranularity": "{granularity}"}}'
    server.faults.append(Fault(200, body))
    s = signal(asking, server, forecast="none")
    assert ask(s, T) == ""
    assert s.at(T).valid_until == HOUR + period_s  # type: ignore[union-attr]


@pytest.mark.parametrize("granularity", ['"daily"', '"monthly"', '"weird"', '"0_minutes"', "7"])
def test_a_granularity_that_says_nothing_of_now_is_told_and_is_no_wrong_zone(
    asking: Asking, server: ElectricityMapsServer, granularity: str
) -> None:
    body = f'{{"zone": "DE", "carbonIntensity": 1, "datetime": "2026-05-03T10:00:00Z", "temporalGranularity": {granularity}}}'
    server.faults.append(Fault(200, body))
    s = signal(asking, server, forecast="none")
    said = ask(s, T)
    assert f"is of the granularity {str(json.loads(granularity))!r}" in said
    assert "check the zone" not in said
    assert s.at(T) is None


def test_a_past_and_a_forecast_with_two_values_for_one_hour_are_refused(asking: Asking, server: ElectricityMapsServer) -> None:
    s = signal(asking, server, forecast="none")
    assert ask(s, T) == ""
    kinds = zip((300, 20), ("lifecycle", "direct"), strict=True)
    rows = [{"datetime": "2026-05-03T08:00:00Z", "carbonIntensity": v, "emissionFactorType": k} for v, k in kinds]
    server.faults.append(Fault(200, json.dumps({"zone": "DE", "history": rows})))
    s.load_past(T, 86400.0)
    assert "two values for one instant, 300 and 20 gCO2/kWh at 2026-05-03T08:00:00Z" in s.status().warnings[0]
    assert s.starts_at() == HOUR
    s = signal(asking, server, horizon_h=24.0)
    latest = {"zone": "DE", "carbonIntensity": 302, "datetime": "2026-05-03T10:00:00Z"}
    server.faults += [Fault(200, json.dumps(b)) for b in (latest, {"zone": "DE", "forecast": rows})]
    assert "two values for one instant" in ask(s, asking.later(400))
    assert s.forecast(asking.clock.t, 86400.0) is None
    assert not s.at(asking.clock.t).is_fresh(asking.clock.t)  # type: ignore[union-attr]  # heard before, from the cache
