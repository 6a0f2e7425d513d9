"""What work costs: hardware, all else and emissions of some units of it, and when owning is cheaper than renting.

Everything that Windfall says of money is made of these few formulas, so that a published account can be put through them too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from windfall.energy.embodied import YEAR_S

#: Hours in a mean Gregorian year.
YEAR_H = YEAR_S / 3600.0


@dataclass(frozen=True, slots=True)
class Outlay:
    """What ``units`` of work took: ``capex`` is the hardware's share, ``opex`` all else, in one currency; ``kg`` of CO2 or None."""

    units: float
    capex: float
    opex: float
    kg: float | None = None

    @property
    def total(self) -> float:
        """Hardware and all else."""
        return self.capex + self.opex

    @property
    def per_unit(self) -> float:
        """What a unit costs. Infinity where there was none."""
        return self.total / self.units if self.units > 0 else math.inf

    @property
    def kg_per_unit(self) -> float | None:
        """What a unit emits."""
        return self.kg / self.units if self.kg is not None and self.units > 0 else None


def capital_per_h(capex: float, life_years: float, interest_share_per_year: float = 0.0) -> float:
    """What an hour of owning costs: equal payments over the life, with interest on what is not yet paid (an annuity)."""
    r = interest_share_per_year
    # Below what a double can tell from 1 there is no interest.
    a_year = capex * r / -math.expm1(-life_years * math.log1p(r)) if r > 1e-12 else capex / life_years
    return a_year / YEAR_H


def break_even_duty(owned_per_h: float, running_per_useful_h: float, rented_per_useful_h: float) -> float | None:
    """The share of the owned hours that must be useful for owning to cost what renting the useful hours costs.

    ``owned_per_h`` is paid in every hour, the other two in useful ones. It may be above 1: then owning is dearer at any duty. None:
    running alone costs as much as renting.
    """
    saved = rented_per_useful_h - running_per_useful_h
    return owned_per_h / saved if saved > 0 else None


def break_even_price(owned_per_h: float, running_per_useful_h: float, duty: float) -> float | None:
    """What a useful hour must cost rented for owning to cost the same at ``duty``; None where nothing was useful."""
    return owned_per_h / duty + running_per_useful_h if duty > 0 else None
