"""WattTime: the token's life, the unit, what a plan covers, and everything a bad day brings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest
from asking import SECRETS, Asking, T, ask, nobody, value
from servers import LB, Fault, WattTimeServer

from windfall.grid.live import LiveSignal


@pytest.fixture
def server(asking: Asking) -> Iterator[WattTimeServer]:
    with WattTimeServer(asking.clock.now) as made:
        yield made


def signal(asking: Asking, server: WattTimeServer, region: str = "CAISO_NORTH", **keys: Any) -> LiveSignal:
    return asking.signal("watttime", region, base_url=server.url, **keys)


def test_the_first_point_is_the_reading_and_pounds_become_grams(asking: Asking, server: WattTimeServer) -> None:
    s = signal(asking, server)
    assert s.at(T) is None
    assert ask(s, T) == ""
    r = s.at(T)
    assert r
    assert r.value == pytest.approx(387.2 * LB)
    assert (r.unit, r.valid_from, r.valid_until, r.known_at) == ("gCO2/kWh", T - 120, T + 180, T)
    assert r.source == "watttime:CAISO_NORTH co2_moer forecast, model 2026-03-01"
    assert r.fresh_until == T - 120 + 300 + 300
    assert r.stale_at == T - 120 + 900
    f = s.forecast(T, 86400.0)
    assert f
    assert f.made_at == T
    assert f.times[0] == T - 120
    assert len(f.times) == 24 * 12 + 1
    assert server.asked[-1].query["horizon_hours"] == "24"


def test_one_login_serves_until_the_token_is_old(asking: Asking, server: WattTimeServer) -> None:
    s = signal(asking, server)
    for _ in range(5):
        assert ask(s, asking.later(300)) == ""
    assert server.logins == 1
    asking.later(1000)
    assert ask(s, asking.clock.t) == ""
    assert server.logins == 2


def test_a_token_that_ends_early_costs_one_new_login(asking: Asking, server: WattTimeServer) -> None:
    s = signal(asking, server)
    ask(s, T)
    server.expire()
    assert ask(s, asking.later(300)) == ""
    assert server.logins == 2
    assert value(s, asking.clock.t) == pytest.approx(387.2 * LB)


def test_a_token_that_never_holds_is_not_logged_in_for_ever(asking: Asking, server: WattTimeServer) -> None:
    s = signal(asking, server)
    server.expire()
    server.faults += [Fault(200, '{"token": "a"}'), Fault(401), Fault(200, '{"token": "b"}'), Fault(401)]
    assert "401" in ask(s, T)
    assert server.paths() == ["/login", "/v3/forecast"]
    assert s.at(T) is None


def test_a_wrong_password_is_told_and_tried_rarely(asking: Asking, server: WattTimeServer) -> None:
    asking.environ["WATTTIME_PASSWORD"] = "wr0ng-s3cret"
    s = signal(asking, server)
    said = ask(s, T)
    assert "refuses the login (HTTP 401: Invalid username or password); check WATTTIME_USERNAME and WATTTIME_PASSWORD" in said
    assert s.status().next_attempt >= T + 150  # type: ignore[operator]
    ask(s, asking.later(60))
    assert server.paths() == ["/login"]


def test_a_credential_that_http_cannot_carry_is_told_and_not_shown(asking: Asking, server: WattTimeServer) -> None:
    s = signal(asking, server)
    server.faults.append(Fault(200, '{"token": "t\\u2013s3cret"}'))
    assert "characters that HTTP cannot carry" in (said := ask(s, T))
    assert "s3cret" not in said


def test_missing_credentials_are_told_before_anything_is_asked(asking: Asking, server: WattTimeServer) -> None:
    del asking.environ["WATTTIME_PASSWORD"]
    s = signal(asking, server)
    assert "WATTTIME_PASSWORD not set" in (s.lacking() or "")
    assert "WATTTIME_PASSWORD not set" in ask(s, T)
    assert server.asked == []


def test_a_region_outside_the_plan_is_told_with_the_one_that_is_free(asking: Asking, server: WattTimeServer) -> None:
    s = signal(asking, server, "SPP_TX")
    said = ask(s, T)
    assert "plan does not cover region SPP_TX" in said
    assert "CAISO_NORTH" in said
    assert s.at(T) is None


@pytest.mark.parametrize(
    ("headers", "soonest", "latest"),
    [({"Retry-After": "1000"}, 1000, 1000), ({"Retry-After": formatdate(T + 700, usegmt=True)}, 700, 700), ({}, 5, 15)],
)
def test_429_is_waited_for_without_waiting(
    asking: Asking, server: WattTimeServer, headers: dict[str, str], soonest: float, latest: float
) -> None:
    s = signal(asking, server)
    ask(s, T)
    server.faults.append(Fault(429, headers=headers))
    t = asking.later(300)
    asking.clock.t = T  # so that dates are as far away as they say
    s.step(t)
    due = s.status().next_attempt
    assert due is not None
    assert soonest <= due - T <= latest
    assert asking.clock.paused == []


def points(rows: str, meta: str) -> Fault:
    return Fault(200, f'{{"data": [{rows}], "meta": {meta}}}')


GOOD = '{"units": "lbs_co2_per_mwh"}'
AT = '{"point_time": "2026-05-03T10:00:00+00:00", "value": '


@pytest.mark.parametrize(
    "fault",
    [
        Fault(500),
        Fault(503, "<html/>", kind="text/html"),
        Fault(drop=True),
        Fault(200, "{"),
        Fault(200, "<html>hi</html>", kind="text/html"),
        Fault(200, "[]"),
        Fault(200, "{}"),
        Fault(200, '{"data": []}'),
        Fault(200, f'{{"data": [{AT}10}}]}}'),
        points("{}", GOOD),
        points(AT + "10}", "{}"),
        points(AT + "10}", '{"units": "kg_co2_per_mwh"}'),
        points(AT + "10}", '{"units": "lbs_co2_per_mwh", "region": "X"}'),
        points(AT + '"10"}', GOOD),
        points(AT + "NaN}", GOOD),
        points(AT + "-1}", GOOD),
        points('{"point_time": 5, "value": 10}', GOOD),
    ],
)
def test_no_fault_ever_becomes_a_value(asking: Asking, server: WattTimeServer, fault: Fault) -> None:
    s = signal(asking, server)
    ask(s, T)
    before = s.at(T)
    server.faults.append(fault)
    said = ask(s, asking.later(300))
    assert said
    assert "\n" not in said
    assert "watttime:CAISO_NORTH" in said
    t = asking.clock.t
    assert s.at(t) == before
    assert s.at(t + 600).is_stale(t + 600)  # type: ignore[union-attr]


def test_a_timeout_and_a_refused_connection_leave_what_was_known(asking: Asking, server: WattTimeServer) -> None:
    s = signal(asking, server, timeout_s=0.05)
    server.faults.append(Fault(hang=True))
    assert "no answer" in ask(s, T)
    with nobody() as url:
        other = asking.signal("watttime", "CAISO_NORTH", base_url=url, name="other")
        assert "no connection" in ask(other, T)
    assert s.at(T) is None
    assert other.at(T) is None


def test_a_forecast_never_stands_for_a_missing_present(asking: Asking, server: WattTimeServer) -> None:
    server.values[T - 120] = None
    s = signal(asking, server)
    assert "no usable value (" in ask(s, T)
    assert s.at(T) is None
    assert s.at(T + 180) is None


def test_points_out_of_order_and_unusable_ones_are_sorted_and_counted(asking: Asking, server: WattTimeServer) -> None:
    rows = [("10:10", 30), ("10:00", 10), ("10:05", '"20"'), ("10:15", 1e9), ("10:20", "null")]
    data = ", ".join(f'{{"point_time": "2026-05-03T{t}:00+00:00", "value": {v}}}' for t, v in rows)
    server.faults += [Fault(200, '{"token": "t"}'), Fault(200, f'{{"data": [{data}], "meta": {{"units": "lbs_co2_per_mwh"}}}}')]
    s = signal(asking, server)
    assert ask(s, T) == ""
    assert value(s, T) == pytest.approx(10 * LB, abs=1e-5)
    f = s.forecast(T, 86400)
    assert f
    assert f.values.tolist() == pytest.approx([10 * LB, 30 * LB])
    assert s.status().dropped == 3


def test_the_past_is_fetched_in_pieces_the_service_allows(asking: Asking, server: WattTimeServer) -> None:
    s = signal(asking, server)
    ask(s, T)
    s.load_past(T, 40 * 86400.0)
    assert [a.path for a in server.asked].count("/v3/historical") == 2
    c = s.history(T, 28 * 86400.0)
    assert c.values.size > 8000
    assert c.starts[0] <= T - 28 * 86400 + 300
    assert s.status().warnings == ()
    assert s.history(T - 1, 86400).values.size == 0  # it was not known then


def test_a_past_that_cannot_be_had_is_a_warning(asking: Asking, server: WattTimeServer) -> None:
    s = signal(asking, server)
    ask(s, T)
    server.faults.append(Fault(403))
    s.load_past(T, 86400.0)
    assert "refuses region CAISO_NORTH for /v3/historical (HTTP 403: broken)" in s.status().warnings[0]
    assert s.status().last_error is None
    assert value(s, T) is not None


def test_a_place_is_looked_up_once_a_month(asking: Asking, server: WattTimeServer) -> None:
    place = {"latitude": 38.58, "longitude": -121.49}
    s = signal(asking, server, "somewhere", **place)
    assert ask(s, T) == ""
    assert s.at(T).source.startswith("watttime:CAISO_NORTH co2_moer")  # type: ignore[union-attr]
    assert s.source == "watttime:CAISO_NORTH"
    again = signal(asking, server, "somewhere", **place)
    ask(again, asking.later(600))
    assert server.paths().count("/v3/region-from-loc") == 1
    asking.later(30 * 86400)
    ask(signal(asking, server, "somewhere", **place), asking.clock.t)
    assert server.paths().count("/v3/region-from-loc") == 2


def test_without_a_forecast_wanted_only_the_present_is_asked_for(asking: Asking, server: WattTimeServer) -> None:
    s = signal(asking, server, forecast="none")
    assert ask(s, T) == ""
    assert server.asked[-1].query["horizon_hours"] == "0"
    assert s.forecast(T, 3600) is None


def test_logins_are_limited_by_ourselves(asking: Asking, server: WattTimeServer) -> None:
    limit = asking.limits.of(server.url.removeprefix("http://"), "logins", 100, 300.0)
    assert [limit.take(T) for _ in range(98)] == [0.0] * 98
    made = [signal(asking, server, horizon_h=h) for h in (1, 2, 3)]
    said = [ask(s, T) for s in made]
    assert server.logins == 2
    assert said[:2] == ["", ""]
    assert "100 logins in 300 s" in said[2]
    assert made[2].status().next_attempt == T + 300


def test_no_secret_is_in_any_message_repr_or_file(
    asking: Asking, server: WattTimeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    s = signal(asking, server)
    said = [ask(s, T)]
    for fault in (Fault(401), Fault(403, '{"message": "jwt-1-s3cret is no good"}'), Fault(500, '{"message": "jwt-1-s3cret"}')):
        server.faults += [fault] * 3
        said.append(ask(s, asking.later(4000)))
        server.faults.clear()
    files = [f.read_text() for f in asking.folder.iterdir()]
    assert files
    shown = " ".join([*said, repr(s), repr(s.status()), repr(vars(s)), *files, capsys.readouterr().out])
    assert not any(secret in shown for secret in SECRETS)


def test_what_watttime_warns_of_is_a_warning_and_no_failure(asking: Asking, server: WattTimeServer) -> None:
    server.warnings = [{"type": "EXTRAPOLATED_DATA", "message": "the last hour is\nextrapolated"}, "jwt-1-s3cret is old", {"x": 1}]
    s = signal(asking, server)
    assert ask(s, T) == ""
    assert s.status().warnings == ("WattTime says: the last hour is extrapolated", "WattTime says: *** is old")
    assert value(s, T) is not None


def test_the_name_that_the_official_client_reads_works_too(asking: Asking, server: WattTimeServer) -> None:
    asking.environ["WATTTIME_USER"] = asking.environ.pop("WATTTIME_USERNAME")
    assert ask(signal(asking, server), T) == ""
    asking.environ["WATTTIME_PASSWORD"] = "wr0ng-s3cret"
    said = ask(signal(asking, server, name="other"), asking.later(900))
    assert "(HTTP 401: Invalid username or password); check WATTTIME_USER and WATTTIME_PASSWORD" in said


def test_a_granularity_is_taken_from_the_answer_or_from_its_points(asking: Asking, server: WattTimeServer) -> None:
    server.period_s = 900
    s = signal(asking, server)
    assert ask(s, T) == ""
    r, f = s.at(T), s.forecast(T, 1e9)
    assert r
    assert f
    assert (r.valid_until - r.valid_from, f.times[1] - f.times[0]) == (900, 900)
    rows = ", ".join(f'{{"point_time": "2026-05-03T10:{m:02d}:00+00:00", "value": {m}}}' for m in (0, 15, 30))
    server.faults.append(points(rows, GOOD))
    assert ask(s, asking.later(300)) == ""
    assert s.at(asking.clock.t).valid_until == T - 120 + 900  # type: ignore[union-attr]


def test_two_values_for_one_point_are_refused_and_equal_ones_are_one(asking: Asking, server: WattTimeServer) -> None:
    def answer(*values: float) -> Fault:
        rows = [{"point_time": "2026-05-03T10:05:00+00:00", "value": v} for v in values]
        return Fault(200, json.dumps({"data": rows, "meta": {"region": "CAISO_NORTH", "units": "lbs_co2_per_mwh"}}))

    s = signal(asking, server)
    assert ask(s, T) == ""
    server.faults.append(answer(1000.0, 0.0))
    now = asking.later(300)
    assert "two values for one instant, 453.59237 and 0 gCO2/kWh at 2026-05-03T10:05:00Z: it holds several series" in ask(s, now)
    assert value(s, now) == pytest.approx(387.2 * LB)
    assert not s.at(now).is_fresh(now)  # type: ignore[union-attr]
    server.faults.append(answer(500.0, 500.0))
    assert ask(s, asking.later(60)) == ""
    assert value(s, asking.clock.t) == pytest.approx(500 * LB)
