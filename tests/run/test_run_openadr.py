"""The grid's word in a run: it holds and limits and gives back, touches nobody else's hold, and never turns a site on."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.harness import BATCH, BLOCK, configured
from run.test_run_compose import changed
from run.test_run_operator import NAMES, H, loop_over
from ui_runs import _CONFIG, START, empty_run
from vtn import CLIENT, SECRET, Fault, TestVtn, event
from windfall import clock
from windfall.clock import pause
from windfall.config.load import load
from windfall.config.openadr import OpenAdrTable
from windfall.errors import HandOver
from windfall.fleet.machine import State
from windfall.grid.openadr import Vtn, spans_of
from windfall.policy.base import Decision
from windfall.policy.limits import _kept_off
from windfall.run.coordinator import Coordinator
from windfall.run.openadr import GridDesk, VtnThread
from windfall.run.operator import Operator
from windfall.run.prepare import begin_run
from windfall.run.recorder import TelemetryRecorder
from windfall.run.requests import Request
from windfall.run.settings import LiveSettings
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.store.telemetry_energy import EnergyRow
from windfall.wire.transport import MemoryTransport

TABLE = '\n[openadr]\nurl = "http://127.0.0.1:9"\nprogramme = "curtail"\nven_name = "windfall"\ntoken = "env:T"\n'
REAL = _CONFIG.replace('clock = "scaled"\nspeed = 600\nstart = "2026-01-11T17:00Z"', 'clock = "real"')


class Line:
    """What a `VtnThread` is to the desk, without a network: says what it is told to."""

    def __init__(self) -> None:
        self.says: list[Any] | None = None
        self.trouble = ""
        self.reports: dict[str, Mapping[str, Any]] = {}
        self.sent: list[tuple[str, str]] = []

    def heard(self) -> list[Any] | None:
        found, self.says = self.says, None
        return found

    def put(self, key: str, report: Mapping[str, Any]) -> None:
        self.reports[key] = report

    def done(self) -> list[tuple[str, str]]:
        found, self.sent = self.sent, []
        return found


class Room:
    """A coordinator's side over one run directory, with a grid."""

    def __init__(self, root: Path, thread: Any = None) -> None:
        self.run = empty_run(root)
        self.run.config.write_text(REAL + TABLE)
        self.ledger = Ledger.open(self.run.ledger)
        self.ledger.commit(t_run=START, t_wall=START, file="v0", sha256="0", mode="initial", contributions=[])
        self.telemetry = Telemetry.open(self.run.telemetry)
        self.line: Any = thread or Line()
        self.begin()

    def begin(self) -> None:
        """Another coordinator."""
        self.telemetry.flush()
        config = load(self.run.config)
        self.settings = LiveSettings(config, self.run, self.ledger, TelemetryRecorder(self.telemetry))
        self.operator = Operator(self.run, self.ledger, self.telemetry, sites=NAMES, settings=self.settings)
        self.desk = GridDesk(lambda: self.settings.config, self.run, self.telemetry, self.operator, self.line, begun=START)
        self.operator.hears(self.desk.look)

    def tick(self, t: float, **wanted: bool) -> set[str]:
        """Which sites a tick leaves on."""
        self.operator.begin(t)
        decisions = {n: Decision(wanted.get(n, True), "because", {}, None, {}) for n in NAMES}
        off = self.operator.keeps_off(t, decisions)
        return {n for n, d in decisions.items() if d.on and n not in off}

    def ann(self, t: float, kind: str, site: str, id: str, for_s: float | None = None) -> None:
        assert self.operator.ask(t, Request(kind, site, "ann@desk", "a fuse", for_s, id=id))

    def told(self, *kinds: str) -> list[str]:
        self.telemetry.flush()
        return [str(e.detail["reason"]) for _, e in self.telemetry.events_of(*kinds)]

    @property
    def limit(self) -> float | None:
        return self.settings.config.limits.max_power_w

    def close(self) -> None:
        self.telemetry.close()
        self.ledger.close()


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path / "run")
    yield made
    made.close()


# -- holds ---------------------------------------------------------------------------------------------------


def test_an_event_holds_from_its_start_to_its_end_and_gives_back(room: Room) -> None:
    room.line.says = [event("e", START + 60, H, targets=["california"])]
    assert room.tick(START) == NAMES
    assert room.tick(START + 60) == {"adelaide"}
    assert room.operator.holds["california"].who == "openadr:curtail"
    assert room.tick(START + H) == {"adelaide"}  # nothing was heard since: it ends by its own time
    assert room.tick(START + 60 + H) == NAMES
    assert room.tick(START + 120 + H, california=False) == {"adelaide"}


