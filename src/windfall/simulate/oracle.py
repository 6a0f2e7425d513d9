"""The oracle: the best schedule for a site that knew its signal to come. Backtests compare with it; no run uses it.

It answers two questions. Without a token target it finds the largest value of a schedule, site by site. With one it finds the
least cost of a budget by a deadline, over all sites (``policy.planner.plan_budget``), and Lagrange's bound, below which no schedule
costs.

The oracle does not know what nobody could know: in the holes of a signal it neither trains nor starts.

Where a power decides, a second of training is worth its gain, +1 or -1, times the share of the site's full pace that it has at its
power level. As ``worth - value`` with a worth of 1 that is a value of 1 - gain x share: 0 where the surplus covers full power.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from windfall.config.schema import Config, SiteTable
from windfall.config.signals import SignalTable
from windfall.energy.levels import tokens_per_s_at
from windfall.energy.tariff import level_of
from windfall.grid.signal import Signal, StepSignal
from windfall.policy.criterion import intensity
from windfall.policy.exact import exact
from windfall.policy.planner import BudgetSchedule, PlannedSite, plan_budget
from windfall.policy.programme import Programme, SpinUp, StepFunction
from windfall.simulate.work import TrainerModel


@dataclass(frozen=True, slots=True)
class Worth:
    """What training is worth at a site against its first signal: (worth − value) ÷ scale a second and kW of training power."""

    level: float
    scale: float


def worth_of(site: SiteTable, config: Config) -> Worth | None:
    """A site's worth; None where it has none (a trigger)."""
    p = config.policy
    if site.trigger is not None:
        return None
    if intensity(site.signal.type):
        return Worth(p.worth_g_per_kwh, p.worth_g_per_kwh)
    return Worth(p.worth_per_mwh, p.value_scale_per_mwh) if site.signal.type == "price" else Worth(1.0, 1.0)


def share_of(site: SiteTable, watts: float) -> float:
    """The share of its full pace with which a site trains at so many watts."""
    return tokens_per_s_at(site, watts) / site.tokens_per_s


def valued(site: SiteTable, config: Config, signal: StepSignal) -> StepSignal:
    """A site's first signal as its worth is compared with it: as it is, or where it is a power, 1 - gain x share of full pace."""
    if site.signal.type not in ("curtailed_power", "surplus_power"):
        return signal
    _, values = signal.rows()
    if not site.power_levels:
        level, _ = level_of(site, config.run)
        return signal.with_values(np.where(values >= level, 0.0, 2.0))
    return signal.with_values(1.0 - _best(site, values))


def short_of(site: SiteTable, signal: StepSignal, t0: float, t1: float, watts: float) -> float:
    """By how much less (s) training over ``[t0, t1)`` at the level of ``watts`` was worth than at the best one for the surplus."""
    c = signal.between(t0, t1).known()
    had = np.where(c.values >= watts, 1.0, -1.0) * share_of(site, watts)
    return float(((_best(site, c.values) - had) * (c.ends - c.starts)).sum())


