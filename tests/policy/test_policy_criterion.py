"""Criteria by their definition: gains and scales of one signal, and of several joined by a trigger."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windfall.config.load import loads
from windfall.grid.signal import Reading
from windfall.policy.base import Criterion, FleetView, Judged, PerSite, SiteView, Unknown
from windfall.policy.breakeven import Breakeven
from windfall.policy.criterion import criteria

T = 1_768_150_800.0
TYPES = {"moer": "marginal_co2", "avg": "average_co2", "price": "price", "wind": "curtailed_power", "sun": "surplus_power"}


def criterion(first: str, trigger: str = "", others: tuple[str, ...] = (), policy: str = "") -> Criterion:
    text = f'[run]\nbudget_tokens = 1000\nstart = "2026-01-01T00:00Z"\n[policy]\n{policy}\n[[site]]\nname = "a"\nregion = "R"\n'
    text += "spin_up_s = 300\ntrain_power_w = 2000\nidle_power_w = 400\ntokens_per_s = 10\n"
    text += f'trigger = "{trigger}"\n' if trigger else ""
    text += f'[site.signal]\nkind = "synthetic"\nname = "{first}"\ntype = "{TYPES[first]}"\ncurrency = "AUD"\n'
    for label in others:
        text += f'[[site.signals]]\nkind = "synthetic"\nname = "{label}"\ntype = "{TYPES[label]}"\ncurrency = "AUD"\n'
    config = loads(text, "x.toml", Path())
    return criteria(config, config.policy)["a"]


def reading(value: float, *, start: float = T, end: float = T + 300, fresh: float = T + 300, stale: float = T + 900) -> Reading:
    return Reading(value, "u", start, start, fresh, stale, "test", end)


LATE = {"start": T - 400, "end": T - 100, "fresh": T - 100, "stale": T + 500}
STALE = {"start": T - 1000, "end": T - 700, "fresh": T - 700, "stale": T - 100}


def site(readings: Mapping[str, Reading | None], on: bool = False, memory: Mapping[str, float] | None = None) -> SiteView:
    return SiteView("a", next(iter(readings.values())), on, T - 5000, 300.0, memory or {}, readings)


def judge(c: Criterion, **values: float | Reading | None) -> Judged | Unknown:
    given = {k: reading(v) if isinstance(v, float | int) else v for k, v in values.items()}
    return c.judge(T, site(given))


def judged(c: Criterion, **values: float | Reading | None) -> Judged:
    found = judge(c, **values)
    assert isinstance(found, Judged)
    return found


@pytest.mark.parametrize("kind", ["moer", "avg"])
@pytest.mark.parametrize(
    ("value", "open_", "gain"), [(0.0, True, 80.0), (79.9, True, 0.1), (80.0, False, 0.0), (240.0, False, -160.0)]
)
def test_an_intensitys_gain_is_what_it_is_under_the_worth_and_a_second_of_nothing_is_worth_the_worth(
    kind: str, value: float, open_: bool, gain: float
) -> None:
    j = judged(criterion(kind, policy="worth_g_per_kwh = 80"), **{kind: value})
    assert (j.open, j.gain, j.scale) == (open_, pytest.approx(gain), 80.0)
    assert j.single
    assert j.text == f"{value:g} g is {'under' if open_ else 'at or over'} worth 80 g"


@pytest.mark.parametrize(
    ("value", "open_", "gain"), [(-45.0, True, 55.0), (9.99, True, 0.01), (10.0, False, 0.0), (300.0, False, -290.0)]
)
def test_a_prices_gain_is_measured_by_its_own_scale_and_not_by_its_worth(value: float, open_: bool, gain: float) -> None:
    c = criterion("price", policy="worth_per_mwh = 10\nvalue_scale_per_mwh = 25")
    j = judged(c, price=value)
    assert (j.open, j.gain, j.scale) == (open_, pytest.approx(gain), 25.0)
    assert "AUD/MWh" in j.text
    assert j.unit == "AUD·s/MWh"


@pytest.mark.parametrize(("label", "demand"), [("wind", 0.002), ("sun", 2000.0)])
def test_of_power_only_the_side_of_the_demand_counts(label: str, demand: float) -> None:
    c = criterion(label)
    for value, gain in ((demand * 50, 1.0), (demand, 1.0), (demand * 0.999, -1.0), (-demand, -1.0)):
        j = judged(c, **{label: value})
        assert (j.gain, j.scale, j.open) == (gain, 1.0, gain > 0)
        assert not j.single  # no range of high values is promised
        assert ("at or over" if j.open else "under") + " the demand" in j.text


@pytest.mark.parametrize(
    ("trigger", "value", "text"),
    [
        ("price <= 0", -1.0, "-1.00 AUD/MWh is at or under worth 0.00 AUD/MWh"),
        ("price <= 0", 0.0, "0.00 AUD/MWh is at or under worth 0.00 AUD/MWh"),
        ("price <= 0", 0.001, "0.001 AUD/MWh is over worth 0.00 AUD/MWh"),
        ("price < 0", 0.0, "0.00 AUD/MWh is at or over worth 0.00 AUD/MWh"),
        ("sun > 2000", 2000.0, "2000 W is at or under the demand 2000 W"),
        ("sun > 2000", 2001.0, "2001 W is over the demand 2000 W"),
        ("sun >= 2000", 2000.0, "2000 W is at or over the demand 2000 W"),
    ],
)
def test_a_reason_says_under_and_over_as_the_comparison_does_at_its_level_too(trigger: str, value: float, text: str) -> None:
    name = trigger.split()[0]
    j = judged(criterion(name, trigger), **{name: value})
    assert j.text == text


def test_a_comparisons_own_level_is_the_worth_and_the_scale_of_an_intensity() -> None:
    j = judged(criterion("moer", "moer < 40"), moer=30.0)
    assert (j.gain, j.scale, j.level) == (10.0, 40.0, 40.0)
    at_zero = judged(criterion("moer", "moer <= 0", policy="worth_g_per_kwh = 70"), moer=0.0)
    assert (at_zero.open, at_zero.gain, at_zero.scale) == (True, 0.0, 70.0)
    high = judged(criterion("price", "price > 30"), price=50.0)
    assert (high.open, high.gain, high.scale, high.single) == (True, 20.0, 20.0, False)


def test_no_range_is_promised_that_holds_a_value_at_which_the_criterion_opens() -> None:
    assert judged(criterion("price", "price < 0"), price=5.0).single
    assert not judged(criterion("price", "price <= 0"), price=5.0).single  # a price of 0 lies in [0, inf) and is open
    d = PerSite(Breakeven(0.0, 0.5), {"a": criterion("price", "price <= 0")}).decide(
        FleetView(T, {"a": site({"price": reading(5.0)})})
    )
    assert d["a"].quiet is None


VALUE = st.sampled_from([-50.0, 0.0, 5.0, 20.0, 60.0, 100.0, 180.0, 500.0])


@given(moer=VALUE, price=VALUE, sun=st.sampled_from([0.0, 2000.0, 9000.0]))
def test_any_takes_the_largest_gain_and_all_the_smallest_each_by_its_scale(moer: float, price: float, sun: float) -> None:
    gains = [(100.0 - moer) / 100.0, (10.0 - price) / 20.0, 1.0 if sun >= 3000 else -1.0]
    holds = [moer < 100, price < 10, sun >= 3000]
    for word, pick, join in ((" or ", max, any), (" and ", min, all)):
        c = criterion("moer", word.join(["moer < 100", "price < 10", "sun >= 3000"]), ("price", "sun"))
        j = judged(c, moer=moer, price=price, sun=sun)
        assert j.open == join(holds)
        assert j.gain == pytest.approx(pick(gains))
        assert (j.scale, j.unit, j.single) == (1.0, "s", False)
        assert j.open or j.gain <= 0


def test_joined_triggers_nest() -> None:
    c = criterion("moer", "moer < 100 and (price < 10 or sun >= 3000)", ("price", "sun"))
    assert judged(c, moer=50.0, price=30.0, sun=5000.0).gain == pytest.approx(0.5)
    assert judged(c, moer=50.0, price=30.0, sun=0.0).gain == pytest.approx(-1.0)
    assert judged(c, moer=150.0, price=-90.0, sun=0.0).gain == pytest.approx(-0.5)


ANY = criterion("moer", "moer < 100 or price < 10", ("price",))
ALL = criterion("moer", "moer < 100 and price < 10", ("price",))


def test_of_any_a_fresh_part_speaks_whatever_the_others_lack() -> None:
    for gone in (None, reading(5.0, **LATE), reading(5.0, **STALE), reading(math.nan)):
        assert judged(ANY, moer=40.0, price=gone).open
        assert not judged(ANY, moer=400.0, price=gone).open
        assert judged(ANY, moer=gone, price=-5.0).open


def test_of_any_a_site_may_go_on_until_the_last_reading_is_stale() -> None:
    late, later = reading(5.0, **LATE), reading(5.0, **{**LATE, "stale": T + 800})
    found = judge(ANY, moer=late, price=later)
    assert (found.stale, found.stale_at) == (False, T + 800)  # type: ignore[union-attr]
    found = judge(ANY, moer=None, price=late)
    assert (found.stale, found.stale_at) == (False, T + 500)  # type: ignore[union-attr]
    assert "late" in found.text
    assert judge(ANY, moer=None, price=reading(5.0, **STALE)).stale  # type: ignore[union-attr]


def test_of_all_a_part_that_is_gone_is_enough_to_know_nothing() -> None:
    for gone in (None, reading(5.0, **STALE), reading(math.nan), reading(math.inf)):
        for other in (reading(40.0), reading(400.0), reading(40.0, **LATE)):
            found = judge(ALL, moer=other, price=gone)
            assert isinstance(found, Unknown)
            assert found.stale


def test_of_all_a_late_part_keeps_a_site_as_it_is_while_the_others_are_met() -> None:
    found = judge(ALL, moer=40.0, price=reading(5.0, **LATE))
    assert (found.stale, found.stale_at) == (False, T + 500)  # type: ignore[union-attr]
    both = judge(ALL, moer=reading(40.0, **{**LATE, "stale": T + 100}), price=reading(5.0, **LATE))
    assert both.stale_at == T + 100  # type: ignore[union-attr]


def test_of_all_a_fresh_part_that_is_not_met_shuts_whatever_is_late() -> None:
    j = judged(ALL, moer=400.0, price=reading(5.0, **LATE))
    assert not j.open
    assert j.gain == pytest.approx(-3.0)


PARTS = st.one_of(
    st.none(),
    st.builds(lambda v, kind: reading(v, **kind), st.one_of(VALUE, st.just(math.nan)), st.sampled_from([{}, LATE, STALE])),
)


@given(moer=PARTS, price=PARTS, on=st.booleans(), both=st.booleans())
def test_nothing_starts_by_a_part_that_is_not_fresh_and_nothing_goes_on_when_all_are_stale(
    moer: Reading | None, price: Reading | None, on: bool, both: bool
) -> None:
    policy = PerSite(Breakeven(0.0, 0.0), {"a": ALL if both else ANY})
    d = policy.decide(FleetView(T, {"a": site({"moer": moer, "price": price}, on)}))["a"]
    fresh = [r is not None and math.isfinite(r.value) and r.is_fresh(T) for r in (moer, price)]
    gone = [r is None or not math.isfinite(r.value) or r.is_stale(T) for r in (moer, price)]
    if d.on and not on:
        assert all(fresh) if both else any(fresh)
    if any(gone) if both else all(gone):
        assert not d.on


def test_readings_about_times_that_do_not_meet_hold_until_the_next() -> None:
    """A reading published ten minutes late is over when it comes: still the site starts, and stops."""
    on, memory, told = False, {}, []
    policy = PerSite(Breakeven(), {"a": ALL})
    for i in range(24):
        t = T + 300.0 * i
        clean = i < 12
        readings: dict[str, Reading | None] = {
            "moer": reading(0.0 if clean else 600.0, start=t - 600, end=t - 300, fresh=t + 300, stale=t + 600),
            "price": reading(-10.0, start=t, end=t + 300, fresh=t + 300, stale=t + 600),
        }
        j = ALL.judge(t, site(readings))
        assert isinstance(j, Judged)
        assert j.valid_until > j.valid_from
        d = policy.decide(FleetView(t, {"a": SiteView("a", readings["moer"], on, T, 300.0, memory, readings)}))["a"]
        on, memory = d.on, dict(d.memory)
        told.append(on)
    assert any(told[:12])
    assert not told[-1]


@given(st.lists(st.tuples(VALUE, st.sampled_from([300.0, 900.0, math.inf])), min_size=1, max_size=30), st.integers(1, 4))
def test_the_gain_of_what_has_no_end_is_never_taken_back(values: list[tuple[float, float]], looks: int) -> None:
    """Readings with and without an end, in any order, looked at any number of times: only a loss makes the gain less."""
    policy = PerSite(Breakeven(1e9, 1e9), {"a": criterion("moer")})  # never switches
    memory: dict[str, float] = {}
    acc = 0.0
    for i, (value, length) in enumerate(values):
        start = T + 300.0 * i
        r = reading(value, start=start, end=start + length, fresh=math.inf, stale=math.inf)
        for k in range(looks):
            t = start + 300.0 * k / looks
            memory = dict(policy.decide(FleetView(t, {"a": SiteView("a", r, False, T, 300.0, memory)}))["a"].memory)
            before = values[i - 1][0] if i else 0.0
            if value <= 100.0 and before <= 100.0:
                assert memory["acc"] >= acc - 1e-6
            acc = memory["acc"]
