"""Budgets with a date on the bundled year: nearness to the oracle, and what any policy could do that knows no more.

python benchmarks/dates.py [--every WEEKS] [--days 7 14] [--shares 5 10 20] [--forecasts none bundled] [--late MIN]

Budgets are 5, 10 and 20 % of what two sites (PG&E, SCE) could train in 7 and 14 days, from start dates a week apart after the 28th
day, so that each has 28 days of history; the last row has none. Dates on which the oracle emits under 20 g per site-hour are told
in kg, not as a ratio. `--every` takes every so manieth week.

`--bound` shows what is left to a better policy: an exact programme that is told, at each block's begin, the block to come (of
`--seen` hours) as it will be, and of everything later how all other days of this very year went on from a time like now. No
policy without forecasts knows so much, and none could have learned it from 28 days. It is no strict bound: its likeness of days may
be bettered, and in a long block's last hours it knows less than a policy that looks every five minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from windfall.config.load import loads
from windfall.config.schema import Config
from windfall.grid.build import Grid, build_grid, recorded
from windfall.grid.signal import StepSignal
from windfall.policy.reservation import DAY_S, STEP_S, SiteSupply, steps_of, supplied
from windfall.simulate.oracle import BudgetOracle
from windfall.simulate.quantiles import quantiles
from windfall.simulate.simulation import Simulation, TimeSpan
from windfall.units import parse_utc

Array = npt.NDArray[np.float64]
BEGIN, WEEK_S, HOUR_S = "2020-09-01T00:00Z", 7 * 86400.0, 3600.0
HISTORY_WEEKS, YEAR_DAYS = 4, 364
SMALL_G_PER_H = 20.0
#: The bound: levels that are tried, fewest points of tokens, and of those that both sites can train in a block, and how alike two
#: times are (as the policy's, and by the season, in days).
_TRIED, _POINTS, _BLOCK_POINTS, _WIDTH, _SEASON_DAYS = 40, 61, 4, 0.5, 30.0
_PER_DAY = round(DAY_S / STEP_S)


def main() -> None:
    """Print the rows that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every so manieth week of start dates")
    parser.add_argument("--days", type=int, nargs="+", default=[7, 14])
    parser.add_argument("--shares", type=int, nargs="+", default=[5, 10, 20], help="percent of the sites' hours")
    parser.add_argument("--forecasts", nargs="+", choices=["none", "bundled"], default=["none", "bundled"])
    parser.add_argument("--late", type=float, default=0.0, help="minutes that readings are late; the oracle's are not")
    parser.add_argument("--bound", action="store_true", help="what is left to a better policy, instead of the rows")
    parser.add_argument("--seen", type=int, nargs="+", default=[24, 8, 4, 2], help="with --bound: hours that are told at once")
    asked = parser.parse_args()
    if asked.bound:
        bounds(asked.days, asked.shares, asked.seen)
        return
    rows(asked.every, asked.days, asked.shares, asked.forecasts, asked.late)
    if not asked.late:
        no_history()


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


class Dates:
    """Dates on one grid, whose readings are so many minutes late; the oracle of each is solved once."""

    def __init__(self, forecasts: bool, late: float = 0.0) -> None:
        self.late_s = 60.0 * late
        self.config = pair(forecasts)
        self.grid = build_grid(self.config)

    def of(self, start: float, hours: float, share: float, grid: Grid | None = None) -> tuple[float, float, bool] | None:
        """Budgeted's and the oracle's kg, and whether the date was kept; None where the oracle cannot keep it."""
        site_hours = share * hours * len(self.config.site)
        one = self.config.model_copy(update={"backtest": self.config.backtest.model_copy(update={"site_hours": site_hours})})
        simulation = Simulation(
            one, grid or self.grid, TimeSpan(start, start + (hours + 24.0) * HOUR_S), "windfall", delay_s=self.late_s
        )
        oracle = BudgetOracle(one, simulation.signals, simulation.model, start, simulation.rates, simulation.budget)
        made = oracle.schedule(hours)
        if made is None or not made.reachable:
            return None
        found = simulation.run("budgeted", deadline_h=hours)
        kept = found.done_at is not None and found.done_at <= start + hours * HOUR_S + 1.0
        return found.kg or 0.0, made.cost / HOUR_S / 1000.0, kept


