"""Forecasts count by what came true of them, at each lead."""

from __future__ import annotations

import numpy as np
import pytest

from windfall.grid.signal import Columns, Forecast
from windfall.policy.skill import kept, learned, noted, weights

T, HOUR, STEP = 1_768_176_000.0, 3600.0, 300.0
LIKELY = np.full(288, 200.0)


def true_value(t: float) -> float:
    return 200.0 + 150.0 * np.sin(2 * np.pi * t / (7 * HOUR))


def followed(error: float, hours: int, reach_h: float = 4.0) -> dict[str, float]:
    """A memory after so many hours of forecasts that are off by a share of what they say beyond the usual."""
    memory: dict[str, float] = {}
    for t in T + HOUR * np.arange(hours):
        starts = np.arange(T - HOUR, t, STEP)
        past = Columns(starts, starts + STEP, np.array([true_value(x) for x in starts]))
        memory = learned(memory, past, t)
        times = np.arange(t, t + reach_h * HOUR, STEP)
        said = np.array([200.0 + (1.0 - error) * (true_value(x) - 200.0) for x in times])
        memory = noted(memory, Forecast(t, times, said, t + reach_h * HOUR), LIKELY, STEP, t)
    return memory


LEADS = np.array([300.0, HOUR, 3 * HOUR])


def test_forecasts_that_come_true_count_nearly_in_full_and_those_that_do_not_not_at_all() -> None:
    assert (weights(followed(0.0, 96), LEADS) > 0.7).all()
    half = weights(followed(0.5, 96), LEADS)
    assert (half > 0.5).all()
    assert (half < 0.75).all()
    for error in (1.0, 2.0, 5.0):  # the usual, its mirror image, and worse
        assert (weights(followed(error, 96), LEADS) == 0.0).all()


def test_nothing_counts_before_it_has_come_true_and_little_after_a_few_times() -> None:
    assert (weights({}, LEADS) == 0.0).all()
    first, second = weights(followed(0.0, 3), LEADS), weights(followed(0.0, 30), LEADS)
    assert first[2] == 0.0  # three hours have not passed
    assert 0.0 < first[0] < 0.3
    assert (second > first).all()


def test_between_leads_that_were_compared_a_forecast_counts_as_at_the_longer_one_and_beyond_them_not() -> None:
    memory = followed(0.0, 96)
    found = weights(memory, np.array([HOUR, 2 * HOUR, 3 * HOUR, 3.5 * HOUR, 100 * HOUR]))
    assert found[0] > found[1] == found[2] > found[3] == found[4] == 0.0


def test_an_old_forecast_is_judged_by_its_age() -> None:
    """What was made 50 min ago and speaks of the next minutes has a lead of an hour."""
    times = np.arange(T - 3000.0, T + HOUR, STEP)
    memory = noted({}, Forecast(T - 3000.0, times, np.zeros(len(times)), T + HOUR), LIKELY, STEP, T)
    assert memory == {"skill_at1": T + 600.0, "skill_said1": 0.0, "skill_else1": 200.0}


def test_what_never_becomes_known_is_forgotten_and_something_else_is_noted() -> None:
    made = Forecast(T, np.array([T]), np.array([5.0]), T + 0.5 * HOUR)
    memory = noted({}, made, LIKELY, STEP, T)
    none = np.empty(0)
    assert learned(memory, Columns(none, none, none), T + HOUR) == memory
    assert learned(memory, Columns(none, none, none), T + 7 * HOUR) == {}


def test_a_forecast_without_a_value_at_a_lead_is_not_noted_there() -> None:
    made = Forecast(T, np.array([T, T + 600.0]), np.array([np.nan, 7.0]), T + 2 * HOUR)
    assert noted({}, made, LIKELY, STEP, T) == pytest.approx({"skill_at1": T + HOUR, "skill_said1": 7.0, "skill_else1": 200.0})


def test_only_what_is_about_forecasts_is_kept() -> None:
    assert kept({"acc": 1.0, "skill_n0": 2.0}) == {"skill_n0": 2.0}
