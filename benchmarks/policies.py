"""Policies on the bundled year, and on prices where the three-region data are: nearness to the oracle.

make bench-policies
python benchmarks/policies.py [--every WEEKS] [--data DIR]

Budgets are 5, 10 and 20 % of what two sites (PG&E, SCE) could train in 7 and 14 days, from start dates a week apart after the 28th
day, so that each has 28 days of history; the first row has none. Dates on which the oracle emits under 20 g per site-hour are told
in kg, not as a ratio. `--every` takes every so manieth week.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from backtest import study, timed, year

from windfall.config.load import loads
from windfall.config.schema import Config
from windfall.grid.build import Grid, build_grid, recorded
from windfall.grid.signal import StepSignal
from windfall.simulate.backtest import backtest
from windfall.simulate.oracle import BudgetOracle
from windfall.simulate.quantiles import quantiles
from windfall.simulate.simulation import Simulation, TimeSpan
from windfall.units import parse_utc

BEGIN, WEEK_S, HOUR_S = "2020-09-01T00:00Z", 7 * 86400.0, 3600.0
HISTORY_WEEKS = 4
SMALL_G_PER_H = 20.0
PRICES = "aligned_3site_caiso_ercot_sa_5min_2021-01_2021-08.csv"


def main() -> None:
    """Print every row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every so manieth week of start dates")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="where the three-region data are")
    asked = parser.parse_args()
    shares()
    study()
    prices(asked.data / PRICES)
    three, hundred = timed(3, "breakeven"), timed(100, "breakeven")
    print(
        f"a year, breakeven: 3 sites {three:.2f} s, 100 sites {hundred:.1f} s: {hundred / three:.1f} times for 33.3 times the sites"
    )
    three, learned = timed(3, "breakeven"), timed(3, "learned")
    print(f"a year, 3 sites: learned {learned:.2f} s, {learned / three:.1f} times breakeven's {three:.2f} s")
    for forecasts in (False, True):
        budgets(asked.every, forecasts)
    no_history()


def shares() -> None:
    """Share of the oracle's value over the year, readings on time, 5 and 15 min late."""
    for region, column in (("PG&E", "pge_moer_g"), ("SCE", "sce_moer_g")):
        for minutes in (5, 10, 20):
            found = backtest(
                year(1, minutes * 60.0, (column,), more="publication_delays_s = [0, 300, 900]"), ["breakeven", "learned"]
            )
            for row in [*found.rows, *found.late]:
                late = f"{(row.publication_delay_s or 0) / 60:.0f} min late"
                print(f"{region:4} start {minutes:2} min, {late:11} {row.policy:10} {row.share_of_oracle or 0:.3f} of the oracle")


def prices(file: Path) -> None:
    """The same on prices of South Australia and Texas, worth 0 and 20 a MWh."""
    if not file.exists():
        print(f"prices: {file} is not here")
        return
    for region, column, currency in (("SA", "nem_sa1_price_aud_mwh", "AUD"), ("Texas W", "ercot_hb_west_dam_usd_mwh", "USD"),
                                     ("Texas Pan", "ercot_hb_pan_dam_usd_mwh", "USD")):  # fmt: skip
        for worth in (0, 20):
            for minutes in (5, 10, 20):
                config = loads(
                    f"""
[run]
name = "prices"
budget_tokens = 1_000_000
clock = "scaled"
tick_s = 300
[policy]
worth_per_mwh = {worth}
[model]
sequence_length = 16
[backtest]
target = "none"
[[site]]
name = "s"
region = "R"
spin_up_s = {minutes * 60}
load_s = {minutes * 60}
train_power_w = 1000
idle_power_w = 1000
tokens_per_s = 1000
[site.signal]
type = "price"
currency = "{currency}"
path = '{file.resolve()}'
column = "{column}"
""", "prices.toml", Path.cwd(),
                )  # fmt: skip
                rows = backtest(config, ["threshold", "breakeven", "learned"]).rows
                told = ", ".join(f"{r.policy} {r.share_of_oracle or 0:.3f}" for r in rows)
                print(f"{region:9} worth {worth:2} {currency}, start {minutes:2} min: {told} of the oracle")


