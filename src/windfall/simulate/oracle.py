"""The oracle: the best that could have been done, by one who knew the signals to come. For comparison, never for runs.

Two questions have two answers. Without a token target: the largest value of a schedule, site by site. With one: the
least cost of a budget by a deadline, over all sites (``policy.planner.plan``), with Lagrange's bound below which none can be.

What nobody could know it does not know either: in the holes of a signal it neither trains nor starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from windfall.config.schema import Config, SiteTable
from windfall.config.signals import SignalTable
from windfall.grid.signal import StepSignal
from windfall.policy.criterion import intensity
from windfall.policy.exact import exact
from windfall.policy.planner import Plan, Planned, plan
from windfall.policy.programme import Programme, Series, SpinUp
from windfall.simulate.work import TrainerModel


@dataclass(frozen=True, slots=True)
class Worth:
    """What training is worth at a site against its first signal: (worth − value) ÷ scale a second and kW of training power."""

    level: float
    scale: float


def worth_of(site: SiteTable, config: Config) -> Worth | None:
    """A site's worth; None where its signal has none (power, triggers)."""
    p = config.policy
    if site.trigger is not None:
        return None
    if intensity(site.signal.type):
        return Worth(p.worth_g_per_kwh, p.worth_g_per_kwh)
    return Worth(p.worth_per_mwh, p.value_scale_per_mwh) if site.signal.type == "price" else None


def same_unit(config: Config) -> bool:
    """Whether the first signals of all sites can be summed: one kind of intensity, or prices in one currency."""
    if any(s.trigger is not None for s in config.site):
        return False
    tables: list[SignalTable] = [s.signal for s in config.site]
    kinds = {(t.type, t.currency if t.type == "price" else "") for t in tables}
    return len(kinds) == 1 and tables[0].type in ("marginal_co2", "average_co2", "price")


def series_of(signal: StepSignal, start: float, end: float) -> Series | None:
    """A signal's values over a time, NaN where nothing is known; None if nothing is known of any of it."""
    c = signal.between(start, end)
    if not len(c.values) or not np.isfinite(c.values).any():
        return None
    return Series(np.append(c.starts, c.ends[-1]), c.values)


def best_value(
    config: Config, signals: Mapping[str, StepSignal], model: TrainerModel, start: float, end: float
) -> tuple[float, dict[str, list[tuple[float, float]]]] | None:
    """The largest value over all sites (kW·s, scaled), and the schedules that bring it; None where no site has a worth."""
    total, any_site = 0.0, False
    found: dict[str, list[tuple[float, float]]] = {}
    for site in config.site:
        worth = worth_of(site, config)
        series = series_of(signals[site.name], start, end)
        found[site.name] = []
        if worth is None or series is None:
            continue
        any_site = True
        # A start costs its spin-up at the signal's price, at full power; where that earns money it may be given up, as by anybody.
        programme = Programme(series, SpinUp(((model.starts[site.name].seconds, 1.0),)), gives_up=True)
        value, stretches = programme.solve(worth.level)
        total += value / worth.scale * site.train_power_w / 1000.0
        found[site.name] = [(s.start, s.stop) for s in stretches]
    return (total, found) if any_site else None


#: A plan whose bound is nearer than this share of its cost is good enough.
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
        self._solved: dict[float, Plan | None] = {}

    def plan(self, deadline_h: float) -> Plan | None:
        """The plan by ``deadline_h`` hours from the start; None if the signals cannot be summed or are not known that far.

        Its costs are in grams (or, of prices, thousandths of the currency).
        """
        if deadline_h not in self._solved:
            self._solved[deadline_h] = self._solve(deadline_h)
        return self._solved[deadline_h]

    def _solve(self, deadline_h: float) -> Plan | None:
        if not same_unit(self._config):
            return None
        sites = {}
        for s in self._config.site:
            series = series_of(self._signals[s.name], self._start, self._start + deadline_h * 3600)
            if series is None:
                continue
            begun, train = self._model.starts[s.name], s.train_power_w
            parts = ((begun.provision_s, s.provisioning_power_w / train), (begun.load_s, s.idle_power_w / train))
            spin = SpinUp(tuple(p for p in parts if p[0] > 0))
            sites[s.name] = Planned(Programme(series, spin), self._rates[s.name], train / 1000.0)
        if not sites:
            return None
        made = plan(sites, self._budget)
        gap = (made.cost - made.bound) / abs(made.cost) if made.cost else 0.0
        # A few stretches are a gamble for a multiplier: then every amount is tried, where these are not too many.
        return exact(sites, self._budget, made) if gap > _GAP else made
