"""The operator's holds: what is asked is kept, holds over every policy, ends when it should, and survives any coordinator."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ui_runs import START, commit_all, empty_run
from windfall import clock, faults
from windfall.clock import ManualClock
from windfall.config.load import load
from windfall.energy.account import Account
from windfall.energy.power import PowerModel
from windfall.energy.tariff import Tariff
from windfall.errors import ConfigError
from windfall.fleet.controller import Controller, NullJournal
from windfall.fleet.driver import MemoryDriver
from windfall.fleet.loop import Loop, NullRecorder
from windfall.fleet.machine import Patience, State
from windfall.grid.build import build_grid
from windfall.policy.base import Decision
from windfall.policy.fixed import Always
from windfall.run.asking import ask
from windfall.run.compose import profiles
from windfall.run.operator import Operator
from windfall.run.requests import Request, outcome, outcomes, pending, running, seconds
from windfall.run.settings import LiveSettings
from windfall.simulate.work import SimulatedWork, TrainerModel
from windfall.store.files import write_json
from windfall.store.ledger import Ledger
from windfall.store.rundir import SUPERVISOR_LOCK, RunDir, RunLock
from windfall.store.telemetry import Telemetry

NAMES = {"california", "adelaide"}
H = 3600.0


def decisions(**on: bool) -> dict[str, Decision]:
    return {name: Decision(on.get(name, True), "because", {}, None, {}) for name in NAMES}


class Desk:
    """An operator's side and a coordinator's, over one run directory."""

    def __init__(self, root: Path) -> None:
        self.run = empty_run(root)
        self.ledger = Ledger.open(self.run.ledger)
        self.telemetry = Telemetry.open(self.run.telemetry)
        #: How the sites stand, and the run's mode.
        self.stands = {"": "local", "california": "training", "adelaide": "off"}
        self.operator = self.another()

    def another(self, settings: LiveSettings | None = None) -> Operator:
        self.telemetry.flush()
        return Operator(self.run, self.ledger, self.telemetry, sites=NAMES, stands=lambda: self.stands, settings=settings)

    def ask(self, kind: str, site: str = "california", for_s: float | None = None, why: str = "", **more: Any) -> Path:
        return self.file(ask(self.run, Request(kind, site, "ann@desk", why, for_s, **more)))

    def file(self, id: str) -> Path:
        (path,) = self.run.operator.glob(f"*-{id}.json")
        return path

    def state(self, id: str) -> tuple[str, str]:
        found = outcome(self.run, id)
        assert found is not None
        return found.state, found.reason

    def off(self, t: float, operator: Operator | None = None, **on: bool) -> dict[str, str]:
        return (operator or self.operator).keeps_off(t, decisions(**on))

    def told(self) -> list[tuple[str, str | None]]:
        self.telemetry.flush()
        return [(e.kind, e.site) for _, e in self.telemetry.events()]

    def close(self) -> None:
        self.telemetry.close()
        self.ledger.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "run")
    yield made
    made.close()


# -- asking --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1.5d", 129600), (" 2h ", 7200), ("3650d", 3650 * 86400)]
)
def test_times(text: str, found: float) -> None:
    assert seconds(text) == found


@pytest.mark.parametrize(
    "text", ["", "2", "h", "0h", "0.0s", "-2h", "2 h", "2w", "1h30m", "nan", "infs", "1e3s", "3651d", "9" * 400 + "d"]
)
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--for"):
        seconds(text)


def test_a_request_is_a_file_of_its_own_in_order(desk: Desk) -> None:
    first, second = desk.ask("hold", for_s=H, why="a fuse"), desk.ask("release")
    assert sorted(desk.run.operator.iterdir()) == [first, second]
    kept = json.loads(first.read_text())
    assert first.name.endswith(f"-{kept['id']}.json")
    assert (kept["kind"], kept["site"], kept["for_s"], kept["who"], kept["why"]) == ("hold", "california", H, "ann@desk", "a fuse")
    assert [(a.kind, a.for_s, a.who) for a in pending(desk.run)] == [("hold", H, "ann@desk"), ("release", None, "ann@desk")]
    assert all(a.at is not None and a.at > START for a in pending(desk.run))


def test_what_is_no_request_is_not_counted_as_one(desk: Desk) -> None:
    assert pending(desk.run) == []
    desk.run.operator.mkdir()
    for i, text in enumerate(("", "[1]", '{"kind": "hold"}', '{"kind": "hold", "site": "california", "for_s": -1}', "{", "\xff")):
        (desk.run.operator / f"{i}.json").write_text(text, encoding="latin-1")
    assert pending(desk.run) == []


def test_running_is_what_the_lock_says(desk: Desk) -> None:
    assert not running(desk.run)
    lock = RunLock(desk.run)
    lock.acquire()
    text = (desk.run.root / "lock").read_text()
    assert running(desk.run)
    assert (desk.run.root / "lock").read_text() == text
    lock.release()
    assert not running(desk.run)
    lock.acquire()  # looking did not take it
    lock.release()


# -- keeping to it -------------------------------------------------------------------------------------------


def test_a_hold_is_over_the_policy_until_it_is_released(desk: Desk) -> None:
    assert desk.off(START) == {}
    asked = desk.ask("hold", why="a fuse")
    assert desk.off(START + 60) == {"california": "held by ann@desk: a fuse"}
    assert not asked.exists()
    for day in range(1, 40):
        assert set(desk.off(START + day * 86400, california=bool(day % 2))) == {"california"}
    desk.ask("release")
    assert desk.off(START + 41 * 86400) == {}
    assert desk.ledger.holds() == {}
    assert desk.told() == [("held", "california"), ("released", "california")]


def test_a_hold_for_a_time_ends_by_run_time(desk: Desk) -> None:
    desk.ask("hold", for_s=H)
    assert "until 2026-01-11T18:00:00Z" in desk.off(START)["california"]
    assert "california" in desk.off(START + H - 1, california=False)
    assert desk.off(START + H) == {}
    assert desk.ledger.holds() == {}
    assert desk.told() == [("held", "california"), ("released", "california")]


def test_a_drain_ends_with_the_on_period_that_it_cuts_short(desk: Desk) -> None:
    desk.ask("drain")
    assert desk.off(START)["california"].startswith("drained by ann@desk")
    assert set(desk.off(START + H)) == {"california"}
    assert desk.off(START + 2 * H, california=False) == {}
    assert desk.off(START + 3 * H) == {}  # the next on-period is the policy's
    assert desk.told() == [("drain_asked", "california"), ("released", "california")]


def test_a_drain_for_a_time_outlasts_the_on_period(desk: Desk) -> None:
    desk.ask("drain", for_s=2 * H)
    assert set(desk.off(START)) == {"california"}
    assert set(desk.off(START + H, california=False)) == {"california"}
    assert set(desk.off(START + H + 60)) == {"california"}
    assert desk.off(START + 2 * H) == {}


def test_sites_are_held_one_by_one_and_the_last_word_counts(desk: Desk) -> None:
    for kind, site in (("hold", "california"), ("hold", "adelaide"), ("release", "california"), ("drain", "adelaide")):
        desk.ask(kind, site)
    assert desk.off(START) == {"adelaide": "drained by ann@desk"}
    desk.ask("release", "california")  # of a site that is not held
    assert set(desk.off(START + 60)) == {"adelaide"}


def test_a_new_coordinator_keeps_to_it(desk: Desk) -> None:
    desk.ask("hold", for_s=2 * H, why="a fuse")
    desk.ask("drain", "adelaide")
    desk.off(START)
    after = desk.another()
    assert set(desk.off(START + H, after)) == NAMES
    desk.ask("hold", "adelaide")  # left while nobody runs: known to the next one's first decision
    last = desk.another()
    assert desk.off(START + 2 * H, last, adelaide=False) == {"adelaide": "held by ann@desk"}


def test_killed_between_note_and_removal_it_is_noted_again_to_the_same_end(desk: Desk) -> None:
    asked = desk.ask("hold", for_s=H)
    text = asked.read_bytes()
    desk.off(START)
    asked.write_bytes(text)  # as it is if the note was committed and the file not removed
    after = desk.another()
    assert set(desk.off(START + 1, after)) == {"california"}
    assert not asked.exists()
    assert len(desk.ledger.holds()) == 1
    assert desk.off(START + 1 + H, after) == {}
    assert desk.off(START + 2 * H, after) == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        '"hold"',
        "{}",
        '{"kind": "hold", "site": "atlantis", "for_s": null, "who": "x", "why": ""}',
        '{"kind": "burn", "site": "california", "for_s": null, "who": "x", "why": ""}',
        '{"kind": "hold", "site": ["california"], "for_s": null, "who": "x", "why": ""}',
        '{"kind": "hold", "site": "california", "for_s": "soon", "who": "x", "why": ""}',
        '{"kind": "hold", "site": "california", "for_s": NaN, "who": "x", "why": ""}',
        '{"kind": "hold", "site": "california", "for_s": -1, "who": "x", "why": ""}',
        '{"kind": "hold", "site": "california", "for_s": 1e18, "who": "x", "why": ""}',
        '{"kind": "set", "key": "limits.max_sites", "who": "x", "why": ""}',
    ],
)
def test_what_is_malformed_is_refused_and_removed_and_the_rest_goes_on(desk: Desk, text: str) -> None:
    desk.run.operator.mkdir()
    bad = desk.run.operator / "0.json"
    bad.write_text(text)
    desk.ask("hold", "adelaide")
    assert set(desk.off(START)) == {"adelaide"}
    assert not bad.exists()
    assert desk.told() == [("refused", None), ("held", "adelaide")]


def test_a_file_that_cannot_be_read_or_removed_is_said_once_and_is_no_end(desk: Desk) -> None:
    (desk.run.operator / "0.json").mkdir(parents=True)
    write_json(desk.run.operator / "0.json" / "inner.json", {})
    desk.ask("hold")
    for i in range(3):
        assert set(desk.off(START + i)) == {"california"}
    assert desk.told() == [("refused", None), ("warning", None), ("held", "california")]


# -- once, and as its asker saw it ---------------------------------------------------------------------------


def test_what_becomes_of_a_request_is_known_by_its_id(desk: Desk) -> None:
    assert outcome(desk.run, "nobody-s") is None
    desk.ask("hold", id="one")
    assert desk.state("one") == ("waiting", "")
    desk.off(START)
    assert desk.state("one") == ("applied", "")
    desk.ask("release", "adelaide", id="two", expect="held")
    desk.off(START + 60)
    assert desk.state("two") == ("refused", "adelaide is free, off, and not held as its asker saw it")
    desk.ask("release", id="three")
    assert [(o.request.id, o.state, o.t_run) for o in outcomes(desk.run)] == [
        ("one", "applied", START), ("two", "refused", START + 60), ("three", "waiting", None),
    ]  # fmt: skip
    desk.telemetry.flush()
    (refused,) = [e for _, e in desk.telemetry.events_of("request_refused")]
    assert refused.detail["request"] == "two"
    assert (refused.site, refused.detail["who"], refused.detail["what"]) == ("adelaide", "ann@desk", "release of adelaide")


def test_asked_twice_under_one_id_it_is_done_once(desk: Desk) -> None:
    """As by a click that was not answered in time."""
    desk.ask("hold", id="click")
    assert ask(desk.run, Request("hold", "california", "ann@desk", id="click")) == "click"
    assert len(list(desk.run.operator.iterdir())) == 1
    with pytest.raises(ConfigError, match="this id is of another request"):
        desk.ask("hold", "adelaide", id="click")
    desk.off(START)
    desk.ask("release", id="later")
    desk.off(START + 60)
    assert ask(desk.run, Request("hold", "california", "ann@desk", id="click")) == "click"
    assert desk.off(START + 120) == {}, "it was released since"
    assert desk.told() == [("held", "california"), ("released", "california")]


@pytest.mark.parametrize(
    ("kind", "site", "expect", "applied"),
    [
        ("hold", "california", "training", True), ("hold", "california", "free", True),
        ("hold", "california", "ready, training", True), ("hold", "california", "off,held", False),
        ("hold", "california", "held", False),
        ("drain", "adelaide", "training", False), ("release", "adelaide", "off", True), ("hold", "california", "", True),
        ("stop", None, "local", True), ("stop", None, "federated", False),
    ],
)  # fmt: skip
def test_what_is_not_as_its_asker_saw_it_is_refused(desk: Desk, kind: str, site: str | None, expect: str, applied: bool) -> None:
    with_lock = RunLock(desk.run)
    with_lock.acquire()  # a run that is not running cannot be stopped
    ask(desk.run, Request(kind, site, "ann@desk", expect=expect, id="x"))
    with_lock.release()
    held = desk.off(START)
    state, reason = desk.state("x")
    assert (state, bool(reason)) == (("applied", False) if applied else ("refused", True))
    assert set(held) == ({site} if applied and kind in ("hold", "drain") else set())
    assert bool(desk.operator.stopped) == (applied and kind == "stop")


def test_of_two_that_contradict_each_other_both_are_done_in_order_unless_the_second_saw_otherwise(desk: Desk) -> None:
    desk.ask("hold", id="a")
    desk.ask("release", id="b")
    assert desk.off(START) == {}
    assert (desk.state("a")[0], desk.state("b")[0]) == ("applied", "applied")
    desk.ask("hold", id="c", expect="free")
    desk.ask("drain", id="d", expect="free")  # who asked this did not know of the hold
    assert desk.off(START + 60) == {"california": "held by ann@desk"}
    assert desk.state("d") == ("refused", "california is held, training, and not free as its asker saw it")


@pytest.mark.parametrize("text", ["x" * 9000, '{"kind": "hold", "site": "california", "id": "a/b"}', '{"kind": "set", "id": "q"}'])
def test_what_is_too_large_or_has_no_proper_id_is_refused(desk: Desk, text: str) -> None:
    desk.run.operator.mkdir()
    (desk.run.operator / "1.0-x.json").write_text(text)
    assert desk.off(START) == {}
    assert list(desk.run.operator.iterdir()) == []
    assert desk.told() == [("refused", None)]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Request("burn", "california"), "nothing that can be asked"),
        (Request("hold"), "hold is of a site"),
        (Request("stop", "california"), "names no site"),
        (Request("hold", "atlantis"), "no such site in this run; there are california, adelaide"),
        (Request("hold", "california", why="x" * 501), "longer than 500 characters"),
        (Request("hold", "california", id="a b"), "an id has"),
        (Request("release", "california", for_s=3.0), "takes no time"),
        (Request("set", key="run.seed", value=3), "run.seed cannot be changed while the run goes on"),
        (Request("set", key="limits.max_sites", value=True), "one value"),
        (Request("set", key="limits.max_sites", value=0), "it takes a whole number, at least 1"),
        (Request("set", key="limits.max_sites"), "limits.max_sites is none already"),
        (Request("set", key="limits.max_spend", value=3), "needs a price at every site"),
        (Request("set", key="limits.max_sites", value=1, expect="2"), "is none, and not 2 as its asker saw it"),
        (Request("set", key="limits.max_sites", value=1, extend="hold"), "extend goes with a larger budget"),
        (Request("set", key="run.budget_tokens", value=10), "it may grow, not shrink"),
        (Request("set", key="run.budget_tokens"), "give a number of tokens"),
        (Request("set", key="policy.deadline_h", value=3), "policy learned knows no deadline"),
        (Request("stop"), "the run is not running; there is nothing to stop"),
        (Request("hold", "california", expect="traning"), "'traning' is nothing that can be so; there are off, provisioning"),
        (Request("drain", "california", expect="training,,held"), "expect: 'nothing' is nothing that can be so"),
        (Request("stop", expect="training"), "there are paused, local, federated"),
    ],
)  # fmt: skip
def test_what_can_be_seen_at_once_to_be_wrong_is_not_even_left(desk: Desk, bad: Request, said: str) -> None:
    commit_all(desk.ledger, "california", 1, "local", START)
    with pytest.raises(ConfigError) as e:
        ask(desk.run, bad)
    assert said in str(e.value)
    assert pending(desk.run) == []


def test_so_many_wait_that_no_more_are_left(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windfall.run.asking._MOST_WAITING", 2)
    desk.ask("hold")
    desk.ask("release")
    with pytest.raises(ConfigError, match="2 requests wait already"):
        desk.ask("hold")


# -- crashes -------------------------------------------------------------------------------------------------


def test_killed_between_ledger_and_removal_a_request_is_not_done_again_even_after_its_contrary(desk: Desk) -> None:
    asked = desk.ask("hold")
    text = asked.read_bytes()
    desk.off(START)
    desk.ask("release")
    desk.off(START + 60)
    asked.write_bytes(text)
    after = desk.another()
    assert desk.off(START + 120, after) == {}
    assert not asked.exists()
    assert desk.told() == [("held", "california"), ("released", "california")]


def test_killed_within_the_ledgers_transaction_nothing_has_happened_and_the_request_waits(desk: Desk) -> None:
    desk.ask("hold", id="x")
    faults.arm("during-request", "raise")
    with pytest.raises(faults.InjectedFault):
        desk.off(START)
    assert (desk.ledger.holds(), desk.state("x")[0]) == ({}, "waiting")
    assert set(desk.off(START, desk.another())) == {"california"}
    assert desk.told() == [("held", "california")]


@pytest.mark.parametrize("kind", ["hold", "drain", "release"])
def test_killed_before_its_event_was_written_the_next_coordinator_tells_it_once(desk: Desk, kind: str) -> None:
    desk.telemetry.event(START, "started", version=0)
    desk.telemetry.flush()
    desk.ask(kind, why="a fuse", id="x", for_s=None if kind == "release" else H)
    faults.arm("after-request", "raise")
    with pytest.raises(faults.InjectedFault):
        desk.off(START + 60)
    desk.telemetry._queue.clear()
    assert desk.told() == [("started", None)]
    for _ in range(2):
        desk.off(START + 120, desk.another())
    assert [k for k, _ in desk.told()] == ["started", {"hold": "held", "drain": "drain_asked", "release": "released"}[kind]]
    event = [e for _, e in desk.telemetry.events()][1]
    assert (event.t_run, event.detail["who"], event.detail["reason"]) == (START + 60, "ann@desk", "a fuse")
    assert event.detail.get("until") == (None if kind == "release" else START + 60 + H)


def test_what_was_before_a_telemetry_that_was_begun_anew_is_not_told_again(desk: Desk) -> None:
    desk.ask("hold")
    desk.off(START)
    desk.telemetry.flush()
    desk.telemetry.rows("DELETE FROM events")
    desk.telemetry.event(START + 60, "resumed", version=0)
    desk.another()
    assert desk.told() == [("resumed", None)]


# -- stopping ------------------------------------------------------------------------------------------------


def test_a_stop_counts_for_the_run_that_goes_on_and_not_for_the_next_one(desk: Desk) -> None:
    supervisor = RunLock(desk.run, SUPERVISOR_LOCK)
    supervisor.acquire()
    ask(desk.run, Request("stop", None, "ann@desk", "night", id="x"))  # no coordinator yet: it is being started
    desk.off(START)
    assert desk.operator.stopped == "stopped by ann@desk: night"
    assert desk.another().stopped == "stopped by ann@desk: night", "a coordinator that died while sites drained"
    supervisor.release()
    os.utime(desk.run.root / SUPERVISOR_LOCK, (clock.wall() + 5, clock.wall() + 5))  # started again
    assert desk.another().stopped == ""
    assert desk.told() == [("stop_asked", None)]


def test_a_stop_that_nobody_took_up_is_refused_by_a_run_that_was_started_since(desk: Desk) -> None:
    supervisor = RunLock(desk.run, SUPERVISOR_LOCK)
    supervisor.acquire()
    ask(desk.run, Request("stop", None, "ann@desk", id="x"))
    supervisor.release()
    os.utime(desk.run.root / SUPERVISOR_LOCK, (clock.wall() + 5, clock.wall() + 5))
    desk.off(START)
    assert (desk.operator.stopped, desk.state("x")) == ("", ("refused", "the run has been started again since"))


def test_what_waits_when_the_run_is_done_is_refused(desk: Desk) -> None:
    desk.ask("hold", id="x")
    desk.operator.over(START + H)
    assert desk.state("x") == ("refused", "the run is done")
    assert pending(desk.run) == []


# -- in the loop ---------------------------------------------------------------------------------------------


def loop_over(run: RunDir, operator: Operator) -> tuple[Loop, MemoryDriver]:
    """The loop of the run's configuration, with a policy that wants everything on."""
    config = load(run.config)
    grid = build_grid(config)
    driver = MemoryDriver()
    names = [s.name for s in config.site]
    loop = Loop(
        clock=ManualClock(START), signals=grid.signals, profiles=profiles(config), policy=Always(),
        controller=Controller({n: Patience(60.0, 1e9, 1e9, 60.0, 600.0) for n in names}, driver, NullJournal(), gated=True),
        work=SimulatedWork(TrainerModel("windfall", {}, 0.0, 648.0), dict.fromkeys(names, 1.0), 1e9),
        account=Account(
            {s.name: PowerModel.of(s) for s in config.site}, {s: Tariff.plain(g, 100.0) for s, g in grid.by_site.items()}
        ),
        recorder=NullRecorder(), holds=operator,
    )  # fmt: skip
    return loop, driver


