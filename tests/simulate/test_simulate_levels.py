"""Backtests of sites with power levels: power and pace follow the surplus, and no policy is worth more than the oracle."""

from __future__ import annotations

import math
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simulate.days import START, STEP, write_trace
from windfall.config.load import loads
from windfall.config.schema import Config
from windfall.errors import ConfigError
from windfall.grid.build import build_grid
from windfall.simulate.backtest import backtest, span_of
from windfall.simulate.curves import trained
from windfall.simulate.oracle import best_value
from windfall.simulate.simulation import Simulation, SimulationResult
from windfall.ui.backtest_rows import columns
from windfall.units import iso_utc
from windfall.view.backtest_frames import backtest_frames

LEVELS = [(400.0, 500.0), (700.0, 800.0), (1000.0, 1000.0)]
POLICIES = ("breakeven", "threshold", "learned", "paper", "random_duty", "always")


def farm(
    folder: Path, watts: list[float | None], *, levels: list[tuple[float, float]] | None = None, delay_s: float = 0.0,
    backtest: str = 'target = "none"', spin_up_s: float = 600.0, more: str = "", signal: str = 'path = "sun.csv"\ncolumn = "w"',
    tick_s: float = STEP,
) -> Config:  # fmt: skip
    """A site of 1 kW whose surplus is ``watts``, five minutes each; ``levels``: (W, tokens/s)."""
    write_trace(folder / "sun.csv", {"w": watts, "g": [None if w is None else 300.0 for w in watts]})
    each = ", ".join(f"{{ power_w = {w}, tokens_per_s = {p} }}" for w, p in (LEVELS if levels is None else levels))
    return loads(
        f"""
[run]
budget_tokens = 7_200_000
clock = "scaled"
start = "{iso_utc(START)}"
tick_s = {tick_s}
[model]
depth = 1
sequence_length = 16
[backtest]
{backtest}
[[site]]
name = "farm"
region = "F"
spin_up_s = {spin_up_s}
load_s = {spin_up_s / 2}
train_power_w = 1000
idle_power_w = 200
tokens_per_s = 1000
power_levels = [{each}]
[site.signal]
type = "surplus_power"
publication_delay_s = {delay_s}
{signal}
[[site.signals]]
path = "sun.csv"
column = "g"
{more}
""", "farm.toml", folder,
    )  # fmt: skip


def simulated(c: Config, policy: str, *, skip: bool = True) -> SimulationResult:
    grid = build_grid(c)
    return Simulation(c, grid, span_of(c, grid), "windfall", skip=skip).run(policy)


def cloudy(seed: int) -> list[float | None]:
    """A day's surplus (W) under clouds, with holes."""
    rng = random.Random(seed)
    found: list[float | None] = []
    for i in range(288):
        hole = i > 0 and rng.random() < 0.02
        found.append(None if hole else round(max(0.0, 1400 * math.sin(2 * math.pi * i / 288) + rng.uniform(-400, 400)), 1))
    return found


def test_a_site_takes_and_trains_what_its_surplus_covers(tmp_path: Path) -> None:
    watts = [0.0] * 3 + [450.0] * 6 + [1200.0] * 4 + [750.0] * 2 + [100.0] * 3
    found = simulated(farm(tmp_path, watts, spin_up_s=0.0), "threshold")
    assert [(t0 - START, t1 - START, w) for t0, t1, w in found.levels["farm"]] == [
        (900.0, 2700.0, 400.0), (2700.0, 3900.0, 1000.0), (3900.0, 4500.0, 700.0),
    ]  # fmt: skip
    assert found.kwh == pytest.approx((400 * 1800 + 1000 * 1200 + 700 * 600) / 3.6e6)
    assert found.tokens == pytest.approx(500 * 1800 + 1000 * 1200 + 800 * 600)
    assert found.kg == pytest.approx(found.kwh * 0.3)
    assert found.share_inside == 1.0
    assert found.value == pytest.approx(0.5 * 1800 + 1.0 * 1200 + 0.8 * 600)


