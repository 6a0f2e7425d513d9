"""OpenElectricity: network time, intervals marked by their end, units, and currencies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from asking import SECRETS, Asking, T, ask, value
from servers import Fault, OpenElectricityServer

from windfall.errors import SignalError
from windfall.grid.live import LiveSignal
from windfall.units import parse_utc


@pytest.fixture
def server(asking: Asking) -> Iterator[OpenElectricityServer]:
    with OpenElectricityServer(asking.clock.now) as made:
        yield made


def signal(asking: Asking, server: OpenElectricityServer, region: str = "SA1", **keys: Any) -> LiveSignal:
    given = {"type": "price", "currency": "AUD", "publication_delay_s": 600.0, **keys}
    return asking.signal("openelectricity", region, base_url=server.url, **given)


def test_a_stamp_marks_the_end_of_its_interval_in_network_time(asking: Asking, server: OpenElectricityServer) -> None:
    # 19:55 in the NEM is 09:55 UTC, and means 09:50 to 09:55.
    server.values[parse_utc("2026-05-03T19:55:00+10:00")] = -37.5
    s = signal(asking, server)
    assert ask(s, T) == ""
    r = s.at(T)
    assert r
    assert (r.value, r.unit, r.valid_from, r.valid_until) == (-37.5, "currency/MWh", T - 720, T - 420)
    assert r.source == "openelectricity:SA1 price"
    assert r.is_fresh(T)
    asked = server.asked[0]
    assert asked.path == "/market/network/NEM"
    assert asked.query["date_start"] == "2026-05-03T18:00:00"
    assert asked.query["network_region"] == "SA1"
    assert s.status().warnings == ()


def test_instants_without_an_offset_are_network_time_and_there_is_no_daylight_saving(
    asking: Asking, server: OpenElectricityServer
) -> None:
    asking.clock.t = parse_utc("2026-01-11T03:02:00Z")  # summer in Adelaide, whose clocks say 13:32
    server.naive = True
    s = signal(asking, server)
    assert ask(s, asking.clock.t) == ""
    assert s.at(asking.clock.t).valid_from == asking.clock.t - 720  # type: ignore[union-attr]
    assert server.asked[0].query["date_start"] == "2026-01-11T11:00:00"


def test_the_west_has_its_own_time(asking: Asking, server: OpenElectricityServer) -> None:
    s = signal(asking, server, "WEM", network="WEM")
    assert ask(s, T) == ""
    assert server.asked[0].path == "/market/network/WEM"
    assert server.asked[0].query["date_start"] == "2026-05-03T16:00:00"
    assert s.at(T).valid_from == T - 720  # type: ignore[union-attr]


def test_curtailment_is_megawatts_of_the_nem(asking: Asking, server: OpenElectricityServer) -> None:
    server.default = 412.0
    s = signal(asking, server, type="curtailed_power")
    assert ask(s, T) == ""
    assert (value(s, T), s.unit) == (412, "MW")
    assert server.asked[0].query["metrics"] == "curtailment"
    with pytest.raises(SignalError, match="NEM only"):
        signal(asking, server, type="curtailed_power", network="WEM")
    with pytest.raises(SignalError, match="no network NZ; set network to NEM or WEM"):
        signal(asking, server, network="NZ")


def test_another_unit_is_refused(asking: Asking, server: OpenElectricityServer) -> None:
    server.units["price"] = "$/kWh"
    s = signal(asking, server)
    assert "values are in '$/kWh', not in $/MWh; none is used" in ask(s, T)
    assert s.at(T) is None


def test_prices_are_australian_and_a_configuration_that_says_otherwise_is_told(
    asking: Asking, server: OpenElectricityServer
) -> None:
    s = signal(asking, server, currency="USD")
    assert ask(s, T) == ""
    assert 'set currency = "AUD"' in s.status().warnings[0]


def test_revisions_replace_and_gaps_stay_gaps(asking: Asking, server: OpenElectricityServer) -> None:
    stamp = T - 120 - 1800
    server.values |= {stamp: 50.0, stamp + 300: None}
    s = signal(asking, server)
    ask(s, T)
    assert s.between(stamp - 300, stamp).values.tolist() == [50]
    server.values |= {stamp: 70.0, stamp + 300: "11"}
    ask(s, asking.later(300))
    assert s.between(stamp - 300, stamp).values.tolist() == [70]
    assert s.between(stamp, stamp + 300).values.tolist() == [70]  # held on; the value in between was never one
    assert s.status().dropped == 2


def test_no_data_in_the_range_is_no_value(asking: Asking, server: OpenElectricityServer) -> None:
    server.default = ...
    s = signal(asking, server)
    assert "no usable value of the last 2 h" in ask(s, T)
    assert s.at(T) is None


def test_another_regions_values_are_not_ours(asking: Asking, server: OpenElectricityServer) -> None:
    server.faults.append(Fault(200, """{"success": true, "data": [{"metric": "price", "unit": "$/MWh", "interval": "5m",
        "network_timezone_offset": "+10:00", "results": [{"columns": {"region": "NSW1"},
        "data": [["2026-05-03T20:00:00+10:00", 5.0]]}]}]}"""))  # fmt: skip
    s = signal(asking, server)
    assert ask(s, T)
    assert s.at(T) is None


def test_a_wrong_key_is_told_without_it(asking: Asking, server: OpenElectricityServer) -> None:
    asking.environ["OPENELECTRICITY_API_KEY"] = "wr0ng_s3cret"
    said = ask(signal(asking, server), T)
    assert "HTTP 401: Missing or invalid API key" in said
    assert not any(secret in said for secret in SECRETS)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(500), Fault(429), Fault(422), Fault(200, "{}"), Fault(200, '{"data": []}'), Fault(200, '{"data": [7]}'),
        Fault(200, "nope"),
        Fault(200, '{"success": false, "data": [{}]}'),
        Fault(200, '{"data": [{"metric": "price", "unit": "$/MWh", "interval": "1h", "results": []}]}'),
        Fault(200, '{"data": [{"metric": "price", "unit": "$/MWh", "interval": "5m", "results": {"a": 1}}]}'),
        Fault(200, '{"data": [{"metric": "price", "unit": "$/MWh", '
                   '"results": [{"columns": {"region": "SA1"}, "data": [[1], 2, ["x", 3]]}]}]}'),
    ],
)  # fmt: skip
def test_no_fault_ever_becomes_a_value(asking: Asking, server: OpenElectricityServer, fault: Fault) -> None:
    server.faults.append(fault)
    s = signal(asking, server)
    assert ask(s, T)
    assert s.at(T) is None


def test_the_past_is_fetched_in_pieces_the_service_allows(asking: Asking, server: OpenElectricityServer) -> None:
    s = signal(asking, server)
    ask(s, T)
    s.load_past(T, 10 * 86400.0)
    assert len(server.asked) == 3
    assert s.status().warnings == ()
    assert s.starts_at() <= T - 10 * 86400 + 300


@pytest.mark.parametrize("apart", ["results", "series", "rows"])
def test_several_values_of_one_interval_are_refused_and_equal_ones_are_one(
    asking: Asking, server: OpenElectricityServer, apart: str
) -> None:
    def body(*values: float) -> str:
        rows = [["2026-05-03T20:00:00+10:00", v] for v in values]
        one = {"metric": "price", "unit": "$/MWh", "interval": "5m"}
        if apart == "series":
            return json.dumps({"data": [{**one, "results": [{"columns": {"region": "SA1"}, "data": [r]}]} for r in rows]})
        parts = [rows] if apart == "rows" else [[r] for r in rows]
        return json.dumps({"data": [{**one, "results": [{"columns": {"region": "SA1"}, "data": p} for p in parts]}]})

    server.faults.append(Fault(200, body(50, -50)))
    s = signal(asking, server)
    assert "two values for one instant, 50 and -50 currency/MWh at 2026-05-03T09:55:00Z: it holds several series" in ask(s, T)
    assert s.at(T) is None
    server.faults.append(Fault(200, body(-50, -50)))
    assert ask(s, asking.later(60)) == ""
    assert value(s, asking.clock.t) == -50
