"""A run's processes count only the time in which they were not stopped."""

from __future__ import annotations

import itertools
import time

import pytest

from windfall import clock


def test_the_clock_leaves_out_what_a_process_was_stopped_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    lived = clock._Lived()
    seen = [lived.now()]
    for passed in (0.5, 4.9, 175.0, 0.5, 3600.0, 1.0):
        now[0] += passed
        seen.append(lived.now())
    assert [b - a for a, b in itertools.pairwise(seen)] == pytest.approx([0.5, 4.9, 0.0, 0.5, 0.0, 1.0])


def test_a_calendar_that_is_set_back_does_not_stop_run_time_nor_take_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    calendar, passed = [10_000.0], [0.0]
    monkeypatch.setattr(clock, "_lived", None)
    monkeypatch.setattr(time, "time", lambda: calendar[0])
    monkeypatch.setattr(time, "monotonic", lambda: passed[0])
    run = clock.RealClock()
    calendar[0], passed[0] = 10_060.0, 60.0
    assert run.reached(10_060.0)
    run.move_to(10_060.0)
    calendar[0] -= 7200.0  # two hours back
    ticks, t = 0, 10_060.0
    while calendar[0] < run.now():
        assert not run.reached(t + 60.0)
        calendar[0] += 120.0
        passed[0] += 120.0
        assert run.reached(t + 60.0)
        t += 60.0
        run.move_to(t)
        assert run.now() >= t
        ticks += 1
    # At half its pace run time has met the calendar after twice what was set back, with a tick every two of its lengths.
    assert ticks == pytest.approx(120, abs=2)
    assert run.now() == pytest.approx(10_060.0 + 7200.0, abs=120)
