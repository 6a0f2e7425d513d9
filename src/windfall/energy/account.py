"""The energy and carbon account: power per phase times reading, interval by interval.

Invariant 8 holds by construction: joules are the sum over phases, grams the integral of power times reading. No figure is computed
from an intensity averaged over time, or from that of one instant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from windfall.config.schema import RunTable, SiteTable
from windfall.grid.signal import Signal
from windfall.units import J_PER_KWH

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

PHASES = ("off", "provisioning", "idle", "training", "draining")


@dataclass(frozen=True, slots=True)
class PowerModel:
    """The power (W) of a whole site by phase, as configured: modelled, not measured."""

    train_w: float
    idle_w: float
    provisioning_w: float
    #: A machine that stays on takes idle power when the site is off.
    off_w: float = 0.0

    @classmethod
    def of(cls, site: SiteTable) -> PowerModel:
        """The model that a site's table describes."""
        stays_on = site.driver == "resident" and not (site.resident is not None and site.resident.sleeps)
        return cls(site.train_power_w, site.idle_power_w, site.provisioning_power_w, site.idle_power_w if stays_on else 0.0)

    def watts(self, phase: str) -> float:
        """Power (W) in ``phase``. A draining site writes files and waits for the network, which takes idle power."""
        return {
            "off": self.off_w,
            "provisioning": self.provisioning_w,
            "idle": self.idle_w,
            "training": self.train_w,
            "draining": self.idle_w,
        }[phase]


@dataclass(frozen=True, slots=True)
class Tariff:
    """What prices a site's energy: the signals for its emissions and its cost, and the criterion for being inside a window.

    ``first`` is the signal that ``inside`` judges. ``emissions`` is marginal where the site has such a signal, else average; the
    two are never mixed in one sum.
    """

    first: Signal
    inside: Callable[[Array], Mask]
    emissions: Signal | None
    method: str
    average: Signal | None = None
    price: Signal | None = None
    currency: str = ""

    @classmethod
    def plain(cls, signal: Signal, criterion_g_per_kwh: float) -> Tariff:
        """The tariff of a site with one marginal intensity."""
        return cls(signal, lambda v: v < criterion_g_per_kwh, signal, "marginal")

    @classmethod
    def of(cls, site: SiteTable, signals: Mapping[str, Signal], run: RunTable) -> Tariff:
        """The tariff of a configured site; ``signals`` by label."""
        by_type = {t.type: t for t in reversed(site.all_signals)}
        marginal, average, price = (by_type.get(k) for k in ("marginal_co2", "average_co2", "price"))
        main = marginal or average
        return cls(
            signals[site.signal.label], inside_of(site, run), signals[main.label] if main else None,
            "marginal" if marginal else "average" if average else "none", signals[average.label] if average else None,
            signals[price.label] if price else None, price.currency if price else "",
        )  # fmt: skip


def inside_of(site: SiteTable, run: RunTable) -> Callable[[Array], Mask]:
    """The curtailment criterion: from values [n] of the site's first signal to whether each is inside. NaN (unknown) is outside."""
    match site.signal.type:
        case "price":
            return lambda v: v < run.threshold_price_per_mwh
        case "curtailed_power" | "surplus_power":
            demand = site.train_power_w / (1e6 if site.signal.type == "curtailed_power" else 1.0)
            return lambda v: v >= demand
        case _:
            return lambda v: v < run.threshold_g_per_kwh


@dataclass
class Total:
    """Sums of one site and phase."""

    seconds: float = 0.0
    joules: float = 0.0
    grams: float = 0.0
    inside_joules: float = 0.0
    #: Joules whose intensity was unknown; they carry no grams and are shown, not hidden.
    unpriced_joules: float = 0.0
    #: Joules used while the first signal was unknown: neither inside a window nor outside of one.
    unjudged_joules: float = 0.0
    #: Joules whose price was unknown.
    uncosted_joules: float = 0.0
    #: Grams by average intensity, where the site has that signal too; and the cost in the currency of its price.
    average_grams: float = 0.0
    money: float = 0.0

    def add(self, other: Total) -> None:
        """Add another sum to this one."""
        self.seconds += other.seconds
        self.joules += other.joules
        self.grams += other.grams
        self.inside_joules += other.inside_joules
        self.unpriced_joules += other.unpriced_joules
        self.unjudged_joules += other.unjudged_joules
        self.uncosted_joules += other.uncosted_joules
        self.average_grams += other.average_grams
        self.money += other.money


@dataclass(frozen=True, slots=True)
class Interval:
    """One entry of the account: a site in one phase, under one reading of each of its signals (``t0``, ``t1`` in run time).

    None: that signal's value was unknown, or the site has no such signal. ``grams`` are 0 where ``g_per_kwh`` is None.
    """

    t0: float
    t1: float
    site: str
    phase: str
    watts: float
    g_per_kwh: float | None
    joules: float
    grams: float
    inside: bool | None
    average_grams: float | None = None
    money: float | None = None


