"""Differences between policies over start dates: what the interval says, and that it says the same again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulate.days import config
from windfall.grid.build import build_grid
from windfall.simulate.backtest import Row, backtest
from windfall.simulate.paired import block_length, interval, paired
from windfall.simulate.provenance import provenance
from windfall.simulate.sweep import SweepPoint
from windfall.store.files import sha256

DAY_S = 86400.0


def row(policy: str, kg: float | None, span_h: float = 24.0) -> Row:
    return Row(
        policy=policy, preset="windfall", publication_delay_s=None, deadline_h=None, finish_h=span_h, site_hours=4.0,
        energy_kwh=8.0,
        kg_co2=kg, kg_by_method={}, money=None, money_by_currency={}, starts=1, idle_h=0.0, share_inside=1.0, share_of_oracle=None,
        kg_over_oracle=None, value=None, site_hours_by_site={}, span_h=span_h,
    )  # fmt: skip


def points(better: np.ndarray, step_days: float = 7.0, span_h: float = 24.0) -> list[SweepPoint]:
    """`breakeven` at 1 kg and more, `learned` lower by ``better`` from each start."""
    found = []
    for i, by in enumerate(better.tolist()):
        base = 1.0 + 0.1 * i
        for policy, kg in (("breakeven", base), ("learned", base - by)):
            found.append(SweepPoint(i * step_days * DAY_S, (), row(policy, kg, span_h)))
    return found


def test_a_difference_is_of_the_same_start_dates_and_its_interval_holds_it() -> None:
    better = np.array([0.1, 0.2, 0.15, 0.05, 0.12, 0.18, 0.11, 0.09])
    (kg,) = [d for d in paired(points(better)) if d.figure == "kg_co2"]
    assert (kg.policy, kg.against, kg.start_dates, kg.block_starts, kg.lower) == ("learned", "breakeven", 8, 1, 1.0)
    assert kg.mean == pytest.approx(-better.mean())
    assert kg.low is not None
    assert kg.high is not None
    assert kg.low < kg.mean < kg.high < 0.0
    # Pairing takes out what all policies share: the spread between start dates is many times this interval.
    assert kg.high - kg.low < 0.1
    assert paired(points(better)) == paired(points(better))


def test_a_start_from_which_one_of_them_has_no_figure_is_in_no_pair() -> None:
    given = points(np.full(6, 0.1))
    given[3] = SweepPoint(given[3].start, (), row("learned", None))
    (kg,) = [d for d in paired(given) if d.figure == "kg_co2"]
    assert kg.start_dates == 5
    assert paired(points(np.full(1, 0.1))) == []


def test_simulations_that_overlap_count_in_blocks() -> None:
    starts = [i * 7 * DAY_S for i in range(20)]
    assert block_length(starts, 6 * DAY_S) == 1
    assert block_length(starts, 7 * DAY_S) == 1
    assert block_length(starts, 28 * DAY_S) == 4
    assert block_length(starts, 1000 * DAY_S) == 20
    # Values that hold for four starts each are five observations: the interval in blocks is the wider one.
    held = np.repeat(np.random.default_rng(1).normal(size=12), 4)
    alone, blocks = interval(held, 1), interval(held, 4)
    assert alone is not None
    assert blocks is not None
    assert interval(held, 20) is None
    assert blocks[1] - blocks[0] > 1.4 * (alone[1] - alone[0])


@pytest.mark.parametrize("block", [1, 3])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(block: int) -> None:
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(200):
        # A moving average over `block` neighbours: mean 0, and neighbours alike.
        noise = generator.normal(size=60 + block - 1)
        values = np.convolve(noise, np.ones(block), "valid")
        found = interval(values, 3 * block, draws=400)
        assert found is not None
        covered += found[0] <= 0.0 <= found[1]
    assert 0.85 <= covered / 200 <= 0.99


def test_a_policy_that_draws_is_shown_over_seeds_and_its_row_is_of_the_configured_one(tmp_path: Path) -> None:
    c = config(tmp_path, {"a": [300.0, 20.0] * 144}, policy="duty = 0.5")
    (drawn,) = backtest(c, ["random_duty"]).rows
    assert drawn.seeds == 8
    low, mid, high = drawn.over_seeds["kg_co2"]
    assert low < mid < high
    assert drawn.kg_co2 is not None
    alone = c.model_copy(update={"backtest": c.backtest.model_copy(update={"random_seeds": 1})})
    (once,) = backtest(alone, ["random_duty"]).rows
    assert (once.seeds, once.over_seeds, once.kg_co2) == (1, {}, drawn.kg_co2)
    (steady,) = backtest(c, ["always"]).rows
    assert (steady.seeds, steady.over_seeds) == (1, {})
    assert steady.as_json()["over_seeds"] == {}
    assert set(drawn.as_json()["over_seeds"]["kg_co2"]) == {"p10", "p50", "p90"}


def test_intensity_of_training_leaves_starts_out(tmp_path: Path) -> None:
    # Two readings of 300 in which the site starts, then 20 while it trains.
    c = config(tmp_path, {"a": [300.0] * 2 + [20.0] * 30}, spin_up_s=600.0)
    (found,) = backtest(c, ["always"]).rows
    assert found.g_per_kwh_training == pytest.approx(20.0)
    assert found.kg_co2 is not None
    assert found.kg_co2 * 1000 / found.energy_kwh > 20.0


def test_figures_say_what_they_were_computed_with(tmp_path: Path) -> None:
    c = config(tmp_path, {"a": [20.0] * 12 + [None] * 12 + [30.0] * 12})
    found = provenance(c, build_grid(c), ["windfall", "backtest", "my file.toml"])
    (trace,) = found.traces
    assert trace.sha256 == sha256(tmp_path / "trace.csv")
    assert (trace.unit, trace.holes) == ("gCO2/kWh", 1)
    # A reading holds for three periods, and nothing is known for the rest.
    assert trace.hole_h == pytest.approx((12 - 2) * 300 / 3600)
    assert (trace.begins, trace.ends) == ("2026-01-11T17:00:00Z", "2026-01-11T20:00:00Z")
    said = found.as_json()
    assert said["command"] == "windfall backtest 'my file.toml'"
    assert said["config"]["site"][0]["signal"]["path"] == trace.source
    assert said["windfall"]["version"]
    assert backtest(c, ["always"], command=["x"]).as_json()["provenance"]["command"] == "x"
    grid = build_grid(c)
    assert provenance(c, grid).config_sha256 == found.config_sha256
    assert provenance(c.model_copy(update={"site": [c.site[0].model_copy(update={"spin_up_s": 601.0})]}), grid) != found
