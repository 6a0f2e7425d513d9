"""A year of California in numbers: shares of the oracle's net value, worth 100 g/kWh, a start at the signal's price."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from windfall.config.load import loads
from windfall.config.schema import Config
from windfall.grid.build import build_grid
from windfall.policy.programme import Programme, SpinUp, StepFunction
from windfall.simulate.backtest import backtest, span_of
from windfall.simulate.simulation import Simulation
from windfall.units import parse_utc

pytestmark = pytest.mark.slow

QUARTERS = ("2020-09-01", "2020-12-01", "2021-03-01", "2021-06-01", "2021-09-01")


def year(column: str, minutes: int, more: str = "") -> Config:
    """One site of 1 kW whose start takes ``minutes`` at full power."""
    ahead = "forecast_columns = { pge_f1_g = 300, pge_f12_g = 3600, pge_f36_g = 10800 }" if column.startswith("pge") else ""
    return loads(
        f"""
[run]
name = "year"
budget_tokens = 1000000
clock = "scaled"
start = "2020-09-01T00:00Z"
tick_s = 300
[model]
sequence_length = 16
[backtest]
target = "none"
{more}
[[site]]
name = "s"
region = "R"
spin_up_s = {minutes * 60}
load_s = {minutes * 60}
train_power_w = 1000
idle_power_w = 1000
tokens_per_s = 1000
[site.signal]
path = "bundled:caiso"
column = "{column}"
{ahead}
""", "year.toml", Path(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("column", "minutes", "breakeven", "learned"),
    [
        ("pge_moer_g", 5, 0.96, 0.97), ("pge_moer_g", 10, 0.91, 0.94), ("pge_moer_g", 20, 0.82, 0.90),
        ("sce_moer_g", 5, 0.97, 0.97), ("sce_moer_g", 10, 0.93, 0.94), ("sce_moer_g", 20, 0.87, 0.90),
    ],
)  # fmt: skip
def test_breakeven_and_learned_bring_their_shares_of_the_oracle_in_both_regions(
    column: str, minutes: int, breakeven: float, learned: float
) -> None:
    found = backtest(year(column, minutes, "publication_delays_s = [0, 300]"), ["threshold", "breakeven", "learned"])
    share = {r.policy: r.share_of_oracle or 0.0 for r in found.rows}
    assert share["breakeven"] >= breakeven
    assert share["learned"] >= learned
    assert share["threshold"] < share["breakeven"] < share["learned"] < 1.0
    late = {r.policy: r.share_of_oracle or 0.0 for r in found.late}
    assert all(late[p] < share[p] for p in share)


@pytest.mark.parametrize("minutes", [5, 10, 20])
def test_lookahead_behind_its_gate_keeps_up_with_breakeven_in_every_quarter_and_beats_it_over_the_year(minutes: int) -> None:
    config = year("pge_moer_g", minutes)
    grid = build_grid(config)
    span = span_of(config, grid)
    signal = grid.by_site["s"]
    outcomes = {p: Simulation(config, grid, span, "windfall").run(p) for p in ("breakeven", "lookahead")}
    assert outcomes["lookahead"].value > outcomes["breakeven"].value  # type: ignore[operator]
    for a, b in itertools.pairwise(QUARTERS):
        t0, t1 = parse_utc(a), parse_utc(b)
        c = signal.between(t0, t1)
        best, _ = Programme(StepFunction(np.append(c.starts, c.ends[-1]), c.values), SpinUp(((minutes * 60.0, 1.0),))).solve(100.0)
        share = {}
        for policy, o in outcomes.items():
            value = 0.0
            for x, y, state in o.lanes["s"]:
                x, y = max(x, t0), min(y, t1)
                if state in ("provisioning", "ready", "training") and y > x:
                    part = signal.between(x, y)
                    value -= float((part.values * (part.ends - part.starts)).sum())
                    value += 100.0 * (y - x) if state != "provisioning" else 0.0
            share[policy] = value / best
        assert share["lookahead"] >= share["breakeven"] - 0.005, a
