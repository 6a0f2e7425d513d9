"""What the terminal shows: the live view in a pipe and on a screen, the tables, the line of an event."""

from __future__ import annotations

import ast
import io
import sqlite3
from pathlib import Path

import pytest
from rich.console import Console

from ui_runs import START, empty_run, mode, state, tell
from windfall.config.load import load
from windfall.run.requests import Request
from windfall.store.files import write_json
from windfall.store.ledger import Ledger
from windfall.store.records import Hold
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Event, Telemetry
from windfall.ui.terminal.live import LiveView
from windfall.ui.terminal.tables import print_status
from windfall.view.events import TRANSITIONS, format_event, what_happened
from windfall.view.state import run_state


def piped() -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=False)


def lines(console: Console) -> list[str]:
    """What was printed, but for how long the coordinator has been starting, which depends on the machine."""
    assert isinstance(console.file, io.StringIO)
    return [line for line in console.file.getvalue().splitlines() if not line.startswith("windfall: the coordinator is starting")]


def test_pipe_prints_each_transition_once(empty: RunDir) -> None:
    console = piped()
    view = LiveView(empty, load(empty.config), console)
    view.update()  # nothing is there yet
    assert lines(console) == []
    t = Telemetry.open(empty.telemetry)
    tell(t)
    t.flush()
    for _ in range(3):
        view.update()
    expected = [(e.kind, e.t_run) for _, e in t.events() if e.kind in TRANSITIONS]
    shown = lines(console)
    assert len(shown) == len(set(shown)) == len(expected)
    assert "2026-01-11 17:10:00  california  provisioning -> ready: answered hello" in shown
    state(t, START + 9000, "adelaide", "off", "provisioning", "start: 0 g")
    mode(t, START + 9100, "paused", "local")
    t.event(START + 9100, "round", version=2, round=3, mode="local", sites=["adelaide"], cut_at=START + 9700)
    t.flush()
    view.update()
    view.finish()
    view.finish()
    assert len(lines(console)) == len(shown) + 2
    t.close()


def test_history_is_not_repeated_on_resume(small: RunDir) -> None:
    console = piped()
    view = LiveView(small, load(small.config), console)
    view.update()
    assert lines(console) == []
    t = Telemetry.open(small.telemetry)
    t.event(START + 9000, "resumed", version=2, run_id="small-1")
    t.close()
    view.update()
    view.finish()
    assert lines(console) == ["2026-01-11 19:30:00  run  run small-1 resumed at version 2"]


def test_screen_has_fixed_rows(small: RunDir) -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    view = LiveView(small, load(small.config), console)
    view.update()
    view.finish()
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for said in ("8,192 of 8,192", "2.5000 (version 2)", "california", "adelaide", "875/100", "always on", "time left"):
        assert said in text, said


def test_screen_before_the_run_exists(tmp_path: Path) -> None:
    config = load(empty_run(tmp_path / "other").config)
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    view = LiveView(RunDir(tmp_path / "none"), config, console)
    view.update()
    view.finish()
    assert isinstance(console.file, io.StringIO)
    assert "starting" in console.file.getvalue()


def test_a_hold_is_seen_on_the_screen_and_in_the_table(small: RunDir) -> None:
    ledger = Ledger.open(small.ledger)
    ledger.hold(Hold("california", "hold", START, START + 7200, "ann@desk", "a [fuse]"))
    ledger.hold(Hold("adelaide", "drain", START, None, "bob@desk", "password: hunter2hunter2"))
    ledger.close()
    small.operator.mkdir()
    write_json(small.operator / "1.5-x.json", Request("release", "adelaide", "ann@desk", id="x").as_json())
    found = run_state(small)
    assert [h["site"] for h in found.holds] == ["adelaide", "california"]
    assert found.sites["california"].state == "off"
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    print_status(found, console)
    text = "\n".join(lines(console))
    assert "held by ann@desk: a [fuse] (until 2026-01-11T19:00:00Z); the policy: off: 65 g" in text
    assert "release asked by ann@desk, not yet noted" in text
    assert "hunter2" not in text
    screen = Console(file=io.StringIO(), width=200, force_terminal=True)
    view = LiveView(small, load(small.config), screen)
    view.update()
    view.finish()
    assert isinstance(screen.file, io.StringIO)
    drawn = screen.file.getvalue()
    for said in ("held by ann@desk: a [fuse]", "release, 19:00", "its release"):
        assert said in drawn, said
    assert "hunter2" not in drawn