class Account:
    """Books intervals and keeps the sums by site and phase."""

    def __init__(self, power: Mapping[str, PowerModel], tariffs: Mapping[str, Tariff]) -> None:
        self._power = power
        self.tariffs = tariffs
        self.totals: dict[tuple[str, str], Total] = {}

    def book(self, site: str, phase: str, t0: float, t1: float) -> list[Interval]:
        """Book ``[t0, t1)`` (run time) of ``site`` in ``phase``; one entry per reading that held in it."""
        watts = self._power[site].watts(phase)
        found = self._price(site, phase, watts, t0, t1)
        if found is None:
            return []
        return [
            Interval(a, b, site, phase, watts, _known(c), j, g, None if math.isnan(i) else bool(i), _known(av), _known(m))
            for a, b, j, c, g, i, av, m in zip(*(x.tolist() for x in found), strict=True)
        ]

    def add(self, site: str, phase: str, t0: float, t1: float) -> None:
        """Book as ``book`` does, without making the entries."""
        self._price(site, phase, self._power[site].watts(phase), t0, t1)

    def _price(self, site: str, phase: str, watts: float, t0: float, t1: float) -> tuple[npt.NDArray[Any], ...] | None:
        """Add to the sums. Returns the intervals and their figures, or None where no energy is used."""
        if t1 <= t0:
            return None
        total = self.totals.setdefault((site, phase), Total())
        if watts == 0.0:
            total.seconds += t1 - t0
            return None
        tariff = self.tariffs[site]
        starts, ends, (first, intensity, average, price) = _together(
            (tariff.first, tariff.emissions, tariff.average, tariff.price), t0, t1
        )
        length = ends - starts
        joules = watts * length
        known, judged = np.isfinite(intensity), np.isfinite(first)
        grams = np.where(known, joules / J_PER_KWH * intensity, 0.0)
        inside = np.where(judged, tariff.inside(first), np.nan)
        by_average = joules / J_PER_KWH * average
        money = joules / J_PER_KWH * price / 1000.0
        total.add(
            Total(
                float(length.sum()), float(joules.sum()), float(grams.sum()), float(joules[inside == 1.0].sum()),
                float(joules[~known].sum()), float(joules[~judged].sum()), float(joules[~np.isfinite(price)].sum()),
                float(np.nansum(by_average)), float(np.nansum(money)),
            )
        )  # fmt: skip
        return starts, ends, joules, intensity, grams, inside, by_average, money

    def restore(self, site: str, phase: str, total: Total) -> None:
        """Take over sums that were booked before a restart."""
        self.totals[(site, phase)] = total

    def total(self, site: str | None = None, phase: str | None = None) -> Total:
        """The sum over one site or all, one phase or all."""
        result = Total()
        for (s, p), part in self.totals.items():
            if site in (None, s) and phase in (None, p):
                result.add(part)
        return result

    def spent(self) -> float:
        """The cost of all energy in the prices' currency. With several currencies their numbers are added as they are."""
        return sum(t.money for t in self.totals.values())

    def share_inside(self) -> float | None:
        """Energy used inside windows over energy used while there was a reading; None if none was used then."""
        total = self.total()
        judged = total.joules - total.unjudged_joules
        return total.inside_joules / judged if judged > 0 else None


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _together(signals: tuple[Signal | None, ...], t0: float, t1: float) -> tuple[Array, Array, list[Array]]:
    """Intervals over ``[t0, t1)`` in which none of ``signals`` changes, and each one's values in them (NaN: unknown)."""
    columns = {id(s): s.between(t0, t1) for s in signals if s is not None}
    first = next(iter(columns.values()))
    starts, ends = first.starts, first.ends
    if len(columns) > 1:
        starts = np.unique(np.concatenate([c.starts for c in columns.values()]))
        ends = np.append(starts[1:], t1)
    found = []
    for s in signals:
        if s is None:
            found.append(np.full(len(starts), np.nan))
            continue
        c = columns[id(s)]
        found.append(c.values if len(columns) == 1 else c.values[np.searchsorted(c.starts, starts, side="right") - 1])
    return starts, ends, found


@dataclass(frozen=True, slots=True)
class AlwaysOn:
    """One uninterrupted site: kgCO2 of the hours with a known intensity, and how many hours are unknown.

    The kg can be compared with others only where ``unknown_h`` is 0. None: no hour is known.
    """

    kg: float | None
    unknown_h: float

    @property
    def whole_kg(self) -> float | None:
        """The kg, if every hour is known."""
        return self.kg if self.unknown_h == 0 else None


def always_on(signal: Signal, watts: float, start: float, hours: float) -> AlwaysOn:
    """One uninterrupted site at ``watts`` for ``hours`` from ``start`` (Unix seconds)."""
    columns = signal.between(start, start + hours * 3600)
    length = columns.ends - columns.starts
    known = np.isfinite(columns.values)
    unknown_h = max(0.0, hours - float(length[known].sum()) / 3600)
    if not known.any():
        return AlwaysOn(None, unknown_h)
    kg = float((columns.values * length)[known].sum()) * watts / J_PER_KWH / 1000.0
    # A second missing at the end of a signal comes from rounding.
    return AlwaysOn(kg, unknown_h if unknown_h * 3600 > 1.0 else 0.0)
