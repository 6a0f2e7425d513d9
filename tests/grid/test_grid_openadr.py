"""The client of an OpenADR 3 server: what it reads, over real HTTP, and what it makes of events that are odd."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ui_runs import _CONFIG
from vtn import CLIENT, SECRET, Fault, TestVtn, event
from windfall.cli.main import main
from windfall.config.load import load
from windfall.config.openadr import OpenAdrTable
from windfall.config.schema import Config
from windfall.errors import SignalError, Unauthorized
from windfall.grid.http import AccessDenied, TryLater
from windfall.grid.openadr import Vtn, duration_s, held_until, limit_at, spans_of
from windfall.units import parse_utc

T = 1_800_000_000.0
H = 3600.0
TABLE = """
[openadr]
url = "https://vtn.example/openadr3"
programme = "curtail"
ven_name = "windfall"
token = "env:VTN_TOKEN"
map = { PRICE = "ignore", ALERT_GRID_EMERGENCY = "hold" }
groups = { west = ["california"] }
"""
REAL = _CONFIG.replace('clock = "scaled"\nspeed = 600\nstart = "2026-01-11T17:00Z"', 'clock = "real"')


@pytest.fixture
def vtn(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestVtn]:
    monkeypatch.setenv("VTN_ID", CLIENT)
    monkeypatch.setenv("VTN_SECRET", SECRET)
    with TestVtn() as made:
        yield made


def table(vtn: TestVtn, **more: Any) -> OpenAdrTable:
    client = {"token_url": f"{vtn.url}/auth/token", "client_id": "env:VTN_ID", "client_secret": "env:VTN_SECRET"}
    return OpenAdrTable.model_validate({"url": vtn.url, "programme": "curtail", "ven_name": "v", **client, **more})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "c.toml").write_text(REAL + TABLE)
    return load(tmp_path / "c.toml")


# -- over HTTP -----------------------------------------------------------------------------------------------


def test_it_reads_every_page_of_its_programme_with_one_token(vtn: TestVtn) -> None:
    vtn.programs = [{"id": f"x-{i}", "programName": f"other {i}"} for i in range(60)] + vtn.programs
    vtn.events = [event(f"e{i}", T) for i in range(120)]
    client = Vtn(table(vtn))
    assert [e["id"] for e in client.events()] == [f"e{i}" for i in range(120)]
    assert len(client.events()) == 120
    assert vtn.tokens == 1
    assert sum(p.startswith("/programs") for p in vtn.asked) == 2
    client.close()


def test_a_token_that_is_refused_is_asked_for_anew_once(vtn: TestVtn) -> None:
    client = Vtn(table(vtn))
    assert client.events() == []
    vtn.revoke()
    assert client.events() == []
    assert vtn.tokens == 2
    vtn.faults.append(Fault(403, path="/events"))  # the specification's own answer
    assert client.events() == []
    assert vtn.tokens == 3
    vtn.faults += [Fault(401, path="/events"), Fault(403, path="/events")]
    with pytest.raises(AccessDenied):
        client.events()
    client.close()


def test_a_wrong_secret_is_told_without_it(vtn: TestVtn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VTN_SECRET", "wr0ng")
    with pytest.raises(Unauthorized, match="invalid_client") as e:
        Vtn(table(vtn)).events()
    assert "wr0ng" not in str(e.value)
    monkeypatch.delenv("VTN_SECRET")
    with pytest.raises(Unauthorized, match=r"VTN_SECRET, which openadr\.client_secret names, is not set"):
        Vtn(table(vtn)).events()


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        (Fault(429, {"Retry-After": "7"}), TryLater), (Fault(503), TryLater), (Fault(404), SignalError),
        (Fault(200, body="<html>"), SignalError), (Fault(200, body='{"a": 1}'), SignalError),
        (Fault(302, {"Location": "/x"}), SignalError),
    ],
)  # fmt: skip
def test_each_wrong_answer_has_its_error(vtn: TestVtn, fault: Fault, raised: type[Exception]) -> None:
    client = Vtn(table(vtn))
    client.events()
    fault.path = "/events"
    vtn.faults.append(fault)
    with pytest.raises(raised) as e:
        client.events()
    assert not isinstance(e.value, TryLater) or fault.status != 429 or e.value.retry_after_s == 7
    assert client.events() == []
    client.close()


def test_what_is_targeted_is_given_to_who_names_its_target(vtn: TestVtn) -> None:
    vtn.events = [event("open", T), event("west-only", T, targets=["west"]), event("east-only", T, targets=["east"])]
    vtn.hides_targeted = True
    assert [e["id"] for e in Vtn(table(vtn)).events()] == ["open"]
    assert [e["id"] for e in Vtn(table(vtn, targets=["west", "north"])).events()] == ["open", "west-only"]


def test_what_the_programme_says_of_its_payloads_counts_for_events_that_do_not(vtn: TestVtn, config: Config) -> None:
    kind = "IMPORT_CAPACITY_LIMIT"
    vtn.programs[0]["payloadDescriptors"] = [{"payloadType": kind, "units": "W"}]
    own = {"payloadDescriptors": [{"payloadType": kind, "units": "KW"}]}
    vtn.events = [event("w", T, kind=kind, value=2500), event("kw", T, kind=kind, value=2500, **own), 3]
    *events, odd = Vtn(table(vtn)).events()
    assert [spans_of(e, config)[0][0].limit_w for e in events] == [2500.0, 2_500_000.0]
    assert odd == 3


def test_a_programme_that_is_not_there_is_told_with_those_that_are(vtn: TestVtn) -> None:
    with pytest.raises(SignalError, match="no programme heat; there are curtail"):
        Vtn(table(vtn, programme="heat")).events()
    assert Vtn(table(vtn, programme="p-0")).events() == []


# -- events --------------------------------------------------------------------------------------------------


def test_intervals_follow_on_one_another_and_may_have_their_own_time(config: Config) -> None:
    e = event("e", T, 600, count=3)
    e["intervals"][2]["intervalPeriod"] = {"start": "2027-01-15T12:00:00Z", "duration": "PT1H"}
    spans, words = spans_of(e, config)
    assert words == []
    assert [(s.begin - T, s.end - s.begin) for s in spans[:2]] == [(0, 600), (600, 600)]
    assert spans[2].end - spans[2].begin == 3600
    assert len({s.key for s in spans}) == 3


@pytest.mark.parametrize("beginning", ["0000-00-00", "0000-00-00T00:00:00Z", "0001-01-01", "0001-01-01T00:00:00Z", "0000-01-01"])
def test_the_beginning_of_time_is_at_once_and_then_after_the_interval_before(config: Config, beginning: str) -> None:
    at = {"intervalPeriod": {"start": beginning, "duration": "P9999Y"}}
    ((span,), _) = spans_of({**event("e", T), **at}, config)
    assert (span.begin, span.end) == (parse_utc("2026-01-01T00:00:00Z"), math.inf)
    e = event("e", T, 600, count=3)
    e["intervals"][0]["intervalPeriod"] = {"start": beginning, "duration": "PT5M"}
    e["intervals"][2]["intervalPeriod"] = {"start": beginning, "duration": "PT1H"}
    assert [(s.begin - T, s.end - T) for s in spans_of(e, config)[0]] == [(0, 300), (300, 900), (900, 4500)]
    cancelled = {"intervalPeriod": {"start": beginning, "duration": "PT0S"}}
    assert spans_of({**event("e", T), **cancelled}, config) == ([], [])


def test_an_interval_may_say_its_duration_alone(config: Config) -> None:
    e = event("e", T, 600, count=2)
    e["intervals"][1]["intervalPeriod"] = {"duration": "PT2H"}
    assert [(s.begin - T, s.end - T) for s in spans_of(e, config)[0]] == [(0, 600), (600, 7800)]


def test_intervals_are_not_repeated_and_that_is_said(config: Config) -> None:
    spans, (said,) = spans_of(event("e", T, duration="P9999Y"), config)
    assert len(spans) == 1
    assert "its duration is not acted on" in said


@pytest.mark.parametrize(
    ("targets", "sites"),
    [
        (None, {"california", "adelaide"}), ([], {"california", "adelaide"}),
        ([{"type": "RESOURCE_NAME", "values": ["adelaide"]}], {"adelaide"}),
        ([{"type": "GROUP", "values": ["west"]}], {"california"}),
        (["NEM_SA"], {"adelaide"}), ([{"type": "VEN_NAME", "values": ["windfall"]}], {"california", "adelaide"}),
        ([{"type": "VEN_NAME", "values": ["other"]}], set()),
    ],
)  # fmt: skip
def test_targets_name_sites_regions_groups_or_the_ven(config: Config, targets: Any, sites: set[str]) -> None:
    spans, words = spans_of(event("e", T, targets=targets), config)
    assert set().union(*(s.sites for s in spans)) == sites
    assert words == []


@pytest.mark.parametrize(
    ("kind", "value", "more", "hold", "limit_w"),
    [
        ("SIMPLE", 1, {}, True, None), ("SIMPLE", 3, {}, True, None), ("ALERT_GRID_EMERGENCY", 1, {}, True, None),
        ("ALERT_GRID_EMERGENCY", "the grid is short of power", {}, True, None),
        ("IMPORT_CAPACITY_LIMIT", 2.5, {}, False, 2500.0), ("DISPATCH_SETPOINT", -1, {}, False, 0.0),
        ("DISPATCH_SETPOINT", 900, {"payloadDescriptors": [{"payloadType": "DISPATCH_SETPOINT", "units": "W"}]}, False, 900.0),
    ],
)  # fmt: skip
def test_payloads_hold_or_limit(
    config: Config, kind: str, value: Any, more: dict[str, Any], hold: bool, limit_w: float | None
) -> None:
    ((span,), words) = spans_of(event("e", T, kind=kind, value=value, **more), config)
    assert (span.hold, span.limit_w, words) == (hold, limit_w, [])


def test_of_several_values_for_parts_of_an_interval_the_strictest_counts(config: Config) -> None:
    e = event("e", T)
    e["intervals"][0]["payloads"] = [{"type": "SIMPLE", "values": [0, 2]}, {"type": "DISPATCH_SETPOINT", "values": [3, 2.5]}]
    ((span,), _) = spans_of(e, config)
    assert (span.hold, span.limit_w) == (True, 2500.0)


def test_what_is_not_acted_on_is_said(config: Config) -> None:
    assert spans_of(event("e", T, value=0), config) == ([], [])
    assert spans_of(event("e", T, kind="DISPATCH_INSTRUCTION"), config) == (
        [], ["event e: payloads of type DISPATCH_INSTRUCTION are not acted on"],
    )  # fmt: skip
    assert spans_of(event("e", T, kind="PRICE", value=0.1), config)[0] == []


@pytest.mark.parametrize(
    "change",
    [
        {"id": None}, {"intervals": None}, {"intervals": [3]}, {"intervals": [{"id": 0}]}, {"targets": 3}, {"targets": [3]},
        {"intervalPeriod": None}, {"intervalPeriod": {"start": "soon", "duration": "PT1H"}}, {"intervalPeriod": "x"},
        {"intervalPeriod": {"start": "2026-01-01T00:00:00Z", "duration": "1h"}},
        {"intervalPeriod": {"start": 3, "duration": "PT1H"}},
        {"intervals": [{"payloads": [{"type": "SIMPLE", "values": ["1"]}]}]},
        {"intervals": [{"payloads": [{"type": "DISPATCH_SETPOINT", "values": ["1"]}]}]},
        {"intervals": [{"payloads": [{"type": "SIMPLE", "values": []}]}]}, {"intervals": [{"payloads": [{"type": "SIMPLE"}]}]},
        {"intervals": [{"payloads": [{"type": "SIMPLE", "values": [True]}]}]}, {"payloadDescriptors": 3},
        {"intervals": [{"payloads": [{"type": "DISPATCH_SETPOINT", "values": [3]}]}],
         "payloadDescriptors": [{"payloadType": "DISPATCH_SETPOINT", "units": "GAL"}]},
    ],
)  # fmt: skip
def test_a_malformed_event_asks_for_nothing_and_is_told(config: Config, change: dict[str, Any]) -> None:
    spans, (said,) = spans_of({**event("e", T), **change}, config)
    assert spans == []
    assert "malformed" in said
    assert "\n" not in said


@pytest.mark.parametrize("odd", [None, 3, "x", [], {}])
def test_what_is_no_event_asks_for_nothing(config: Config, odd: Any) -> None:
    spans, words = spans_of(odd, config)
    assert spans == []
    assert len(words) == 1


def test_durations() -> None:
    assert [duration_s(t) for t in ("PT15M", "P1DT2H", "P2W", "PT1.5S", "PT0S")] == [900, 93600, 1209600, 1.5, 0]
    assert duration_s("P9999Y") == math.inf
    assert (duration_s("P1Y"), duration_s("P1MT1M")) == (366 * 86400, 31 * 86400 + 60)
    for wrong in ("", "P", "PT", "1h", "-PT1H", "PT-1S"):
        with pytest.raises(ValueError, match="no duration"):
            duration_s(wrong)


def test_of_events_that_overlap_the_stricter_counts(config: Config) -> None:
    one, two, low, high = (
        spans_of(e, config)[0]
        for e in (
            event("a", T, H, targets=["california"]), event("b", T + H / 2, H), event("c", T, H, kind="DISPATCH_SETPOINT", value=3),
            event("d", T, 2 * H, kind="DISPATCH_SETPOINT", value=2.5),
        )
    )  # fmt: skip
    assert {k: v[0] - T for k, v in held_until([*one, *two], T, config).items()} == {"california": 1.5 * H}
    assert {k: v[0] - T for k, v in held_until([*one, *two], T + H / 2, config).items()} == {
        "california": 1.5 * H,
        "adelaide": 1.5 * H,
    }
    assert held_until([*one, *two], T + 1.5 * H, config) == {}
    assert limit_at([*low, *high], T, config) == (2500.0, T + 2 * H)


def test_a_limit_that_no_site_fits_in_holds_and_one_of_some_sites_holds_those_without_room(config: Config) -> None:
    (none,) = spans_of(event("a", T, kind="IMPORT_CAPACITY_LIMIT", value=1.9), config)[0]
    assert set(held_until([none], T, config)) == {"california", "adelaide"}
    assert limit_at([none], T, config) is None
    (part,) = spans_of(event("a", T, kind="IMPORT_CAPACITY_LIMIT", value=1.9, targets=["adelaide"]), config)[0]
    assert set(held_until([part], T, config)) == {"adelaide"}
    assert limit_at([part], T, config) is None


# -- the configuration ---------------------------------------------------------------------------------------


def check(file: Path, patch: pytest.MonkeyPatch) -> object:
    """Its exit code."""
    patch.setattr("sys.argv", ["windfall", "check", str(file)])
    with pytest.raises(SystemExit) as e:
        main()
    return e.value.code or 0


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("https://vtn", "http://vtn", "openadr.url: would send credentials in the clear"),
        ("https://vtn", "vtn", "openadr.url: is no address"),
        ("https://vtn", "https://me:pw@vtn", "openadr.url: may hold a secret"),
        ('token = "env:VTN_TOKEN"', "", "give token, or all of token_url, client_id and client_secret"),
        ('token = "env:VTN_TOKEN"', 'token = "abc"', "openadr.token"),
        ('token = "env:VTN_TOKEN"', 'token = "env:A"\nclient_id = "env:B"', "openadr.token: stands beside"),
        ('["california"]', '["texas"]', "there is no site texas; there are california, adelaide"),
        ('"hold" }', '"start" }', "openadr.map.ALERT_GRID_EMERGENCY"),
        ('programme = "curtail"', "", "openadr.programme"),
        ("poll_s", "poll_s", ""),
    ],
)
def test_check_has_one_message_for_each_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, old: str, new: str, told: str
) -> None:
    (tmp_path / "c.toml").write_text(REAL + TABLE.replace(old, new))
    code = check(tmp_path / "c.toml", monkeypatch)
    said = "".join(capsys.readouterr())
    ours = [line for line in said.splitlines() if "openadr" in line and "VTN_TOKEN" not in line]
    if told:
        assert code == 2
        assert told in said
        assert len(ours) == 1
    else:
        assert [line for line in ours if "is asked straight" not in line] == []
        assert "the variable VTN_TOKEN, which openadr.token names, is not set; the VTN is not heard" in said


def test_a_replay_of_the_past_has_no_vtn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.toml").write_text(_CONFIG + TABLE)
    assert check(tmp_path / "c.toml", monkeypatch) == 2
    assert "events of a VTN are of the calendar" in "".join(capsys.readouterr())
