"""A year of three sites on a manual clock, one a microgrid with sun, wind and battery: how long the backtest of a policy takes.

The mark is 20 s for a policy. Sites on the grid see California's marginal intensity; the plants are made up, at 15 minutes.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path

import numpy as np

from windfall.config.load import loads
from windfall.config.schema import Config
from windfall.simulate.backtest import backtest
from windfall.units import iso_utc, parse_utc

START, DAYS, MARK_S = "2020-09-01T00:00Z", 365, 20.0

_SITE = """
[[site]]
name = "{name}"
region = "{name}"
spin_up_s = 340
load_s = 100
train_power_w = 2000
idle_power_w = 400
tokens_per_s = 1000
"""
_ON_THE_GRID = '[site.signal]\npath = "bundled:caiso"\ncolumn = "{column}"\n'
_FARM = """
trigger = "surplus_power >= 2000 or state_of_charge >= 0.5"
[site.signal]
kind = "microgrid"
type = "surplus_power"
[[site.signals]]
kind = "microgrid"
type = "state_of_charge"
[[site.signals]]
path = "bundled:caiso"
column = "sce_moer_g"
[site.microgrid]
max_export_w = 1000
step_s = {step_s}
[[site.microgrid.source]]
name = "sun"
path = "plants.csv"
column = "sun_w"
period_s = 900
[[site.microgrid.source]]
name = "wind"
path = "plants.csv"
column = "wind_w"
period_s = 900
[site.microgrid.battery]
capacity_wh = 8000
"""


def plants(folder: Path) -> None:
    """A year of sun under clouds, and of wind, at 15 minutes."""
    rng = np.random.default_rng(7)
    t = np.arange(0.0, DAYS * 86400.0, 900.0)
    cloud = np.repeat(rng.uniform(0.25, 1.0, DAYS), 96)
    sun = np.maximum(0.0, np.sin((t % 86400 - 6 * 3600) / 86400 * 2 * math.pi)) * cloud * 5000
    wind = 1500 * np.clip(np.cumsum(rng.normal(0, 0.05, len(t))) % 2, 0, 1)
    start = parse_utc(START)
    rows = (f"{iso_utc(start + a)},{b:.1f},{c:.1f}\n" for a, b, c in zip(t.tolist(), sun.tolist(), wind.tolist(), strict=True))
    (folder / "plants.csv").write_text("time_utc,sun_w,wind_w\n" + "".join(rows), encoding="utf-8")


def configured(folder: Path, step_s: int, tick_s: float) -> Config:
    """Two sites on the grid and one that is a microgrid."""
    text = f"""
[run]
name = "year"
budget_tokens = 1000000
clock = "scaled"
start = "{START}"
tick_s = {tick_s}
[model]
sequence_length = 16
[backtest]
target = "none"
"""
    for name, column in (("north", "pge_moer_g"), ("south", "sce_moer_g")):
        text += _SITE.format(name=name) + _ON_THE_GRID.format(column=column)
    return loads(text + _SITE.format(name="farm") + _FARM.format(step_s=step_s), "year.toml", folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step-s", type=int, default=60, help="how often the microgrid is balanced anew")
    parser.add_argument("--tick-s", type=float, default=300.0, help="between two decisions")
    parser.add_argument("--policies", nargs="+", default=["threshold", "breakeven"])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        plants(folder)
        config = configured(folder, asked.step_s, asked.tick_s)
        for policy in asked.policies:
            wall, cpu = time.perf_counter(), time.process_time()
            (row,) = backtest(config, [policy]).rows
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            kwh = ", ".join(f"{v:,.0f} kWh {k}" for k, v in row.kwh_by_origin.items())
            print(f"{policy}: {wall:.1f} s ({cpu:.1f} s of processor time), mark {MARK_S:g} s; {row.starts:,} starts; farm: {kwh}")


if __name__ == "__main__":
    main()
