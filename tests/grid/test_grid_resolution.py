"""Resolutions: what lasts is one, a hole never is."""

from __future__ import annotations

import numpy as np
import pytest

from windfall.grid.resolution import holes, holes_text, resolution_parts, row_periods

N = 5000


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.4])
@pytest.mark.parametrize("block", [1, 72])
def test_rows_that_are_lost_at_random_or_in_blocks_make_no_period_long(share: float, block: int) -> None:
    rng = np.random.default_rng(3)
    lost = np.repeat(rng.random(N // block + 1) < share, block)[:N]
    times = 300.0 * np.flatnonzero(~lost)
    assert set(row_periods(times, 300.0)) == {300.0}
    assert sum(b - a for a, b in holes(times, np.full(len(times), 300.0))) == 300.0 * lost[: int(times[-1] // 300)][
        int(times[0] // 300) :
    ].sum()  # fmt: skip


def test_a_change_is_found_where_rows_are_lost_too() -> None:
    rng = np.random.default_rng(4)
    times = np.concatenate([3600.0 * np.arange(1000), 3.6e6 + 900.0 * np.arange(2000)])
    times = times[rng.random(3000) > 0.05]
    periods = row_periods(times, 300.0)
    assert set(periods[times < 3.6e6]) == {3600.0}
    assert set(periods[times >= 3.6e6]) == {900.0}
    (first, second) = resolution_parts(times, periods)
    assert (first.period_s, second.period_s, second.begin) == (3600.0, 900.0, times[times >= 3.6e6][0])


def test_clocks_that_jitter_show_one_resolution() -> None:
    rng = np.random.default_rng(5)
    times = 600.0 * np.arange(300) + rng.uniform(-15, 15, 300)
    periods = row_periods(times, 300.0)
    assert ((periods >= 590) & (periods <= 640)).all()
    assert len(resolution_parts(times, periods)) == 1


@pytest.mark.parametrize("steps", [[3600, 3600], [300, 7200, 300, 60, 4000, 900], [3600]])
def test_what_does_not_last_is_no_resolution(steps: list[float]) -> None:
    times = np.cumsum([0.0, *steps])
    assert set(row_periods(times, 300.0)) == {300.0}


def test_a_night_is_a_hole_and_no_resolution() -> None:
    times = np.concatenate([86400.0 * d + 6 * 3600 + 300.0 * np.arange(144) for d in range(30)])
    periods = row_periods(times, 300.0)
    assert set(periods) == {300.0}
    assert len(holes(times, periods)) == 29
    assert "29 times, 14.5 days in all" in holes_text(holes(times, periods))
