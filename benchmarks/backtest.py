"""Backtests: the study's day over the study, a year's policies over the oracle, and how fast both are.

make bench-backtest
Speed is told against a named baseline: the same simulation asked at every tick, without skipping ahead, in the same run.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from pathlib import Path

import numpy as np

from windfall import clock
from windfall.cli.demo import bundled
from windfall.config.load import loads
from windfall.config.schema import Config
from windfall.grid.build import Grid, build_grid
from windfall.grid.signal import StepSignal
from windfall.policy.programme import Programme, SpinUp, StepFunction
from windfall.simulate.backtest import backtest, compare, span_of
from windfall.simulate.simulation import Simulation, TimeSpan
from windfall.units import parse_utc

#: The study, Table 1: kgCO2, hours, kWh.
STUDY = (1.379, 14.60, 37.72)
QUARTERS = ("2020-09-01", "2020-12-01", "2021-03-01", "2021-06-01", "2021-09-01")


def main() -> None:
    """Print the study's day, the year, and the speeds."""
    study()
    shares()
    holes()
    speed()


def study() -> None:
    """The study's day: a ratio to the study's figures for every policy."""
    print("the study's day: ratios to the study's measured run")
    result = backtest(loads(bundled("paper_day.toml"), "paper_day.toml", Path.cwd()))
    for row in [*result.rows, *result.late]:
        late = f"{row.publication_delay_s or 0:g} s late"
        name = row.policy + (f" by {row.deadline_h:g} h" if row.policy in ("budgeted", "oracle") else "")
        hours = row.finish_h or math.nan
        print(
            f"  {name:18} {row.preset:10} {late:10} {row.kg_co2 or 0:7.3f} kg ({(row.kg_co2 or 0) / STUDY[0]:.3f})  "
            f"{hours:6.2f} h ({hours / STUDY[1]:.3f})  {row.energy_kwh:6.2f} kWh ({row.energy_kwh / STUDY[2]:.3f})"
        )


def year(sites: int, spin_up_s: float, columns: tuple[str, ...], forecasts: bool = False, more: str = "") -> Config:
    """Sites of 1 kW on a year of California, a start at full power."""
    text = f"""
[run]
name = "year"
budget_tokens = 1_000_000
clock = "scaled"
start = "2020-09-01T00:00Z"
tick_s = 300
[model]
sequence_length = 16
[backtest]
target = "none"
paper_preset = "windfall"
{more}
"""
    for i in range(sites):
        column = columns[i % len(columns)]
        ahead = "forecast_columns = { pge_f1_g = 300, pge_f12_g = 3600, pge_f36_g = 10800 }" if forecasts else ""
        text += f"""
[[site]]
name = "s{i}"
region = "R{i % len(columns)}"
spin_up_s = {spin_up_s}
load_s = {spin_up_s}
train_power_w = 1000
idle_power_w = 1000
tokens_per_s = 1000
[site.signal]
path = "bundled:caiso"
column = "{column}"
{ahead}
"""
    return loads(text, "year.toml", Path.cwd())


def shares() -> None:
    """Share of the oracle's net value over the year, and by quarter for the forecasting policy."""
    print("a year of California, worth 100 g/kWh: share of the oracle's net value")
    for region, column in (("PG&E", "pge_moer_g"), ("SCE", "sce_moer_g")):
        for minutes in (5, 10, 20):
            ahead = column.startswith("pge")
            names = ["threshold", "paper", "breakeven", "learned", *(["lookahead"] if ahead else [])]
            config = year(1, minutes * 60.0, (column,), ahead)
            rows = backtest(config, names).rows
            late = backtest(
                year(1, minutes * 60.0, (column,), ahead, "publication_delays_s = [300]"), ["breakeven", "learned"]
            ).rows
            told = ", ".join(f"{r.policy} {r.share_of_oracle:.3f}" for r in rows)
            print(f"  {region:4} start {minutes:2} min: {told}; readings 5 min late: "
                  + ", ".join(f"{r.policy} {r.share_of_oracle:.3f}" for r in late))  # fmt: skip
            if ahead:
                print("       by quarter: " + "; ".join(quarters(config, minutes * 60.0)))