def _best(site: SiteTable, surplus_w: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What a second of training is worth [n] at the highest level that each surplus covers, or at the lowest if it covers none."""
    watts = np.array([x.power_w for x in site.power_levels])
    shares = np.array([share_of(site, w) for w in watts.tolist()])
    i = np.searchsorted(watts, surplus_w, side="right") - 1
    return np.where(i >= 0, shares[np.maximum(i, 0)], -shares[0])


def same_unit(config: Config) -> bool:
    """Whether the first signals of all sites can be summed: one kind of intensity, or prices in one currency."""
    if any(s.trigger is not None for s in config.site):
        return False
    tables: list[SignalTable] = [s.signal for s in config.site]
    kinds = {(t.type, t.currency if t.type == "price" else "") for t in tables}
    return len(kinds) == 1 and tables[0].type in ("marginal_co2", "average_co2", "price")


def step_function_of(signal: Signal, start: float, end: float) -> StepFunction | None:
    """A signal's values over a time, NaN where nothing is known; None if nothing is known of any of it."""
    c = signal.between(start, end)
    if not len(c.values) or not np.isfinite(c.values).any():
        return None
    return StepFunction(np.append(c.starts, c.ends[-1]), c.values)


def best_value(
    config: Config, signals: Mapping[str, StepSignal], model: TrainerModel, start: float, end: float
) -> tuple[float, dict[str, list[tuple[float, float]]]] | None:
    """The largest value over all sites (kW·s, scaled), and the schedules that bring it; None where no site has a worth."""
    total, any_site = 0.0, False
    found: dict[str, list[tuple[float, float]]] = {}
    for site in config.site:
        worth = worth_of(site, config)
        signal = None if worth is None else step_function_of(valued(site, config, signals[site.name]), start, end)
        found[site.name] = []
        if worth is None or signal is None:
            continue
        any_site = True
        # A start costs its spin-up at the signal's price and at full power. Where the price is negative that earns money, and the
        # oracle may give a start up half way, as any policy may.
        programme = Programme(signal, SpinUp(((model.starts[site.name].seconds, 1.0),)), gives_up=True)
        value, on_periods = programme.solve(worth.level)
        total += value / worth.scale * site.train_power_w / 1000.0
        found[site.name] = [(s.start, s.stop) for s in on_periods]
    return (total, found) if any_site else None


#: A schedule whose cost is over the bound by less than this share of itself is good enough.
_GAP = 1e-3


class BudgetOracle:
    """The cheapest schedule for a budget by a deadline; each deadline is solved once."""

    def __init__(
        self, config: Config, signals: Mapping[str, StepSignal], model: TrainerModel, start: float, rates: Mapping[str, float],
        budget: float,
    ) -> None:  # fmt: skip
        self._config = config
        self._signals = signals
        self._model = model
        self._start = start
        self._rates = rates
        self._budget = budget
        self._solved: dict[float, BudgetSchedule | None] = {}

    def schedule(self, deadline_h: float) -> BudgetSchedule | None:
        """The schedule by ``deadline_h`` hours from the start; None if the sites' signals cannot be summed or none is known.

        Its costs are in grams; where the signals are prices, in thousandths of the currency.
        """
        if deadline_h not in self._solved:
            self._solved[deadline_h] = self._solve(deadline_h)
        return self._solved[deadline_h]

    def _solve(self, deadline_h: float) -> BudgetSchedule | None:
        if not same_unit(self._config):
            return None
        end = self._start + deadline_h * 3600
        sites = planned_sites(self._config, self._signals, self._model, self._start, end, self._rates)
        if not sites:
            return None
        made = plan_budget(sites, self._budget)
        # With few on-periods a multiplier may miss the optimum by much. Then `exact` tries every amount of training, if these are
        # not too many.
        return exact(sites, self._budget, made) if gap(made) > _GAP else made


def planned_sites(
    config: Config, signals: Mapping[str, Signal], model: TrainerModel, start: float, end: float, rates: Mapping[str, float]
) -> dict[str, PlannedSite]:  # fmt: skip
    """The sites of which something is known between ``start`` and ``end``, as the planner sees them; ``signals`` are what costs."""
    sites = {}
    for s in config.site:
        signal = step_function_of(signals[s.name], start, end)
        if signal is None:
            continue
        begun, train = model.starts[s.name], s.train_power_w
        parts = ((begun.provision_s, s.provisioning_power_w / train), (begun.load_s, s.idle_power_w / train))
        spin = SpinUp(tuple(p for p in parts if p[0] > 0))
        sites[s.name] = PlannedSite(Programme(signal, spin), rates[s.name], train / 1000.0)
    return sites


def gap(made: BudgetSchedule) -> float:
    """By which share of its cost a schedule may be dearer than the best one."""
    return (made.cost - made.bound) / abs(made.cost) if made.cost and math.isfinite(made.bound) else 0.0