def test_an_event_that_is_cancelled_gives_back_and_one_that_is_changed_holds_for_its_new_time(room: Room) -> None:
    room.line.says = [event("e", START, H)]
    assert room.tick(START) == set()
    room.line.says = [event("e", START, 2 * H, changed=1)]
    assert room.tick(START + 60) == set()
    assert room.tick(START + 1.5 * H) == set()
    room.line.says = []
    assert room.tick(START + 1.5 * H + 60) == NAMES
    assert room.told("released") == ["no event holds it any more"] * 2


def test_intervals_that_follow_on_one_another_are_one_hold(room: Room) -> None:
    room.line.says = [event("e", START, 600, count=3)]
    for minute in range(30):
        assert room.tick(START + 60 * minute) == set()
    assert room.tick(START + 1800) == NAMES
    assert len(room.told("held")) == 2


def test_another_s_hold_stays_whatever_the_grid_says_and_the_grid_s_comes_after_it(room: Room) -> None:
    room.ann(START, "hold", "california", "a")
    room.line.says = [event("e", START, H)]
    assert room.tick(START) == set()
    room.line.says = []
    assert room.tick(START + 60) == {"adelaide"}
    assert room.operator.holds["california"].who == "ann@desk"
    room.line.says = [event("f", START + 120, H)]
    assert room.tick(START + 120) == set()
    room.ann(START + 180, "hold", "adelaide", "b", for_s=120.0)
    assert room.operator.holds["adelaide"].who == "ann@desk"
    room.tick(START + 240)
    room.tick(START + 300)
    assert room.tick(START + 360) == set()  # ann's is over, and the grid's event is not
    assert room.operator.holds["adelaide"].who == "openadr:curtail"


def test_a_person_s_release_lets_the_site_out_of_an_interval(room: Room) -> None:
    room.line.says = [event("e", START, H)]
    room.tick(START)
    room.ann(START + 60, "release", "adelaide", "a")
    assert room.tick(START + 120) == {"adelaide"}
    assert room.told("held") == ["event e", "event e"]


def test_without_a_word_from_the_grid_a_new_coordinator_changes_nothing_and_holds_run_out(room: Room) -> None:
    room.line.says = [event("e", START, H)]
    room.tick(START)
    room.begin()
    room.line.trouble = "no connection to vtn"
    assert room.tick(START + 60) == set()
    assert room.tick(START + H) == NAMES
    room.line.trouble = ""
    room.tick(START + H + 60)
    assert room.told("grid_lost", "grid_back") == ["no connection to vtn", "the VTN is heard again"]


def test_what_is_not_acted_on_is_told_once(room: Room) -> None:
    for t in (START, START + 60):
        room.line.says = [event("e", START, kind="DISPATCH_INSTRUCTION"), {"id": "x\u001b[2J"}]
        assert room.tick(t) == NAMES
    assert room.told("grid_note")[0] == "event e: payloads of type DISPATCH_INSTRUCTION are not acted on"
    assert len(room.told("grid_note")) == 2
    assert "\u001b" not in room.told("grid_note")[1]


def test_in_the_loop_a_held_site_drains_and_starts_again_when_the_event_is_over(room: Room) -> None:
    loop, driver = loop_over(room.run, room.operator)
    room.line.says = [event("e", START + 240, 300, targets=["california"])]
    for i in range(8):
        loop.tick(START + 60 * i, START + 60 * i, START + 60 * i + 60)
    assert set(driver.up) == {"adelaide"}
    assert loop.controller.sites["california"].state is State.OFF
    for i in range(8, 20):
        loop.tick(START + 60 * i, START + 60 * i, START + 60 * i + 60)
    assert set(driver.up) == NAMES


# -- the limit -----------------------------------------------------------------------------------------------


def limited(value: float, *, start: float = START, lasts_s: float = H, **more: Any) -> dict[str, Any]:
    return event("l", start, lasts_s, kind="IMPORT_CAPACITY_LIMIT", value=value, **more)


def test_a_limit_is_set_for_its_interval_and_taken_back(room: Room) -> None:
    room.line.says = [limited(2.5)]
    room.tick(START)
    assert room.limit == 2500.0
    room.tick(START + H - 1)
    assert room.limit == 2500.0
    room.tick(START + H)
    assert room.limit is None


def test_of_two_limits_the_stricter_counts_and_the_operator_s_is_never_raised(room: Room) -> None:
    assert room.operator.ask(START, Request("set", None, "ann", key="limits.max_power_w", value=3000.0, id="a"))
    room.line.says = [limited(3.5)]
    room.tick(START)
    assert room.limit == 3000.0
    room.line.says = [limited(2.5, changed=1), {**limited(2.2, lasts_s=H / 2), "id": "m"}]
    room.tick(START + 60)
    assert room.limit == 2200.0
    room.tick(START + H / 2)
    assert room.limit == 2500.0
    assert room.operator.ask(START + H / 2, Request("set", None, "ann", key="limits.max_power_w", value=2100.0, id="b"))
    room.tick(START + H / 2 + 60)
    assert room.limit == 2100.0
    room.tick(START + H)
    assert room.limit == 2100.0  # what a person has set meanwhile stays


