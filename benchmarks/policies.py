"""Policies on the bundled year, and on prices where the three-region data are: nearness to the oracle, and what readings allow.

make bench-policies
python -m benchmarks.policies [--only PART ...] [--every WEEKS] [--data DIR]

What readings allow is told by `policy_bounds`. The gate's losses are told by month: as shares of the oracle's value in that month
where they are over .003, and the largest as a share of its value in a mean month. The rows of budgets with a date are those of
`dates.py`; `--every` takes every so manieth week of their start dates.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from benchmarks.backtest import study, timed, year
from benchmarks.dates import no_history, rows
from benchmarks.policy_bounds import STEP_S, Case, bounds, by_month, oracle

from windfall.config.load import loads
from windfall.config.schema import Config
from windfall.grid.build import build_grid
from windfall.policy.belief import Belief
from windfall.policy.breakeven import Breakeven
from windfall.policy.learned import on_by_breakeven, value_of
from windfall.simulate.backtest import backtest, span_of
from windfall.simulate.simulation import Simulation, TimeSpan

PRICES = "aligned_3site_caiso_ercot_sa_5min_2021-01_2021-08.csv"
PARTS = ("california", "first", "forecasts", "day", "prices", "speed", "dates")
#: The marks: region, minutes of a start, minutes that readings are late.
MARKS = {
    ("PG&E", 5, 0): 0.975, ("PG&E", 10, 0): 0.955, ("PG&E", 20, 0): 0.915,
    ("SCE", 5, 0): 0.98, ("SCE", 10, 0): 0.96, ("SCE", 20, 0): 0.925,
    ("PG&E", 5, 5): 0.90, ("PG&E", 10, 5): 0.87, ("PG&E", 20, 5): 0.82,
}  # fmt: skip
PRICE_MARK = 0.985
DAY_STEPS = round(86400.0 / STEP_S)


def main() -> None:
    """Print every row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts")
    parser.add_argument("--every", type=int, default=1, help="take every so manieth week of start dates")
    parser.add_argument("--data", type=Path, default=None, help="folder of the three-region data, for prices")
    asked = parser.parse_args()
    if "california" in asked.only:
        california()
    if "first" in asked.only:
        first_days()
    if "forecasts" in asked.only:
        forecasts()
    if "day" in asked.only:
        study()
    if "prices" in asked.only:
        prices(asked.data / PRICES if asked.data else None)
    if "speed" in asked.only:
        speed()
    if "dates" in asked.only:
        rows(asked.every, (7, 14), (5, 10, 20), ("none", "bundled"))
        no_history()


def speed() -> None:
    """A hundred sites beside three, and `learned` beside break-even, each pair in this run."""
    three, hundred = timed(3, "breakeven"), timed(100, "breakeven")
    print(
        f"a year, breakeven: 3 sites {three:.2f} s, 100 sites {hundred:.1f} s: {hundred / three:.1f} times for 33.3 times the sites"
    )
    three, learned = timed(3, "breakeven"), timed(3, "learned")
    print(f"a year, 3 sites: learned {learned:.2f} s, {learned / three:.1f} times breakeven's {three:.2f} s", flush=True)


def california() -> None:
    """Share of the oracle's value over the year, readings on time, 5 and 15 min late; by month against break-even; the bound."""
    for region, column in (("PG&E", "pge_moer_g"), ("SCE", "sce_moer_g")):
        for minutes in (5, 10, 20):
            config = year(1, minutes * 60.0, (column,))
            grid = build_grid(config)
            span = span_of(config, grid)
            d = grid.by_site["s0"].between(span.start, span.end).values / config.policy.worth_g_per_kwh
            restart = minutes * 60.0 / STEP_S
            case = Case(d, round(restart))
            best, monthly = oracle(case), _best_by_month(case, span.start)
            for late in (0, 5, 15):
                value = {}
                for policy in ("breakeven", "learned"):
                    result = Simulation(config, grid, span, "windfall", delay_s=late * 60.0).run(policy)
                    value[policy] = by_month(_on(result.lanes["s0"], span, len(d)), d, span.start, restart)
                shares = ", ".join(f"{p} {v.sum() / best:.3f}" for p, v in value.items())
                what = f"{region:4} start {minutes:2} min, {late:2} min late"
                print(f"{what}: {shares} of the oracle; {_months(value['learned'] - value['breakeven'], monthly)}")
                allowed = bounds(Case(d, round(restart), round(late * 60.0 / STEP_S)), MARKS.get((region, minutes, late)))
                print(f"{'':30} what readings allow: {allowed}", flush=True)


