"""What a recorded signal says where rows are missing: the last value for as long as it may be believed, then nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windfall.grid.signal import StepSignal


def signal(times: list[float], values: list[float], **more: object) -> StepSignal:
    return StepSignal(np.array(times, float), np.array(values, float), unit="gCO2/kWh", source="t", **more)  # type: ignore[arg-type]


def test_a_reading_holds_for_its_stale_periods_and_then_nothing_is_known() -> None:
    s = signal([0.0, 300.0, 7200.0], [10.0, 20.0, 30.0])
    c = s.between(0.0, 9000.0)
    assert c.starts.tolist() == [0.0, 300.0, 1200.0, 7200.0, 7500.0]
    assert c.ends.tolist() == [300.0, 1200.0, 7200.0, 7500.0, 9000.0]
    assert c.values.tolist()[:2] == [10.0, 20.0]
    assert c.values[3] == 30.0
    assert np.isnan(c.values[[2, 4]]).all()
    assert s.holes(0.0, 9000.0) == [(1200.0, 7200.0), (7500.0, 9000.0)]
    assert s.holes(-600.0, 100.0) == [(-600.0, 0.0)]


def test_a_series_of_changes_holds_without_limit() -> None:
    s = signal([0.0, 300.0, 720_000.0], [10.0, 20.0, 30.0], period_s=0.0)
    assert s.holes(0.0, 1e6) == []
    assert s.between(400.0, 719_999.0).values.tolist() == [20.0]


def test_rows_have_periods_of_their_own_where_the_resolution_changes() -> None:
    s = signal([0.0, 1800.0, 3600.0, 3900.0, 4200.0], [1, 2, 3, 4, 5], periods=np.array([1800.0, 1800.0, 300.0, 300.0, 300.0]))
    assert s.holes(0.0, 4500.0) == []
    first, last = s.at(100.0), s.at(4200.0)
    assert first is not None
    assert last is not None
    assert (first.valid_until, first.fresh_until, first.stale_at) == (1800.0, 1800.0, 4500.0)
    assert (last.valid_until, last.fresh_until) == (4500.0, 4500.0)
    # A half hour that never came: an hour after its own three periods would have ended it is unknown.
    gone = signal([0.0, 14_400.0], [1, 2], periods=np.array([1800.0, 300.0]))
    assert gone.holes(0.0, 14_700.0) == [(5400.0, 14_400.0)]


def test_a_perfect_forecast_knows_nothing_of_a_hole() -> None:
    f = signal([0.0, 300.0, 7200.0], [10.0, 20.0, 30.0], perfect=True).forecast(0.0, 7500.0)
    assert f is not None
    assert np.isnan(f.values).tolist() == [False, False, True, False]
    assert f.times.tolist() == [0.0, 300.0, 1200.0, 7200.0]


def test_of_the_past_a_hole_is_left_out() -> None:
    c = signal([0.0, 300.0, 7200.0], [10.0, 20.0, 30.0]).history(7300.0, 7300.0)
    assert c.starts.tolist() == [0.0, 300.0, 7200.0]
    assert c.ends.tolist() == [300.0, 1200.0, 7300.0]


@given(
    rows=st.lists(st.tuples(st.integers(1, 40), st.floats(-100, 900)), min_size=1, max_size=20),
    period=st.sampled_from([0.0, 60.0, 300.0]), stale=st.sampled_from([1.0, 3.0]), at=st.floats(-500, 15_000),
)  # fmt: skip
def test_what_held_is_what_a_policy_could_have_believed(
    rows: list[tuple[int, float]], period: float, stale: float, at: float
) -> None:
    """The accounts' truth and the policies' reading are of one mind, instant by instant."""
    times = np.cumsum([n * 60.0 for n, _ in rows])
    s = StepSignal(times, np.array([v for _, v in rows]), unit="g", source="t", period_s=period, stale_periods=stale)
    held = s.between(at, at + 1e-3).values[0]
    reading = s.at(at)
    if reading is None or reading.is_stale(at):
        assert np.isnan(held)
    else:
        assert held == pytest.approx(reading.value)
