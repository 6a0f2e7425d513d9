"""What a simulated start takes: what the site's table says, at every length, and whole traces however long."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulate.days import START, STEP, config
from windfall.config.load import with_settings
from windfall.grid.build import build_grid
from windfall.simulate.backtest import backtest, span_of
from windfall.simulate.simulation import Simulation
from windfall.units import iso_utc

ALL = ["threshold", "paper", "percentile", "breakeven", "learned", "lookahead", "always", "random_duty", "oracle"]


@pytest.mark.parametrize("spin_up_s", [0.0, 1.0, STEP])
def test_every_policy_trains_after_a_start_of_no_time_a_second_or_a_tick(tmp_path: Path, spin_up_s: float) -> None:
    c = config(
        tmp_path,
        {"a": [300.0] * 300 + [20.0] * 30 + [300.0] * 10},
        spin_up_s=spin_up_s,
        backtest='target = "none"\npaper_preset = "windfall"',
    )
    for r in backtest(c, ALL).rows:
        assert r.site_hours > 1.0, r.policy
        assert all(state != "ready" for lane in r.lanes.values() for _, _, state in lane), r.policy


@pytest.mark.parametrize("spin_up_s", [340.0, 600.0, 3600.0])
def test_a_start_takes_what_the_sites_table_says(tmp_path: Path, spin_up_s: float) -> None:
    c = config(tmp_path, {"a": [0.0] * 60}, spin_up_s=spin_up_s)
    (row,) = backtest(c, ["always"]).rows
    assert row.lanes["a"] == [(START, START + spin_up_s, "provisioning"), (START + spin_up_s, START + 60 * STEP, "training")]
    assert row.notes == []


def test_sites_may_take_different_times_to_start(tmp_path: Path) -> None:
    c = config(tmp_path, {"a": [0.0] * 12, "b": [0.0] * 12}, spin_up_s=300.0)
    slow = c.site[1].model_copy(update={"spin_up_s": 1200.0, "load_s": 200.0, "provisioning_power_w": 0.0})
    c = c.model_copy(update={"site": [c.site[0], slow]})
    (row,) = backtest(c, ["always"]).rows
    assert row.site_hours_by_site == {"a": pytest.approx(55 / 60), "b": pytest.approx(40 / 60)}
    # 1000 s of provisioning at no power, 200 s of loading at idle power (1 kW), then training.
    assert row.energy_kwh == pytest.approx(1.0 + (200 + 2400) / 3600)


def test_the_prototypes_start_is_the_studys_and_is_told_where_sites_differ(tmp_path: Path) -> None:
    c = with_settings(config(tmp_path, {"a": [0.0] * 24}), {"spin_up_s": 900.0, "provision_s": 240.0, "load_s": 100.0})
    grid = build_grid(c)
    row = Simulation(c, grid, span_of(c, grid), "prototype").run("always")
    assert row.lanes["a"][0] == (START, START + 340.0, "provisioning")
    assert row.notes == ["a start takes the study's 340 s here, where the sites' spin_up_s says otherwise (a 900 s)"]
    shorter = backtest(c, ["paper", "oracle"]).rows
    assert all(r.share_of_oracle is None or r.share_of_oracle <= 1 + 1e-9 for r in shorter)


def test_a_trace_of_450_days_is_simulated_whole(tmp_path: Path) -> None:
    days = 450
    times = START + np.arange(days * 24) * 3600.0
    c = config(tmp_path, {"a": [0.0] * 3}, signal="period_s = 3600")
    lines = ["time_utc,a", *(f"{iso_utc(t)},{50.0 if i % 24 < 6 else 400.0}" for i, t in enumerate(times))]
    (tmp_path / "trace.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (row,) = backtest(c, ["always"]).rows
    assert row.span_h == pytest.approx(days * 24)
    assert row.site_hours == pytest.approx(days * 24 - 600 / 3600)
