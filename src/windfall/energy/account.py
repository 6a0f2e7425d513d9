"""The energy and carbon account: power per phase times reading, interval by interval.

Invariant 8 holds by construction and is tested from outside: joules are the sum over phases, grams the integral
of power times reading. Nothing is computed from an average intensity or from the intensity at the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from windfall.config.schema import SiteTable
from windfall.grid.signal import Signal
from windfall.units import J_PER_KWH

PHASES = ("off", "provisioning", "idle", "training", "draining")


@dataclass(frozen=True, slots=True)
class PowerModel:
    """Watts of a whole site by phase, from its configuration. Modelled, not measured."""

    train_w: float
    idle_w: float
    provisioning_w: float

    @classmethod
    def of(cls, site: SiteTable) -> PowerModel:
        """The model that a site's table describes."""
        return cls(site.train_power_w, site.idle_power_w, site.provisioning_power_w)

    def watts(self, phase: str) -> float:
        """Power in ``phase``. Draining is writing files and waiting for the network: idle power."""
        return {
            "off": 0.0,
            "provisioning": self.provisioning_w,
            "idle": self.idle_w,
            "training": self.train_w,
            "draining": self.idle_w,
        }[phase]


@dataclass
class Total:
    """Sums of one site and phase."""

    seconds: float = 0.0
    joules: float = 0.0
    grams: float = 0.0
    inside_joules: float = 0.0
    #: Joules whose reading was unknown; they carry no grams and are shown, not hidden.
    unpriced_joules: float = 0.0

    def add(self, other: Total) -> None:
        """Add another sum to this one."""
        self.seconds += other.seconds
        self.joules += other.joules
        self.grams += other.grams
        self.inside_joules += other.inside_joules
        self.unpriced_joules += other.unpriced_joules


@dataclass(frozen=True, slots=True)
class Interval:
    """One entry: a site in one phase under one reading."""

    t0: float
    t1: float
    site: str
    phase: str
    watts: float
    g_per_kwh: float | None
    joules: float
    grams: float
    inside: bool


class Account:
    """Books intervals and keeps the sums by site and phase."""

    def __init__(self, power: Mapping[str, PowerModel], signals: Mapping[str, Signal], criterion_g_per_kwh: float) -> None:
        self._power = power
        self._signals = signals
        self._criterion = criterion_g_per_kwh
        self.totals: dict[tuple[str, str], Total] = {}

    def book(self, site: str, phase: str, t0: float, t1: float) -> list[Interval]:
        """Book ``[t0, t1)`` (run time) of ``site`` in ``phase``; one entry per reading that held in it."""
        entries: list[Interval] = []
        if t1 <= t0:
            return entries
        watts = self._power[site].watts(phase)
        total = self.totals.setdefault((site, phase), Total())
        if watts == 0.0:
            total.seconds += t1 - t0
            return entries
        columns = self._signals[site].between(t0, t1)
        for start, end, value in zip(columns.starts.tolist(), columns.ends.tolist(), columns.values.tolist(), strict=True):
            joules = watts * (end - start)
            known = math.isfinite(value)
            grams = joules / J_PER_KWH * value if known else 0.0
            inside = known and value < self._criterion
            total.add(Total(end - start, joules, grams, joules if inside else 0.0, 0.0 if known else joules))
            entries.append(Interval(start, end, site, phase, watts, value if known else None, joules, grams, inside))
        return entries

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

    def share_inside(self) -> float | None:
        """Energy used while the region's reading was under the criterion, over all energy (DESIGN 7)."""
        total = self.total()
        return total.inside_joules / total.joules if total.joules > 0 else None


def always_on_kg(signal: Signal, watts: float, start: float, hours: float) -> float | None:
    """kgCO2 of one uninterrupted site at ``watts`` for ``hours`` from ``start``; None past the end of the series."""
    end = start + hours * 3600
    if end > signal.ends_at() + 1:
        return None
    columns = signal.between(start, end)
    if not bool((columns.values == columns.values).all()):
        return None
    return float((columns.values * (columns.ends - columns.starts)).sum()) * watts / J_PER_KWH / 1000.0
