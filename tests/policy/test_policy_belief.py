"""The belief: what a chain learned from a past says, and the levels that follow from it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from windfall.grid.signal import Columns
from windfall.policy.belief import Chain, cadence_s, stepped
from windfall.policy.learned import on_by_levels, value_of

#: Windows of an hour at 0 every four hours, for 28 days in steps of five minutes.
WINDOWS = np.tile(np.repeat([0.0, 4.0], [12, 36]), 168)


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
    chain = Chain(WINDOWS)
    levels = [chain.levels(r, 0) for r in (0.01, 1.0, 2.0, 4.0)]
    assert all(start <= 1.0 <= stop for start, stop in levels)
    assert levels[0][0] > 0.97  # a start that costs nothing is worth while at once
    assert all(a[0] > b[0] and a[1] < b[1] for a, b in itertools.pairwise(levels))
    assert chain.levels(1e4, 0)[0] < -2.9  # no window is long enough


def test_levels_are_those_of_the_best_rule_of_their_kind_on_the_past() -> None:
    """Against every pair of levels on a lattice, by value."""
    rng = np.random.default_rng(5)
    d = np.clip(
        np.repeat(rng.choice([0.0, 0.6, 1.4, 3.0], 1500), rng.integers(1, 7, 1500))[:4000] + rng.normal(0, 0.05, 4000), 0, 9
    )
    for restart in (1.0, 3.0):
        start, stop = Chain(d).levels(restart, 0)
        found = value_of(on_by_levels(d, start, stop), d, restart)
        lattice = np.arange(0.0, 4.0, 0.2)
        best = max(value_of(on_by_levels(d, a, b), d, restart) for a in lattice for b in lattice[lattice >= a])
        assert found >= 0.95 * best


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
