"""What a start takes is what the site's own starts have taken, and how many there were in the last hour."""

from __future__ import annotations

import pytest

from windfall.fleet.loop import StartHistory
from windfall.fleet.machine import Patience, Site, State


def site() -> Site:
    return Site("a", Patience(0, 0, 0, 0, 0))


def start(s: Site, at: float, took: float | None) -> None:
    """A start at ``at`` that came to work after ``took`` seconds, or failed."""
    s.generation += 1
    s.started_at = at
    s.ready_at = None if took is None else at + took
    s.state = State.FAILED if took is None else State.TRAINING


def test_the_configured_time_counts_until_a_start_has_been_seen_then_the_moving_average() -> None:
    starts, s = StartHistory(340.0), site()
    starts.look(0.0, s)
    assert starts.spin_up_s == 340.0
    start(s, 100.0, 200.0)
    starts.look(300.0, s)
    assert starts.spin_up_s == 200.0
    start(s, 1000.0, 300.0)
    starts.look(1300.0, s)
    starts.look(1310.0, s)  # looked at again, counted once
    assert starts.spin_up_s == pytest.approx(0.7 * 200 + 0.3 * 300)


def test_a_start_that_failed_teaches_nothing_and_counts_among_the_starts_of_the_hour() -> None:
    starts, s = StartHistory(340.0), site()
    start(s, 100.0, None)
    starts.look(150.0, s)
    assert starts.spin_up_s == 340.0
    assert starts.recent == (100.0,)
    start(s, 400.0, 250.0)
    starts.look(650.0, s)
    assert starts.recent == (100.0, 400.0)
    starts.look(3750.0, s)
    assert starts.recent == (400.0,)


def test_an_adopted_site_that_never_stopped_is_no_start() -> None:
    starts, s = StartHistory(340.0), site()
    start(s, 100.0, 5.0)
    s.adopted = True
    starts.look(200.0, s)
    assert (starts.spin_up_s, starts.recent) == (340.0, ())


def test_what_was_learned_survives_a_restart() -> None:
    starts, s = StartHistory(340.0), site()
    starts.restore(210.0, 1, (50.0,), 3)
    s.generation = 3
    start(s, 1000.0, 310.0)
    starts.look(1310.0, s)
    assert starts.spin_up_s == pytest.approx(0.7 * 210 + 0.3 * 310)
    assert starts.recent == (50.0, 1000.0)