def test_a_coordinator_that_hears_nothing_takes_the_last_one_s_limit_back_when_its_time_is_over(room: Room) -> None:
    assert room.operator.ask(START, Request("set", None, "ann", key="limits.max_power_w", value=3000.0, id="a"))
    room.line.says = [limited(2.5)]
    room.tick(START)
    room.begin()
    room.tick(START + 60)
    assert room.limit == 2500.0
    room.tick(START + H)
    assert room.limit == 3000.0


def test_what_was_kept_and_is_damaged_is_told_and_ends_nothing(room: Room) -> None:
    (room.run.root / "openadr.json").write_text('{"limit": 3')
    room.begin()
    assert room.tick(START) == NAMES
    assert "openadr.json cannot be read" in room.told("warning")[0]


# -- reports -------------------------------------------------------------------------------------------------


def test_after_each_interval_it_is_reported_what_was_used_and_what_the_policy_wanted(room: Room) -> None:
    for name, on in (("california", True), ("adelaide", False)):
        d = Decision(on, "because", {}, None, {})
        room.telemetry.decision(START - 60, name, d.on, d.reason, numbers={}, until=None, given={}, memory={})
    site: Any = type("S", (), {"on": False, "memory": {}})
    d = _kept_off(Decision(True, "a window", {}, None, {}), site, "0 W are on and it takes 2000 W, 1 W are allowed")
    room.telemetry.decision(START + 1800, "adelaide", d.on, d.reason, numbers={}, until=None, given={}, memory={})
    row = EnergyRow("california", "draining", START - 60, START + 60, 2000.0, 1.0, 240e3, 1.0, 1, None, None, own_joules=60e3)
    room.telemetry.book(row)
    room.line.says = [event("e", START, H)]
    room.tick(START)
    room.tick(START + H)
    assert room.line.reports == {}  # not all of it may be booked
    room.tick(START + H + 120)
    (report,) = room.line.reports.values()
    assert (report["eventID"], report["clientName"]) == ("e", "windfall")
    found = {r["resourceName"]: {p["type"]: p["values"][0] for p in r["intervals"][0]["payloads"]} for r in report["resources"]}
    assert found == {"california": {"USAGE": 0.025, "BASELINE": 2.0}, "adelaide": {"USAGE": 0.0, "BASELINE": 1.0}}
    assert report["resources"][0]["intervals"][0]["intervalPeriod"] == {"start": "2026-01-11T17:00:00Z", "duration": "PT3600S"}
    assert "0.025 kWh used, 3.000 kWh wanted, 2.975 kW curtailed" in room.told("grid_reported")[0]


def test_a_report_is_made_again_by_the_next_coordinator_only_if_it_was_not_sent(room: Room) -> None:
    room.line.says = [event("e", START, 600)]
    room.tick(START + 900)
    (key,) = room.line.reports
    for sent in ([], [(key, "")]):
        room.line.reports, room.line.sent = {}, list(sent)
        room.tick(START + 960)
        room.begin()
        room.line.says = [event("e", START, 600)]
        room.tick(START + 1020)
        assert bool(room.line.reports) == (not sent)


def test_an_event_that_is_cancelled_before_its_end_is_not_reported(room: Room) -> None:
    room.line.says = [event("e", START, H)]
    room.tick(START)
    room.line.says = []
    room.tick(START + 60)
    room.tick(START + 2 * H)
    assert room.line.reports == {}


# -- whatever the VTN does -----------------------------------------------------------------------------------

