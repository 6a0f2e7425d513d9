"""An operator's word acts at once, also while a gated clock stands and waits for a site."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from federation.fake import counting
from federation.harness import BATCH, BLOCK, T0, Run
from windfall import clock
from windfall.policy.base import Decision
from windfall.run.asking import ask
from windfall.run.operator import Operator
from windfall.run.requests import Request
from windfall.site.worker import SiteWorker

STEPS = 60
BLOCKS = STEPS * BATCH // BLOCK
PAIR = {"a": [(0.0, 1e5)], "b": [(0.0, 1e5)]}


class Held(Run):
    """A run with an operator, in which a site may be deaf: wall time is counted, and something happens once time stands."""

    def __init__(self, root: Path, data: Path, windows: dict[str, list[tuple[float, float]]] = PAIR, **options: Any) -> None:
        self.deaf: set[str] = set()
        #: What is done when run time has stood for 30 units of work.
        self.then: list[Callable[[], None]] = []
        self.stood: list[float] = []
        self._desk: Operator | None = None
        self._since = (0, 0.0)
        super().__init__(root, data, windows, holds=self, trainer=counting(BLOCKS), **{"steps": STEPS, **options})
        self._desk = Operator(self.dir, self.ledger, self.telemetry, sites=set(windows))

    def begin(self, t: float) -> None:
        assert self._desk
        self._desk.begin(t)

    def keeps_off(self, t: float, decisions: Mapping[str, Decision]) -> dict[str, str]:
        assert self._desk
        return self._desk.keeps_off(t, decisions)

    def idle(self) -> None:
        now = self.clock.now()
        if now != self._since[1]:
            self._since = (self.idles, now)
        elif self.then and self.idles - self._since[0] > 30:
            self.stood.append((now - T0) / 60)
            self._since = (self.idles, now)
            self.then.pop(0)()
        super().idle()

    def pump(self, name: str, worker: SiteWorker) -> None:
        if name not in self.deaf:
            worker.pump()

    def ask(self, kind: str, site: str) -> Callable[[], None]:
        return lambda: void(ask(self.dir, Request(kind, site, "ann@desk", "a fuse")))

    def states(self, site: str) -> list[tuple[float, str, str]]:
        return [(t, d["now"], d["reason"]) for t, _, s, d in self.events("state") if s == site]


def void(_: object) -> None:
    return None


@pytest.fixture(autouse=True)
def counted_wall_time(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "monotonic", lambda: float(runs[0].idles) if runs else 0.0)


def run_of(tmp_path: Path, data: Path, runs: list[Run], **options: Any) -> Held:
    run = Held(tmp_path / "r", data, **options)
    runs.append(run)
    return run


@pytest.mark.parametrize("kind", ["hold", "drain"])
def test_a_starting_site_that_is_held_is_torn_down_and_not_waited_for(
    tmp_path: Path, data: Path, runs: list[Run], kind: str
) -> None:
    run = run_of(tmp_path, data, runs)
    run.deaf.add("b")  # it comes up and never answers hello
    run.then.append(run.ask(kind, "b"))
    run.serve(until_min=4)
    assert run.stood == [2.0], "b's modelled spin-up was over, and nothing could move"
    _, draining, off = run.states("b")
    assert draining[:2] == (2.0, "draining")
    assert off[:2] == (2.0, "off")
    did = "held" if kind == "hold" else "drained"
    assert draining[2] == f"{did} by ann@desk: a fuse; it was starting, and is not waited for"
    assert "b" not in run.workers
    assert run.loop.controller.sites["a"].state == "training", "the other one goes on"
    run.deaf.clear()
    run.ask("release", "b")()
    assert run.serve() == "done"
    assert {"a", "b"} == {s for v in run.ledger.versions() for s in v.sites}


def test_a_silent_site_that_is_held_is_torn_down_and_its_round_goes_on_without_it(
    tmp_path: Path, data: Path, runs: list[Run]
) -> None:
    run = run_of(tmp_path, data, runs)
    run.serve(until_min=5)
    run.deaf.add("b")
    run.then.append(run.ask("hold", "b"))
    assert run.serve() == "done"
    assert run.stood == [5.0]
    (_, _, site, given_up) = run.events("given_up")[0]
    assert site == "b"
    assert given_up["reason"].endswith("it is held, and not waited for any more: what it has not handed in stays in its outbox")
    assert [(t, now) for t, now, _ in run.states("b")][-2:] == [(5.0, "draining"), (5.0, "off")]
    first = next(v for v in run.ledger.versions() if v.version == 1)
    assert first.sites.keys() == {"a"}
    assert run.ledger.complete()


def test_a_site_that_falls_silent_just_when_it_is_held_is_not_waited_for_either(
    tmp_path: Path, data: Path, runs: list[Run]
) -> None:
    run = run_of(tmp_path, data, runs)
    run.serve(until_min=5)
    run.deaf.add("b")
    run.ask("hold", "b")()
    before = run.idles
    run.serve(until_min=6)
    assert [s for _, _, s, _ in run.events("given_up")] == ["b"]
    assert [now for _, now, _ in run.states("b")][-2:] == ["draining", "off"]
    assert run.idles - before < 60, "ten heartbeats, and no time-out"
    run.deaf.clear()
    assert run.loop.controller.sites["a"].state == "training"


def test_a_site_that_is_held_while_another_is_waited_for_hands_in_its_work_at_once(
    tmp_path: Path, data: Path, runs: list[Run]
) -> None:
    run = run_of(tmp_path, data, runs)
    run.serve(until_min=5)
    run.deaf.add("b")
    run.then.append(run.ask("hold", "a"))
    run.then.append(run.deaf.clear)
    run.serve(until_min=8)
    assert [(t, now) for t, now, _ in run.states("a")][-2:] == [(5.0, "draining"), (5.0, "off")]
    assert ("a", True) in [(s, d["drained"]) for _, _, s, d in run.events("contribution")]
    assert not run.events("given_up")


def test_a_site_that_is_released_while_run_time_stands_starts_at_once(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = run_of(tmp_path, data, runs)
    run.ask("hold", "b")()
    run.deaf.add("a")
    run.then += [run.ask("release", "b"), run.ask("hold", "a")]
    run.serve(until_min=6)
    assert run.stood == [2.0, 2.0]
    assert [(t, now) for t, now, _ in run.states("b")][:2] == [(2.0, "provisioning"), (4.0, "ready")]


def test_what_is_asked_meanwhile_changes_no_other_sites_decisions(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = run_of(tmp_path, data, runs)
    run.deaf.add("b")
    run.then.append(run.ask("hold", "b"))
    run.serve(until_min=3)
    rows = run.telemetry.rows("SELECT t_run, COUNT(*) FROM decisions WHERE site = 'a' GROUP BY t_run HAVING COUNT(*) > 1")
    assert rows == []
    told = [(t, s) for t, _, s, _ in run.events("decision")]
    assert told == [(0.0, "a"), (0.0, "b")]


def test_on_the_calendar_a_hold_does_not_wait_for_the_next_tick(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = run_of(tmp_path, data, runs, calendar=True, steps_per_min=3)
    run.serve(until_min=4)
    begun = run.clock.now()
    run.ask("hold", "b")()
    idle, seen = run.idle, []

    def watching() -> None:
        idle()
        if not seen and run.loop.controller.sites["b"].held:
            seen.append(run.clock.now())

    run.idle = watching  # type: ignore[method-assign]
    run.serve(until_min=6)
    assert seen == [begun]


# -- news ------------------------------------------------------------------------------------------------------------


def test_a_normal_end_says_nothing_of_supernodes_that_are_gone(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = run_of(tmp_path, data, runs, windows={"a": [(0.0, 20.0), (30.0, 1e5)], "b": [(0.0, 1e5)]})
    assert run.serve() == "done"
    assert len(run.states("a")) > 6, "it left, came again and left"
    assert not run.events("node_gone")


def test_a_supernode_that_goes_while_its_site_trains_is_news(tmp_path: Path, data: Path, runs: list[Run]) -> None:
    run = run_of(tmp_path, data, runs)
    run.serve(until_min=5)
    run.world.transport.disconnect(run.world.nodes["b"])
    run.then.append(lambda: run.kill("b"))
    assert run.serve() == "done"
    assert [s for _, _, s, _ in run.events("node_gone")] == ["b"]