def test_a_budget_is_done_when_the_integral_of_the_pace_reaches_it(tmp_path: Path) -> None:
    watts = [450.0] * 6 + [1200.0] * 60
    tokens = simulated(farm(tmp_path, watts, spin_up_s=0.0, backtest=""), "threshold")
    assert tokens.done_at == pytest.approx(START + 1800 + (7_200_000 - 500 * 1800) / 1000)
    told = backtest(farm(tmp_path, watts, spin_up_s=0.0, backtest=""), ["threshold", "oracle"])
    assert [r.policy for r in told.rows] == ["threshold"]
    assert any("a power is no cost" in w for w in told.warnings)
    assert told.rows[0].share_of_oracle == pytest.approx(1.0), "its value has one beside it all the same"
    hours = simulated(farm(tmp_path, watts, spin_up_s=0.0, backtest="site_hours = 2"), "threshold")
    assert hours.done_at == pytest.approx(START + 1800 + (7200 - 0.5 * 1800)), "site-hours of a budget are those at full power"
    assert hours.site_hours == pytest.approx((hours.done_at - START) / 3600)


SURPLUS = st.lists(
    st.tuples(st.sampled_from([None, 0.0, 249.0, 400.0, 555.0, 700.0, 999.0, 1000.0, 2000.0]), st.integers(1, 6)),
    min_size=2, max_size=14,
).map(lambda runs: [0.0, *(v for v, n in runs for _ in range(n))])  # fmt: skip
BELOW = st.lists(st.tuples(st.integers(5, 19), st.floats(50.0, 1000.0)), max_size=3, unique_by=lambda x: x[0])


@settings(max_examples=12)
@example([0.0, 400.0, 400.0, None, None, *[1000.0] * 4], [(5, 251.0)], 450.0, 1500.0)  # the oracle's levels followed late readings
@given(watts=SURPLUS, below=BELOW, delay_s=st.sampled_from([0.0, 450.0]), spin_up_s=st.sampled_from([0.0, 300.0, 1500.0]))
def test_no_policy_is_worth_more_than_the_oracle_and_every_sum_is_an_integral_over_levels(
    watts: list[float | None], below: list[tuple[int, float]], delay_s: float, spin_up_s: float
) -> None:
    powers, paces = sorted(50.0 * w for w, _ in below), sorted(p for _, p in below)
    levels = [*zip(powers, paces, strict=True), (1000.0, 1000.0)]
    more = 'target = "none"\nrandom_seeds = 1\npaper_preset = "windfall"'
    with tempfile.TemporaryDirectory() as folder:
        c = farm(Path(folder), watts, levels=levels, delay_s=delay_s, spin_up_s=spin_up_s, backtest=more)
        rows = backtest(c, [*POLICIES, "oracle"]).rows
    assert [r.policy for r in rows] == [*POLICIES, "oracle"]
    best = rows[-1].value
    assert best is not None
    assert best >= 0.0
    for r in rows:
        assert r.value is not None
        assert r.value <= best + 1e-6, r.policy
        assert r.share_of_oracle is None or r.share_of_oracle <= 1.0 + 1e-9
        spans, lane = r.levels["farm"], r.lanes["farm"]
        assert {w for _, _, w in spans} <= {w for w, _ in levels}
        assert sum(b - a for a, b, _ in spans) == pytest.approx(r.site_hours * 3600)
        loading = sum(max(0.0, b - (a + spin_up_s / 2)) for a, b, state in lane if state == "provisioning")
        assert r.energy_kwh * 3.6e6 == pytest.approx(200.0 * loading + sum((b - a) * w for a, b, w in spans))
        assert trained(r, c.site[0]) == pytest.approx(sum((b - a) * dict(levels)[w] for a, b, w in spans))