def holes() -> None:
    """What missing rows do to shares of the oracle, which does not know what was in them either: blocks of 6 h, 5 seeds."""
    policies = ["threshold", "paper", "breakeven", "learned", "always"]
    config = year(1, 600.0, ("pge_moer_g",))
    grid = build_grid(config)
    span = span_of(config, grid)
    whole = grid.by_site["s0"]
    assert isinstance(whole, StepSignal)
    before = {r.policy: r.share_of_oracle or 0.0 for r in compare(config, grid, span, policies)}
    print("rows missing in blocks of 6 h, 5 seeds, starts of 10 min: mean share of the oracle's net value, and its largest move")
    c = whole.between(span.start, span.end)
    blocks = int((span.end - span.start) // 21600.0)
    highest = -math.inf
    for percent in (1, 5, 20):
        moved: dict[str, list[float]] = {p: [] for p in policies}
        for seed in range(5):
            gone = random.Random(seed).sample(range(1, blocks - 1), round(blocks * percent / 100))
            keep = ~np.isin((c.starts - span.start) // 21600.0, gone)
            thinned = StepSignal(c.starts[keep], c.values[keep], unit=whole.unit, source=f"{percent} % gone", period_s=300.0)
            holed = Grid({"s0": thinned}, {"R0": thinned}, {"s0": {"marginal_co2": thinned}})
            for r in compare(config, holed, span, policies):
                moved[r.policy].append((r.share_of_oracle or 0.0) - before[r.policy])
                highest = max(highest, r.share_of_oracle or 0.0)
        told = ", ".join(f"{p} {before[p] + sum(m) / 5:.3f} ({max(m, key=abs):+.4f})" for p, m in moved.items() if p != "always")
        print(f"  {percent:2} %: {told}")
    print(f"  no policy over the oracle: largest share {highest:.12f}")


def quarters(config: Config, spin_up_s: float) -> list[str]:
    """Shares by quarter of policies that ran over the whole year, each against the quarter's own oracle."""
    grid = build_grid(config)
    span = span_of(config, grid)
    signal = grid.by_site["s0"]
    found = []
    lanes = {p: Simulation(config, grid, span, "windfall").run(p).lanes["s0"] for p in ("breakeven", "learned", "lookahead")}
    for a, b in itertools.pairwise(QUARTERS):
        t0, t1 = parse_utc(a), parse_utc(b)
        c = signal.between(t0, t1)
        best, _ = Programme(StepFunction(np.append(c.starts, c.ends[-1]), c.values), SpinUp(((spin_up_s, 1.0),))).solve(100.0)
        told = []
        for policy, lane in lanes.items():
            value = 0.0
            for x, y, state in lane:
                if state in ("provisioning", "training", "ready") and min(y, t1) > max(x, t0):
                    part = signal.between(max(x, t0), min(y, t1))
                    paid = float((part.values * (part.ends - part.starts)).sum())
                    value += (100.0 * (min(y, t1) - max(x, t0)) if state != "provisioning" else 0.0) - paid
            told.append(f"{policy} {value / best:.3f}")
        found.append(f"{a[:7]} " + " ".join(told))
    return found


def speed() -> None:
    """Three sites and a hundred for a year, the oracle, and how the cost grows with sites and steps."""
    print("speed, one year in steps of 5 minutes, the whole controller")
    three = timed(3, "breakeven")
    full = timed(3, "breakeven", skip=False)
    print(f"  3 sites: {three:.2f} s; asked at every tick {full:.2f} s: ratio {full / three:.1f}")
    counts = (12, 25, 50, 100)
    took = [timed(n, "breakeven") for n in counts]
    slope = np.polyfit(np.log(counts), np.log(took), 1)[0]
    times = took[-1] / three
    print(f"  {counts[-1]} sites: {took[-1]:.1f} s, {times:.0f} times those of 3 sites; cost ~ sites to the power {slope:.2f}")
    lengths = (45, 90, 180, 365)
    took = [timed(8, "threshold", skip=False, days=d) for d in lengths]
    slope = np.polyfit(np.log(lengths), np.log(took), 1)[0]
    print(f"  8 sites asked at every tick, {lengths[0]} to {lengths[-1]} days: with steps to the power {slope:.2f}")
    c = build_grid(year(1, 600.0, ("pge_moer_g",))).by_site["s0"].between(1598918400.0, 1630454400.0)
    before = clock.monotonic()
    Programme(StepFunction(np.append(c.starts, c.ends[-1]), c.values), SpinUp(((600.0, 1.0),))).solve(100.0)
    print(f"  the oracle for a year: {clock.monotonic() - before:.3f} s")


def timed(sites: int, policy: str, *, skip: bool = True, days: float | None = None) -> float:
    """CPU seconds of the simulation alone, so that what else the machine does changes no ratio."""
    config = year(sites, 600.0, ("pge_moer_g", "sce_moer_g"))
    grid = build_grid(config)
    span = span_of(config, grid)
    if days is not None:
        span = TimeSpan(span.start, span.start + days * 86400.0)
    simulation = Simulation(config, grid, span, "windfall", skip=skip)
    before = time.process_time()
    simulation.run(policy)
    return time.process_time() - before


if __name__ == "__main__":
    main()
