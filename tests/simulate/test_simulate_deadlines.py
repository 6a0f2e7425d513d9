"""A deadline that lies after the signals' end has no row: nobody knows what anyone would have emitted until then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulate.days import START, STEP, config
from windfall.cli.backtest import BacktestRequest, backtest_verb
from windfall.config.load import to_toml
from windfall.errors import ConfigError, RunError
from windfall.grid.build import build_grid
from windfall.simulate.backtest import backtest, compare
from windfall.simulate.regions import jobs_for, with_deadlines
from windfall.simulate.simulation import TimeSpan
from windfall.units import iso_utc

DAY = [300.0] * 144 + [40.0] * 144
POLICIES = ["breakeven", "budgeted", "oracle", "always"]


def test_only_deadlines_within_the_signals_have_rows_and_the_others_are_told(tmp_path: Path) -> None:
    c = config(tmp_path, {"a": DAY * 2}, backtest="site_hours = 6.0\ndeadlines_h = [24, 48, 72]")
    result = backtest(c, POLICIES)
    assert sorted({r.deadline_h for r in result.rows if r.policy in ("budgeted", "oracle")}) == [24.0, 48.0]
    (told,) = [w for w in result.warnings if "deadline" in w]
    assert told.startswith(f"no row for the deadline {iso_utc(START + 72 * 3600)}: the signals are known from {iso_utc(START)} to ")
    # The last instant that is known is not after the end.
    assert all(r.finish_h is not None for r in result.rows if r.deadline_h == 48.0)


def test_a_start_with_no_deadline_within_the_signals_is_no_row(tmp_path: Path) -> None:
    c = config(tmp_path, {"a": DAY * 2}, backtest="site_hours = 6.0\ndeadlines_h = [72]")
    with pytest.raises(
        RunError, match=r"nothing to compare: no row for the deadline .*choose an earlier start \(--from\), a nearer deadline"
    ):
        backtest(c, POLICIES)
    assert compare(c, build_grid(c), TimeSpan(START, START + 48 * 3600), POLICIES) == []
    with pytest.raises(ConfigError, match=r"a deadline of 72 h is longer than the signals \(48\.0 h\)"):
        jobs_for(c, TimeSpan(START, START + 48 * 3600), POLICIES, 4, None)


def test_without_a_budget_deadlines_drop_nothing(tmp_path: Path) -> None:
    c = config(tmp_path, {"a": DAY}, backtest='target = "none"\ndeadlines_h = [72]')
    assert [r.policy for r in backtest(c, ["breakeven", "oracle"]).rows] == ["breakeven", "oracle"]


def test_start_dates_leave_room_for_their_deadline(tmp_path: Path) -> None:
    c = config(tmp_path, {"a": DAY * 4}, backtest="site_hours = 3.0\ndeadlines_h = [48]")
    span = TimeSpan(START, START + 4 * 288 * STEP)
    jobs = jobs_for(c, span, POLICIES, 5, None)
    assert len(jobs) == 5
    assert max(j.start for j in jobs) <= span.end - 48 * 3600
    assert with_deadlines(c, jobs) == (jobs, [])


def test_start_dates_after_a_calendar_deadline_are_told_and_are_no_rows(tmp_path: Path) -> None:
    c = config(tmp_path, {"a": DAY * 4}, backtest="site_hours = 3.0")
    c = c.model_copy(update={"policy": c.policy.model_copy(update={"deadline": iso_utc(START + 2 * 86400)})})
    span = TimeSpan(START, START + 4 * 288 * STEP)
    kept, told = with_deadlines(c, jobs_for(c, span, POLICIES, 8, None))
    assert kept
    assert all(j.start < START + 2 * 86400 for j in kept)
    assert told[0].startswith(f"{8 - len(kept)} of 8 start dates are no row, as their deadline is not within the signals: ")


def test_the_verb_tells_the_start_dates_that_are_no_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    c = config(tmp_path, {"a": DAY * 3}, backtest="site_hours = 2.0")
    c = c.model_copy(update={"policy": c.policy.model_copy(update={"deadline": iso_utc(START + 86400)})})
    (tmp_path / "late.toml").write_text(to_toml(c), encoding="utf-8")
    backtest_verb(tmp_path / "late.toml", BacktestRequest(["breakeven"], starts=4, jobs=1), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert any("start dates are no row" in w for w in found["warnings"])
    assert all(p["start"] < START + 86400 for p in found["points"])
    with pytest.raises(RunError, match="nothing to compare"):
        backtest_verb(tmp_path / "late.toml", BacktestRequest(["breakeven"], begin=iso_utc(START + 86400)), as_json=False)