def test_a_ledger_from_before_holds_has_none(small: RunDir) -> None:
    db = sqlite3.connect(small.ledger)
    db.executescript("DROP TABLE holds; UPDATE meta SET value = '1' WHERE key = 'schema';")
    db.close()
    assert run_state(small).holds == []


def test_status(small: RunDir, empty: RunDir) -> None:
    console = piped()
    print_status(run_state(small), console)
    text = "\n".join(lines(console))
    assert "small-1: done" in text
    assert "8 committed" in text
    assert "off: 875 g" in text
    print_status(run_state(empty), console)
    assert "not evaluated yet" in "\n".join(lines(console))


def line(kind: str, version: int | None = None, site: str | None = None, **detail: object) -> str:
    return format_event(Event(START, 0.0, kind, site, version, dict(detail)))


def test_event_lines() -> None:
    assert line("mode", was="", now="paused") == "2026-01-11 17:00:00  run  mode new -> paused"
    assert "version 3 (local): 1,024 tokens from a 1,024; 9,000 in all" in line(
        "commit", 3, mode="local", tokens=1024, tokens_total=9000, sites={"a": 1024}
    )
    assert "hunter2" not in line("warning", reason="password: hunter2hunter2")
    assert "s3cret" not in line("warning", reason="see https://me:s3cret@host/x")