def pair(forecasts: bool) -> Config:
    """The study's machines in both regions of the bundled year."""
    text = f"""
[run]
name = "dates"
budget_tokens = 1_000_000
clock = "scaled"
start = "{BEGIN}"
tick_s = 300
[model]
sequence_length = 16
[policy]
name = "budgeted"
deadline_h = 336
[backtest]
site_hours = 10
"""
    for name, column in (("pge", "pge_moer_g"), ("sce", "sce_moer_g")):
        ahead = "forecast_columns = { pge_f1_g = 300, pge_f12_g = 3600, pge_f36_g = 10800 }" if forecasts and name == "pge" else ""
        text += f"""
[[site]]
name = "{name}"
region = "{name}"
spin_up_s = 340
load_s = 100
train_power_w = 2000
idle_power_w = 500
tokens_per_s = 1000
[site.signal]
path = "bundled:caiso"
column = "{column}"
{ahead}
"""
    return loads(text, "dates.toml", Path.cwd())


def dated(config: Config, grid: Grid, start: float, hours: float, share: float) -> tuple[float, float, bool] | None:
    """Budgeted's and the oracle's kg, and whether the date was kept; None where the oracle cannot keep it."""
    site_hours = share * hours * len(config.site)
    one = config.model_copy(update={"backtest": config.backtest.model_copy(update={"site_hours": site_hours})})
    simulation = Simulation(one, grid, TimeSpan(start, start + (hours + 24.0) * HOUR_S), "windfall")
    oracle = BudgetOracle(one, simulation.signals, simulation.model, start, simulation.rates, simulation.budget)
    made = oracle.schedule(hours)
    if made is None or not made.reachable:
        return None
    found = simulation.run("budgeted", deadline_h=hours)
    kept = found.done_at is not None and found.done_at <= start + hours * HOUR_S + 1.0
    return found.kg or 0.0, made.cost / HOUR_S / 1000.0, kept


def budgets(every: int, forecasts: bool) -> None:
    """Kg over the oracle's, by date and share."""
    config = pair(forecasts)
    grid = build_grid(config)
    begin = parse_utc(BEGIN)
    for days in (7, 14):
        for share in (0.05, 0.1, 0.2):
            starts = [begin + w * WEEK_S for w in range(HISTORY_WEEKS, 53, every) if (w * 7 + days) <= 364]
            found = [x for s in starts if (x := dated(config, grid, s, days * 24.0, share)) is not None]
            what = f"budgeted, {days} days, {share:.0%}, {'3 h of forecast at one site' if forecasts else 'no forecast'}"
            print(f"{what}: {told(found, share * days * 48.0)}")


def no_history() -> None:
    """From months' first days, of which nothing is known before: the trace is cut off there."""
    config = pair(False)
    found = []
    for month in ("2020-09", "2020-11", "2021-01", "2021-03", "2021-05", "2021-07"):
        start = parse_utc(f"{month}-01T00:00Z")
        grid = build_grid(config)
        cut = {n: _from(recorded(s), start) for n, s in grid.by_site.items()}
        alone = Grid(dict(cut), {}, {n: dict.fromkeys(grid.signals[n], s) for n, s in cut.items()})
        x = dated(config, alone, start, 336.0, 0.1)
        found += [x] if x is not None else []
    print(f"budgeted, 14 days, 10%, no history: {told(found, 67.2)}")


def _from(signal: StepSignal, start: float) -> StepSignal:
    c = signal.between(start, signal.ends_at())
    return StepSignal(c.starts[np.isfinite(c.values)], c.values[np.isfinite(c.values)], unit=signal.unit, source=signal.source)


def told(found: Sequence[tuple[float, float, bool]], site_hours: float) -> str:
    """Quantiles of the ratios, kg over the oracle's where that emits next to nothing, and how many dates were kept."""
    ratios = [ours / best for ours, best, _ in found if best * 1000.0 >= SMALL_G_PER_H * site_hours]
    over = [ours - best for ours, best, _ in found if best * 1000.0 < SMALL_G_PER_H * site_hours]
    p50, p90 = quantiles(ratios, (0.5, 0.9))
    text = f"kg over the oracle's p50 {p50:.2f}, p90 {p90:.2f} ({len(ratios)} dates)"
    if over:
        a, b = quantiles(over, (0.5, 0.9))
        text += f"; where it emits next to nothing {a:.1f} kg more, p90 {b:.1f} ({len(over)} dates, {site_hours:.0f} site-hours)"
    return f"{text}; dates kept {sum(kept for _, _, kept in found)} of {len(found)}"


if __name__ == "__main__":
    main()
