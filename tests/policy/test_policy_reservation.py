"""The reservation price: low while clean hours are likely in time, higher as the date nears, and never too late."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from windfall.grid.signal import Columns
from windfall.policy.reservation import DAY_S, STEP_S, SiteSupply, reserve, steps_of, supplied

HOUR = 3600.0
#: Fourteen days, each clean from 10 to 14 h after now and dirty else; and the same with every other day dirty throughout.
CLEAN = np.tile(np.where((np.arange(288) >= 120) & (np.arange(288) < 168), 20.0, 400.0), 14)
EVERY_OTHER = np.where(np.arange(14 * 288) // 288 % 2 == 0, CLEAN, 400.0)


def source(values: np.ndarray, **more: float) -> SiteSupply:
    return SiteSupply(values, **{"spin_up_s": 0.0, "start_share": 0.0, "rate": 1.0, "kw": 1.0, **more})


def price(values: np.ndarray, left_h: float, time_h: float, sites: int = 1) -> float:
    made = reserve([source(values)] * sites, left_h * HOUR, time_h * HOUR)
    return made.price(left_h * HOUR)


def test_it_waits_where_waiting_is_usual_and_does_not_where_too_little_clean_time_is_left() -> None:
    assert 20.0 <= price(CLEAN, 3.0, 24.0) < 40.0
    assert price(CLEAN, 6.5, 24.0) >= 400.0
    assert price(CLEAN, 3.0, 9.0) >= 400.0  # the clean hours come after the date
    assert price(CLEAN, 6.5, 24.0, sites=2) < 40.0  # two sites share it


def test_the_price_rises_with_what_is_left_and_falls_with_the_time() -> None:
    by_left = [price(EVERY_OTHER, h, 96.0) for h in (2.0, 6.0, 10.0, 30.0)]
    by_time = [price(EVERY_OTHER, 6.0, h) for h in (24.0, 48.0, 96.0, 192.0)]
    assert all(a <= b + 10.0 for a, b in itertools.pairwise(by_left))
    assert all(a >= b - 10.0 for a, b in itertools.pairwise(by_time))
    assert by_left[0] < 60.0 < 300.0 < by_left[-1]


def test_a_doubtful_day_costs_more_than_a_sure_one_and_less_than_a_dirty_one() -> None:
    sure, doubtful, none = (price(v, 3.0, 24.0) for v in (CLEAN, EVERY_OTHER, np.full(14 * 288, 400.0)))
    assert sure <= doubtful < none


def test_what_is_left_when_the_rest_of_the_time_just_suffices_is_trained_at_any_price() -> None:
    made = reserve([source(CLEAN)], 5.0 * HOUR, 5.0 * HOUR)
    assert made.price(5.0 * HOUR) > 400.0
    assert made.cost > 0


def test_a_site_with_twice_the_tokens_per_kwh_pays_twice_the_price() -> None:
    one = reserve([source(EVERY_OTHER)], 6.0 * HOUR, 48.0 * HOUR)
    two = reserve([source(EVERY_OTHER, rate=2.0)], 12.0 * HOUR, 48.0 * HOUR)
    assert two.price(12.0 * HOUR) * 2.0 == pytest.approx(one.price(6.0 * HOUR), rel=1e-3)


def test_later_days_count_more_but_not_those_of_a_prior() -> None:
    """Two weeks of which every other day has clean hours, after or before two weeks without any."""
    none = np.full(14 * 288, 400.0)
    spring, autumn = np.concatenate([none, EVERY_OTHER]), np.concatenate([EVERY_OTHER, none])

    def expected(values: np.ndarray, ageless: int = 0) -> float:
        return reserve([source(values)], 2.0 * HOUR, 96.0 * HOUR, ageless).cost

    assert expected(spring) < 0.8 * expected(autumn)
    assert expected(spring, 28) == pytest.approx(expected(autumn, 28), rel=0.25)


def test_late_readings_are_paid_for_by_what_holds_when_they_are_known() -> None:
    """Every half hour one clean step: on time it is a bargain, five minutes late it is over, half an hour late it is the next."""
    flicker = np.tile(np.where(np.arange(288) % 6 == 0, 20.0, 400.0), 14)
    paid = []
    for late in (0, 1, 6):
        seconds, cost = supplied(flicker, source(flicker, late=late), np.array([100.0, 401.0]))
        paid.append(cost[0].sum() / seconds[0].sum())
    assert paid == [20.0, 400.0, 20.0]
    # Told of it too late, one may as well train through, and nothing is won by waiting.
    on_time, late_ = (reserve([source(flicker, late=x)], 3.0 * HOUR, 48.0 * HOUR).cost for x in (0, 1))
    assert on_time < 0.1 * late_


def test_the_past_in_steps_ends_now_and_keeps_its_holes() -> None:
    starts = DAY_S + STEP_S * np.arange(288)
    keep = np.ones(288, bool)
    keep[100:110] = False
    past = Columns(starts[keep], starts[keep] + STEP_S, np.arange(288.0)[keep])
    values = steps_of(past, 2 * DAY_S, 2)
    assert len(values) == 576
    assert np.isnan(values[:288]).all()
    assert np.isnan(values[388:398]).all()
    assert values[-1] == 287.0
