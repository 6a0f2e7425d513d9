"""The belief: what a chain learned from a past says, and the levels that follow from it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from windfall.grid.signal import Columns
from windfall.policy.belief import HOURS, Belief, Chain, cadence_s, falling, hours_of, stepped
from windfall.policy.learned import on_by_levels, value_of

#: Windows of an hour at 0 every four hours, for 28 days in steps of five minutes.
WINDOWS = np.tile(np.repeat([0.0, 4.0], [12, 36]), 168)


def times_of(d: np.ndarray) -> np.ndarray:
    """Instants of values that come every five minutes, from a midnight on."""
    return 300.0 * np.arange(len(d))


def still_open(chain: Chain, *, was_open: bool, steps: int) -> float:
    """How likely a value is under the worth, so many steps after a reading of 0 (open) or of 4 (shut)."""
    row = chain.later(steps)[0 if was_open else -1]
    return float(row[chain.means < 1.0].sum())


def test_the_later_the_reading_the_less_it_says() -> None:
    chain = Chain(WINDOWS)
    opened, shut = ([still_open(chain, was_open=o, steps=n) for n in (0, 1, 3, 6, 400)] for o in (True, False))
    assert opened[0] == 1.0
    assert shut[0] == 0.0
    assert all(a > b for a, b in itertools.pairwise(opened))
    assert all(a < b for a, b in itertools.pairwise(shut))
    assert opened[-1] == pytest.approx(shut[-1], abs=1e-3)  # in the end it is what is usual: a quarter, or a little less
    assert 0.15 < opened[-1] < 0.35


def test_what_has_not_been_seen_is_the_prior_and_what_has_been_outweighs_it() -> None:
    nothing, calm = Chain(np.empty(0)), Chain(np.repeat([0.0, 4.0], 4000))
    assert 0.85 < still_open(nothing, was_open=True, steps=1) < 0.97
    assert still_open(calm, was_open=True, steps=1) > 0.995


def test_holes_teach_nothing() -> None:
    holes = WINDOWS.copy()
    holes[5::12] = np.nan
    with_zeros = np.where(np.isnan(holes), 4.0, holes)
    whole, holed, zeros = (still_open(Chain(d), was_open=True, steps=1) for d in (WINDOWS, holes, with_zeros))
    assert holed == pytest.approx(whole, abs=0.02)
    assert zeros < holed - 0.05


def test_a_site_stops_at_a_higher_level_than_it_starts_under_and_dear_starts_move_both_apart() -> None:
    rng = np.random.default_rng(3)
    d = np.repeat(rng.choice([0.0, 4.0], 700, p=[0.25, 0.75]), 12)  # windows of whole hours, at any time of day
    belief = Belief(times_of(d), d)
    levels = [belief.levels(r, 0) for r in (0.01, 1.0, 2.0, 4.0)]
    assert all((start <= 1.0).all() and (stop >= 1.0).all() for start, stop in levels)
    assert (levels[0][0] > 0.97).all()  # a start that costs nothing is worth while at once
    means = [(start.mean(), stop.mean()) for start, stop in levels]
    assert all(a[0] > b[0] and a[1] < b[1] for a, b in itertools.pairwise(means))
    assert (belief.levels(1e4, 0)[0] < -2.9).all()  # no window is long enough


def test_levels_are_those_of_the_best_rule_of_their_kind_on_the_past() -> None:
    """Against every pair of levels on a lattice, by value."""
    rng = np.random.default_rng(5)
    d = np.clip(
        np.repeat(rng.choice([0.0, 0.6, 1.4, 3.0], 1500), rng.integers(1, 7, 1500))[:4000] + rng.normal(0, 0.05, 4000), 0, 9
    )
    hours = hours_of(times_of(d))
    for restart in (1.0, 3.0):
        start, stop = Belief(times_of(d), d).levels(restart, 0)
        found = value_of(on_by_levels(d, start[hours], stop[hours]), d, restart)
        lattice = np.arange(0.0, 4.0, 0.2)
        best = max(value_of(on_by_levels(d, a, b), d, restart) for a in lattice for b in lattice[lattice >= a])
        assert found >= 0.95 * best


def test_what_rises_by_chance_is_levelled_by_how_often_it_was_seen() -> None:
    v = np.array([[5.0, 1.0, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
    even, sure = falling(v, np.ones_like(v)), falling(v, np.array([[1.0, 0.01, 1.0, 1.0]] * 3))
    assert even.tolist() == [pytest.approx([5.0, 2.0, 2.0, 2.0]), pytest.approx([2.5] * 4), [4.0, 3.0, 2.0, 1.0]]
    assert sure[0] == pytest.approx([5.0, 2.98, 2.98, 2.0], abs=1e-2)


def test_what_follows_a_reading_is_told_by_the_hour_too() -> None:
    """A window that opens at eight every day, and closes at noon."""
    d = np.tile(np.repeat([4.0, 0.0, 4.0], [96, 48, 144]), 42)
    gain = Belief(times_of(d), d).gain(3)
    assert gain.shape[0] == HOURS
    shut, opened = -1, 0
    assert gain[7, shut] > gain[5, shut] + 0.3  # a quarter of the readings between seven and eight are heard of after it opened
    assert gain[11, opened] < gain[9, opened] - 0.3
    # With nothing but this to go by, what the hour has not shown is what the whole day has.
    nothing = Belief(np.empty(0), np.empty(0))
    assert np.ptp(nothing.gain(3), axis=0).max() < 1e-12


def test_late_readings_start_before_the_window_is_heard_of_and_stop_before_its_end_is() -> None:
    rng = np.random.default_rng(1)
    d = np.where(np.tile(np.repeat([False, True, False], [96, 48, 144]), 42), 0.0, rng.uniform(1.0, 2.4, 42 * 288))
    hours = hours_of(times_of(d))
    starts, stops = Belief(times_of(d), d).levels(0.2, 9)
    late = on_by_levels(d[:-9], starts[hours[:-9]], stops[hours[:-9]])
    plain = on_by_levels(d[:-9], 1.0, 1.0)
    day = slice(288, 576)
    heard = np.flatnonzero(plain[day])
    acted = np.flatnonzero(late[day])
    assert acted[0] < heard[0]
    assert acted[-1] < heard[-1]
    assert value_of(late, d[9:], 0.2) > 1.2 * value_of(plain, d[9:], 0.2)


def test_signals_that_change_on_the_hour_only_hold_for_an_hour() -> None:
    def past(every: int, offset: float = 0.0) -> Columns:
        starts = 300.0 * np.arange(600) + offset
        return Columns(starts, starts + 300.0, np.floor(np.arange(600) / every) % 7)

    assert cadence_s(past(12), 300.0) == 3600.0
    assert cadence_s(past(6), 300.0) == 1800.0
    assert cadence_s(past(12, 900.0), 300.0) == 300.0
    assert cadence_s(past(1), 300.0) == 300.0
    assert cadence_s(Columns(np.empty(0), np.empty(0), np.empty(0)), 300.0) == 300.0


def test_the_past_is_taken_step_by_step_and_holes_stay_holes() -> None:
    past = Columns(np.array([10.0, 600.0, 2000.0]), np.array([600.0, 900.0, 2300.0]), np.array([1.0, 2.0, 3.0]))
    times, values = stepped(past, 300.0)
    assert times.tolist() == [300.0, 600.0, 900.0, 1200.0, 1500.0, 1800.0, 2100.0]
    assert values.tolist()[:2] == [1.0, 2.0]
    assert np.isnan(values[2:6]).all()
    assert values[6] == 3.0
