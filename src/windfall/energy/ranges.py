"""How far off a headline may be: what is assumed of each thing that it is made of, and which of them matters most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Assumed:
    """One thing that a headline depends on: the headline if it is at its least, and at its most, the others as they are."""

    name: str
    low: float
    high: float

    @property
    def width(self) -> float:
        """How much it moves the headline."""
        return abs(self.high - self.low)


@dataclass(frozen=True, slots=True)
class Range:
    """A headline with its least and its most, and its factors, the one that moves it most first."""

    low: float
    value: float
    high: float
    factors: tuple[Assumed, ...]

    @property
    def moved_most_by(self) -> str:
        """The name of the first factor that moves it at all."""
        return next((f.name for f in self.factors if f.width > 0), "")


def emissions_range(
    *, measured_g: float, modelled_g: float, network_g: float = 0.0, embodied_g: float, unknown_j: float, known_g_per_j: float,
    errors: Mapping[str, float],
) -> Range:  # fmt: skip
    """The range of grams of CO2: those of measured and of modelled energy, of the network, and of making the hardware.

    Energy of ``unknown_j`` without a reading has no grams in the value, and at most as many as twice the mean of the rest.
    ``errors``: measured, modelled, network, signal, embodied (shares), pue_low and pue_high (multiples of the energy).
    All at their least together make ``low``, all at their most ``high``: a bound, and no standard deviation.
    """
    operational = measured_g + modelled_g + network_g
    value = operational + embodied_g
    most_unknown = 2.0 * unknown_j * known_g_per_j

    def at(
        metered: float = 0.0, model: float = 0.0, signal: float = 0.0, pue: float = 1.0, made: float = 0.0, hole: float = 0.0,
        moved: float = 0.0,
    ) -> float:  # fmt: skip
        power = ((measured_g * (1 + metered) + modelled_g * (1 + model)) * pue + network_g * (1 + moved)) * (1 + signal)
        return power + hole * pue + embodied_g * (1 + made)

    m, p, s, e, n = (errors.get(k, 0.0) for k in ("measured", "modelled", "signal", "embodied", "network"))
    low, high = errors["pue_low"], errors["pue_high"]
    factors = [
        Assumed("measured energy", at(metered=-m), at(metered=m)),
        Assumed("modelled power", at(model=-p), at(model=p)),
        Assumed("readings of the intensity", at(signal=-s), at(signal=s)),
        Assumed("overhead of the buildings (PUE)", at(pue=low), at(pue=high)),
        Assumed("energy of the network", at(moved=-n), at(moved=n)),
        Assumed("embodied emissions", at(made=-e), at(made=e)),
        Assumed("hours without a reading", value, at(hole=most_unknown)),
    ]
    # Power that is off in an unknown direction: a negative intensity turns least and most around.
    ends = sorted(
        (at(-m, -p, -s, low, -e, moved=-n), at(m, p, s, high, e, most_unknown, n)) if operational >= 0
        else (at(m, p, s, high, -e, moved=n), at(-m, -p, -s, low, e, most_unknown, -n))
    )  # fmt: skip
    return Range(ends[0], value, ends[1], tuple(sorted(factors, key=lambda f: -f.width)))
