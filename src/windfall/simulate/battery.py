"""How large a battery beside each site pays: some of a window's energy is kept, and trains on when the window is over.

A simple model. While the site trains, the battery is charged at the site's price and intensity, at `charge_power_share` of its
training power, until it is full. When the site goes off it trains on until the battery is empty; where that lasts until the next
window it never stopped. The start of that window is still paid for, and wear counts as `life_years`: both are on the safe side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from windfall.config.economics import EconomicsTable
from windfall.config.schema import Config
from windfall.simulate.outlay import Outlay, capital_per_h

if TYPE_CHECKING:
    from windfall.simulate.economics import Bill

Lane = Sequence[tuple[float, float, str]]
_WORKING = ("ready", "training")


@dataclass(frozen=True, slots=True)
class BatterySize:
    """A battery of ``hours`` of a site's training power. ``hours`` 0: none."""

    hours: float
    kwh_per_site: float
    #: Share of the owned hours in which sites train, and those in which they train from the battery.
    duty: float
    from_battery: float
    per_million_tokens: float
    kg_per_million_tokens: float | None


def bridged(lane: Lane, hours: float, charge_power_share: float, efficiency: float) -> tuple[float, float]:
    """Hours that a site trains from its battery, and the energy put into it in hours of the site's training power.

    ``lane``: (start, end, state) in order; ``hours``: what the full battery lasts for.
    """
    held = extra = put = 0.0
    for t0, t1, state in lane:
        length = (t1 - t0) / 3600
        if state in _WORKING:
            stored = min(hours - held, length * charge_power_share * efficiency)
            put += stored / efficiency
            held += stored
        else:
            ran = min(held, length)
            held -= ran
            extra += ran
    return extra, put


def battery_sizes(own: Bill, lanes: Sequence[Mapping[str, Lane]], config: Config, table: EconomicsTable) -> list[BatterySize]:
    """The run's bill with batteries of each configured size, and without one; ``lanes``: of each of its simulations."""
    battery = table.battery
    if battery is None:
        return []
    seconds = sum(one[s.name][-1][1] - one[s.name][0][0] for one in lanes for s in config.site)
    # The bill is of the run's budget, and the lanes are of what was simulated.
    scale = own.owned_h / (seconds / 3600)
    power_per_kwh, kg_per_kwh = own.energy / own.kwh, None if own.kg is None else own.kg / own.kwh
    mean_kw = sum(s.train_power_w for s in config.site) / len(config.site) / 1000
    found = []
    for hours in [0.0, *sorted(set(battery.hours))]:
        extra = kwh = tokens = capital = 0.0
        for site in config.site:
            parts = [bridged(one[site.name], hours, battery.charge_power_share, battery.efficiency) for one in lanes]
            ran, put = (scale * sum(p[i] for p in parts) for i in (0, 1))
            kw = site.train_power_w / 1000
            extra, kwh, tokens = extra + ran, kwh + put * kw, tokens + ran * 3600 * site.tokens_per_s
            per_h = capital_per_h(battery.capex_per_kwh * hours * kw, battery.life_years, table.interest_share_per_year)
            capital += per_h * own.owned_h / len(config.site)
        kg = None if own.kg is None or kg_per_kwh is None else own.kg + kwh * kg_per_kwh
        # The hardware's share of a life that is used otherwise too grows with the hours that it is used here.
        longer = (own.useful_h + extra) / own.useful_h
        hardware = own.hardware
        if table.used_share is not None:
            hardware *= min(longer, max(1.0, table.used_share / own.duty))
        opex = own.energy + own.link + own.traffic * longer + own.people + own.later_model + kwh * power_per_kwh
        outlay = Outlay((own.tokens + tokens) / 1e6, hardware + capital, opex, kg)
        duty, share = (own.useful_h + extra) / own.owned_h, extra / own.owned_h
        found.append(BatterySize(hours, hours * mean_kw, duty, share, outlay.per_unit, outlay.kg_per_unit))
    return found
