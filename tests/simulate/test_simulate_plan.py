"""Plan: an honest range, from what is known and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulate.days import START, config
from simulate.test_simulate_sweep import sunny
from windfall.config.schema import Config
from windfall.errors import RunError
from windfall.grid.build import build_grid
from windfall.simulate.plan import Plan, make_plan

DAY = 86400.0
AT = START + 7 * 3600 + 8 * DAY  # midnight after eight days


def weather(days: int) -> list[float]:
    """Clean noons on two of three days."""
    return [v if (i // 288) % 3 else 400.0 for i, v in enumerate(sunny(days, 20.0, 5))]


def planned(folder: Path, days: int = 12, more: str = "", at: float = AT, draws: int = 12) -> tuple[Config, Plan]:
    c = config(folder, {"a": weather(days)}, backtest='target = "budget"', signal=more, run="")
    return c, make_plan(c, build_grid(c), at, days=3, draws=draws)


def test_a_plan_tells_windows_tokens_energy_and_finish_with_their_range(tmp_path: Path) -> None:
    _, plan = planned(tmp_path)
    assert plan.history_days >= 7
    assert plan.finished == plan.draws == 12
    assert plan.finish_h is not None
    low, mid, high = plan.finish_h
    assert 0 < low <= mid <= high < 24 * 20
    assert len(plan.days) == 3
    for d in plan.days:
        inside = d.hours_inside["a"]
        assert 0 <= inside[0] <= inside[2] <= 10.1
        assert d.hours_training["a"][2] <= 10.1
    assert plan.kg_co2 is not None
    assert plan.energy_kwh is not None
    assert plan.energy_kwh[1] > 2.0  # two hours at a kilowatt, and the starts
    # Noons are likely to be clean, midnights are not.
    likely = plan.likely["a"]
    noon = max(range(24), key=lambda h: likely[h])
    assert likely[noon] > 0.4
    assert min(likely[:24]) == 0.0


def test_equal_plans_are_equal(tmp_path: Path) -> None:
    assert planned(tmp_path)[1] == planned(tmp_path)[1]


def test_a_plan_looks_at_nothing_that_comes_after_its_instant(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    # The same past; after it one region is clean for ever, the other never again.
    known = int((AT - START) / 300)
    one = config(tmp_path / "x", {"a": weather(12)[:known] + [0.0] * 600}, backtest='target = "budget"')
    two = config(tmp_path / "y", {"a": weather(12)[:known] + [900.0] * 600}, backtest='target = "budget"')
    plans = [make_plan(c, build_grid(c), AT, draws=8) for c in (one, two)]
    assert plans[0] == plans[1]


def test_a_forecast_is_believed_as_far_as_it_reaches(tmp_path: Path) -> None:
    values = weather(12)
    known = int((AT - START) / 300)
    clean_now = values[:known] + [0.0] * 144 + values[known + 144 :]
    c = config(tmp_path, {"a": clean_now}, backtest='target = "budget"', signal='forecast = "perfect"')
    plan = make_plan(c, build_grid(c), AT, draws=8)
    assert plan.forecast_h["a"] > 12
    assert plan.likely["a"][:12] == [1.0] * 12
    assert plan.finish_h is not None
    assert plan.finish_h[2] < 4  # two hours of training from the very beginning


def test_too_short_a_past_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"at least 2 days.*of a fewer are known.*--at"):
        planned(tmp_path, at=START + 3600)