EVENTS = st.builds(
    lambda id, start, lasts, value, kind, targets, changed, count: event(
        id, START + 60 * start, 60.0 * lasts, kind=kind, value=value, targets=targets, changed=changed, count=count
    ),
    st.sampled_from("abc"), st.integers(-5, 12), st.integers(0, 9), st.sampled_from([0, 1, 1.5, 2.5, 9, None, "x", float("inf")]),
    st.sampled_from(["SIMPLE", "IMPORT_CAPACITY_LIMIT", "DISPATCH_SETPOINT", "DISPATCH_INSTRUCTION"]),
    st.sampled_from([None, ["california"], ["adelaide"], ["else"], 3]), st.integers(0, 9), st.integers(0, 3),
)  # fmt: skip
#: In each minute: what the VTN says (None: it is away), what the policy wants, what ann does, whether there is a new coordinator.
MINUTES = st.lists(
    st.tuples(
        st.none() | st.lists(EVENTS | st.sampled_from([None, {}, {"id": "z"}]), max_size=3),
        st.sets(st.sampled_from(sorted(NAMES))),
        st.sampled_from([None, None, None, ("hold", 120.0), ("hold", None), ("release", None)]), st.booleans(),
    ),
    min_size=3, max_size=14,
)  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(minutes=MINUTES)
def test_nothing_that_a_vtn_says_turns_a_site_on_or_ends_another_s_hold(minutes: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        room = Room(Path(folder) / "run")
        last: list[Any] | None = None
        anns: float | None = None  # when ann's hold of california ends
        for i, (says, wants, ann, again) in enumerate(minutes):
            t = START + 60.0 * i
            if again:
                room.begin()
                last = None
            room.line.says, room.line.trouble = says, "away" if says is None else ""
            last = says if says is not None else last
            if ann is not None:
                room.ann(t, ann[0], "california", f"a{i}", ann[1])
                anns = None if ann[0] == "release" else t + (ann[1] or 1e9)
            on = room.tick(t, **{n: n in wants for n in NAMES})
            assert on <= wants
            spans = [s for e in last or [] for s in spans_of(e, room.settings.config)[0]]
            asked = {n for s in spans if s.hold and s.begin <= t < s.end for n in s.sites}
            assert not (on & asked) or (ann is not None and ann[0] == "release") or "california" in on & asked
            assert "adelaide" not in on & asked
            if anns is not None and t < anns:
                assert "california" not in on
                assert room.operator.holds["california"].who == "ann@desk"
            limits = [s.limit_w for s in spans if s.whole and s.limit_w and s.limit_w >= 2000 and s.begin <= t < s.end]
            assert not limits or (room.limit is not None and room.limit <= min(limits))
        room.line.says = []
        room.tick(START + 1e5)
        assert room.limit is None
        assert {h.who for h in room.operator.holds.values()} <= {"ann@desk"}
        room.close()


# -- over HTTP -----------------------------------------------------------------------------------------------


def test_over_a_real_server_with_trouble_events_come_reports_go_and_its_absence_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VTN_ID", CLIENT)
    monkeypatch.setenv("VTN_SECRET", SECRET)
    with TestVtn() as vtn:
        vtn.events = [event("e", START, 600)]
        vtn.faults += [Fault(503), Fault(429), Fault(500, path="/events"), Fault(422, path="/reports")]
        client = {"token_url": f"{vtn.url}/auth/token", "client_id": "env:VTN_ID", "client_secret": "env:VTN_SECRET"}
        table = OpenAdrTable.model_validate({"url": vtn.url, "programme": "curtail", "ven_name": "windfall", **client})
        # Our own limit is of a minute; this asks much faster than any run.
        monkeypatch.setattr("windfall.grid.http.RateLimit.take", lambda self, now: 0.0)
        thread = VtnThread(Vtn(table), 0.01, base_s=0.01, rng=random.Random(1))
        room = Room(tmp_path / "run", thread)
        while room.tick(START + 60) != set():
            pause(0.005)
        vtn.events.append(event("f", START, 700))
        while not vtn.reports:
            room.tick(START + 900)
            pause(0.005)
        while not room.told("grid_note"):
            room.tick(START + 960)
            pause(0.005)
        thread.close()
        (report,) = vtn.reports
        assert (report["programID"], report["eventID"]) == ("p-0", "f")
        assert "event e is not taken" in room.told("grid_note")[0]
        room.close()


def test_a_coordinator_with_a_vtn_holds_for_it_and_ends_its_thread(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path / "run")
    run.make()
    monkeypatch.setenv("VTN_TOKEN", "t0")
    with TestVtn() as vtn:
        vtn.valid = "t0"
        vtn.events = [event("e", clock.wall() - 60, H)]
        table = {"url": vtn.url, "programme": "curtail", "ven_name": "windfall", "token": "env:VTN_TOKEN", "poll_s": 0.1}
        config = changed(configured(run, data, {"a": []}, calendar=True, steps=60), run={"tick_s": 0.05})
        config = type(config).model_validate({**config.model_dump(exclude_none=True), "openadr": table})
        begin_run(config, run, {"count": np.zeros(60 * BATCH // BLOCK, np.float32)}, manifest="m", folder=data, start=clock.wall())
        one = Coordinator(config, run, 1, connect=lambda _: MemoryTransport(), agent=("sh", "-c", "exec sleep 1000"))
        idle = one.idle

        def leave() -> None:
            one.leaving = bool(one.ledger.holds())
            idle()

        monkeypatch.setattr(one, "idle", leave)
        with pytest.raises(HandOver, match="asked to end"):
            one.serve()
        assert one.ledger.holds()["a"].who == "openadr:curtail"
        one.close(end_sites=True)
        assert one._vtn is not None
        one._vtn._thread.join()
