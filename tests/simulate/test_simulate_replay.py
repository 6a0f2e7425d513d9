"""Invariant 7: what a run recorded, through its policy again, gives its decisions again."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

import pytest

from simulate.days import START, STEP, config
from windfall.config.load import to_toml
from windfall.errors import StoreError
from windfall.grid.build import build_grid
from windfall.run.recorder import TelemetryRecorder
from windfall.simulate.backtest import span_of
from windfall.simulate.replay import replay
from windfall.simulate.simulation import Simulation, TimeSpan
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry


def waves(days: float, phase: float) -> list[float | None]:
    """Days that curtail around noon, with a hole and a flicker."""
    found: list[float | None] = []
    for i in range(int(days * 288)):
        level = 260 + 280 * math.sin(2 * math.pi * (i / 288 + phase)) + 35 * math.sin(i * 1.7)
        found.append(None if i % 501 in range(300, 309) and i else max(0.0, round(level, 1)))
    return found


def recorded(tmp_path: Path, policy: str, more: str = "", forecasts: str = "") -> RunDir:
    c = config(
        tmp_path, {"a": waves(4, 0.0), "b": waves(4, 0.3)}, policy=f'name = "{policy}"\nwindow_days = 1\n{more}',
        forecasts=forecasts, backtest='target = "budget"\nsite_hours = 30', signal="publication_delay_s = 60",
    )  # fmt: skip
    run = RunDir(tmp_path / "run")
    run.make()
    run.config.write_text(to_toml(c), encoding="utf-8")
    Ledger.create(run.ledger, run_id="r", fingerprint="f", budget_blocks=4, tokens_per_block=4).close()
    telemetry = Telemetry.open(run.telemetry)
    grid = build_grid(c)
    Simulation(c, grid, span_of(c, grid), "windfall", skip=False).run(policy, recorder=TelemetryRecorder(telemetry))
    telemetry.close()
    return run


@pytest.mark.parametrize(
    ("policy", "more", "forecasts"),
    [
        ("breakeven", "", ""),
        ("paper", "", ""),
        ("percentile", "percentile = 20", ""),
        ("learned", "", ""),
        ("lookahead", "", "forecast_columns = { a = 300, b = 3600 }"),
        ("budgeted", "deadline_h = 50\nreplan_s = 3600", 'forecast = "perfect"'),
        ("budgeted", "deadline_h = 80\nclimatology_days = 2", ""),
    ],
)
def test_a_recorded_run_decides_again_as_it_did(tmp_path: Path, policy: str, more: str, forecasts: str) -> None:
    found = replay(recorded(tmp_path, policy, more, forecasts))
    assert found.decisions > 500
    assert found.differences == []
    assert found.as_json()["equal"]


def test_a_run_whose_policy_changed_decides_each_part_again_under_its_own(tmp_path: Path) -> None:
    """As a resume leaves it: the last instant of the first part is decided again, for the sites that there are then."""
    sites = {"a": waves(4, 0.0), "b": waves(4, 0.3), "c": waves(4, 0.6)}
    budget = 'target = "budget"\nsite_hours = 30'
    one = config(tmp_path, sites, policy='name = "breakeven"\n[limits]\nmax_sites = 1', backtest=budget)
    two = one.model_copy(update={"policy": one.policy.model_copy(update={"name": "threshold"}), "site": [one.site[0], one.site[2]]})
    run = RunDir(tmp_path / "run")
    run.make()
    run.config.write_text(to_toml(two), encoding="utf-8")
    ledger = Ledger.create(run.ledger, run_id="r", fingerprint="f", budget_blocks=4, tokens_per_block=4)
    telemetry = Telemetry.open(run.telemetry)
    begin, change, end = START, START + 86400.0, START + 2 * 86400.0
    for number, (c, span) in enumerate(((one, TimeSpan(begin, change + STEP)), (two, TimeSpan(change, end))), 1):
        ledger.configure(to_toml(c), "f", budget_blocks=4, t_wall=0)
        recorder = TelemetryRecorder(telemetry, number)
        Simulation(c, build_grid(c), span, "windfall", skip=False).run(c.policy.name, recorder=recorder)
    ledger.close()
    telemetry.flush()
    ((orphans,),) = telemetry.rows("SELECT COUNT(*) FROM decisions WHERE site = 'b' AND t_run = ?", change)
    telemetry.close()
    assert orphans == 1, "decided before the restart, and of no site of after it"
    found = replay(run)
    assert found.differences == []
    assert found.policy == "breakeven, then threshold"
    assert found.decisions == 3 * 288 + 2 * 288
    db = sqlite3.connect(run.ledger)
    db.execute("UPDATE configurations SET text = (SELECT text FROM configurations WHERE number = 1)")
    db.commit()
    db.close()
    assert replay(run).differences, "the second part under the first one's policy is another run"


def test_a_reading_that_was_changed_afterwards_is_found_out(tmp_path: Path) -> None:
    run = recorded(tmp_path, "breakeven")
    db = sqlite3.connect(run.telemetry)
    ((t, given),) = db.execute(
        "SELECT t_run, input FROM decisions WHERE site = 'a' AND wanted = 1 ORDER BY t_run LIMIT 1"
    ).fetchall()
    db.execute("UPDATE decisions SET input = ? WHERE t_run = ? AND site = 'a'", (given.replace('"reading": [', '"reading": [5'), t))
    db.commit()
    db.close()
    found = replay(run)
    assert {(d.t, d.site) for d in found.differences} == {(t, "a")}


def test_a_record_of_an_older_windfall_is_refused_in_words(tmp_path: Path) -> None:
    run = recorded(tmp_path, "breakeven")
    db = sqlite3.connect(run.telemetry)
    db.execute("UPDATE decisions SET input = '{\"on\": false}'")
    db.commit()
    db.close()
    with pytest.raises(StoreError, match="older Windfall"):
        replay(run)


def test_no_run_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no run here"):
        replay(RunDir(tmp_path))
