"""The operator's holds: what is asked is kept, holds over every policy, ends when it should, and survives any coordinator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ui_runs import START, empty_run
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
from windfall.run.compose import profiles
from windfall.run.operator import Operator, pending, request, running, seconds
from windfall.simulate.work import SimulatedWork, TrainerModel
from windfall.store.files import write_json
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir, RunLock
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
        self.operator = self.another()

    def another(self) -> Operator:
        return Operator(self.run, self.ledger, self.telemetry, sites=NAMES)

    def ask(self, kind: str, site: str = "california", for_s: float | None = None, why: str = "") -> Path:
        return request(self.run, kind, site, for_s=for_s, who="ann@desk", why=why)

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
    assert json.loads(first.read_text()) == {
        "kind": "hold", "site": "california", "for_s": H, "who": "ann@desk", "why": "a fuse",
    }  # fmt: skip
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