def weeks(days: int, every: int) -> list[int]:
    """Weeks of the year in which dates begin."""
    return [w for w in range(HISTORY_WEEKS, 53, every) if w * 7 + days <= YEAR_DAYS]


def rows(every: int, days: Sequence[int], shares: Sequence[int], forecasts: Sequence[str], late: float = 0.0) -> None:
    """Kg over the oracle's, by date and share, without forecasts and with the bundled ones."""
    dates = {f: Dates(f == "bundled", late) for f in forecasts}
    for d in days:
        for percent in shares:
            share, without = percent / 100.0, None
            for what, on in dates.items():
                starts = [parse_utc(BEGIN) + w * WEEK_S for w in weeks(d, every)]
                found = [x for s in starts if (x := on.of(s, d * 24.0, share)) is not None]
                kg = sum(ours for ours, _, _ in found)
                more = f"; {kg / without - 1:+.1%} kg over none" if without else ""
                without = without or kg
                name = "3 h of forecast at one site" if what == "bundled" else "no forecast"
                name += f", {late:g} min late" if late else ""
                print(f"budgeted, {d} days, {percent} %, {name}: {told(found, share * d * 48.0)}; {kg:.1f} kg{more}", flush=True)


def no_history() -> None:
    """From months' first days, of which nothing is known before: the trace is cut off there."""
    dates = Dates(False)
    found = []
    for month in ("2020-09", "2020-11", "2021-01", "2021-03", "2021-05", "2021-07"):
        start = parse_utc(f"{month}-01T00:00Z")
        cut = {n: _from(recorded(s), start) for n, s in dates.grid.by_site.items()}
        alone = Grid(dict(cut), {}, {n: dict.fromkeys(dates.grid.signals[n], s) for n, s in cut.items()})
        x = dates.of(start, 336.0, 0.1, alone)
        found += [x] if x is not None else []
    print(f"budgeted, 14 days, 10 %, no history: {told(found, 67.2)}")


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


def bounds(days: Sequence[int], shares: Sequence[int], seen: Sequence[int]) -> None:
    """What a programme makes of each date that sees blocks of the future and knows how the year's other days went."""
    dates = Dates(False)
    start = parse_utc(BEGIN)
    values = [steps_of(s.between(start, start + YEAR_DAYS * DAY_S), start + YEAR_DAYS * DAY_S, YEAR_DAYS)
              for s in (recorded(x) for x in dates.grid.by_site.values())]  # fmt: skip
    joint = np.mean(values, axis=0)
    levels = np.unique(np.quantile(np.concatenate(values), np.linspace(0.0, 1.0, _TRIED) ** 1.5)) + 1e-6
    sources = [SiteSupply(v, 340.0, 25.0 / 340.0, 1.0, 2.0) for v in values]
    made = [supplied(s.values, s, np.append(levels, levels[-1] + 1.0)) for s in sources]
    # [steps + 1, levels]: site-hours under each level, and grams.
    hours, grams = (np.concatenate([np.zeros((1, len(levels) + 1)), np.cumsum(np.sum(x, axis=0).T, axis=0)]) for x in
                    ([m[0] / HOUR_S for m in made], [m[1] * 2.0 / HOUR_S for m in made]))  # fmt: skip
    for block_h in seen:
        block = round(block_h * HOUR_S / STEP_S)
        alike = {step: _alike(joint, step) for step in range(0, _PER_DAY, block)}
        for d in days:
            for percent in shares:
                found = _bounded(hours, grams, alike, block, d, percent / 100.0 * d * 48.0)
                print(f"{block_h} h seen, {d} days, {percent} %: {told(found, percent / 100.0 * d * 48.0)}", flush=True)


