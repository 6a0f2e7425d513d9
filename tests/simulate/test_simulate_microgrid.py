"""Backtests of a site that is a microgrid: what it trains on, what it costs, and that a recorded run decides again as it did."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from simulate.days import START, STEP, write_trace
from windfall.config.load import loads, to_toml
from windfall.config.schema import Config
from windfall.grid.build import build_grid
from windfall.run.recorder import TelemetryRecorder
from windfall.simulate.backtest import backtest, span_of
from windfall.simulate.provenance import provenance
from windfall.simulate.replay import replay
from windfall.simulate.simulation import Simulation
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.units import iso_utc

DAYS = 2


def farm(folder: Path, *, trigger: str = "", microgrid: str = "", battery: str = "capacity_wh = 3000", more: str = "") -> Config:
    """A site of 1 kW on sun and battery, beside one on the grid; both see an intensity that is always over the worth."""
    steps = range(DAYS * 288)
    sun = [max(0.0, round(2600 * math.sin(2 * math.pi * i / 288) * (0.8 + 0.2 * math.sin(i)), 1)) for i in steps]
    write_trace(
        folder / "sun.csv",
        {"sun_w": sun, "g": [300.0 + i % 7 for i in steps], "open": [50.0 if i % 90 < 30 else 200.0 for i in steps]},
    )
    return loads(
        f"""
[run]
name = "farm"
budget_tokens = 7_200_000
clock = "scaled"
start = "{iso_utc(START)}"
tick_s = {STEP}
[policy]
name = "threshold"
[model]
depth = 1
sequence_length = 16
[backtest]
target = "none"
[[site]]
name = "farm"
region = "F"
spin_up_s = 600
train_power_w = 1000
idle_power_w = 300
tokens_per_s = 1000
{trigger}
[site.signal]
kind = "microgrid"
type = "surplus_power"
[[site.signals]]
kind = "microgrid"
type = "state_of_charge"
[[site.signals]]
path = "sun.csv"
column = "g"
[site.microgrid]
{microgrid}
[[site.microgrid.source]]
path = "sun.csv"
column = "sun_w"
[site.microgrid.battery]
{battery}
[[site]]
name = "grid"
region = "G"
spin_up_s = 600
train_power_w = 1000
idle_power_w = 300
tokens_per_s = 1000
[site.signal]
path = "sun.csv"
column = "open"
{more}
""", "farm.toml", folder,
    )  # fmt: skip


BOTH = 'trigger = "surplus_power >= 1000 or state_of_charge >= 0.6"'


def simulated(c: Config, *, skip: bool = True):  # type: ignore[no-untyped-def]
    grid = build_grid(c)
    return Simulation(c, grid, span_of(c, grid), "windfall", skip=skip).run("threshold")


def test_a_site_that_trains_on_its_own_surplus_emits_nothing_and_the_battery_lengthens_its_day(tmp_path: Path) -> None:
    plain, longer = simulated(farm(tmp_path)), simulated(farm(tmp_path, trigger=BOTH))
    assert plain.hours_by_site["farm"] > 8
    assert longer.hours_by_site["farm"] > plain.hours_by_site["farm"] + 2
    assert longer.kwh_by_origin["stored"] > plain.kwh_by_origin["stored"]
    own = longer.kwh_by_origin
    grid_site = simulated(farm(tmp_path, trigger='trigger = "surplus_power >= 1e9"'))
    assert own["own"] > 0
    assert own["grid"] < 0.05 * (own["own"] + own["stored"]), "what it takes while it starts and drains, at most"
    assert sum(own.values()) == pytest.approx(longer.kwh - grid_site.kwh)
    assert longer.kg is not None
    assert grid_site.kg is not None
    assert longer.kg - grid_site.kg == pytest.approx(own["grid"] * 0.3, rel=0.05, abs=1e-6)
    (note,) = [n for n in longer.notes if n.startswith("farm: ")]
    assert "kWh own" in note
    assert "battery 50 to" in note


def test_skipping_from_event_to_event_changes_no_decision(tmp_path: Path) -> None:
    a, b = simulated(farm(tmp_path, trigger=BOTH)), simulated(farm(tmp_path, trigger=BOTH), skip=False)
    assert a.lanes == b.lanes
    assert a.kwh_by_origin == pytest.approx(b.kwh_by_origin)
    assert a.kg == pytest.approx(b.kg)


def test_a_recorded_run_of_a_microgrid_decides_again_as_it_did(tmp_path: Path) -> None:
    c = farm(tmp_path, trigger=BOTH)
    run = RunDir(tmp_path / "run")
    run.make()
    run.config.write_text(to_toml(c), encoding="utf-8")
    Ledger.create(run.ledger, run_id="r", fingerprint="f", budget_blocks=4, tokens_per_block=4).close()
    telemetry, grid = Telemetry.open(run.telemetry), build_grid(c)
    Simulation(c, grid, span_of(c, grid), "windfall", skip=False).run("threshold", recorder=TelemetryRecorder(telemetry))
    telemetry.flush()
    charges = {given["readings"]["state_of_charge"][0] for d in telemetry.decisions() if (given := d.given) and d.site == "farm"}
    assert len(charges) > 50, "what a decision saw of the battery is in its record"
    telemetry.close()
    found = replay(run)
    assert found.decisions > 500
    assert found.differences == []


def test_an_island_that_runs_out_stops_by_its_stale_signals_and_starts_again_with_the_sun(tmp_path: Path) -> None:
    """Trained without regard to what is there, the battery empties at night: then nothing balances, and no surplus is seen."""
    c = farm(tmp_path, trigger='trigger = "surplus_power >= 0"', microgrid="max_import_w = 0", battery="capacity_wh = 900")
    found = simulated(c)
    (note,) = [n for n in found.notes if n.startswith("farm: ")]
    assert "more than its grid connection lets through" in note
    assert found.hours_by_site["farm"] < DAYS * 24 * 0.75
    with_grid = simulated(farm(tmp_path, trigger='trigger = "surplus_power >= 0"', battery="capacity_wh = 900"))
    assert with_grid.hours_by_site["farm"] > DAYS * 24 * 0.95


def test_a_backtest_tells_where_the_energy_came_from_in_its_row_and_what_it_was_computed_on(tmp_path: Path) -> None:
    c = farm(tmp_path, trigger=BOTH)
    (row,) = backtest(c, ["threshold"]).rows
    assert set(row.as_json()["kwh_by_origin"]) == {"own", "stored", "grid"}
    used = provenance(c, build_grid(c)).traces
    assert [(t.site, t.type) for t in used if "sun.csv" in t.source].count(("farm", "surplus_power")) == 1
