"""Percentile: the lowest readings of the trailing window, and never what is dear anyway."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windfall.grid.signal import Columns, Forecast, Reading, StepSignal
from windfall.policy.base import Decision, FleetView, PerSite, SiteView
from windfall.policy.criterion import under
from windfall.policy.threshold import Percentile, Threshold

T = 1_768_150_800.0
HOUR = 3600.0


@dataclass
class Outlook:
    past: Columns | None
    asked: int = 0

    def forecast(self, horizon_s: float) -> Forecast | None:
        return None

    def history(self, span_s: float) -> Columns:
        self.asked += 1
        none = np.empty(0)
        return self.past or Columns(none, none, none)


def policy(percentile: float = 10.0, *, worth: float = 100.0, confirm_s: float = 0.0, off_delay_s: float = 0.0) -> PerSite:
    threshold = Threshold(confirm_s=confirm_s, off_delay_s=off_delay_s)
    return PerSite(Percentile(percentile, 7 * 86400.0, threshold, {"s": ("marginal_co2", "")}), {"s": under(worth)})


def columns(values: Sequence[float], lengths: Sequence[float] | None = None, end: float = T) -> Columns:
    spans = np.array(lengths if lengths is not None else [HOUR] * len(values), np.float64)
    edges = end - spans.sum() + np.append(0.0, np.cumsum(spans))
    return Columns(edges[:-1], edges[1:], np.array(values, np.float64))


def decide(
    p: PerSite,
    value: float,
    past: Columns | Outlook | None,
    *,
    t: float = T,
    on: bool = False,
    memory: dict[str, float] | None = None,
) -> Decision:
    r = Reading(value, "gCO2/kWh", t, t, t + 300, t + 900, "test", t + 300)
    outlook = past if isinstance(past, Outlook) else None if past is None else Outlook(past)
    return p.decide(FleetView(t, {"s": SiteView("s", r, on, T - 9e5, 300.0, memory or {}, outlook=outlook)}))["s"]


def level(past: Columns, percentile: float = 10.0, worth: float = 1e6) -> float:
    return decide(policy(percentile, worth=worth), 50.0, past).memory["level"]


def test_the_level_is_the_reading_under_which_the_given_share_of_the_past_time_lies() -> None:
    hundred = columns([float(v) for v in np.random.default_rng(0).permutation(100)])
    assert level(hundred, 10.0) == 9.0
    assert level(hundred, 50.0) == 49.0
    assert level(hundred, 99.0) == 98.0


def test_time_counts_and_not_the_number_of_readings() -> None:
    past = columns([10.0, 500.0, 20.0, 400.0], [60.0, 9 * HOUR, HOUR, HOUR])
    assert level(past, 9.0) == 20.0
    assert level(past, 0.1) == 10.0


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.floats(-100, 900), st.sampled_from([300.0, HOUR, 7200.0])), min_size=24, max_size=60), st.floats(1, 99)
)
def test_at_most_the_given_share_of_the_past_lies_under_the_level_and_with_it_at_least_that_share(
    drawn: list[tuple[float, float]], percentile: float
) -> None:
    values, lengths = [v for v, _ in drawn], [s for _, s in drawn]
    if sum(lengths) < 6 * HOUR:
        return
    found = level(columns(values, lengths), percentile)
    share = percentile / 100.0 * sum(lengths)
    assert sum(s for v, s in drawn if v < found) <= share + 1e-6
    assert sum(s for v, s in drawn if v <= found) >= share - 1e-6


def test_it_is_on_under_the_level_and_off_at_it() -> None:
    past = columns([float(v) for v in range(100)])
    for value, on in ((8.9, True), (9.0, False), (9.1, False)):
        d = decide(policy(), value, past)
        assert d.on == on
        assert d.numbers["worth"] == 9.0
    assert d.reason == "off: 9 g is at or over the 10 % lowest of 7 days, 9 g"


@given(st.floats(0, 900), st.floats(0, 900), st.floats(1, 99), st.booleans())
def test_the_ceiling_holds_however_dirty_the_past_was(value: float, dirt: float, percentile: float, on: bool) -> None:
    d = decide(policy(percentile, worth=80.0), value, columns([dirt] * 48), on=on)
    assert d.on == (value < min(80.0, dirt))
    if dirt >= 80.0:
        assert "the ceiling 80 g" in d.reason


@pytest.mark.parametrize(
    "past",
    [
        None,
        columns([]),
        columns([5.0] * 5),
        columns([5.0] * 5 + [5.0], [HOUR] * 5 + [HOUR - 1.0]),
        # Two hours are known of, a week apart.
        Columns(np.array([T - 6e5, T - HOUR]), np.array([T - 6e5 + HOUR, T]), np.array([5.0, 5.0])),
        columns([5.0] * 5 + [math.nan] * 40),
    ],
    ids=["no outlook", "none", "five hours", "a second short", "two hours far apart", "the rest is a gap"],
)
def test_too_short_a_past_is_off_and_says_so(past: Columns | None) -> None:
    for on in (False, True):
        d = decide(policy(), 0.0, past, on=on)
        assert not d.on
        assert "less than 6 h of the past are known" in d.reason
    enough = columns([5.0] * 6)
    assert decide(policy(), 0.0, enough).on


def test_gaps_do_not_count() -> None:
    known = [float(v) for v in range(100)]
    gappy = [x for v in known for x in (v, math.nan, math.nan)]
    assert level(columns(gappy)) == level(columns(known)) == 9.0
    assert level(columns([math.nan] * 500 + known)) == 9.0


def test_the_level_is_taken_anew_once_an_hour_and_no_oftener() -> None:
    p, memory = policy(), {}
    outlook = Outlook(columns([float(v) for v in range(100)]))
    for k in range(25):
        if k == 5:
            outlook.past = columns([float(v) + 40.0 for v in range(100)])
        d = decide(p, 60.0, outlook, t=T + 300.0 * k, memory=memory)
        memory = dict(d.memory)
        assert memory["level"] == (9.0 if k < 12 else 49.0)
        assert d.until is not None
        assert T + 300.0 * k < d.until <= T + 300.0 * k + HOUR
    assert outlook.asked == 3


def test_it_confirms_and_delays_as_threshold_does() -> None:
    p, past = policy(confirm_s=600.0, off_delay_s=900.0), Outlook(columns([float(v) for v in range(100)]))
    on, memory, told = False, {}, []
    for k, value in enumerate([5.0] * 4 + [50.0] * 5):
        d = decide(p, value, past, t=T + 300.0 * k, on=on, memory=memory)
        on, memory = d.on, dict(d.memory)
        told.append(on)
    assert told == [False, False, True, True, True, True, True, False, False]


def test_what_is_low_is_learned_from_a_real_history_with_its_holes() -> None:
    """Through a signal: two days known, one lost, and what is published late is not known yet."""
    times = T - 72 * HOUR + 300.0 * np.arange(72 * 12)
    values = np.where(np.arange(72 * 12) % 12 < 2, 30.0, 300.0)
    keep = (times < T - 48 * HOUR) | (times >= T - 24 * HOUR)
    signal = StepSignal(times[keep], values[keep], unit="gCO2/kWh", source="test", publication_delay_s=600.0)
    past = signal.history(T, 7 * 86400.0)
    assert level(past, 10.0) == 30.0
    assert level(past, 20.0) == 300.0


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from([0.0, 8.0, 9.0, 20.0, 79.0, 80.0, 300.0]), st.integers(1, 8)), min_size=1, max_size=10))
def test_asked_only_when_its_promise_ends_it_decides_as_if_asked_at_every_reading(runs: list[tuple[float, int]]) -> None:
    values = [v for v, n in runs for _ in range(n)]
    told = {}
    for quiet in (False, True):
        outlook = Outlook(columns([float(v) for v in range(100)]))
        on, memory, last, found = False, {}, None, []
        for k, value in enumerate(values):
            t = T + 300.0 * k
            if k == 7:
                outlook.past = columns([float(v) + 60.0 for v in range(100)])
            kept = last is not None and last.quiet is not None and last.quiet[0] <= value < last.quiet[1]
            if not (quiet and kept and (last.until is None or t < last.until)):
                last = decide(policy(worth=80.0), value, outlook, t=t, on=on, memory=memory)
                on, memory = last.on, dict(last.memory)
            found.append(on)
        told[quiet] = found
    assert told[True] == told[False]
