"""Schedules: their shape, their clamps, and that they are never negative."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windfall.errors import ConfigError
from windfall.train.schedule import Extent, ScheduleConfig, ScheduleValues, schedule


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


def test_a_run_made_longer_before_its_warm_down_goes_on_as_if_it_had_been_planned_so() -> None:
    longer = [Extent(0, 1000), Extent(400, 2000)]
    for done in (450, 700, 1200, 1600, 2000, 3000):
        assert schedule(done, longer) == schedule(done, 2000)
    assert schedule(399, longer) == schedule(399, 1000)


def test_no_rate_jumps_where_a_run_is_made_longer() -> None:
    config = ScheduleConfig(reset_warmup_fraction=0.01)
    for begin, budget, how in ((300, 2000, "warmdown"), (800, 1100, "warmdown"), (1000, 1500, "warmdown"), (800, 3000, "hold")):
        longer = [Extent(0, 1000), Extent(begin, budget, how)]
        before, after = schedule(begin - 1e-6, longer, config), schedule(begin, longer, config)
        assert after.lr_multiplier == pytest.approx(before.lr_multiplier, abs=1e-6)
        assert after.momentum == pytest.approx(before.momentum, abs=1e-6)
        assert after.weight_decay_multiplier == pytest.approx(before.weight_decay_multiplier, abs=1e-6)


def test_a_new_warm_down_rises_quickly_to_what_was_planned_for_the_new_end() -> None:
    config = ScheduleConfig(reset_warmup_fraction=0.01)
    longer = [Extent(0, 1000), Extent(1000, 2000)]
    rates = [schedule(done, longer, config).lr_multiplier for done in (999.999, 1000, 1010, 1020, 1200, 1600, 2000)]
    assert rates == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0, 0.5, 0.0], abs=1e-5)


def test_a_rate_that_is_held_stays_to_the_new_end_and_falls_from_there_when_asked() -> None:
    held = [Extent(0, 1000), Extent(800, 2000, "hold")]
    assert [schedule(done, held).lr_multiplier for done in (800, 1300, 2000)] == pytest.approx([0.5, 0.5, 0.5])
    # Held at a half, then a tenth more: planned that would stand at 0.227; it falls from where it is.
    down = [*held, Extent(2000, 2200)]
    assert [schedule(done, down).lr_multiplier for done in (2000, 2100, 2200)] == pytest.approx([0.5, 0.25, 0.0])


@given(
    done=st.floats(0, 5000), begin=st.floats(0, 1000), more=st.floats(1, 3000), how=st.sampled_from(["warmdown", "hold"]),
    floor=st.floats(0, 1), fraction=st.floats(0, 1),
)  # fmt: skip
def test_a_longer_run_has_rates_between_nothing_and_the_recipes(
    done: float, begin: float, more: float, how: str, floor: float, fraction: float
) -> None:
    config = ScheduleConfig(final_lr_multiplier=floor, warmdown_fraction=fraction)
    found = schedule(done, [Extent(0, 1000), Extent(begin, 1000 + more, how)], config)  # type: ignore[arg-type]
    assert floor - 1e-9 <= found.lr_multiplier <= 1 + 1e-9
    assert 0 <= found.weight_decay_multiplier <= 1
    assert config.momentum_start <= found.momentum <= config.momentum_end
