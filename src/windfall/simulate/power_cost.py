"""What the energy of a simulation costs, by tariffs of hours or by a region's price signal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

import numpy as np

from windfall.config.economics import EconomicsTable, TariffTable
from windfall.config.schema import Config, SiteTable
from windfall.energy.power import PowerModel
from windfall.grid.build import Grid
from windfall.grid.signal import Columns
from windfall.simulate.backtest import Row
from windfall.simulate.curves import activities, power_steps
from windfall.units import J_PER_KWH, time_zone


@dataclass(frozen=True, slots=True)
class PowerCost:
    """Energy and its cost. ``unknown_kwh`` was used while nothing was known of the price: part of ``kwh``, not of ``money``."""

    kwh: float
    money: float
    unknown_kwh: float

    def __add__(self, other: PowerCost) -> PowerCost:
        return PowerCost(self.kwh + other.kwh, self.money + other.money, self.unknown_kwh + other.unknown_kwh)


def power_cost(row: Row, config: Config, table: EconomicsTable, grid: Grid) -> PowerCost:
    """What all phases of a simulated row cost."""
    doing = activities(row, config)
    total = PowerCost(0.0, 0.0, 0.0)
    for site in config.site:
        lane = row.lanes.get(site.name)
        if not lane:
            continue
        prices = _prices(site, table, grid, lane[0][0], lane[-1][1])
        edges, watts = power_steps(
            doing[site.name], PowerModel.of(site), lane[0][0], lane[-1][1], prices.starts, row.levels.get(site.name, ())
        )
        at = np.clip(np.searchsorted(prices.starts, edges[:-1], side="right") - 1, 0, None)
        per_mwh = np.where(edges[:-1] < prices.ends[at], prices.values[at], np.nan)
        kwh = watts * np.diff(edges) / J_PER_KWH
        known = np.isfinite(per_mwh)
        money = float((kwh * per_mwh)[known].sum()) / 1000.0
        total += PowerCost(float(kwh.sum()), money, float(kwh[~known].sum()))
    return total


def _prices(site: SiteTable, table: EconomicsTable, grid: Grid, start: float, end: float) -> Columns:
    """Currency per MWh at a site over ``[start, end)``. Readings of a signal that is unknown are NaN."""
    tariffs = table.tariffs_of(site.region)
    if tariffs:
        return tariff_prices(tariffs, time_zone(table.tariff_timezone), start, end)
    price = next(t for t in site.all_signals if t.type == "price")  # the configuration is refused without
    return grid.signals[site.name][price.label].between(start, end)


def tariff_prices(tariffs: Sequence[TariffTable], zone: tzinfo, start: float, end: float) -> Columns:
    """Tariffs that cover the day as prices over ``[start, end)``, on the clock of ``zone``."""
    found: list[tuple[float, float, float]] = []
    day = datetime.fromtimestamp(start, zone).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    while day.timestamp() < end:
        weekend = day.weekday() >= 5
        for t in tariffs:
            if t.days == "all" or (t.days == "weekends") == weekend:
                found += [(_instant(day, a), _instant(day, b), t.price_per_mwh) for a, b in t.hours()]
        day = (day.replace(tzinfo=None) + timedelta(days=1)).replace(tzinfo=zone)
    kept = sorted((max(a, start), min(b, end), p) for a, b, p in found if b > start and a < end and b > a)
    starts, ends, values = (np.array(x, dtype=np.float64) for x in zip(*kept, strict=True))
    return Columns(starts, ends, values)


def _instant(day: datetime, hour: float) -> float:
    """Unix seconds of an hour of a day by its own clock, also where clocks are changed that day."""
    moment = day.replace(tzinfo=None) + timedelta(hours=hour)
    return moment.replace(tzinfo=day.tzinfo).timestamp()
