"""Heartbeats of a trainer: how long each kind of work may take, and what they say."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from patience import PATIENCE_S
from windfall.site.liveness import BEAT_S, Liveness
from windfall.store.bus import MemoryBus


class Now:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.t = 0.0

    def __call__(self) -> float:
        return self.t


class Watched:
    """Liveness, and what its heartbeats say."""

    def __init__(self, folder: Path) -> None:
        self.now, self.bus = Now(), MemoryBus()
        self.liveness = Liveness(self.bus.site("a", 1), folder, first_s=1000.0, least_s=60.0, now=self.now)

    def after(self, seconds: float) -> bool:
        """Whether there is a heartbeat when so much more time has passed."""
        self.now.t += seconds
        before = self.bus.get("a", "heartbeat")
        self.liveness.beat()
        return self.bus.get("a", "heartbeat") != before

    @property
    def says(self) -> str:
        said = self.bus.get("a", "heartbeat") or {}
        return f"{said.get('doing', '')}, {said.get('for_s', 0):.0f} s"


@pytest.fixture
def site(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_the_first_step_may_take_long_and_one_that_hangs_ends_the_heartbeats(site: Watched) -> None:
    with site.liveness.doing("a step"):
        assert site.after(999.0)
        assert not site.after(2.0)
        assert site.liveness.overdue() == "a step has taken 1001 s"
    assert site.after(BEAT_S)


def test_later_steps_may_take_ten_times_the_longest_so_far_and_never_less_than_the_least(site: Watched) -> None:
    for took, allowed in ((2.0, 60.0), (30.0, 300.0), (1.0, 300.0)):
        with site.liveness.doing("a step"):
            site.now.t += took
        assert site.liveness.allowed_s("a step") == allowed
    assert site.liveness.allowed_s("an evaluation") == 1000.0  # each kind has its own
    with site.liveness.doing("a step"):
        assert site.after(299.0)
        assert not site.after(2.0)


def test_work_within_other_work_has_its_own_time_and_is_not_the_outer_ones(site: Watched) -> None:
    with site.liveness.doing("a message"):
        site.now.t += 5.0
        with site.liveness.doing("an evaluation"):
            assert site.after(900.0)
            assert site.says == "an evaluation, 900 s"
        assert site.after(200.0)  # more than a thousand seconds in all, 205 of its own
        assert site.says == "a message, 1105 s"
    assert site.liveness.allowed_s("a message") == 2050.0
    assert site.liveness.allowed_s("an evaluation") == 9000.0
    assert site.after(BEAT_S)
    assert site.says == ", 0 s"


def test_a_heartbeat_says_which_part_of_what_is_done_and_for_how_long(site: Watched) -> None:
    with site.liveness.doing("a step"):
        site.liveness.part("polar factors, group 5 of 7")  # without a thread this is a sign of life
        site.after(84.0)
        assert site.says == "a step: polar factors, group 5 of 7, 84 s"
    site.liveness.beside = lambda: "sending delta, 40 %"
    site.after(BEAT_S)
    assert site.says == "sending delta, 40 %, 0 s"


def test_heartbeats_come_from_a_thread_while_nothing_else_of_the_process_runs(tmp_path: Path) -> None:
    heard = threading.Event()

    class Bus(MemoryBus):
        pass

    bus = Bus()
    end = bus.site("a", 1)
    plain = end.set

    def hear(register: str, value: dict[str, object]) -> None:
        plain(register, value)
        if value.get("n") == 2:
            heard.set()

    end.set = hear  # type: ignore[method-assign]
    liveness = Liveness(end, tmp_path, first_s=1000.0, least_s=60.0)
    liveness.start()
    try:
        with liveness.doing("loading"):
            assert heard.wait(PATIENCE_S)
        assert (tmp_path / "beat").exists()
    finally:
        liveness.stop()
