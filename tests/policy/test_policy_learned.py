"""Learned: what it learns from, what it promises, and who decides until it has learned something."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windfall.config.trigger import parse_trigger
from windfall.grid.signal import Columns, Forecast, Reading, StepSignal
from windfall.policy.base import Decision, FleetView, PerSite, SiteView
from windfall.policy.breakeven import Breakeven
from windfall.policy.criterion import Level, Several, under
from windfall.policy.learned import Learned, on_by_breakeven, on_by_levels, start_share, value_of

T = 1_768_150_800.0
DT = 300.0
DAY = 288


@dataclass(frozen=True)
class Outlook:
    signal: StepSignal
    t: float

    def forecast(self, horizon_s: float) -> Forecast | None:
        return None

    def history(self, span_s: float) -> Columns:
        return self.signal.history(self.t, span_s)


def policy(criterion: Level | Several | None = None) -> PerSite:
    criteria = {"s": criterion or under(100.0)}
    return PerSite(Learned(Breakeven(), criteria), criteria)


def signal_of(values: Sequence[float | None], delay: float) -> StepSignal:
    kept = [(T + i * DT, v) for i, v in enumerate(values) if v is not None]
    return StepSignal(
        np.array([t for t, _ in kept]), np.array([v for _, v in kept]), unit="gCO2/kWh", source="test", publication_delay_s=delay
    )


def play(
    values: Sequence[float | None], *, begin: int = 0, quiet: bool = False, delay: float = 0.0, spin_up_s: float = 600.0,
    asked: PerSite | None = None,
) -> list[Decision]:  # fmt: skip
    """Decisions from place ``begin`` on, at each reading as it becomes known; with ``quiet`` only when the last promise ends."""
    asked = asked or policy()
    signal = signal_of(values, delay)
    on, since, memory = False, T, {}
    told: list[Decision] = []
    for i in range(begin, len(values)):
        t = T + i * DT + delay
        reading = signal.at(t)
        last = told[-1] if told else None
        if quiet and last is not None and reading is not None and reading.is_fresh(t) and last.quiet is not None:
            still = last.quiet[0] <= reading.value < last.quiet[1] and (last.until is None or t < last.until)
            if still:
                told.append(last)
                continue
        view = SiteView("s", reading, on, since, spin_up_s, memory, {"marginal_co2": reading}, Outlook(signal, t))
        d = asked.decide(FleetView(t, {"s": view}))["s"]
        since = t if d.on != on else since
        on, memory = d.on, dict(d.memory)
        told.append(d)
    return told


def flicker(days: int) -> list[float | None]:
    """Single readings at 20 g among dirty ones, which pay for no start, and every eight hours an hour at 0."""
    return [0.0 if i % 96 < 12 else 20.0 if i % 7 == 0 else 400.0 for i in range(DAY * days)]


def test_once_a_day_is_known_the_levels_decide_unless_they_did_worse_on_it() -> None:
    windows: list[float | None] = [5.0 if i % 97 < 12 else 400.0 for i in range(2 * DAY)]
    told = play(windows, spin_up_s=1200.0)  # break-even waits for the third reading of each
    assert told[0].reason.endswith("(too little of the past is known to learn from)")
    assert "by what has paid" in told[DAY + 72].reason
    # Little under the worth for hours, and never far over it: no reading is worth a start, and all together are.
    slow: list[float | None] = ([95.0] * 30 + [105.0] * 3) * 18
    told = play(slow, spin_up_s=1200.0)
    assert told[DAY + 72].reason.endswith("(break-even has done better)")
    assert any(d.on for d in told[DAY:])


def test_with_a_past_it_decides_by_it_from_the_first_instant_on() -> None:
    told = play(flicker(8), begin=7 * DAY, spin_up_s=420.0)
    assert "by what has paid" in told[0].reason
    values = np.array(flicker(8)[7 * DAY :]) / 100.0
    on = np.array([d.on for d in told])
    plain = on_by_breakeven(values, 1.4, Breakeven())
    assert value_of(on, values, 1.4) > value_of(plain, values, 1.4) > 0
    assert not on[values == 4.0].any()


READINGS = st.lists(
    st.tuples(st.sampled_from([0.0, 30.0, 90.0, 100.0, 120.0, 250.0, 700.0, None]), st.integers(1, 40)), min_size=2, max_size=12,
).map(lambda runs: [v for v, n in runs for _ in range(n)])  # fmt: skip


@settings(max_examples=20)
@given(
    values=READINGS,
    known=st.booleans(),
    delay=st.sampled_from([0.0, 60.0, 300.0, 900.0]),
    spin=st.sampled_from([0.0, 300.0, 7200.0]),
)
def test_asked_only_when_its_promise_ends_it_decides_as_if_asked_at_every_reading(
    values: list[float | None], known: bool, delay: float, spin: float
) -> None:
    past = flicker(2) if known else [400.0]
    full = [*past, *values, 0.0, 100.0]
    always, seldom = (play(full, begin=len(past), quiet=q, delay=delay, spin_up_s=spin) for q in (False, True))
    assert [d.on for d in seldom] == [d.on for d in always]
    assert seldom[-1].memory == pytest.approx(dict(always[-1].memory))
    assert always == play(full, begin=len(past), delay=delay, spin_up_s=spin)
    assert all(type(x) is float and not math.isnan(x) for d in always for x in d.memory.values())


def test_readings_that_come_late_are_taken_for_what_they_say_of_now() -> None:
    """A window that is over when it is heard of starts nothing."""
    short: list[float | None] = [0.0 if i % 24 == 0 else 400.0 for i in range(DAY * 8)]
    on_time, late = (play(short, begin=7 * DAY, delay=delay, spin_up_s=60.0) for delay in (0.0, 300.0))
    assert any(d.on for d in on_time)
    assert not any(d.on for d in late)
    assert "5 min late" in late[0].reason


def test_a_reading_that_never_comes_or_is_stale_starts_nothing_and_what_was_learned_stays() -> None:
    values = [*flicker(8), *[None] * 12]
    told = play(values, begin=8 * DAY - 1)
    assert not told[-1].on
    assert "start_12" in told[-1].memory
    assert not any(b.on and not a.on for a, b in itertools.pairwise(told))


@settings(max_examples=15)
@given(
    holes=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), min_size=1, max_size=5), delay=st.sampled_from([0.0, 600.0])
)
def test_no_belief_starts_a_site_without_a_fresh_reading_or_keeps_it_on_past_the_staleness_limit(
    holes: list[tuple[int, int]], delay: float
) -> None:
    """Windows by the clock, from eight till noon: it is sure that one is open, but readings are missing."""
    usual = [0.0 if 96 <= i % DAY < 144 else 120.0 + i % 90 for i in range(7 * DAY)]
    begin = 6 * DAY + 90
    full: list[float | None] = usual[: begin + 60]
    for at, length in holes:
        full[begin + at : begin + at + length] = [None] * len(full[begin + at : begin + at + length])
    told = play(full, begin=begin, delay=delay, spin_up_s=60.0)
    signal = signal_of(full, delay)
    on = False
    for i, d in enumerate(told):
        t = T + (begin + i) * DT + delay
        reading = signal.at(t)
        if reading is None or not reading.is_fresh(t):
            assert on or not d.on
        if reading is None or reading.is_stale(t):
            assert not d.on
        on = d.on


def test_a_good_past_covers_no_bad_week() -> None:
    """Windows that lasted an hour last one reading from now on: two starts lost every day, where break-even starts nothing."""
    good = [5.0 if i % 97 < 12 else 400.0 for i in range(28 * DAY)]
    bad = [5.0 if i % 144 == 40 else 120.0 if 40 < i % 144 < 44 else 400.0 for i in range(8 * DAY)]
    told = play([*good, *bad], begin=28 * DAY, spin_up_s=1200.0)
    assert told[0].memory["lead"] == 2.0  # of some forty starts that it has been ahead by
    began = [i // DAY for i, (a, b) in enumerate(itertools.pairwise(told)) if b.on and not a.on]
    assert began == [0, 0, 1, 1, 2, 2, 3, 3]
    assert "by what has paid" in told[3 * DAY].reason
    assert told[-1].reason.endswith("(break-even has done better)")
    assert told[-1].memory["lead"] == -2.0


def test_where_a_start_costs_nothing_one_window_is_proof_enough() -> None:
    """Prices against zero: a start pays for no energy, so the levels are right at once, where break-even waits in each window."""
    windows: list[float | None] = [-5.0 if i % (2 * DAY) in range(100, 112) else 30.0 for i in range(9 * DAY)]
    told = play(windows, spin_up_s=1200.0, asked=policy(price(0.0)))
    began = [i % (2 * DAY) for i, (a, b) in enumerate(itertools.pairwise(told), 1) if b.on and not a.on]
    assert began == [107, 100, 100, 100, 100]


def test_break_even_takes_over_where_it_does_better_and_says_so() -> None:
    """First an hour is worth a start at 95 g never, then always: the levels come a week late, the gate does not wait."""
    slow: list[float | None] = ([95.0] * 60 + [105.0] * 3) * 60
    told = play([*flicker(10), *slow], begin=9 * DAY, spin_up_s=120.0)
    values = np.array(slow) / 100.0
    on = np.array([d.on for d in told[DAY:]])
    plain = on_by_breakeven(values, 0.4, Breakeven())
    assert value_of(on, values, 0.4) >= 0.6 * value_of(plain, values, 0.4)


def test_a_trigger_of_several_signals_is_decided_by_break_even() -> None:
    several = Several("any", (under(100.0), under(50.0)))
    d = play([0.0, 0.0, 0.0], asked=policy(several))[-1]
    assert "by what has paid" not in d.reason
    assert d.on
    assert parse_trigger("moer < 100") is not None


@settings(max_examples=30)
@given(
    d=st.lists(st.sampled_from([0.0, 0.5, 0.99, 1.0, 1.5, 4.0, math.nan]), min_size=1, max_size=60),
    start=st.floats(0, 1), stop=st.floats(1, 4),
)  # fmt: skip
def test_the_rules_carried_out_on_a_past_are_those_that_are_carried_out_step_by_step(
    d: list[float], start: float, stop: float
) -> None:
    on, told = False, []
    for x in d:
        on = not math.isnan(x) and x < (stop if on else start)
        told.append(on)
    assert on_by_levels(np.array(d), start, stop).tolist() == told
    level = {"s": under(1.0)}
    on, memory, expected = False, {}, []
    for i, x in enumerate(d):
        r = (
            None
            if math.isnan(x)
            else Reading(x, "gCO2/kWh", T + i * DT, T + i * DT, T + (i + 1) * DT, T + (i + 3) * DT, "", T + (i + 1) * DT)
        )
        found = PerSite(Breakeven(), level).decide(FleetView(T + i * DT, {"s": SiteView("s", r, on, T, 600.0, memory)}))["s"]
        on, memory = found.on, dict(found.memory)
        expected.append(on)
    assert on_by_breakeven(np.array(d), 2.0, Breakeven()).tolist() == expected


def price(worth: float) -> Level:
    return Level("marginal_co2", "price", "AUD", worth, 1.0, 20.0, lambda v: v < worth)


def test_a_start_costs_the_worth_that_it_does_not_bring() -> None:
    assert start_share(under(100.0)) == 1.0
    assert [start_share(price(w)) for w in (-5.0, 0.0, 5.0, 20.0)] == [0.0, 0.0, 0.25, 1.0]
    # At a worth of 0 a start earns what training does, and where the price is over it costs as much.
    on, d = np.array([True, True, True]), np.array([0.9, 0.9, 1.2])
    assert value_of(on, d, 2.0, 0.0) == pytest.approx(0.0)
    assert value_of(on, d, 2.0, 0.5) == pytest.approx(-1.0)
    assert value_of(on, d, 2.0) == pytest.approx(-2.0)


def test_where_a_start_costs_nothing_every_hour_under_the_worth_is_used() -> None:
    """Hourly prices that are a little negative for an hour at a time: too little for break-even to start."""
    hours = [-1.0 if h % 3 == 0 else 30.0 for h in range(24 * 4)]
    values = [hours[i // 12] for i in range(DAY * 4)]
    told = play(values, begin=2 * DAY, asked=policy(price(0.0)), spin_up_s=1200.0)
    assert [d.on for d in told] == [v < 0 for v in values[2 * DAY :]]


#: A window of fifteen minutes, and then half over the worth: break-even waits for a loss of half a start, so for four readings.
WINDOW: list[float | None] = [400.0, 5.0, 5.0, 5.0, *[150.0] * 6]
BREAK_EVENS = [False, False, False, True, True, True, True, False, False, False]


def test_before_a_day_is_known_break_even_starts_and_a_prior_stops() -> None:
    assert on_by_breakeven(np.array(WINDOW, float) / 100.0, 4.0, Breakeven()).tolist() == BREAK_EVENS
    told = play(WINDOW, spin_up_s=1200.0)
    assert [d.on for d in told] == [False, False, False, True, *[False] * 6]
    assert "by what usually follows (too little of the past is known to learn from)" in told[4].reason


def test_of_prices_there_is_no_prior_so_break_even_stops_too() -> None:
    price = Level("price", "price", "EUR", 100.0, 1.0, 100.0, lambda v: v < 100.0)
    told = play(WINDOW, spin_up_s=1200.0, asked=policy(price))
    assert [d.on for d in told] == BREAK_EVENS
    assert all(d.reason.endswith("(too little of the past is known to learn from)") for d in told)