def test_a_held_site_is_drained_and_started_again_after_its_release(desk: Desk) -> None:
    loop, driver = loop_over(desk.run, desk.operator)
    t = START

    def ticks(n: int) -> None:
        nonlocal t
        for _ in range(n):
            loop.tick(t, t, t + 60)
            t += 60

    ticks(4)
    sites = loop.controller.sites
    assert {n: s.state for n, s in sites.items()} == dict.fromkeys(NAMES, State.TRAINING)
    desk.ask("hold", why="a fuse")
    ticks(4)
    assert sites["california"].state is State.OFF
    assert sites["california"].reason == "held by ann@desk: a fuse"
    assert sites["adelaide"].state is State.TRAINING
    assert set(driver.up) == {"adelaide"}
    desk.ask("release")
    ticks(4)
    assert sites["california"].state is State.TRAINING
    assert sites["california"].generation == 2


def test_what_was_asked_before_the_start_keeps_the_site_from_starting_at_all(desk: Desk) -> None:
    desk.ask("hold")
    loop, driver = loop_over(desk.run, desk.another())
    for i in range(5):
        loop.tick(START + 60 * i, START + 60 * i, START + 60 * i + 60)
    assert loop.controller.sites["california"].starts == 0
    assert set(driver.up) == {"adelaide"}
