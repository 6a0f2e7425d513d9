"""`windfall signals`, as a user types it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cli import EXAMPLES, windfall

from grid.servers import ElectricityMapsServer, JsonServer, WattTimeServer
from windfall import clock
from windfall.grid.credentials import NEEDED
from windfall.units import iso_utc

SITE = """
[run]
budget_tokens = 1000000
[[site]]
name = "north"
region = "CAISO_NORTH"
spin_up_s = 100
train_power_w = 1000
idle_power_w = 100
tokens_per_s = 1000
signal = {{ kind = "watttime", base_url = "{url}" }}
"""


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for names in NEEDED.values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("WATTTIME_USER", raising=False)


@pytest.fixture
def server() -> Iterator[WattTimeServer]:
    with WattTimeServer(clock.wall) as made:
        made.default = 100.0
        yield made


def test_nothing_configured_is_one_clear_message(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = windfall(capsys, "signals")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "no signal is configured: there is no windfall.toml here" in err
    code, _, err = windfall(capsys, "signals", "DE")
    assert code == 2
    assert "WATTTIME_USERNAME and WATTTIME_PASSWORD" in err


def test_a_live_site_is_asked_once_and_shown_with_what_policies_would_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, server: WattTimeServer
) -> None:
    monkeypatch.setenv("WATTTIME_USERNAME", "wind")
    monkeypatch.setenv("WATTTIME_PASSWORD", "p4ss-w0rd")
    (tmp_path / "windfall.toml").write_text(SITE.format(url=server.url))
    code, out, err = windfall(capsys, "signals", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    (s,) = found["signals"]
    assert s["value"] == pytest.approx(45.359237)
    assert s["fresh"]
    assert s["unit"] == "gCO2/kWh"
    assert s["forecast_until"] > s["at"]
    assert s["last_error"] is None
    said = {p["policy"]: p["on"] for p in found["policies"]}
    assert set(said) == {"breakeven", "threshold", "paper", "percentile", "learned", "lookahead"}
    assert said["paper"] is True
    asked = len(server.asked)
    code, out, _ = windfall(capsys, "signals", "north")
    assert code == 0
    assert len(server.asked) == asked
    assert "north (CAISO_NORTH) marginal_co2: 45.36 gCO2/kWh from" in out
    assert "WATTTIME_PASSWORD set" in out
    assert "north paper: on" in out
    assert "p4ss-w0rd" not in out


def test_a_source_that_fails_is_shown_with_its_error_and_turns_nothing_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], server: WattTimeServer
) -> None:
    (tmp_path / "mine.toml").write_text(SITE.format(url=server.url))
    code, out, _ = windfall(capsys, "signals", "--config", tmp_path / "mine.toml")
    assert code == 1
    assert "no reading at" in out
    assert "last error: watttime:CAISO_NORTH: WATTTIME_USERNAME and WATTTIME_PASSWORD not set" in out
    assert "north paper: off" in out
    assert ": on" not in out.replace("paper: off", "")
    code, _, err = windfall(capsys, "signals", "south", "--config", tmp_path / "mine.toml")
    assert code == 2
    assert "no such region or site" in err


def test_a_stamp_ahead_of_the_clock_starts_nothing_and_the_offset_and_the_key_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    with JsonServer({"p": -40.0, "at": iso_utc(clock.wall() + 36000)}) as server:
        live = f'kind = "http", type = "price", url = "{server.url}", value_path = "p", time_path = "at"'
        file.write_text(SITE.format(url="").replace('kind = "watttime", base_url = ""', live))
        code, out, _ = windfall(capsys, "signals", "--config", file)
        assert code == 1
        assert "north (CAISO_NORTH) price: no reading at" in out
        assert "its stamps are 10 h 00 min ahead of this machine's clock, which looks like local time (UTC+10)" in out
        assert 'set timezone = "Australia/Brisbane"' in out
        assert ": on" not in out
        file.write_text(file.read_text().replace('"at" }', '"at", timezone = "+10:00", trust_offset = false }'))
        code, out, _ = windfall(capsys, "signals", "--config", file)
        assert code == 0
        assert "north threshold: on" in out
        assert len(server.asked) == 2


def test_what_a_service_says_of_a_login_is_shown_and_the_official_name_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, server: WattTimeServer
) -> None:
    monkeypatch.setenv("WATTTIME_USER", "wind")
    monkeypatch.setenv("WATTTIME_PASSWORD", "wr0ng")
    (tmp_path / "windfall.toml").write_text(SITE.format(url=server.url))
    code, out, _ = windfall(capsys, "signals")
    assert code == 1
    assert "WATTTIME_USER set, WATTTIME_PASSWORD set" in out
    assert "WattTime refuses the login (HTTP 401: Invalid username or password); check WATTTIME_USER and WATTTIME_PASSWORD" in out
    assert "wr0ng" not in out


def test_traces_are_shown_at_the_runs_start_or_when_told(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = windfall(capsys, "signals", "--config", EXAMPLES / "paper_day.toml", "--at", "2026-01-11T17:05Z", "--json")
    assert code == 0
    found = json.loads(out)
    (s,) = [s for s in found["signals"] if s["site"] == "california"]
    assert (s["value"], s["valid_from"], s["kind"]) == (65.4, "2026-01-11T17:05:00Z", "trace")
    assert [p["on"] for p in found["policies"] if (p["site"], p["policy"]) == ("california", "threshold")] == [True]
    code, out, _ = windfall(capsys, "signals", "california", "--config", EXAMPLES / "paper_day.toml")
    assert code == 0
    assert "texas" not in out
    code, _, err = windfall(capsys, "signals", "--config", EXAMPLES / "paper_day.toml", "--at", "noon")
    assert code == 2
    assert "--at noon: not an ISO 8601 instant" in err


def test_a_zone_alone_asks_the_providers_whose_credentials_are_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from windfall.grid.providers.electricity_maps import ElectricityMaps

    monkeypatch.setenv("ELECTRICITY_MAPS_API_KEY", "em-s3cret")
    with ElectricityMapsServer(clock.wall) as server:
        monkeypatch.setattr(ElectricityMaps, "base", server.url + "/v3")
        code, out, _ = windfall(capsys, "signals", "DE")
    assert code == 0
    assert "DE average_co2: 302 gCO2/kWh" in out
    assert "s3cret" not in out
