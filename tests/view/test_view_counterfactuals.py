"""What every alternative to a run would have cost: against integrals by hand, of runs that are done, going on, crashed, paused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ui_runs import START, energy, now_row
from ways import EAST, WEST, H, begun, config, trace, trained_run
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.store.telemetry_energy import EnergyRow
from windfall.view.counterfactuals import Counterfactuals, run_counterfactuals
from windfall.view.frames import RunFrames


def grams(values: tuple[float, ...], t0: float, t1: float, watts: float) -> float:
    """By hand: kg of constant power from ``t0`` to ``t1`` (s from the start)."""
    seconds = [max(0.0, min(t1, (i + 1) * H) - max(t0, i * H)) for i in range(len(values))]
    return sum(s * v for s, v in zip(seconds, values, strict=True)) * watts / 3.6e6 / 1000.0


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("ways")
    trace(folder)
    return trained_run(folder, config(folder))


@pytest.fixture(scope="module")
def found(done: RunDir) -> Counterfactuals:
    return run_counterfactuals(done)


def test_always_on_trains_the_same_tokens_at_the_pace_and_power_that_sites_really_had(found: Counterfactuals) -> None:
    tokens = 47 * 1024
    # The west trained 28 blocks in 2.8 h, the east 19 in 1.9 h: ten an hour, so both take 4.7 h for all of them.
    assert (found.tokens, found.site_hours, found.hours) == (tokens, pytest.approx(4.7), pytest.approx(6.0))
    regions = {r.region: r for r in found.regions}
    for region, values in (("W", WEST), ("E", EAST)):
        row = regions[region]
        assert row.site_hours == pytest.approx(4.7)
        assert row.kwh == pytest.approx(9.4)
        assert row.kg == pytest.approx(grams(values, 0, 4.7 * H, 2000.0))
        assert row.curve[-1] == (pytest.approx(START + 4.7 * H), pytest.approx(row.kg))
    assert found.kg == pytest.approx(
        0.4 * 0.1 * (50 + 60 + 20) / 1000 + 2.0 * (0.9 * 50 + 1.0 * 50 + 0.9 * 60 + 1.0 * 60 + 0.9 * 20) / 1000
    )
    best = found.headline
    assert best is not None
    assert best.region == "W"
    assert best.share == pytest.approx((found.kg or 0.0) / (best.kg or 1.0))
    both = found.of("all_on")
    assert both.finish_h == pytest.approx(2.35)
    assert both.kg == pytest.approx(grams(WEST, 0, 2.35 * H, 2000.0) + grams(EAST, 0, 2.35 * H, 2000.0))


def test_rules_go_by_their_levels_with_the_runs_own_starts_and_pace(found: Counterfactuals) -> None:
    plain, study = found.of("threshold"), found.of("paper")
    # Plain: the east from 0 to 1, the west from 1 to 3, and the east from 3 to 5, which is just enough.
    spun = 0.4 * 0.1 * (10 + 50 + 60) / 1000
    assert plain.kg == pytest.approx(spun + 2.0 * (0.9 * 10 + 1.9 * 50 + 1.9 * 60) / 1000)
    assert plain.starts == 3
    # The study's rule goes on for ten minutes into each dear hour.
    late = 2.0 / 6 * (500 + 300) / 1000
    assert study.kg is not None
    assert plain.kg is not None
    assert study.kg > plain.kg + 0.5 * late
    assert study.finish_h is not None
    assert plain.finish_h is not None
    assert study.finish_h <= plain.finish_h


def test_nothing_is_cheaper_than_the_oracle_in_the_same_time(found: Counterfactuals) -> None:
    oracle = found.of("oracle")
    assert oracle.kg is not None
    assert oracle.kg <= (found.kg or 0.0) * (1 + 1e-6)
    for r in found.rows:
        if r.kg is not None and r.finish_h is not None and r.finish_h <= 6.0:
            assert oracle.kg <= r.kg * (1 + 1e-4), r.name
    assert oracle.site_hours == pytest.approx(4.7, rel=1e-4)
    assert "no schedule is cheaper" in oracle.note


def test_random_times_spread_over_seeds_and_are_the_same_again(done: RunDir, found: Counterfactuals) -> None:
    drawn = found.of("random")
    assert drawn.seeds == 200
    assert drawn.kwh == pytest.approx(found.kwh)
    assert drawn.kg_low is not None
    assert drawn.kg is not None
    assert drawn.kg_high is not None
    assert drawn.kg_low < drawn.kg < drawn.kg_high
    assert run_counterfactuals(done) == found
    # All arrangements are equally likely: their mean is near that of the mean intensity of the run's time.
    mean = 2.0 * (2.8 * float(np.mean(WEST[:6])) + 1.9 * float(np.mean(EAST[:6]))) / 1000
    assert drawn.kg == pytest.approx(mean, rel=0.2)


def test_every_alternative_is_a_curve_over_run_time_that_ends_at_its_sum(found: Counterfactuals) -> None:
    for r in found.rows:
        times, kg = np.array(r.curve).T
        assert (times[0], kg[0]) == (START, 0.0), r.name
        assert (np.diff(times) > 0).all(), r.name
        assert (np.diff(kg) >= -1e-12).all(), r.name
        # One of the draws stands for all that are drawn.
        assert kg[-1] == pytest.approx(r.kg, rel=0.02 if r.kind == "random" else 1e-6), r.name
        if r.finish_h is not None and r.kind != "random":
            assert times[-1] == pytest.approx(START + r.finish_h * H, abs=1.0), r.name
    # The east trains alone for the first hour, after a start of six minutes at 400 W.
    plain = np.array(found.of("threshold").curve).T
    assert np.interp(START + np.array([0.1, 0.5, 1.0]) * H, *plain) == pytest.approx(
        [0.04 * EAST[0] / 1000, (0.04 + 0.8) * EAST[0] / 1000, (0.04 + 1.8) * EAST[0] / 1000]
    )


def test_under_a_constant_intensity_all_ways_of_the_same_energy_emit_the_same(tmp_path: Path) -> None:
    trace(tmp_path, (70.0,) * 10, (70.0,) * 10)
    run = trained_run(tmp_path, config(tmp_path))
    c = run_counterfactuals(run)
    drawn = c.of("random")
    assert drawn.kg == pytest.approx(c.kwh * 70.0 / 1000)
    assert drawn.kg_low == pytest.approx(drawn.kg_high)
    assert c.of("all_on").kg == pytest.approx(9.4 * 70.0 / 1000)


def test_a_run_that_goes_on_or_crashed_is_compared_by_what_it_has_committed(tmp_path: Path) -> None:
    trace(tmp_path)
    c = run_counterfactuals(trained_run(tmp_path, config(tmp_path), ends=""))
    assert c.of("oracle").kg is not None
    assert any("the run is stopped: only what is committed by now is compared" in n for n in c.notes)


def test_a_run_that_has_trained_nothing_is_compared_with_nothing(tmp_path: Path) -> None:
    trace(tmp_path)
    run, ledger, t = begun(tmp_path, config(tmp_path))
    assert {r.why for r in run_counterfactuals(run).rows} == {"nothing has been trained yet"}
    now_row(t, START + 5 * H, {"west": ["off", 0, ""], "east": ["off", 0, ""]})
    t.close()
    paused = run_counterfactuals(run)
    assert {r.why for r in paused.rows} == {"nothing has been trained yet"}
    assert all(r.kg is None and r.share is None for r in paused.rows)
    t = Telemetry.open(run.telemetry)
    energy(t, "west", "training", START + H, START + 2 * H, 2000.0, 50.0)
    t.close()
    ledger.close()
    assert {r.why for r in run_counterfactuals(run).rows} == {"no training has been committed yet"}


def test_where_the_traces_are_gone_the_runs_own_readings_are_used(tmp_path: Path) -> None:
    trace(tmp_path)
    run = trained_run(tmp_path, config(tmp_path))
    before = run_counterfactuals(run)
    (tmp_path / "trace.csv").unlink()
    after = run_counterfactuals(run)
    assert any("the readings that the run recorded are used" in n for n in after.notes)
    for kind in ("region", "all_on", "oracle", "random"):
        assert after.of(kind).kg == pytest.approx(before.of(kind).kg), kind


def test_hours_without_a_reading_are_shown_and_are_in_no_kg(tmp_path: Path) -> None:
    trace(tmp_path, holes=(1, 2, 3, 4))
    run = trained_run(tmp_path, config(tmp_path))
    c = run_counterfactuals(run)
    west = next(r for r in c.regions if r.region == "W")
    # A row counts for three periods, so of five hours two are dark, of which 1.7 are needed.
    assert west.kg is None
    assert west.unknown_h == pytest.approx(1.7)
    assert "1.7 of these 4.7 h have no reading" in west.why
    assert c.of("all_on").kg is not None
    t = Telemetry.open(run.telemetry)
    t.book(EnergyRow("west", "training", START + 6 * H, START + 6.5 * H, 2000.0, None, 3.6e6, 0.0, -1, None, None))
    t.close()
    dark = run_counterfactuals(run)
    assert dark.unknown_h == pytest.approx(0.5)
    assert any("of the run itself were used in hours without a reading" in n for n in dark.notes)


def test_marginal_and_average_are_never_compared_nor_added(tmp_path: Path) -> None:
    trace(tmp_path)
    c = run_counterfactuals(trained_run(tmp_path, config(tmp_path, east="average_co2")))
    for kind in ("all_on", "random", "threshold", "paper", "oracle"):
        assert c.of(kind).kg is None
        assert "do not add" in c.of(kind).why
    also = f"""
