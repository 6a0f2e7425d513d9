"""Backtests on traces with holes: what nobody could know, no policy, oracle, plan or baseline knows."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulate.days import START, STEP, config
from windfall.config.schema import Config
from windfall.grid.build import build_grid
from windfall.simulate.backtest import Row, backtest
from windfall.simulate.curves import emissions
from windfall.simulate.regions import rank_regions

#: Six hours of every day under the worth.
DAY = [400.0] * 72 + [30.0] * 72 + [400.0] * 144
#: Three days of five are gone; the last known window is that of the first day.
HOLED: list[float | None] = [*DAY, *([None] * 864), *DAY]


def by_policy(rows: list[Row]) -> dict[str, Row]:
    return {r.policy: r for r in rows}


def test_nobody_trains_through_a_hole_and_the_oracle_is_what_could_be_known(tmp_path: Path) -> None:
    c = config(tmp_path, {"a": HOLED}, spin_up_s=300.0)
    rows = by_policy(backtest(c, ["threshold", "breakeven", "learned", "oracle", "always"]).rows)
    assert rows["oracle"].site_hours == pytest.approx(12.0 - 2 * 300 / 3600)
    assert rows["oracle"].share_of_oracle == pytest.approx(1.0, abs=1e-9)
    for name in ("threshold", "breakeven", "learned"):
        assert rows[name].site_hours < 12.0
        assert rows[name].share_of_oracle == pytest.approx(1.0, abs=0.02)
        assert rows[name].unknown_kwh == 0.0


def test_energy_in_a_hole_is_shown_apart_and_is_no_grams(tmp_path: Path) -> None:
    c = config(tmp_path, {"a": HOLED}, spin_up_s=300.0)
    found = backtest(c, ["always"])
    (row,) = found.rows
    unknown_h = 72.0 - 2 * STEP / 3600  # the last reading holds for three periods, one of them its own
    assert row.energy_kwh == pytest.approx(120.0)
    assert row.unknown_kwh == pytest.approx(unknown_h)
    known_g = 2 * (18 * 400 + 6 * 30) + 400 * 2 * STEP / 3600
    assert row.kg_co2 == pytest.approx(known_g / 1000, rel=1e-6)
    assert row.share_inside == pytest.approx(12 / (120 - unknown_h))
    assert any("in no kg" in n for n in row.notes)
    assert found.baselines == {"A": None}
    assert found.partly["A"].unknown_h == pytest.approx(unknown_h)
    assert any("nothing is known of marginal_co2 for 71.8 h" in w and "2026-01-12T17:10:00Z" in w for w in found.warnings)
    curve = emissions(row, c, build_grid(c))
    assert curve is not None
    assert curve.values[-1] == pytest.approx(row.kg_co2)


def test_a_budget_with_a_perfect_forecast_is_not_planned_into_a_hole(tmp_path: Path) -> None:
    c = config(
        tmp_path, {"a": HOLED}, spin_up_s=300.0, backtest="site_hours = 11\ndeadlines_h = [120]", signal='forecast = "perfect"'
    )
    rows = by_policy(backtest(c, ["budgeted", "oracle", "always"]).rows)
    for name in ("budgeted", "oracle"):
        assert rows[name].unknown_kwh == pytest.approx(0.0, abs=1e-9)
        assert rows[name].kg_over_oracle == pytest.approx(1.0, abs=0.02)
    assert rows["always"].kg_over_oracle is not None
    assert rows["always"].kg_over_oracle > 5


def test_a_budget_that_was_trained_in_the_dark_has_no_ratio(tmp_path: Path) -> None:
    c = config(tmp_path, {"a": HOLED}, spin_up_s=300.0, backtest="site_hours = 60\ndeadlines_h = [120]")
    (row,) = backtest(c, ["always"]).rows
    assert row.finish_h == pytest.approx(60.0 + 300 / 3600)
    assert row.unknown_kwh > 30
    assert row.kg_over_oracle is None


RUNS = st.lists(
    st.tuples(st.sampled_from([None, -50.0, 0.0, 30.0, 99.0, 101.0, 400.0]), st.integers(1, 8)), min_size=3, max_size=12
)
CAUSAL = ["breakeven", "threshold", "paper", "learned", "percentile", "always", "random_duty"]


@settings(max_examples=25)
@given(RUNS, st.sampled_from([0.0, 1.0, 300.0, 600.0, 1000.0]), st.sampled_from([-20.0, 0.0, 50.0, 100.0]))
def test_no_policy_beats_the_oracle_through_holes_and_negative_prices(
    runs: list[tuple[float | None, int]], spin_up_s: float, worth: float
) -> None:
    values: list[float | None] = [100.0, *(v for v, n in runs for _ in range(n)), 100.0]
    with tempfile.TemporaryDirectory() as folder:
        c = priced(Path(folder), values, spin_up_s, worth)
        rows = backtest(c, [*CAUSAL, "oracle"]).rows
    oracle = by_policy(rows)["oracle"]
    assert oracle.value is not None
    if oracle.value > 0:
        assert oracle.share_of_oracle == pytest.approx(1.0, abs=1e-9)
    for r in rows:
        assert r.value is not None
        assert r.value <= oracle.value + 1e-9 * max(1.0, abs(oracle.value)), r.policy


def priced(folder: Path, values: list[float | None], spin_up_s: float, worth: float) -> Config:
    return config(
        folder, {"a": values}, spin_up_s=spin_up_s, policy=f"worth_per_mwh = {worth}", signal='type = "price"',
        backtest='target = "none"\npaper_preset = "windfall"',
    )  # fmt: skip


def by_hand(values: list[float], spin: int, worth: float) -> float:
    """The best of all 2^n schedules by steps, where a start may be given up; worth and scale as the configuration has them."""
    best = 0.0
    for mask in range(2 ** len(values)):
        total, warm = 0.0, 0
        for i, c in enumerate(values):
            warm = warm + 1 if mask >> i & 1 else 0
            if warm:
                total += (worth if warm > spin else min(0.0, worth)) - c
        best = max(best, total)
    return best * STEP / 20.0


@settings(max_examples=20)
@given(
    st.lists(st.sampled_from([-80.0, -5.0, 0.0, 10.0, 60.0]), min_size=2, max_size=9),
    st.integers(0, 3),
    st.sampled_from([-20.0, 0.0, 30.0]),
)
def test_the_oracle_gives_starts_up_where_that_earns_money(values: list[float], spin: int, worth: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (row,) = backtest(priced(Path(folder), list(values), spin * STEP, worth), ["oracle"]).rows
    assert row.value == pytest.approx(by_hand(values, spin, worth), abs=1e-6)


@pytest.mark.parametrize(("share", "most"), [(0.01, 0.01), (0.05, 0.01), (0.2, 0.03)])
def test_missing_rows_move_break_evens_share_of_the_oracle_little(tmp_path: Path, share: float, most: float) -> None:
    rng = random.Random(5)
    whole: list[float | None] = [
        rng.choice([0.0, 20.0, 60.0]) if (i // 30) % 3 == 0 else rng.uniform(90, 500) for i in range(288 * 20)
    ]
    (before,) = backtest(config(tmp_path, {"a": whole}), ["breakeven"]).rows
    blocks = rng.sample(range(1, 79), round(share * 80))
    for b in blocks:
        whole[b * 72 : (b + 1) * 72] = [None] * 72
    (after,) = backtest(config(tmp_path, {"a": whole}), ["breakeven"]).rows
    assert before.share_of_oracle is not None
    assert after.share_of_oracle == pytest.approx(before.share_of_oracle, abs=most)


def test_where_nothing_is_known_at_all_the_kg_are_unknown_and_not_zero(tmp_path: Path) -> None:
    found = backtest(
        config(tmp_path, {"a": HOLED}, spin_up_s=300.0), ["always", "oracle"], start=START + 2 * 86400, until=START + 3 * 86400
    )
    (row,) = found.rows
    assert (row.policy, row.kg_co2) == ("always", None)
    assert row.unknown_kwh == pytest.approx(row.energy_kwh)
    assert any("no row of the oracle" in w for w in found.warnings)


def test_a_last_row_that_holds_without_end_ends_a_backtest_unless_somebody_says_how_far(tmp_path: Path) -> None:
    c = config(tmp_path, {"a": [400.0] * 12 + [30.0] * 12}, signal="period_s = 0")
    found = backtest(c, ["always", "oracle"])
    assert found.end == START + 23 * STEP
    assert any("holds without an end" in w for w in found.warnings)
    longer = backtest(c, ["always", "oracle"], until=START + 48 * STEP)
    assert longer.end == START + 48 * STEP
    assert all(r.unknown_kwh == 0 for r in longer.rows)


def test_regions_are_ranked_over_the_time_that_they_have_in_common(tmp_path: Path) -> None:
    c = config(tmp_path, {"a": DAY * 4, "b": DAY * 4})
    (tmp_path / "short.csv").write_text((tmp_path / "trace.csv").read_text().rsplit("\n", 290)[0] + "\n")
    short = c.site[1].model_copy(update={"signal": c.site[1].signal.model_copy(update={"path": str(tmp_path / "short.csv")})})
    ranked = rank_regions(c.model_copy(update={"site": [c.site[0], short]}), "breakeven", count=2, span_days=None, workers=1)
    assert len({(r.begin, r.end) for r in ranked}) == 1
    assert ranked[0].net_value_h == ranked[1].net_value_h
