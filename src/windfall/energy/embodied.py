"""Emissions of making hardware, shared out to a run by two conventions. Nothing is ever scheduled on them.

``reserved``: the run's share of the hardware's life is the time for which it had it. ``useful``: the share of the useful time that
the hardware will have in its life, so that what stands idle weighs on what does not. Both are of the same kg; they never add.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Mean Gregorian year (s).
YEAR_S = 365.2425 * 86400.0


@dataclass(frozen=True, slots=True)
class Embodied:
    """Grams of making a site's hardware, by both conventions."""

    reserved_g: float
    useful_g: float


def embodied(kg: float, life_years: float, used_share: float, *, reserved_s: float, useful_s: float) -> Embodied:
    """``kg`` of the whole site, in service for ``life_years`` and useful in ``used_share`` of them.

    ``reserved_s``: time for which the site was on; ``useful_s``: time in which it trained.
    """
    life_s = life_years * YEAR_S
    return Embodied(1000.0 * kg * reserved_s / life_s, 1000.0 * kg * useful_s / (life_s * used_share))
