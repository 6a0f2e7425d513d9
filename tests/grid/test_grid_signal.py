"""Signals from columns: when the newest reading leaves given bounds."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from windfall.grid.signal import _ASKED_OFTEN, StepSignal

DT = 300.0


@settings(max_examples=40)
@given(
    runs=st.lists(st.tuples(st.sampled_from([10.0, 50.0, 90.0]), st.sampled_from([1, 2, 7, 63, 64, 65])), min_size=1, max_size=4),
    holes=st.lists(st.tuples(st.integers(0, 200), st.integers(2, 4)), max_size=3),
    period_s=st.sampled_from([0.0, DT]),
    delay_s=st.sampled_from([0.0, 420.0]),
    at=st.integers(-4, 400).map(lambda i: i / 2),
)
@example(runs=[(10.0, 64), (90.0, 1), (10.0, 7)], holes=[], period_s=DT, delay_s=0.0, at=0.0)
def test_when_a_reading_leaves_its_bounds_is_found_alike_however_often_they_are_asked_for(
    runs: list[tuple[float, int]], holes: list[tuple[int, int]], period_s: float, delay_s: float, at: float
) -> None:
    values = [value for value, length in runs for _ in range(length)]
    steps = [dict(holes).get(i, 1) for i in range(len(values) - 1)]
    times = DT * np.cumsum([0, *steps]).astype(float)
    signal = StepSignal(times, np.array(values), unit="g", source="test", period_s=period_s, publication_delay_s=delay_s)
    t = at * DT
    first, *more = (signal.leaves(t, 0.0, 60.0) for _ in range(_ASKED_OFTEN + 1))
    assert set(more) == {first}
    # By its definition: from one instant at which anything can change to the next.
    changes = {x for i in range(len(values)) for r in [signal.reading(i)] for x in (r.known_at, r.fresh_until)}
    changes.add(signal.ends_at() + delay_s)

    def left(instant: float) -> bool:
        r = signal.at(instant)
        return r is not None and (not 0.0 <= r.value < 60.0 or not r.is_fresh(instant))

    if not left(t):
        assert first == min((x for x in changes if t < x < math.inf and left(x)), default=math.inf)
