"""Eight months, three regions, three kinds of signal: California's marginal intensity, prices in Texas and South Australia.

python benchmarks/three_regions.py --data DIR

DIR holds `aligned_3site_caiso_ercot_sa_5min_2021-01_2021-08.csv` (one grid of 5 minutes; columns caiso_pge_moer_g_kwh,
ercot_hb_pan_dam_usd_mwh, nem_sa1_price_aud_mwh). South Australia's prices are AEMO's and do not come with Windfall, so without
the file this says so and ends. Baseline: the study's rule (`paper`), over the same time and start dates.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rich.console import Console

from windfall import clock
from windfall.config.load import loads
from windfall.config.schema import Config
from windfall.grid.build import build_grid
from windfall.simulate.backtest import backtest, span_of
from windfall.simulate.regions import jobs_for
from windfall.simulate.sweep import summarise, sweep
from windfall.ui.terminal.tables import print_backtest
from windfall.ui.terminal.tables_sweep import print_sweep

FILE = "aligned_3site_caiso_ercot_sa_5min_2021-01_2021-08.csv"
SITES = (
    ("california", "CAISO_NORTH", "caiso_pge_moer_g_kwh", ""),
    ("texas", "ERCOT_PAN", "ercot_hb_pan_dam_usd_mwh", 'type = "price"\ncurrency = "USD"'),
    ("south_australia", "NEM_SA", "nem_sa1_price_aud_mwh", 'type = "price"\ncurrency = "AUD"'),
)


def config(trace: Path, target: str) -> Config:
    """The study's machines at the three sites."""
    text = f"""
[run]
name = "three_regions"
budget_tokens = 12_800_000_000
clock = "scaled"
start = "2021-01-01T06:00Z"
tick_s = 300
[backtest]
{target}
paper_preset = "windfall"
"""
    for name, region, column, more in SITES:
        text += f"""
[[site]]
name = "{name}"
region = "{region}"
spin_up_s = 340
load_s = 100
train_power_w = 2024
idle_power_w = 468
tokens_per_s = 199_000
[site.signal]
path = "{trace}"
column = "{column}"
{more}
"""
    return loads(text, "three_regions.toml", trace.parent)


def main() -> None:
    """Eight months without a budget, then the study's budget from many start dates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("WINDFALL_DATA", "data"), help="folder with the file (or WINDFALL_DATA)")
    trace = Path(parser.parse_args().data).resolve() / FILE
    if not trace.is_file():
        print(f"skipped: no {FILE} in {trace.parent}")
        return
    console = Console(width=120)
    policies = ["paper", "threshold", "breakeven", "learned", "oracle"]
    print_backtest(backtest(config(trace, 'target = "none"'), policies), console)
    budget = config(trace, "site_hours = 17.86")
    jobs = jobs_for(budget, span_of(budget, build_grid(budget)), policies[:-1], 48, None)
    before = clock.monotonic()
    points = sweep(budget, jobs)
    print_sweep(summarise(points, with_budget=True), len(jobs), clock.monotonic() - before, budget, console)


if __name__ == "__main__":
    main()