def _alike(joint: Array, step: int) -> Array:
    """[days, days]: from each day of the year at a step, how likely it goes on like each other day; never like itself."""
    n = len(joint) // _PER_DAY
    hours = joint.reshape(-1, 12).mean(axis=1)
    ends = (np.arange(n) * _PER_DAY + step) // 12
    cheap = np.array([np.sort(hours[e - 24 : e])[:4].mean() if e >= 24 else np.nan for e in ends])
    seen = np.stack([cheap, np.where(ends > 0, hours[ends - 1], np.nan)], axis=1)
    spread = np.nanstd(seen, axis=0)
    far = (((seen[:, None] - seen[None]) / (_WIDTH * spread)) ** 2).sum(axis=2)
    apart = np.abs(np.arange(n)[:, None] - np.arange(n)[None])
    far += (np.minimum(apart, n - apart) / _SEASON_DAYS) ** 2
    near = np.exp(-0.5 * np.where(np.isnan(far), np.inf, far))
    np.fill_diagonal(near, 0.0)
    total = near.sum(axis=1, keepdims=True)
    return np.where(total > 1e-12, near / np.maximum(total, 1e-12), 1.0 / n)


def _bounded(
    hours: Array, grams: Array, alike: dict[int, Array], block: int, days: int, target: float
) -> list[tuple[float, float, bool]]:
    """Kg of the programme and in hindsight, on every date; both on the same costs of blocks."""
    most = 2.0 * block * STEP_S / HOUR_S
    count = max(_POINTS, int(np.ceil(_BLOCK_POINTS * target / most)) + 1)
    points = np.linspace(0.0, target, count)
    each = np.diff(hours[::block], axis=0), np.diff(grams[::block], axis=0)
    # [blocks, points]: what it costs to train so much in a block.
    cost = np.array([np.where(points <= h[-1] + 1e-9, np.interp(points, h, g), np.inf) for h, g in zip(*each, strict=True)])
    cost[:, 0] = 0.0
    per_day, n = _PER_DAY // block, YEAR_DAYS
    #: So many points at most are trained in one block.
    reach = min(count, int(most / (points[1] - points[0]) + 1e-6) + 1)

    def best(own: Array, after: Array) -> Array:
        """[..., points]: the cheapest of training some now and the rest after."""
        found = np.full(np.broadcast_shapes(own.shape, after.shape), np.inf)
        for some in range(reach):
            found[..., some:] = np.minimum(found[..., some:], own[..., some : some + 1] + after[..., : count - some])
        return found

    # What is missed costs more than anything.
    missed = 1e4 * points
    ahead = [np.tile(missed, (n, 1))]
    for k in reversed(range(days * per_day)):
        place = k % per_day
        # After the last block of a day comes the first of the next.
        after = np.roll(ahead[-1], -1, axis=0) if place == per_day - 1 else ahead[-1]
        spent = best(np.nan_to_num(cost[place::per_day][:n], posinf=1e9), after)
        ahead.append(alike[place * block] @ spent)
    ahead.reverse()
    found = []
    for w in weeks(days, 1):
        first, left, spent_g = w * 7 * per_day, count - 1, 0.0
        hindsight = np.where(points > 0, np.inf, 0.0)
        for k in range(days * per_day):
            hindsight = best(cost[first + k], hindsight)
            later = ahead[k + 1][(first + k) // per_day]
            if (k + 1) % per_day == 0:
                later = ahead[k + 1][min(n - 1, (first + k + 1) // per_day)]
            made = cost[first + k][: left + 1] + later[left - np.arange(left + 1)]
            some = int(np.argmin(made))
            spent_g += float(cost[first + k][some])
            left -= some
        found.append((spent_g / 1000.0, float(hindsight[-1]) / 1000.0, left == 0))
    return found


if __name__ == "__main__":
    main()
