"""A site that its platform tells to end some time before it is ended: it tells the run, hands in, and ends in time."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from windfall.site import agent
from windfall.site.notice import Notice
from windfall.store.bus import Entry
from windfall.store.files import write_json


class Site:
    """A notice, the worker that it is about, and what it has said."""

    def __init__(self, **told: Any) -> None:
        self.said: list[Entry] = []
        self.draining, self.idle, self.busy, self.now = False, False, False, 1000.0
        self.notice = Notice({"notice_s": 120.0, "stop_grace_s": 10.0, **told}, self)

    def leave(self) -> None:
        self.draining = True

    def emit(self, entry: Entry) -> None:
        self.said.append(entry)

    def over(self, asked: int = 1, *, after_s: float = 0.0) -> bool:
        self.now += after_s
        return self.notice.over(self.now, asked, self, busy=self.busy)


def test_a_site_that_nobody_has_told_to_end_goes_on() -> None:
    assert not Site().over(0, after_s=1e9)


@pytest.mark.parametrize("told", [{"notice_s": 0}, {"notice_s": None}])
def test_without_notice_it_ends_at_once(told: dict[str, Any]) -> None:
    site = Site(**told)
    assert site.over()
    assert site.said == []


def test_one_that_was_drained_before_ends_at_once_and_says_nothing() -> None:
    site = Site()
    site.draining = site.idle = True
    assert site.over()
    assert site.said == []


def test_it_says_so_once_hands_in_and_ends_when_nothing_is_asked_of_it_any_more() -> None:
    site = Site()
    assert not site.over()
    assert site.draining, "what it has is cut at once"
    assert not site.over(after_s=4)
    site.busy = site.idle = True
    assert not site.over(after_s=80), "a file is still on its way"
    site.busy = False
    assert not site.over()
    site.idle = False
    assert not site.over(after_s=4), "the run asks for its inner state, too"
    site.idle = True
    assert not site.over()
    assert not site.over(after_s=4)
    assert site.over(after_s=2)
    assert site.said == [{"kind": "leaving", "reason": "its platform has told it to end", "within_s": 120.0}]


def test_it_ends_where_nobody_answers_when_it_is_told_again_and_in_time() -> None:
    alone = Site()
    assert not alone.over()
    alone.idle = True
    assert not alone.over(after_s=1)
    assert alone.over(after_s=6)
    twice = Site()
    assert not twice.over()
    assert twice.over(2)
    slow = Site()
    assert not slow.over()
    assert not slow.over(after_s=109)
    assert slow.over(after_s=2)


def test_on_a_gated_clock_the_run_orders_the_cut_and_where_it_does_not_the_site_ends_in_time_for_its_own() -> None:
    site = Site(gated=True)
    assert not site.over()
    assert not site.draining
    assert not site.over(after_s=4)
    assert site.over(after_s=2)


class Told(agent.Agent):
    """Its trainer ends a while after it was told to, and its SuperNode when it is ended."""

    def __init__(self, folder: Path, site: dict[str, Any]) -> None:
        self.happened: list[str] = []
        self._site = site
        self._looks = 0
        self.trainer = self  # type: ignore[assignment]

    def keep(self) -> None:
        self._looks += 1
        if self._looks == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def poll(self) -> int | None:
        return 0 if "told" in self.happened and self._looks > 3 else None

    def terminate(self) -> None:
        self.happened.append("told")

    def end(self) -> None:
        self.happened.append(f"end after {self._looks}")


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize(
    ("notice_s", "happened"), [(60.0, ["told", "end after 4"]), (10.0, ["end after 1"]), (0.0, ["end after 1"])]
)
def test_an_agent_keeps_the_supernode_while_its_trainer_hands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notice_s: float, happened: list[str]
) -> None:
    monkeypatch.setattr("windfall.clock.leave_out_stops", lambda: None)
    monkeypatch.setattr("windfall.site.agent._POLL_S", 0.0)
    write_json(tmp_path / "site.json", {"site": "a", "generation": 1, "notice_s": notice_s, "stop_grace_s": 10.0})
    made: list[Told] = []

    def make(folder: Path, site: dict[str, Any]) -> Told:
        made.append(Told(folder, site))
        return made[-1]

    assert agent.main([str(tmp_path)], make=make) == 0
    assert made[0].happened == happened