@settings(max_examples=15)
@given(st.lists(st.sampled_from([0.0, 400.0, 800.0, 1500.0]), min_size=2, max_size=8), st.integers(0, 2))
def test_the_oracle_is_the_best_of_all_schedules_at_the_levels_that_the_surplus_covers(watts: list[float], spin: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        c = farm(Path(folder), list(watts), spin_up_s=spin * STEP)
        grid = build_grid(c)
        s = Simulation(c, grid, span_of(c, grid), "windfall")
        found = best_value(c, s.signals, s.model, START, START + len(watts) * STEP)
        carried = s.scheduled({} if found is None else found[1])
    gains = [-0.5 if w < 400 else 0.5 if w < 700 else 0.8 if w < 1000 else 1.0 for w in watts]
    best = 0.0
    for mask in range(2 ** len(gains)):
        total, warm = 0.0, 0
        for i, gain in enumerate(gains):
            on = bool(mask >> i & 1)
            total += on * (gain if warm >= spin else gain - 1.0) * STEP
            warm = warm + 1 if on else 0
        best = max(best, total)
    assert found is not None
    assert found[0] == pytest.approx(best)
    assert carried.value == pytest.approx(best)


@pytest.mark.parametrize("policy", ["always", "random_duty", "threshold"])
def test_skipping_from_event_to_event_changes_no_level(tmp_path: Path, policy: str) -> None:
    c = farm(tmp_path, cloudy(3), delay_s=450.0, tick_s=100.0)
    a, b = simulated(c, policy), simulated(c, policy, skip=False)
    assert len(a.levels["farm"]) > 10
    assert a.levels == b.levels
    assert (a.kwh, a.tokens, a.value) == pytest.approx((b.kwh, b.tokens, b.value))


def test_late_readings_are_worth_less_and_never_more(tmp_path: Path) -> None:
    """For ten minutes of each half hour the level is that of ten minutes before."""
    watts = [v for _ in range(24) for v in (1200.0, 1200.0, 1200.0, 450.0, 450.0, 450.0)]
    (row,) = backtest(farm(tmp_path, watts, delay_s=600.0), ["threshold"]).rows
    (prompt,) = backtest(farm(tmp_path, watts), ["threshold"]).rows
    assert prompt.share_of_oracle == pytest.approx(1.0, abs=0.02)
    assert row.share_of_oracle is not None
    assert row.share_of_oracle < 0.5, "full power under a surplus of 450 W counts against it"


def test_a_stale_reading_is_the_lowest_level_for_whoever_trains_on(tmp_path: Path) -> None:
    watts: list[float | None] = [1200.0] * 6 + [None] * 6 + [1200.0] * 3
    found = simulated(farm(tmp_path, watts, spin_up_s=0.0), "always")
    assert [(t0 - START, w) for t0, _, w in found.levels["farm"]] == [(0.0, 1000.0), (1500.0 + 900.0, 400.0), (3600.0, 1000.0)]


def test_the_load_of_a_microgrid_follows_the_level(tmp_path: Path) -> None:
    own = '[site.microgrid]\n[[site.microgrid.source]]\npath = "sun.csv"\ncolumn = "w"'
    watts = [0.0] * 3 + [450.0] * 6 + [1200.0] * 4 + [750.0] * 2 + [0.0] * 3
    c = farm(tmp_path, watts, signal='kind = "microgrid"', more=own, spin_up_s=0.0)
    found = simulated(c, "threshold")
    assert found.kwh_by_origin == pytest.approx({"own": found.kwh, "stored": 0.0, "grid": 0.0})
    assert found.kwh == pytest.approx((400 * 1800 + 1000 * 1200 + 700 * 600) / 3.6e6)
    assert found.kg == pytest.approx(0.0)
    one = farm(tmp_path, watts, levels=[(1000.0, 1000.0)], signal='kind = "microgrid"', more=own, spin_up_s=0.0)
    full = simulated(one, "threshold")
    assert full.kwh_by_origin["own"] < found.kwh_by_origin["own"]
    eager = found.levels["farm"]
    assert [w for _, _, w in eager] == [400.0, 1000.0, 700.0]


def test_rows_show_the_mean_power_and_only_where_there_are_levels(tmp_path: Path) -> None:
    result = backtest(farm(tmp_path, cloudy(1)), ["threshold", "always"])
    for r in result.rows:
        spans = r.levels["farm"]
        assert r.training_power_w == pytest.approx(sum((b - a) * w for a, b, w in spans) / (r.site_hours * 3600))
        assert "levels" not in r.as_json()
    assert [c.title for c in columns(result) if c.title == "W in training"]
    frame = backtest_frames(result)["rows"]
    assert frame["training_power_w"] == [r.training_power_w for r in result.rows]
    plain = backtest(farm(tmp_path, cloudy(1), levels=[]), ["threshold"])
    assert plain.rows[0].training_power_w is None
    assert not [c.title for c in columns(plain) if c.title == "W in training"]
    assert plain.rows[0].share_of_oracle is not None, "one power is one level"


def test_a_backtest_needs_the_pace_of_every_level(tmp_path: Path) -> None:
    c = farm(tmp_path, [1200.0] * 6)
    less = [x.model_copy(update={"tokens_per_s": None}) for x in c.site[0].power_levels]
    bare = c.model_copy(update={"site": [c.site[0].model_copy(update={"power_levels": less})]})
    with pytest.raises(ConfigError, match="its level of 400 W has no tokens_per_s"):
        backtest(bare, ["threshold"])
