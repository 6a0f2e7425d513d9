"""Schedules: their shape, their clamps, and that they are never negative."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windfall.errors import ConfigError
from windfall.train.schedule import ScheduleConfig, ScheduleValues, schedule


def test_the_learning_rate_starts_at_full_stays_and_falls_to_zero_over_the_last_two_fifths() -> None:
    rates = [schedule(done, 100).lr_multiplier for done in (0, 30, 60, 80, 100)]
    assert rates == pytest.approx([1.0, 1.0, 1.0, 0.5, 0.0])


def test_the_floor_of_the_warm_down_is_kept() -> None:
    config = ScheduleConfig(final_lr_multiplier=0.1)
    assert schedule(80, 100, config).lr_multiplier == pytest.approx(0.55)
    assert schedule(1000, 100, config).lr_multiplier == pytest.approx(0.1)


def test_without_a_warm_down_the_rate_is_constant_to_the_end() -> None:
    assert schedule(100, 100, ScheduleConfig(warmdown_fraction=0.0)).lr_multiplier == 1.0


def test_momentum_rises_over_the_recipes_ramp_and_weight_decay_falls_to_zero() -> None:
    budget, ramp = 12_270_000_000, 300 * 2**19
    assert schedule(0, budget).momentum == pytest.approx(0.85)
    assert schedule(ramp / 2, budget).momentum == pytest.approx(0.90)
    assert schedule(ramp, budget).momentum == pytest.approx(0.95)
    assert [schedule(done, 4).weight_decay_multiplier for done in (0, 1, 4)] == pytest.approx([1.0, 0.75, 0.0])


def test_in_a_small_run_momentum_is_full_after_a_tenth() -> None:
    assert schedule(100_000, 1_000_000).momentum == pytest.approx(0.95)


def test_after_a_reset_the_rate_warms_up_again_from_a_tenth() -> None:
    rates = [schedule(30, 100, None, since).lr_multiplier for since in (0, 0.5, 1.0, 50)]
    assert rates == pytest.approx([0.1, 0.55, 1.0, 1.0])
    assert schedule(80, 100, None, 0.0).lr_multiplier == pytest.approx(0.05)


@given(
    progress=st.floats(-1e12, 1e12),
    budget=st.floats(1.0, 1e12),
    since=st.none() | st.floats(-1e6, 1e12),
    warmdown=st.floats(0, 1),
)
def test_no_progress_however_wrong_gives_values_out_of_range(
    progress: float, budget: float, since: float | None, warmdown: float
) -> None:
    values = schedule(progress, budget, ScheduleConfig(warmdown_fraction=warmdown), since)
    assert 0.0 <= values.lr_multiplier <= 1.0
    assert 0.849 <= values.momentum <= 0.951
    assert 0.0 <= values.weight_decay_multiplier <= 1.0


def test_progress_outside_the_budget_is_that_at_its_ends() -> None:
    assert schedule(-5, 100) == schedule(0, 100)
    assert schedule(105, 100) == schedule(100, 100)
    assert ScheduleValues() == ScheduleValues(1.0, 0.95, 1.0)


def test_the_demos_momentum_is_lower_and_can_be_overridden() -> None:
    assert schedule(50, 100, ScheduleConfig.demo()).momentum == pytest.approx(0.85)
    assert ScheduleConfig.demo(momentum_end=0.9).momentum_end == 0.9


def test_an_empty_budget_and_fractions_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="budget is 0"):
        schedule(0, 0)
    for wrong in ({"warmdown_fraction": 1.1}, {"momentum_end": 1.0}, {"momentum_ramp_tokens": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            ScheduleConfig(**wrong)  # type: ignore[arg-type]
