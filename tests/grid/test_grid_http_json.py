"""Any JSON address: paths, instants, scales, headers; and whatever is not a number is none."""

from __future__ import annotations

from typing import Any

import pytest
from asking import SECRETS, Asking, T, ask, value
from servers import JsonServer

BODY = {"data": [{"value": 1.5, "at": "2026-05-03T12:00:00+02:00"}, {"value": 2.5, "at": (T - 60) * 1000}]}


@pytest.mark.parametrize(
    ("value_path", "time_path", "expected", "valid_from"),
    [
        ("data.0.value", "data.0.at", 1500, T - 120),
        ("data.-1.value", "data.-1.at", 2500, T - 60),
        ("data.1.value", None, 2500, T),
    ],
)
def test_paths_choose_and_the_scale_multiplies(
    asking: Asking, value_path: str, time_path: str | None, expected: float, valid_from: float
) -> None:
    with JsonServer(BODY) as server:
        s = asking.signal("http", type="surplus_power", url=server.url, value_path=value_path, time_path=time_path, scale=1000.0)
        assert ask(s, T) == ""
    r = s.at(T)
    assert r
    assert (r.value, r.valid_from, r.known_at, r.unit) == (expected, valid_from, T, "W")


def test_a_unit_converts_as_it_does_for_traces(asking: Asking) -> None:
    with JsonServer({"lbs": 900.0}) as server:
        s = asking.signal("http", type="marginal_co2", url=server.url, value_path="lbs", unit="lb/MWh")
        assert ask(s, T) == ""
    assert s.at(T).value == pytest.approx(408.233133)  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["2026-05-03T10:00:00Z", "2026-05-03T10:00:00", T - 120, (T - 120) * 1000, str(int(T - 120))])
def test_instants_are_iso_or_unix_seconds_or_milliseconds(asking: Asking, text: Any) -> None:
    with JsonServer({"v": 1.0, "t": text}) as server:
        s = asking.signal("http", type="price", url=server.url, value_path="v", time_path="t")
        assert ask(s, T) == ""
    assert s.at(T).valid_from == T - 120  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "bad",
    ["12,5", "1,234", "unavailable", "unknown", "NaN", "inf", "1_000", "0x10", "", "\u0661", "1e999", None, True, [], {},
     float("nan"), float("inf"), 1e300, 10**400],
)  # fmt: skip
def test_what_is_no_number_is_never_one(asking: Asking, bad: Any) -> None:
    with JsonServer({"v": bad}) as server:
        s = asking.signal("http", type="price", url=server.url, value_path="v")
        assert "no plausible price" in ask(s, T)
    assert s.at(T) is None


@pytest.mark.parametrize("path", ["x", "data.7.value", "data.value", "data.0.value.deeper", "data.-3"])
def test_a_path_that_leads_nowhere_is_told(asking: Asking, path: str) -> None:
    with JsonServer(BODY) as server:
        s = asking.signal("http", type="price", url=server.url, value_path=path)
        assert f"nothing at value_path `{path}`" in ask(s, T)
    assert s.at(T) is None


def test_an_unreadable_instant_is_no_reading(asking: Asking) -> None:
    with JsonServer({"v": 1.0, "t": "yesterday"}) as server:
        s = asking.signal("http", type="price", url=server.url, value_path="v", time_path="t")
        assert "no instant at time_path `t`" in ask(s, T)
    assert s.at(T) is None


def test_headers_come_from_the_environment_and_are_never_shown(asking: Asking) -> None:
    with JsonServer({"v": 7.0}, header=("X-Key", "t0p-s3cret")) as server:
        url = server.url + "/now?api_key=q-s3cret&zone=DE"
        keys = {"type": "price", "url": url, "value_path": "v", "headers_from_env": {"X-Key": "MY_TOKEN"}}
        s = asking.signal("http", **keys)
        assert ask(s, T) == ""
        assert value(s, T) == 7
        server.header = ("X-Key", "another")
        said = ask(s, asking.later(300))
        assert "HTTP 403: forbidden" in said
        del asking.environ["MY_TOKEN"]
        other = asking.signal("http", **keys)
        assert "MY_TOKEN not set" in (other.lacking() or "")
    files = " ".join(f.read_text() for f in asking.folder.iterdir())
    assert "zone=DE" in files
    shown = " ".join([said, repr(s), repr(s.status()), s.source, files, *(f.name for f in asking.folder.iterdir())])
    assert not any(secret in shown for secret in SECRETS)


