"""Many simulations at once: start dates, settings, regions."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulate.days import START, config
from windfall.config.load import with_settings
from windfall.config.schema import Config
from windfall.errors import ConfigError
from windfall.grid.build import build_grid
from windfall.simulate.backtest import backtest, span_of
from windfall.simulate.quantiles import quantiles
from windfall.simulate.regions import jobs_for, rank_regions, ranked_by
from windfall.simulate.simulation import TimeSpan
from windfall.simulate.sweep import SweepJob, combinations, parse_setting, start_dates, summarise, sweep
from windfall.simulate.work import TrainerModel


def sunny(days: int, clean: float, hours: int) -> list[float]:
    """Every day the same: so many clean hours around noon, the rest at 400 g."""
    return [clean if abs(i % 288 - 144) < hours * 6 else 400.0 for i in range(288 * days)]


def two_regions(folder: Path, **more: str) -> Config:
    return config(folder, {"a": sunny(8, 40.0, 4), "b": sunny(8, 10.0, 8)}, **more)


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("worth_g_per_kwh=60,80,100", "worth_g_per_kwh", [60, 80, 100]),
        ("spin_up_s=300:1200:300", "spin_up_s", [300, 600, 900, 1200]),
        ("a_on=0.1:0.3:0.1", "a_on", [0.1, 0.2, 0.3]),
    ],
)
def test_settings_are_lists_or_ranges(text: str, key: str, values: list[float]) -> None:
    found = parse_setting(text)
    assert found[0] == key
    assert found[1] == pytest.approx(values)


@pytest.mark.parametrize("text", ["", "x", "x=", "=3", "x=a", "x=1:2", "x=2:1:1", "x=1:2:0", "x=nan", "x=1:1e9:1e-9"])
def test_a_setting_that_is_neither_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="spin_up_s=300:1200:300"):
        parse_setting(text)


def test_a_setting_that_is_not_there_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean worth_g_per_kwh"):
        with_settings(two_regions(tmp_path), {"worth_g_kwh": 3.0})
    with pytest.raises(ConfigError, match="greater than 0"):
        with_settings(two_regions(tmp_path), {"worth_g_per_kwh": -3.0})


def test_another_spin_up_is_of_the_sites_and_so_of_the_simulated_starts(tmp_path: Path) -> None:
    c = with_settings(two_regions(tmp_path), {"spin_up_s": 900.0})
    assert {s.spin_up_s for s in c.site} == {900.0}
    assert {s.seconds for s in TrainerModel.of(c, "windfall").starts.values()} == {900.0}
    assert [s.seconds for s in TrainerModel.of(c, "prototype").starts.values()] == pytest.approx([900.0, 900.0])


def test_a_sweep_on_two_processes_gives_what_one_by_one_gives(tmp_path: Path) -> None:
    c = two_regions(tmp_path)
    span = span_of(c, build_grid(c))
    jobs = jobs_for(c, span, ["breakeven", "threshold"], 3, 2.0, combinations({"spin_up_s": [300.0, 1200.0]}))
    assert len(jobs) == 6
    together, alone = sweep(c, jobs, workers=2), sweep(c, jobs, workers=1)
    assert together == alone
    one = with_settings(c, dict(jobs[0].settings))
    assert together[0].row == backtest(one, ["breakeven"], start=jobs[0].start, until=jobs[0].end).rows[0]
    found = summarise(together, with_budget=False)
    assert [(s.policy, dict(s.settings)["spin_up_s"], s.start_dates) for s in found] == [
        ("breakeven", 300.0, 3), ("threshold", 300.0, 3), ("breakeven", 1200.0, 3), ("threshold", 1200.0, 3),
    ]  # fmt: skip


@given(st.integers(1, 40), st.floats(0.5, 30), st.floats(0.1, 10))
def test_starts_are_whole_hours_apart_and_leave_what_they_need(count: int, days: float, least: float) -> None:
    span = TimeSpan(START, START + days * 86400)
    found = start_dates(span, count, least * 86400)
    assert found[0] == START
    assert len(found) <= max(1, count)
    assert all(b - a >= 3600 - 1e-6 for a, b in itertools.pairwise(found))
    assert all((t - START) % 3600 == 0 for t in found)
    if least <= days:
        assert all(t + least * 86400 <= span.end + 1e-6 for t in found)


def test_a_job_that_cannot_finish_is_counted_apart(tmp_path: Path) -> None:
    c = two_regions(tmp_path, backtest="site_hours = 20")
    span = span_of(c, build_grid(c))
    jobs = [SweepJob(span.start, span.end, (), ("breakeven",)), SweepJob(span.end - 7200, span.end, (), ("breakeven",))]
    (found,) = summarise(sweep(c, jobs, workers=1), with_budget=True)
    assert (found.start_dates, found.finished) == (2, 1)
    assert found.figures["site_hours"] == pytest.approx((20.0, 20.0, 20.0))


def test_regions_are_ranked_by_what_the_same_site_would_emit_there(tmp_path: Path) -> None:
    ranked = rank_regions(two_regions(tmp_path, backtest="site_hours = 12"), "breakeven", count=4, span_days=None, workers=1)
    assert [r.region for r in ranked] == ["B", "A"]
    best, other = ranked
    assert best.hours is not None
    assert other.hours is not None
    assert best.hours[1] < other.hours[1]
    assert best.utilisation is not None
    assert other.utilisation is not None
    assert best.utilisation[1] > other.utilisation[1]
    assert best.as_json()["kg_co2"].keys() == {"p10", "p50", "p90"}


def test_without_a_budget_regions_are_ranked_by_net_value(tmp_path: Path) -> None:
    """Where nearly nothing is trained nearly nothing is emitted: the least kg is the worst place to be."""
    c = config(tmp_path, {"a": sunny(8, 40.0, 1), "b": sunny(8, 10.0, 8)})
    ranked = rank_regions(c, "breakeven", count=3, span_days=4, workers=1)
    assert [r.region for r in ranked] == ["B", "A"]
    best, worst = ranked
    assert best.net_value_h is not None
    assert worst.net_value_h is not None
    assert best.kg_co2 is not None
    assert worst.kg_co2 is not None
    assert best.kg_co2[1] < worst.kg_co2[1] or best.net_value_h[1] > worst.net_value_h[1]
    # Eight clean hours a day, a start of ten minutes in each: nine tenths of an hour's worth an hour, less the start.
    assert best.net_value_h[1] == pytest.approx(4 * (8.0 * 0.9 - 1 / 6), rel=0.06)
    assert best.as_json()["start_dates"] == 3
    assert ranked_by(c) == "net value"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_quantiles_are_ordered_and_inside(values: list[float]) -> None:
    low, mid, high = quantiles(values)
    assert min(values) <= low <= mid <= high <= max(values)


def test_quantiles_of_nothing_are_no_numbers() -> None:
    assert all(math.isnan(q) for q in quantiles([]))