#: Kinds with the details that their sources give them, and what a reader is told.
TOLD: list[tuple[str, int | None, dict[str, object], str]] = [
    ("adopted", None, {"generation": 2, "reason": "was found running"}, "generation 2 was found running; the run goes on with it"),
    ("swept", None, {"generation": 2, "reason": "was found running"},
     "generation 2 was found running and is not wanted any more; it is ended"),
    ("held", None, {"who": "ann@desk", "reason": "a fuse", "until": START + 3600},
     "held by ann@desk until 2026-01-11T18:00:00Z: a fuse"),
    ("held", None, {"who": "ann@desk", "reason": "no reason given", "until": None}, "held by ann@desk: no reason given"),
    ("drain_asked", None, {"who": "ann@desk", "reason": "a fuse", "until": None}, "drain asked by ann@desk: a fuse"),
    ("released", None, {"who": "bob@desk", "reason": "repaired"}, "released by bob@desk: repaired"),
    ("released", None, {"who": "ann@desk", "reason": "the hold is over"},
     "the hold is over: it was asked by ann@desk, and the policy decides again"),
    ("round_length", None, {"round": 3, "length_s": 120.0, "reason": "transfer and merge take 12.0 s"},
     "round 3 takes 120 s: transfer and merge take 12.0 s"),
    ("version_sent", 4, {}, "is sent version 4 before it counts as one of the round's"),
    ("together", None,
     {"sites": ["a", "b"], "rounds": 2, "tokens_per_s": 1234.5,
      "sent_bytes_per_round": 2_000_000, "received_bytes_per_round": 10_000},
     "a, b in 2 rounds: 1,234.5 tokens/s, 2.00 MB sent and 0.01 MB received a round"),
    ("work_lost", None, {"generation": 1, "cut": 2, "tokens": 4096, "kwh": 0.25, "reason": "head is 9"},
     "cut 1.2 comes too late: 4,096 tokens and an estimated 0.25 kWh are lost: head is 9"),
    ("link_measured", None, {"mbit_s": 84.96, "reason": "its last work takes 30 s to leave"},
     "its link carries 85 Mbit/s: its last work takes 30 s to leave"),
    ("bus_down", None, {"reason": "Redis at h:1 cannot be reached"}, "the bus is down: Redis at h:1 cannot be reached"),
    ("bus_up", None, {"reason": "it answers again"}, "the bus is up again"),
    ("signal_lost", None, {"reason": "watttime:X: 503"}, "a live signal is not heard: watttime:X: 503"),
    ("signal_back", None, {"reason": "watttime:X answers again"}, "a live signal is heard again: watttime:X answers again"),
    ("checkpoint_repaired", 3, {"reason": "v3 is damaged; made again from its contributions"},
     "the weights of version 3 were damaged and are whole again: v3 is damaged; made again from its contributions"),
    ("checkpoint_damaged", 3, {"reason": "v3 is damaged; going back to version 2"},
     "the weights of version 3 are damaged: v3 is damaged; going back to version 2"),
    ("outer_state_lost", 3, {"reason": "gone"}, "training goes on without the outer state of version 3: gone"),
    ("tidied", None, {"files": ["a", "b"], "count": 5}, "removed 5 files that the ledger does not name: a, b and 3 more"),
    ("tidied", None, {"files": ["a"], "count": 1}, "removed 1 file that the ledger does not name: a"),
    ("leaving", None, {"reason": "asked to end"}, "this coordinator ends and the next one goes on: asked to end"),
    ("configuration_changed", None, {"key": "policy.name", "old": "paper", "new": "budgeted", "number": 2},
     'from now on: policy.name: "paper" -> "budgeted"'),
    ("configuration_changed", None, {"key": "site.c", "old": None, "new": "there"}, "from now on: site.c: added"),
    ("configuration_changed", None, {"key": "site.c", "old": "there", "new": None}, "from now on: site.c: removed"),
    ("site_left", None, {"contributions": 1, "blocks": 4},
     "is no part of the run any more: 1 contribution of it taken in, 4 blocks can be lent again"),
    ("given_up", None, {"reason": "silent for 40 s; it is held, and not waited for any more"},
     "silent for 40 s; it is held, and not waited for any more"),
    ("driver_trouble", None, {"reason": "the driver cannot be asked: no route"}, "the driver cannot be asked: no route"),
    ("driver_back", None, {"reason": "the driver answers again"}, "the driver answers again"),
    ("meter", "lab", {"what": "NVML, 4 GPUs"}, "its power is measured: NVML, 4 GPUs"),
    ("meter_lost", "lab", {"reason": "no answer"}, "no answer"),
    ("meter_silent", "lab", {"reason": "its model stands in"}, "its model stands in"),
    ("meter_back", "lab", {"reason": "it tells again"}, "it tells again"),
    ("microgrid_trouble", "lab", {"reason": "its microgrid: it cannot balance"}, "its microgrid: it cannot balance"),
    ("microgrid_back", "lab", {"reason": "its microgrid balances again"}, "its microgrid balances again"),
    ("meter_closed", "lab", {"reason": "the rest is modelled"}, "the rest is modelled"),
    ("out_of_reach", None, {"reason": "nobody has seen it for 130 s"}, "nobody has seen it for 130 s"),
    ("site_note", None, {"note": "own inner state refused, reset"}, "own inner state refused, reset"),
    ("lease_ended", None, {"epoch": 4, "blocks": 1}, "lease 4 ended; 1 block of it can be lent again"),
    ("quarantined", None, {"block": 7, "reason": "three leases failed at it"}, "block 7 is quarantined: three leases failed at it"),
    ("refused", None, {"generation": 1, "cut": 2, "tokens": 1024, "reason": "too old"}, "refused cut 1.2 (1,024 tokens): too old"),
    ("grid_note", None, {"reason": "event 7 is cancelled"}, "the grid: event 7 is cancelled"),
    ("grid_lost", None, {"reason": "503"}, "the grid operator's server is not heard, and its last word counts: 503"),
    ("grid_back", None, {"reason": "the VTN is heard again"}, "the grid operator's server is heard again"),
    ("grid_reported", None, {"reason": "event 7: 1.2 kWh"}, "reported to the grid: event 7: 1.2 kWh"),
    ("alert", None, {"alert": "flapping", "reason": "a: 4 starts within an hour"}, "alert: a: 4 starts within an hour"),
    ("alert_over", None, {"alert": "flapping", "reason": "a: 4 starts"}, "the alert is over: a: 4 starts"),
    ("alerts_unsent", None, {"reason": "no connection"}, "alerts cannot be sent: no connection"),
    ("alerts_sent_again", None, {}, "alerts are sent again"),
    ("stop_asked", None, {"who": "ann", "reason": "night"}, "stop asked by ann: night"),
    (
        "request_refused", None, {"who": "ann", "what": "hold of a", "reason": "it is gone"},
        "hold of a, asked by ann, is refused: it is gone",
    ),
    ("refused", None, {"reason": "request 1.json: KeyError: 'site'"}, "refused: request 1.json: KeyError: 'site'"),
    ("discarded", None, {"generation": 1, "cut": 2, "reason": "its file is damaged"}, "discarded cut 1.2: its file is damaged"),
    ("clipped", None, {"generation": 1, "cut": 2, "reason": "its movement is long"}, "cut 1.2 is clipped: its movement is long"),
    ("power_level", None, {"power_w": 1400.0, "tokens_per_s": 160.0, "surplus_w": 1512.0},
     "trains at 1,400 W, 160.0 tokens/s: its surplus is 1,512 W"),
    ("power_level", None, {"power_w": 800.0, "tokens_per_s": 80.0, "surplus_w": None},
     "trains at 800 W, 80.0 tokens/s: nothing is known of its surplus"),
    ("power_level_measured", None, {"power_w": 800.0, "tokens_per_s": 81.25}, "at 800 W it trains 81.2 tokens/s, as measured"),
    ("power_level_failed", None, {"reason": "no permission"}, "its power cannot be held to its level: no permission"),
    ("hello", None, {"generation": 2, "offered": 0, "again": False, "uncut_blocks": 0}, "generation 2 says hello"),
    ("hello", None, {"generation": 2, "offered": 1, "again": True, "uncut_blocks": 3},
     "generation 2 says hello again and hands in 1 contribution, 3 blocks into its next"),
    ("node_gone", None, {"node": "1234"}, "its SuperNode is gone; what the site trains stays with it"),
    ("message_failed", None, {"reason": "it was given up", "current": True}, "a message failed: it was given up"),
    ("message_failed", None, {"reason": "x", "current": False}, "a message to an earlier life of the site failed: x"),
    ("stranger", None, {"reason": "generation 1 is not the current one"},
     "a node that is not one of this run's sites as they are now: generation 1 is not the current one"),
    ("round_closed_without", None, {"round": 3, "sites": ["a", "b"]}, "round 3 closed without a, b"),
    ("round", 2, {"round": 3, "mode": "local", "sites": ["a"], "cut_at": START},
     "round 3 (local) on version 2: a; cut at Jan 11 17:00"),
    ("cut_forward", None, {"round": 3, "reason": "b joins"}, "the cut of round 3 is brought forward: b joins"),
    ("cut_forward", None, {"round": 3, "reason": "b joins", "inner_of": "a"},
     "the cut of round 3 is brought forward: b joins; a hands in its inner state as well"),
    ("given_up", None, {"reason": "its SuperNode is gone; it is held"}, "its SuperNode is gone; it is held"),
    ("driver_trouble", None, {"reason": "it cannot be seen for now: 503"}, "it cannot be seen for now: 503"),
    ("driver_back", None, {"reason": "it can be seen again"}, "it can be seen again"),
    ("inner_averaged", 2, {"sites": ["a", "b"]}, "the inner optimizer states of a, b are averaged"),
    ("inner_not_averaged", 2, {"reason": "b's is not finite"}, "inner optimizer states are not averaged: b's is not finite"),
    ("inner_state", 2, {"choice": "own"}, "starts at version 2; inner optimizer state: own"),
    ("inner_state", 2, {"choice": "sent", "giver": "a"}, "starts at version 2; inner optimizer state: sent by a"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "version", "detail", "said"), TOLD)