@pytest.mark.parametrize("text", ["-40.2", " 40 ", "+1e2", ".5", "7."])
def test_text_that_is_exactly_a_number_is_one(asking: Asking, text: str) -> None:
    with JsonServer({"state": text}) as server:
        s = asking.signal("http", type="price", url=server.url, value_path="state")
        assert ask(s, T) == ""
    assert value(s, T) == float(text)


def test_what_prometheus_answers_is_read(asking: Asking) -> None:
    body = {"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [T - 60, "-40.2"]}]}}
    with JsonServer(body) as server:
        keys = {"type": "price", "url": server.url, "value_path": "data.result.0.value.1", "time_path": "data.result.0.value.0"}
        s = asking.signal("http", **keys)
        assert ask(s, T) == ""
        assert (value(s, T), s.at(T).valid_from) == (-40.2, T - 60)  # type: ignore[union-attr]
        server.body = {"status": "error", "errorType": "bad_data", "error": "parse error: unexpected end of input"}
        said = ask(s, asking.later(300))
    assert "nothing at value_path `data.result.0.value.1` (not beyond `data`) and says: parse error: unexpected end of" in said


@pytest.mark.parametrize("text", ["unavailable", "unknown", "1,234", "NaN", "12.5 EUR"])
def test_text_that_is_no_number_is_shown_and_not_used(asking: Asking, text: str) -> None:
    with JsonServer({"state": text}) as server:
        s = asking.signal("http", type="price", url=server.url, value_path="state")
        said = ask(s, T)
    assert f"the text '{text}' at value_path `state` is no plausible price; it is not used" in said
    assert ("a number is digits with a point" in said) == any(c.isdigit() for c in text)


def test_text_that_is_shown_has_no_secret_in_it(asking: Asking) -> None:
    with JsonServer({"v": "denied for t0p-s3cret and q-s3cret"}) as server:
        url = server.url + "/now?token=q-s3cret"
        s = asking.signal("http", type="price", url=url, value_path="v", headers_from_env={"X-Key": "MY_TOKEN"})
        said = ask(s, T)
    assert "the text 'denied for *** and ***'" in said


def test_lists_are_read_with_their_instants_and_what_is_no_number_is_counted(asking: Asking) -> None:
    rows = [{"start": (T - 3720 + 3600 * h) * 1000, "price": p} for h, p in enumerate([10.0, -5.0, "7.5", None, 9.0])]
    columns = {"unix": [r["start"] for r in rows], "price": [r["price"] for r in rows]}
    keys = {"type": "price", "period_s": 3600.0, "published": "ahead"}
    with JsonServer({"data": rows}) as server:
        s = asking.signal("http", url=server.url, value_path="data.*.price", time_path="data.*.start", **keys)
        assert ask(s, T) == ""
        assert [value(s, T + 3600 * h) for h in (-1, 0, 1, 2, 3)] == [None, -5, 7.5, 7.5, 9]
        assert s.at(T + 3600).known_at == T  # type: ignore[union-attr]
        assert s.status().dropped == 1
        server.body = columns
        s = asking.signal("http", url=server.url, value_path="price", time_path="unix", **keys)
        assert ask(s, T) == ""
        assert value(s, T) == -5
        observed = asking.signal("http", url=server.url, value_path="price", time_path="unix", type="price")
        assert 'published = "ahead" if they are of a time to come' in ask(observed, T)
        assert observed.at(T + 3600) is None
        for time_path in (None, "unix.0"):
            s = asking.signal("http", url=server.url, value_path="price", time_path=time_path, **keys)
            assert "5 values at value_path `price` need as many instants at time_path" in ask(s, T)


@pytest.mark.parametrize("order", [(50, -50), (-50, 50), ("50", -50.0), (60, -150_000), (-40, -40, 50)])
def test_an_answer_with_two_values_for_one_instant_is_refused_and_starts_nothing(asking: Asking, order: tuple[Any, ...]) -> None:
    stamp = "2026-05-03T10:00:00Z"
    with JsonServer({"v": [{"x": -20, "t": stamp}]}) as server:
        s = asking.signal("http", type="price", url=server.url, value_path="v.*.x", time_path="v.*.t")
        assert ask(s, T) == ""
        assert s.at(T).is_fresh(T)  # type: ignore[union-attr]
        # The same instant in another spelling, among others that are told once.
        server.body = {"v": [{"x": 1, "t": T - 420}, *({"x": x, "t": T - 120} for x in order[:-1]), {"x": order[-1], "t": stamp}]}
        now = asking.later(300)
        said = ask(s, now)
        a, b = (f"{float(x):.12g}" for x in order[-2:])
        assert f"two values for one instant, {a} and {b} currency/MWh at {stamp}: value_path `v.*.x` chooses several series" in said
        assert said.count("\n") == 0
        assert not s.at(now).is_fresh(now)  # type: ignore[union-attr]  # which series the one before was of is not known
        assert value(s, now) == -20
        fresh = asking.signal("http", type="price", url=server.url + "/again", value_path="v.*.x", time_path="v.*.t")
        ask(fresh, now)
        assert fresh.at(now) is None
        server.body = {"v": [{"x": -30, "t": now - 60}]}
        now = asking.later(300)
        assert ask(s, now) == ""
        assert s.at(now).is_fresh(now)  # type: ignore[union-attr]


def test_equal_values_of_one_instant_are_one_reading(asking: Asking) -> None:
    rows = [{"x": x, "t": T - 120} for x in (-50, -50.0, "-50", None, "unavailable")]
    with JsonServer({"v": rows}) as server:
        s = asking.signal("http", type="price", url=server.url, value_path="v.*.x", time_path="v.*.t")
        assert ask(s, T) == ""
    assert (value(s, T), s.status().dropped) == (-50, 2)
    assert len(s.between(T - 600, T).known().values) == 1


def test_stamps_of_the_hour_that_clocks_show_twice_are_told_as_that(asking: Asking) -> None:
    rows = [{"x": x, "t": f"2026-10-25T0{h}:00:00"} for x, h in ((10, 1), (20, 2), (30, 2), (40, 3))]
    asking.clock.t = now = 1792893600.0  # 2026-10-25T02:00Z
    with JsonServer({"v": rows}) as server:
        keys = {"value_path": "v.*.x", "time_path": "v.*.t", "timezone": "Europe/Berlin", "period_s": 3600.0, "published": "ahead"}
        s = asking.signal("http", type="price", url=server.url, **keys)
        said = ask(s, now)
    assert "20 and 30 currency/MWh at 2026-10-25T01:00:00Z" in said
    assert "local time of the hour in which clocks are changed, and need an offset" in said
    assert s.at(now) is None


@pytest.mark.parametrize(
    ("sent", "keys", "expected"),
    [
        (-5, {}, "the number -5 at value_path `v` is no plausible marginal_co2 (0 to 5,000 gCO2/kWh is); it is not used"),
        (5000.5, {}, "the number 5000.5 at value_path `v` is no plausible marginal_co2 (0 to 5,000 gCO2/kWh is)"),
        ("-5", {}, "the text '-5' at value_path `v` is no plausible marginal_co2 (0 to 5,000 gCO2/kWh is)"),
        (6, {"scale": 1000.0}, "the number 6 at value_path `v` is no plausible marginal_co2 (6000 gCO2/kWh by unit and scale; 0"),
        (float("nan"), {}, "the number nan at value_path `v` is no plausible marginal_co2; it is not used"),
        (10**400, {}, "a number of hundreds of digits at value_path `v` is no plausible marginal_co2"),
    ],
)  # fmt: skip
def test_a_number_out_of_reach_is_shown_with_what_is_within(asking: Asking, sent: Any, keys: dict[str, Any], expected: str) -> None:
    with JsonServer({"v": sent}) as server:
        assert expected in ask(asking.signal("http", type="marginal_co2", url=server.url, value_path="v", **keys), T)


def test_what_was_cached_under_another_meaning_of_its_stamps_is_not_used(asking: Asking) -> None:
    with JsonServer({"v": 1.0, "t": "2026-05-03T10:00:00"}) as server:
        keys = {"type": "price", "url": server.url, "value_path": "v", "time_path": "t"}
        ask(asking.signal("http", **keys), T)
        assert value(asking.signal("http", **keys), T) == 1
        assert asking.signal("http", timezone="Europe/Berlin", **keys).at(T) is None