def first_days() -> None:
    """What the first day brings, of which no past is known: starts by break-even, and stops by break-even or by the prior's level.

    A first day begins every six hours of the year. Levels are those of nothing known, which are the same at all hours.
    """
    rule, what = Breakeven(), "stopping by the prior"
    for region, column in (("PG&E", "pge_moer_g"), ("SCE", "sce_moer_g")):
        config = year(1, 300.0, (column,))
        grid = build_grid(config)
        span = span_of(config, grid)
        d = grid.by_site["s0"].between(span.start, span.end).values / config.policy.worth_g_per_kwh
        for minutes in (5, 10, 20):
            for late in (0, 1, 3):
                restart = minutes * 60.0 / STEP_S
                stop = float(Belief(np.empty(0), np.empty(0)).levels(restart, late)[1][0])
                found = []
                for a in range(0, len(d) - DAY_STEPS - late, DAY_STEPS // 4):
                    told, real = d[a : a + DAY_STEPS], d[a + late : a + late + DAY_STEPS]
                    days = on_by_breakeven(told, restart, rule), _stops_at(told, restart, rule, stop)
                    found.append([value_of(on, real, restart) for on in days])
                own, prior = np.array(found).T
                worst = float((own - prior).max()) / restart
                more = f"{prior.sum() / own.sum() - 1.0:+.1%} value over breakeven, at worst {worst:.1f} starts lost in a day"
                print(f"{region:4} start {minutes:2} min, {late * 5:2} min late, first days, {what}: {more}", flush=True)


def _stops_at(d: npt.NDArray[np.float64], restart: float, rule: Breakeven, stop: float) -> npt.NDArray[np.bool_]:
    """Whether a site is on at each of ``d`` [n], if break-even starts it and ``stop`` stops it."""
    found: list[bool] = []
    on, gained = False, 0.0
    for distance in d.tolist():
        if on:
            on, gained = distance < stop, 0.0
        else:
            gained = max(0.0, gained + 1.0 - distance)
            on = distance < 1.0 and gained >= rule.a_on * restart
        found.append(on)
    return np.array(found, bool)


def forecasts() -> None:
    """What forecasts of three hours bring beside `learned`: those of California, and perfect ones (PG&E)."""
    for minutes in (5, 10, 20):
        config = year(1, minutes * 60.0, ("pge_moer_g",), forecasts=True)
        plain = year(1, minutes * 60.0, ("pge_moer_g",))
        sure = plain.model_copy(update={"site": [
            s.model_copy(update={"signal": s.signal.model_copy(update={"forecast": "perfect"})}) for s in plain.site
        ]})  # fmt: skip
        for what, one, delays in (("California's forecast", config, (0, 5)), ("a perfect forecast", sure, (0,))):
            grid = build_grid(one)
            span = span_of(one, grid)
            d = grid.by_site["s0"].between(span.start, span.end).values / one.policy.worth_g_per_kwh
            restart = minutes * 60.0 / STEP_S
            best = oracle(Case(d, round(restart)))
            for late in delays:
                shares = []
                for policy in ("learned", "lookahead"):
                    result = Simulation(one, grid, span, "windfall", delay_s=late * 60.0).run(policy)
                    value = by_month(_on(result.lanes["s0"], span, len(d)), d, span.start, restart).sum()
                    shares.append(f"{policy} {value / best:.3f}")
                told = f"PG&E start {minutes:2} min, {late:2} min late, {what}: {', '.join(shares)} of the oracle"
                print(told, flush=True)


def _on(lane: list[tuple[float, float, str]], span: TimeSpan, n: int) -> npt.NDArray[np.bool_]:
    """Whether a site was on at each step of a simulation."""
    on = np.zeros(n, bool)
    for a, b, state in lane:
        if state in ("provisioning", "ready", "training"):
            on[round((a - span.start) / STEP_S) : round((b - span.start) / STEP_S)] = True
    return on


def _best_by_month(case: Case, begin: float) -> npt.NDArray[np.float64]:
    """The oracle's value in each month, had it that month alone."""
    month = by_month(np.ones(len(case.distances), bool), case.distances * 0.0, begin, 0.0)
    cuts = np.cumsum(np.rint(month).astype(int))[:-1]
    return np.array([oracle(Case(x, case.restart)) for x in np.split(case.distances, cuts)])


def _months(ahead: npt.NDArray[np.float64], best: npt.NDArray[np.float64]) -> str:
    """The months in which `learned` lost over .003 of the oracle's value to break-even, and the worst against the mean month."""
    lost = [f"{-a / b:.3f} of {b:.0f}" for a, b in zip(ahead, best, strict=True) if -a > 0.003 * b]
    worst = max(0.0, float(-ahead.min())) / float(best.mean())
    some = "; ".join(lost) if lost else "none"
    return f"months with over .003 of the month's oracle lost to breakeven: {some} (steps); most of a mean month's {worst:.3f}"


def prices(file: Path | None) -> None:
    """The same on prices of South Australia and Texas, worth 0 and 20 a MWh."""
    if file is None or not file.exists():
        print(f"prices: {file or 'the three-region data'} not here; name their folder with --data")
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
                found = backtest(config, ["threshold", "breakeven", "learned"]).rows
                told = ", ".join(f"{r.policy} {r.share_of_oracle or 0:.3f}" for r in found)
                print(f"{region:9} worth {worth:2} {currency}, start {minutes:2} min: {told} of the oracle")
                if max(r.share_of_oracle or 0.0 for r in found if r.policy == "learned") < PRICE_MARK:
                    print(f"{'':30} what readings allow: {_allowed(config, minutes, worth)}", flush=True)


def _allowed(config: Config, minutes: int, worth: float) -> str:
    grid = build_grid(config)
    span = span_of(config, grid)
    values = grid.by_site["s"].between(span.start, span.end).values
    scale = config.policy.value_scale_per_mwh
    case = Case(1.0 - (worth - values) / scale, round(minutes * 60.0 / STEP_S), 0, worth / scale, hourly=True)
    return bounds(case, PRICE_MARK)


if __name__ == "__main__":
    main()
