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