def test_every_kind_has_its_words(kind: str, version: int | None, detail: dict[str, object], said: str) -> None:
    assert what_happened(Event(START, 0.0, kind, "a", version, detail)) == said


@pytest.mark.parametrize("kind", sorted({kind for kind, *_ in TOLD}))
def test_an_event_with_nothing_in_it_is_one_line_all_the_same(kind: str) -> None:
    text = what_happened(Event(START, 0.0, kind, None, None, {}))
    assert text
    assert "\n" not in text


def test_no_kind_in_the_sources_is_without_words() -> None:
    """What the sources report, found in them, has a sentence of its own: a new kind needs one here."""
    plain = {"warning", "error"}  # their reason is all there is to say
    named = {kind for kind, *_ in TOLD} | plain
    named |= {"state", "mode", "decision", "started", "resumed", "done", "interrupted", "commit", "evaluation", "contribution"}
    found: set[str] = set()
    for path in (Path(__file__).parents[2] / "src" / "windfall").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if ".event(" in text else ():
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "event"
                and len(node.args) > 1
            ):
                kind = node.args[1]
                kinds = [kind.body, kind.orelse] if isinstance(kind, ast.IfExp) else [kind]
                found |= {str(k.value) for k in kinds if isinstance(k, ast.Constant)}
    assert found >= {"held", "drain_asked", "bus_down", "bus_up", "leaving", "checkpoint_damaged", "hello"}
    assert found <= named, found - named
