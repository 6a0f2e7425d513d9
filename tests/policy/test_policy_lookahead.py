"""Lookahead: what it remembers, and that nothing it is told makes it worse than the rules beside it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windfall.config.signals import SignalTable
from windfall.grid.signal import Columns, Forecast, Reading, StepSignal
from windfall.grid.trace import load_trace
from windfall.policy.base import Decision, FleetView, PerSite, SiteView
from windfall.policy.breakeven import Breakeven
from windfall.policy.criterion import under
from windfall.policy.learned import Learned
from windfall.policy.lookahead import Lookahead
from windfall.units import parse_utc

T = 1_768_150_800.0
DT = 300.0
SPIN_UP = 600.0
HORIZON = 3 * 3600.0
Foresight = Callable[[float], Forecast | None]


@dataclass(frozen=True)
class Outlook:
    t: float
    foresight: Foresight

    def forecast(self, horizon_s: float) -> Forecast | None:
        return self.foresight(self.t)

    def history(self, span_s: float) -> Columns:
        none = np.empty(0)
        return Columns(none, none, none)


def policy(name: str) -> PerSite:
    criteria = {"s": under(100.0)}
    match name:
        case "breakeven":
            return PerSite(Breakeven(), criteria)
        case "learned":
            return PerSite(Learned(Breakeven(), criteria), criteria)
        case _:
            return PerSite(Lookahead(Learned(Breakeven(), criteria), HORIZON), criteria)


def nothing(t: float) -> Forecast | None:
    return None


def play(
    name: str, values: Sequence[float | None], *, foresight: Foresight = nothing, t0: float = T, quiet: bool = False,
    looks: int = 1, unbounded: int = 0, spin_up_s: float = SPIN_UP, late: int = 0,
) -> list[Decision]:  # fmt: skip
    """Decisions over readings that come every five minutes; None is one that does not come (the last is then late, later stale).

    ``looks``: how often each reading is looked at. ``quiet``: asked only when the last promise ends; what is told holds until then.
    ``unbounded``: of so many readings one holds until the next, whenever that comes (0: none). ``late``: how many steps after its
    begin each is known.
    """
    asked = policy(name)
    on, since, memory = False, t0, {}
    told: list[Decision] = []
    held: Reading | None = None
    for i, value in enumerate(values):
        start = t0 + i * DT
        if value is not None:
            end = math.inf if unbounded and i % unbounded == 0 else start + DT
            known = start + late * DT
            held = Reading(value, "gCO2/kWh", start, known, known + DT, known + 3 * DT, "test", end)
        for k in range(looks):
            t = start + late * DT + k * DT / looks
            if quiet and told and held is not None and held.is_fresh(t):
                d = told[-1]
                kept = d.quiet is not None and d.quiet[0] <= held.value < d.quiet[1]
                if kept and (d.until is None or t < d.until):
                    told.append(d)
                    continue
            view = SiteView("s", held, on, since, spin_up_s, memory, outlook=Outlook(t, foresight))
            d = asked.decide(FleetView(t, {"s": view}))["s"]
            since = t if d.on != on else since
            on, memory = d.on, dict(d.memory)
            told.append(d)
    return told


def value_of(values: Sequence[float], on: Sequence[bool]) -> float:
    """The value of a schedule, in seconds of full worth."""
    total, spin = 0.0, 0.0
    for i, (c, is_on) in enumerate(zip(values, on, strict=True)):
        if is_on and (i == 0 or not on[i - 1]):
            spin = SPIN_UP
        if is_on:
            starting = min(DT, spin)
            spin -= starting
            total += (100.0 - c) / 100.0 * (DT - starting) - c / 100.0 * starting
    return total


def told_by(function: Callable[[float, int], float]) -> Foresight:
    """A forecast of three hours, made now: ``function`` of the instant and the place in the forecast."""

    def forecast(t: float) -> Forecast:
        return Forecast(t, t + DT * np.arange(36), np.array([function(t, i) for i in range(36)]), t + HORIZON)

    return forecast


FEW = settings(max_examples=20)
READINGS = st.lists(
    st.tuples(st.sampled_from([0.0, 20.0, 60.0, 99.0, 100.0, 140.0, 249.0, 250.0, 260.0, 450.0, 900.0, None]), st.integers(1, 9)),
    min_size=1, max_size=20,
).map(lambda runs: [v for v, n in runs for _ in range(n)])  # fmt: skip
SOME = told_by(lambda t, i: float((int(t // DT) + i) * 37 % 400))
NAMES = ["lookahead"]


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(values=READINGS)
def test_what_it_remembers_is_numbers_and_does_not_grow(name: str, values: list[float | None]) -> None:
    for d in play(name, values, foresight=SOME):
        assert len(d.memory) <= 110
        assert all(type(v) is float and (math.isfinite(v) or k.startswith(("b_start", "b_stop"))) for k, v in d.memory.items())


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(values=READINGS, looks=st.integers(1, 3), unbounded=st.integers(0, 2))
def test_equal_inputs_give_equal_decisions(name: str, values: list[float | None], looks: int, unbounded: int) -> None:
    one, two = (play(name, values, foresight=SOME, looks=looks, unbounded=unbounded) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(values=READINGS, shift=st.integers(-5_000_000, 5_000_000))
def test_shifting_all_times_shifts_the_decisions(name: str, values: list[float | None], shift: int) -> None:
    moved = T + shift * DT
    ahead = told_by(lambda t, i: float((int((t - moved) // DT) + i) * 37 % 400))
    still = told_by(lambda t, i: float((int((t - T) // DT) + i) * 37 % 400))
    one, two = play(name, values, foresight=still), play(name, values, foresight=ahead, t0=moved)
    assert [(d.on, d.reason) for d in one] == [(d.on, d.reason) for d in two]


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(values=READINGS, looks=st.integers(2, 5))
def test_how_often_a_reading_is_looked_at_changes_nothing(name: str, values: list[float | None], looks: int) -> None:
    often = play(name, values, foresight=SOME, looks=looks)
    assert [d.on for d in often[::looks]] == [d.on for d in play(name, values, foresight=SOME)]


#: Long stretches far over the worth, and windows between them.
CALM = st.lists(
    st.tuples(st.sampled_from([0.0, 30.0, 90.0, 120.0, 249.9, 250.0, 251.0, 400.0, 700.0, None]), st.integers(1, 40)),
    min_size=2, max_size=14,
).map(lambda runs: [v for v, n in runs for _ in range(n)])  # fmt: skip


@pytest.mark.parametrize("name", ["breakeven", *NAMES])
@FEW
@given(values=CALM, looks=st.integers(1, 2), unbounded=st.integers(0, 1), spin_up_s=st.sampled_from([300.0, 900.0, 7200.0]))
def test_asked_only_when_its_promise_ends_it_decides_and_remembers_as_if_asked_at_every_reading(
    name: str, values: list[float | None], looks: int, unbounded: int, spin_up_s: float
) -> None:
    # A reading at the worth at the end, after which every promise is over and both are asked.
    values = [*values, 0.0, 100.0]
    always, seldom = (
        play(name, values, looks=looks, unbounded=unbounded, spin_up_s=spin_up_s, quiet=quiet) for quiet in (False, True)
    )
    assert [d.on for d in seldom] == [d.on for d in always]
    assert seldom[-1].memory == pytest.approx(dict(always[-1].memory), rel=1e-6, abs=1e-6)


def old(t: float) -> Forecast:
    """A forecast that was made more than an hour ago."""
    made = SOME(t)
    assert made is not None
    return replace(made, made_at=t - 3601.0)


@pytest.mark.parametrize("foresight", [nothing, old])
@FEW
@given(values=READINGS, unbounded=st.integers(0, 3))
def test_lookahead_without_a_forecast_that_is_at_most_an_hour_old_is_learned(
    foresight: Foresight, values: list[float | None], unbounded: int
) -> None:
    """Whatever was learned before, while there was one."""
    before: list[float | None] = [0.0] * 10 + [400.0] * 10 + [20.0] * 10 + [300.0] * 10

    def gone(t: float) -> Forecast | None:
        return SOME(t) if t < T + len(before) * DT else foresight(t)

    plain = play("learned", before + values, unbounded=unbounded)[len(before) :]
    found = play("lookahead", before + values, foresight=gone, unbounded=unbounded)[len(before) :]
    assert [d.on for d in found] == [d.on for d in plain]
    for d, p in zip(found, plain, strict=True):
        assert d.reason in (p.reason, f"{p.reason}; no forecast")


def test_an_hour_old_forecast_is_still_looked_at() -> None:
    def hour(t: float) -> Forecast:
        return replace(told_by(lambda _, i: 0.0)(t), made_at=t - 3600.0)  # type: ignore[type-var]

    told = play("lookahead", [80.0, 80.0], foresight=hour)[-1]
    assert told.memory["informed"] == 1.0
    assert told.reason.endswith("; going by the forecast has not done better")


@pytest.mark.parametrize("name", NAMES)
def test_what_was_learned_survives_a_stale_reading_while_the_site_goes_off(name: str) -> None:
    clean: list[float | None] = [0.0] * 12
    # Window after window; the last one is open when readings stop.
    history = ([*clean, *[500.0] * 12]) * 20 + clean
    before = play(name, history, foresight=SOME)[-1]
    assert before.on
    gap: list[float | None] = [None] * 5
    during = play(name, history + gap, foresight=SOME)[-1]
    assert not during.on
    learned = [k for k in before.memory if k[0] in "ch" and k[1:].isdigit()] + ["leads"]
    assert {k: during.memory[k] for k in learned} == {k: before.memory[k] for k in learned}
    assert during.memory["l_on"] == during.memory["b_on"] == 0.0
    back = play(name, history + gap + [500.0], foresight=SOME)[-1]
    assert not back.on
    again = play(name, history + gap + clean, foresight=SOME)[-1]
    assert again.on


KEYS = st.sampled_from(["acc", "to", "crossed", "from", "seen", "x1", "b_acc", "b_to", "l_on", "b_on"])


@FEW
@given(st.sampled_from(NAMES), st.dictionaries(KEYS, st.floats(-1e3, 1e3)), st.floats(0, 500), st.booleans())
def test_it_starts_afresh_from_what_an_older_version_remembered(
    name: str, memory: dict[str, float], value: float, on: bool
) -> None:
    r = Reading(value, "gCO2/kWh", T, T, T + DT, T + 3 * DT, "test", T + DT)
    for t in (T, T + 100.0):
        d = policy(name).decide(FleetView(t, {"s": SiteView("s", r, on, T, SPIN_UP, memory, outlook=Outlook(t, SOME))}))["s"]
        memory, on = dict(d.memory), d.on
        assert d.reason


@functools.cache
def california() -> StepSignal:
    return load_trace(SignalTable(path="bundled:caiso", column="pge_moer_g"), "CAISO_NORTH").signal


def weeks(start: str, n: int) -> list[float]:
    t0 = parse_utc(start)
    c = california().between(t0, t0 + n * 7 * 86400.0)
    assert len(c.values) == n * 2016
    return c.values.tolist()


STEPS = np.arange(36)


def series_of(values: Sequence[float]) -> Foresight:
    """A forecast that says what ``values`` (from ``T`` on) say, whatever comes."""
    padded = np.append(np.array(values), np.full(len(STEPS), values[-1]))

    def forecast(t: float) -> Forecast:
        i = int((t - T) // DT)
        return Forecast(t, t + DT * STEPS, padded[i : i + len(STEPS)], t + HORIZON)

    return forecast


POISONS: dict[str, Callable[[list[float]], list[float]]] = {
    "always clean": lambda values: [0.0] * len(values),
    "always dirty": lambda values: [900.0] * len(values),
    "mirrored": lambda values: [0.0 if v >= 100.0 else 600.0 for v in values],
}


@pytest.mark.parametrize("poison", POISONS)
def test_a_poisoned_forecast_costs_at_most_two_percent_and_leads_only_where_it_is_better(poison: str) -> None:
    values = weeks("2021-03-01T00:00Z", 2)
    plain = value_of(values, [d.on for d in play("breakeven", values)])
    told = play("lookahead", values, foresight=series_of(POISONS[poison](values)))
    found = value_of(values, [d.on for d in told])
    assert plain > 0
    assert found >= 0.98 * plain
    if found < plain:
        assert told[-1].memory["leads"] == 0.0


def test_a_true_forecast_brings_more_than_none() -> None:
    values = weeks("2021-03-01T00:00Z", 2)
    found = value_of(values, [d.on for d in play("lookahead", values, foresight=series_of(values))])
    assert found > value_of(values, [d.on for d in play("breakeven", values)])


@pytest.mark.parametrize(("late", "starts"), [(0, True), (1, False), (2, False), (3, False), (4, True)])
def test_late_readings_are_taken_for_what_has_followed_them(late: int, starts: bool) -> None:
    """Every twenty minutes one clean reading, which pays for a start of as long: heard of late it is over, or the next is there."""
    told = play("lookahead", [0.0, 400.0, 400.0, 400.0] * 200, foresight=unsaying, spin_up_s=DT, late=late)
    clean = [d.memory["l_on"] == 1.0 for d in told[400::4]]
    assert clean == [starts] * len(clean)


def unsaying(t: float) -> Forecast:
    """A forecast that says the same of every hour."""
    return Forecast(t, t + DT * STEPS, np.full(len(STEPS), 900.0), t + HORIZON)


def test_break_even_takes_over_where_the_learned_rule_would_never_start() -> None:
    """Little under the worth for hours, and never far over it: no interval is worth a start, and all together are."""
    values = ([95.0] * 30 + [105.0] * 3) * 60
    told = play("lookahead", values, foresight=unsaying)
    assert told[-1].memory["leads"] == 0.0
    assert told[-1].reason.endswith("; going by the forecast has not done better")
    plain = value_of(values, [d.on for d in play("breakeven", values)])
    assert plain > 0
    # Four starts' worth and one change of mind is what it costs to find out.
    assert value_of(values, [d.on for d in told]) >= plain - 6 * SPIN_UP


def test_the_learned_rule_takes_over_again_when_it_has_done_better() -> None:
    slow: list[float] = ([95.0] * 30 + [105.0] * 3) * 20
    flicker = ([10.0] * 2 + [200.0] * 3) * 200
    told = play("lookahead", slow + flicker, foresight=unsaying)
    assert told[len(slow) - 1].memory["leads"] == 0.0
    assert told[-1].memory["leads"] == 1.0


@FEW
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 60.0, 95.0, 105.0, 150.0, 240.0, 600.0]), st.integers(1, 30)), min_size=2, max_size=5
    ),
)  # fmt: skip
def test_whatever_repeats_it_is_never_worse_than_break_even_by_more_than_eight_starts(runs: list[tuple[float, int]]) -> None:
    once = [v for v, n in runs for _ in range(n)]
    values = (once * (600 // len(once) + 1))[:600]
    ahead = series_of([0.0 if v >= 100.0 else 600.0 for v in values])
    found = value_of(values, [d.on for d in play("lookahead", values, foresight=ahead)])
    # Two margins until break-even takes over, and what is under way then.
    assert found >= value_of(values, [d.on for d in play("breakeven", values)]) - 8 * SPIN_UP