[[counterfactual]]
region = "N"
[counterfactual.signal]
path = "{tmp_path / "trace.csv"}"
time_column = "t"
column = "e"
period_s = 3600
type = "average_co2"
"""
    other = run_counterfactuals(trained_run(tmp_path / "b", config(tmp_path, also=also)))
    assert (
        next(r for r in other.regions if r.region == "N").why == "its signal is average intensity, and this run counts by marginal"
    )


def test_costs_are_told_by_currency(tmp_path: Path) -> None:
    trace(tmp_path)
    tariff = f"""
[[site.signals]]
path = "{tmp_path / "trace.csv"}"
time_column = "t"
column = "w"
period_s = 3600
type = "price"
currency = "EUR"
"""
    text = config(tmp_path).replace('\n[[site]]\nname = "east"', tariff + '\n[[site]]\nname = "east"')
    c = run_counterfactuals(trained_run(tmp_path, text))
    west = next(r for r in c.regions if r.region == "W")
    assert west.money == {"EUR": pytest.approx(west.kg)}, "the price here is as many EUR/MWh as the intensity is g/kWh"
    assert c.of("oracle").money["EUR"] > 0
    frame = RunFrames(tmp_path / "run").counterfactuals()
    assert frame["money_EUR"][0] is None
    assert frame["kind"][:3] == ["run", "region", "region"]
    assert frame["kg_co2"][0] == pytest.approx(c.kg)


def test_a_site_that_has_left_the_run_is_in_its_tokens_and_cannot_be_drawn(tmp_path: Path) -> None:
    trace(tmp_path)
    run = trained_run(tmp_path, config(tmp_path))
    whole = run.config.read_text()
    run.config.write_text(whole[: whole.index('[[site]]\nname = "east"')], encoding="utf-8")
    c = run_counterfactuals(run)
    assert c.tokens == 47 * 1024
    assert "east: no part of the run any more" in c.of("random").why
    assert c.of("paper").kg is not None
