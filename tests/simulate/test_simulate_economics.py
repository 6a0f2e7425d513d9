"""What training on surplus costs: formulas against a published account, bills that add up, and what follows from them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulate.days import START, config
from windfall.config.economics import TariffTable
from windfall.config.schema import Config
from windfall.errors import ConfigError, RunError
from windfall.grid.build import build_grid
from windfall.simulate.backtest import compare, span_of
from windfall.simulate.battery import bridged
from windfall.simulate.economics import economics_of
from windfall.simulate.fleet_size import FleetSize, fleet_sizes, sites_needed
from windfall.simulate.outlay import YEAR_H, Outlay, break_even_duty, break_even_price, capital_per_h
from windfall.simulate.power_cost import power_cost, tariff_prices
from windfall.simulate.siting import site_regions
from windfall.units import parse_utc, time_zone

DAYS = 4


def sunny(clean: float = 40.0, hours: int = 6, shift: int = 0) -> list[float]:
    """Every day the same: so many clean hours, the rest at 400 g."""
    return [clean if abs((i - 12 * shift) % 288 - 144) < hours * 6 else 400.0 for i in range(288 * DAYS)]


ECONOMICS = """
[economics]
capex_per_gpu = 30_000
rented_per_gpu_h = 2.0
[[economics.tariff]]
price_per_mwh = 80
"""


def surplus(folder: Path, more: str = ECONOMICS, backtest: str = 'target = "none"', **sites: list[float]) -> Config:
    """One or more sites of 1 kW and one GPU that are open some hours a day."""
    return config(folder, sites or {"a": sunny()}, policy='name = "threshold"', more=more, backtest=backtest)


# -- the formulas ------------------------------------------------------------------------------------------------------


def test_the_published_account_of_curtailed_2_compute_comes_out_of_the_same_formulas() -> None:
    as_is = Outlay(units=767_966, capex=351_800, opex=124_200, kg=1_096_000)
    surplus_only = Outlay(units=444_074, capex=351_800, opex=3_500, kg=29_300)
    assert round(as_is.per_unit, 3) == 0.620
    assert round(surplus_only.per_unit, 3) == 0.800
    assert round(surplus_only.per_unit / as_is.per_unit, 2) == 1.29
    # Published as 4.7 %, which is the ratio of 0.066 and 1.4 kg a job; of the unrounded figures it is 4.6 %.
    assert (round(surplus_only.kg_per_unit or 0, 3), round(as_is.kg_per_unit or 0, 1)) == (0.066, 1.4)
    assert round(0.066 / 1.4, 3) == 0.047
    assert (surplus_only.kg_per_unit or 0) / (as_is.kg_per_unit or 1) == pytest.approx(0.0462, abs=5e-5)


def test_nothing_done_has_no_price() -> None:
    nothing = Outlay(0.0, 10.0, 1.0, 5.0)
    assert math.isinf(nothing.per_unit)
    assert nothing.kg_per_unit is None


@given(st.floats(1, 1e6), st.floats(0.5, 20), st.floats(0, 0.5))
def test_payments_over_a_life_pay_for_the_hardware_with_its_interest(capex: float, years: float, interest: float) -> None:
    a_year = capital_per_h(capex, years, interest) * YEAR_H
    present = a_year * (-math.expm1(-years * math.log1p(interest)) / interest if interest > 1e-12 else years)
    assert present == pytest.approx(capex, rel=1e-6)


@given(st.floats(0.01, 100), st.floats(0, 10), st.floats(0.01, 1))
def test_at_the_break_even_price_the_break_even_duty_is_the_duty(owned: float, running: float, duty: float) -> None:
    price = break_even_price(owned, running, duty)
    assert price is not None
    assert break_even_duty(owned, running, price) == pytest.approx(duty, rel=1e-6)
    assert break_even_duty(owned, running, running) is None
    assert break_even_price(owned, running, 0.0) is None


# -- prices of energy --------------------------------------------------------------------------------------------------


def test_tariffs_hold_by_their_own_clock_over_midnight_on_their_days_and_when_clocks_change() -> None:
    night = TariffTable(from_h=22, until_h=6, price_per_mwh=10)
    day = [TariffTable(from_h=6, until_h=22, days="weekdays", price_per_mwh=50),
           TariffTable(from_h=6, until_h=22, days="weekends", price_per_mwh=30)]  # fmt: skip
    start, end = parse_utc("2026-03-27T00:00Z"), parse_utc("2026-03-31T00:00Z")  # clocks go forward on Sunday the 29th
    prices = tariff_prices([night, *day], time_zone("Europe/Berlin"), start, end)
    assert (prices.starts[0], prices.ends[-1]) == (start, end)
    assert np.array_equal(prices.starts[1:], prices.ends[:-1])

    def at(text: str) -> float:
        return float(prices.values[np.searchsorted(prices.starts, parse_utc(text), side="right") - 1])

    assert [at("2026-03-27T04:59Z"), at("2026-03-27T05:00Z")] == [10, 50]  # 6:00 in winter
    assert [at("2026-03-30T03:59Z"), at("2026-03-30T04:00Z")] == [10, 50]  # 6:00 in summer
    assert [at("2026-03-28T12:00Z"), at("2026-03-29T12:00Z"), at("2026-03-28T22:00Z")] == [30, 30, 10]


def test_energy_is_priced_hour_by_hour_and_what_nobody_knows_is_in_no_bill(tmp_path: Path) -> None:
    prices: list[float | None] = [20.0 if i % 288 < 144 else 60.0 for i in range(288 * DAYS)]
    known = surplus(tmp_path)
    site, table = known.site[0], known.economics
    assert table is not None
    table = table.model_copy(update={"tariff": []})
    price = site.signal.model_copy(update={"type": "price", "name": "price", "path": str(tmp_path / "p.csv"), "column": "p"})
    lines = [f"{START + 300 * i:.0f},{p}" for i, p in enumerate(prices) if not 150 <= i < 200]
    (tmp_path / "p.csv").write_text("time_utc,p\n" + "\n".join(lines) + "\n", encoding="utf-8")
    made = known.model_copy(update={"economics": table, "site": [site.model_copy(update={"signals": [price]})]})
    grid = build_grid(made)
    span = span_of(made, grid)
    (row,) = compare(made, grid, span, ["threshold"], judged=False)
    cost = power_cost(row, made, table, grid)
    assert cost.kwh == pytest.approx(row.energy_kwh)
    assert cost.money == pytest.approx(row.money)  # the account's own way
    assert cost.unknown_kwh > 0
    assert any("in no bill" in n for n in economics_of(made).notes)


# -- bills -------------------------------------------------------------------------------------------------------------


def test_bills_add_up_and_are_of_the_budget(tmp_path: Path) -> None:
    e = economics_of(surplus(tmp_path, ECONOMICS.replace("rented", "staff_per_year = 8766\nnetwork_per_month = 30\nrented")))
    own, always, rented, rented_always = e.bills
    assert [b.name for b in e.bills] == ["own, in windows", "own, always on", "rented, in windows", "rented, always on"]
    for b in e.bills:
        assert b.tokens == pytest.approx(7_200_000)
        assert b.total == pytest.approx(b.hardware + b.energy + b.network + b.people)
        assert b.outlay.per_unit * 7.2 == pytest.approx(b.total)
    # 2 hours of training at 1,000 tokens/s; open 6 of 24 hours, of which starts take 10 minutes.
    assert own.useful_h == pytest.approx(2.0)
    assert own.duty == pytest.approx((6 - 1 / 6) / 24, rel=0.02)
    assert own.hardware == pytest.approx(own.owned_h * 30_000 / (4 * YEAR_H))
    assert own.energy == pytest.approx(own.kwh * 0.08)
    assert always.energy == pytest.approx(always.kwh * 0.08)
    assert own.people == pytest.approx(own.owned_h, rel=1e-3)  # 8,766 a year are 1 an hour
    assert rented.hardware == pytest.approx(2.0 * own.on_gpu_h)
    assert rented_always.days == always.days < own.days
    assert always.kg is not None
    assert own.kg is not None
    assert own.kg < always.kg / 3


def test_from_several_start_dates_bills_are_sums_and_the_spread_stands_beside_them(tmp_path: Path) -> None:
    made = surplus(tmp_path, backtest="", a=sunny(hours=6)[:576] + sunny(hours=12)[576:])
    e = economics_of(made, starts=4)
    assert e.start_dates == 4
    assert 1 < e.finished <= 4
    low, _, high = e.per_million_tokens_over_dates
    assert low < e.own.outlay.per_unit < high
    assert e.own.total == pytest.approx(e.own.hardware + e.own.energy)


def test_at_the_rent_that_breaks_even_both_bills_are_equal(tmp_path: Path) -> None:
    more = ECONOMICS.replace("rented", "network_per_month = 30\nstaff_per_year = 500\nrented")
    for used in ("", "used_share = 0.8\n"):
        e = economics_of(surplus(tmp_path, more.replace("capex", used + "capex")))
        price = e.break_even.rented_per_gpu_h
        assert price is not None
        again = economics_of(surplus(tmp_path, more.replace("capex", used + "capex").replace("= 2.0", f"= {price!r}")))
        assert again.bills[2].total == pytest.approx(again.own.total)
        assert again.break_even.duty == pytest.approx(again.break_even.used)


def test_hardware_that_is_used_otherwise_too_is_charged_by_its_useful_life(tmp_path: Path) -> None:
    alone, shared = (
        economics_of(surplus(tmp_path)),
        economics_of(surplus(tmp_path, ECONOMICS.replace("capex", "used_share = 0.5\ncapex"))),
    )
    assert shared.own.hardware == pytest.approx(alone.own.hardware * alone.own.duty / 0.5)
    assert shared.break_even.used == 0.5
    # Never less than what it is used here.
    little = economics_of(surplus(tmp_path, ECONOMICS.replace("capex", "used_share = 0.01\ncapex")))
    assert little.own.hardware == pytest.approx(alone.own.hardware)


def test_waiting_costs_what_owning_longer_does_and_what_a_later_model_is_said_to(tmp_path: Path) -> None:
    plain = economics_of(surplus(tmp_path)).waiting
    asked = economics_of(surplus(tmp_path, ECONOMICS.replace("capex", "waiting_per_day = 5\ncapex")))
    late = asked.waiting
    assert plain is not None
    assert late is not None
    assert plain.days_later == pytest.approx(asked.own.days - asked.bills[1].days)
    assert plain.extra == pytest.approx(plain.owning + plain.energy)
    assert late.extra - plain.extra == pytest.approx(5 * plain.days_later)
    assert late.per_day == pytest.approx(late.extra / late.days_later)
    assert plain.kg_avoided is not None
    assert plain.kg_avoided > 0


def test_what_moves_most_comes_first_and_is_what_another_configuration_gives(tmp_path: Path) -> None:
    e = economics_of(surplus(tmp_path))
    widths = [s.width for s in e.sensitivity]
    assert widths == sorted(widths, reverse=True)
    dear = economics_of(surplus(tmp_path, ECONOMICS.replace("30_000", "39_000")))
    slow = economics_of(surplus(tmp_path, ECONOMICS.replace("= 80", "= 56")))
    found = {s.figure: s for s in e.sensitivity}
    assert found["price of the hardware"].larger == pytest.approx(dear.own.outlay.per_unit)
    assert found["price of energy"].smaller == pytest.approx(slow.own.outlay.per_unit)
    assert found["duty"].smaller > e.own.outlay.per_unit > found["duty"].larger
    assert "people" not in found


def test_always_on_needs_no_comparison_with_itself(tmp_path: Path) -> None:
    e = economics_of(surplus(tmp_path), "always")
    assert [b.name for b in e.bills] == ["own, always on", "rented, always on"]
    assert e.waiting is None


def test_what_cannot_be_told_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)no \[economics\].*capex_per_gpu"):
        economics_of(surplus(tmp_path, ""))
    with pytest.raises(ConfigError, match="knows the future"):
        economics_of(surplus(tmp_path), "oracle")
    with pytest.raises(RunError, match="not trained from any start date"):
        economics_of(surplus(tmp_path, backtest="site_hours = 500"))


# -- fleet, battery, siting --------------------------------------------------------------------------------------------


def test_sites_are_added_where_they_open_most_hours_that_others_do_not(tmp_path: Path) -> None:
    made = surplus(tmp_path, a=sunny(hours=8), b=sunny(hours=7, shift=1), c=sunny(hours=4, shift=12))
    grid = build_grid(made)
    sizes = fleet_sizes(made, grid, span_of(made, grid), 1.0)
    # b alone is open longer than c, but mostly when a is.
    assert [s.region for s in sizes] == ["A", "C", "B"]
    # |i - 144| < 48 has 95 steps of five minutes.
    assert [round(s.open_share * 288) for s in sizes[:2]] == [95, 95 + 47]
    assert sizes[0].longest_closed_h == pytest.approx((288 - 95) / 12)
    assert sizes[0].hardware_per_open_h == pytest.approx(288 / 95)
    assert sites_needed(sizes, 0.4) == (2, None)


def test_where_all_regions_are_not_enough_it_is_told_how_many_it_would_take_at_least() -> None:
    sizes = [FleetSize(1, "A", 0.5, 0.5, 9.0, 2.0)]
    assert sites_needed(sizes, 0.875) == (None, 3)
    assert sites_needed([replace(sizes[0], own_share=0.0, open_share=0.0)], 0.9) == (None, None)
    assert sites_needed([], 0.9) == (None, None)


def test_a_battery_bridges_what_it_holds_and_no_more() -> None:
    lane = [(0.0, 3600.0, "off"), (3600.0, 10800.0, "training"), (10800.0, 21600.0, "off"), (21600.0, 22200.0, "provisioning"),
            (22200.0, 25800.0, "training"), (25800.0, 26400.0, "draining")]  # fmt: skip
    assert bridged(lane, 0.0, 1.0, 0.85) == (0.0, 0.0)
    extra, put = bridged(lane, 1.0, 1.0, 1.0)
    assert extra == pytest.approx(1.0 + 1 / 6)  # one full hour, and the ten minutes at the end
    assert put == pytest.approx(2.0)
    # A slow and lossy one: two hours at half power store 0.8 of what was put in.
    extra, put = bridged(lane, 4.0, 0.5, 0.8)
    assert put == pytest.approx(1.5)
    assert extra == pytest.approx(0.8 + 1 / 6)


def test_a_battery_pays_where_it_is_cheap_and_not_where_it_is_dear(tmp_path: Path) -> None:
    cheap, dear = (
        economics_of(surplus(tmp_path, ECONOMICS + f"[economics.battery]\ncapex_per_kwh = {price}\nhours = [2, 1]\n")).battery
        for price in (1, 1_000_000)
    )
    assert [b.hours for b in cheap] == [0.0, 1.0, 2.0]
    assert cheap[0].duty < cheap[1].duty < cheap[2].duty
    assert min(cheap, key=lambda b: b.per_million_tokens) is cheap[-1]
    assert min(dear, key=lambda b: b.per_million_tokens) is dear[0]
    assert cheap[0].per_million_tokens == economics_of(surplus(tmp_path)).own.outlay.per_unit


def test_regions_are_ranked_by_what_is_asked_for(tmp_path: Path) -> None:
    tariffs = ECONOMICS + '[[economics.tariff]]\nregion = "B"\nprice_per_mwh = 90_000\n'
    made = surplus(tmp_path, tariffs, a=sunny(clean=40.0, hours=6), b=sunny(clean=10.0, hours=8))
    by = {key: site_regions(made, "threshold", starts=1, span_days=None, by=key) for key in ("money", "kg", "years")}
    assert [r.region for r in by["money"]] == ["A", "B"]
    assert [r.region for r in by["kg"]] == ["B", "A"]
    assert [r.region for r in by["years"]] == ["B", "A"]
    b = by["years"][0]
    assert b.years == pytest.approx(7.2e6 / (1000 * 86400 * 365.2425 * (b.duty or 0)))
    assert b.power_per_mwh == pytest.approx(90_000)
