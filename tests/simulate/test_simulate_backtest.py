"""The study's day in numbers, with the tolerances that were promised."""

from __future__ import annotations

from pathlib import Path

import pytest

from windfall.config.load import load
from windfall.simulate.backtest import Backtest, backtest

EXAMPLE = Path(__file__).parents[2] / "examples" / "paper_day.toml"


@pytest.fixture(scope="module")
def result() -> Backtest:
    return backtest(load(EXAMPLE), ["paper", "breakeven", "always", "learned"])


def test_the_always_on_baselines_are_the_studys(result: Backtest) -> None:
    expected = {"CAISO_NORTH": 11.39, "SPP_TX": 14.52, "NEM_SA": 12.30, "DE": 27.03}
    assert result.baseline_site_hours == 17.78
    assert result.baselines == pytest.approx(expected, rel=0.01)


def test_the_papers_rule_with_its_stall_gives_the_papers_figures(result: Backtest) -> None:
    row = result.rows[0]
    assert (row.policy, row.preset) == ("paper", "prototype")
    assert row.kg_co2 == pytest.approx(1.356, rel=0.03)
    assert row.finish_h == pytest.approx(14.55, abs=0.2)
    assert row.site_hours == pytest.approx(17.86)
    assert row.energy_kwh == pytest.approx(37.4, rel=0.01)


def test_breakeven_is_cleaner_and_sooner(result: Backtest) -> None:
    row = result.rows[1]
    assert (row.policy, row.preset) == ("breakeven", "windfall")
    assert row.kg_co2 <= 1.00
    assert row.finish_h is not None
    assert row.finish_h <= 14.0
    assert row.share_inside is not None
    assert row.share_inside > 0.99


def test_the_default_is_cleaner_still_though_it_knows_no_past(result: Backtest) -> None:
    row = result.rows[3]
    assert (row.policy, row.preset) == ("learned", "windfall")
    assert row.kg_co2 <= 0.98
    assert row.finish_h is not None
    assert row.finish_h <= 14.0


def test_always_trains_at_once_on_whatever_the_grid_burns(result: Backtest) -> None:
    row = result.rows[2]
    assert row.finish_h is not None
    assert row.finish_h < 5
    assert row.kg_co2 > 10 * result.rows[1].kg_co2


def test_germany_never_opens(result: Backtest) -> None:
    assert result.rows[1].site_hours_by_site["germany"] == 0


def test_equal_backtests_are_equal() -> None:
    config = load(EXAMPLE)
    one, two = backtest(config, ["breakeven"]), backtest(config, ["breakeven"])
    assert one.rows == two.rows


def test_a_trace_too_short_for_the_budget_leaves_the_finish_open() -> None:
    config = load(EXAMPLE)
    longer = config.model_copy(update={"backtest": config.backtest.model_copy(update={"site_hours": 100.0})})
    row = backtest(longer, ["breakeven"]).rows[0]
    assert row.finish_h is None
    assert row.site_hours < 100
