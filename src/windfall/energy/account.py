"""The energy and carbon account: power per phase times reading, interval by interval.

Invariant 8 holds by construction: joules are the sum over phases, grams the integral of power times reading. No figure is computed
from an intensity averaged over time, or from that of one instant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from windfall.energy.microgrid import Microgrid
from windfall.energy.power import PowerModel
from windfall.energy.tariff import Array, Tariff
from windfall.grid.signal import Signal
from windfall.units import J_PER_KWH, from_grid


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
    #: Joules that a meter has measured; the others are modelled.
    measured_joules: float = 0.0
    #: Of a site with a microgrid: joules from its own plants, and out of its battery. The others are from the grid, and they alone
    #: carry grams and cost, or are unpriced and uncosted.
    own_joules: float = 0.0
    stored_joules: float = 0.0

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
        self.measured_joules += other.measured_joules
        self.own_joules += other.own_joules
        self.stored_joules += other.stored_joules

    @property
    def grid_joules(self) -> float:
        """Joules from the grid."""
        return from_grid(self.joules, self.own_joules, self.stored_joules)

    @property
    def priced(self) -> bool:
        """Whether its grams are known, at least in part: no energy, all of it own or stored, or an intensity."""
        return self.unpriced_joules <= 1e-9 * self.joules or self.unpriced_joules < self.grid_joules * (1 - 1e-9)


@dataclass(frozen=True, slots=True)
class Interval:
    """One entry of the account: a site in one phase, under one reading of each of its signals (``t0``, ``t1`` in run time).

    None: that signal's value was unknown, or the site has no such signal. ``grams`` are 0 where ``g_per_kwh`` is None.
    ``measured_joules`` were measured, the rest is modelled. One whose ``t0`` is its ``t1`` was used beside what the site did. One
    with a ``cause`` corrects what was booked before over the same time: its figures are signed, and it has no seconds of its own.
    ``booked_at``: run time at which it was booked, if not at once. ``own_joules`` came from the site's own plants and
    ``stored_joules`` out of its battery: grams and money are of the rest.
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
    measured_joules: float = 0.0
    cause: str = ""
    booked_at: float | None = None
    own_joules: float = 0.0
    stored_joules: float = 0.0


class Account:
    """Books intervals and keeps the sums by site and phase."""

    def __init__(
        self, power: Mapping[str, PowerModel], tariffs: Mapping[str, Tariff], microgrids: Mapping[str, Microgrid] | None = None
    ) -> None:
        """``microgrids``: of the sites that have one; they are told of every phase that is booked."""
        self._power = power
        self.tariffs = tariffs
        self.microgrids = microgrids or {}
        self.totals: dict[tuple[str, str], Total] = {}

    def watts(self, site: str, phase: str) -> float:
        """What the site's model takes (W) in a phase."""
        return self._power[site].watts(phase)

    def book(
        self, site: str, phase: str, t0: float, t1: float, *, watts: float | None = None, measured: float = 0.0, cause: str = "",
        booked_at: float | None = None,
    ) -> list[Interval]:  # fmt: skip
        """Book ``[t0, t1)`` (run time) of ``site`` in ``phase``; one entry per reading that held in it.

        ``watts``: what it took, by a meter or at its power level (default: the model's); with a ``cause``, by how much that differs
        from what was booked. ``measured``: how many of the joules over ``[t0, t1)`` the meter has measured.
        """
        power = self._power[site].watts(phase) if watts is None else watts
        found = self._price(site, phase, power, t0, t1, measured=measured, corrects=bool(cause))
        if found is None:
            return []
        return [
            Interval(
                a, b, site, phase, power, _known(c), j, g, None if math.isnan(i) else bool(i), _known(av), _known(m),
                measured * (b - a) / (t1 - t0), cause, booked_at, own, stored,
            )
            for a, b, j, c, g, i, av, m, own, stored in zip(*(x.tolist() for x in found), strict=True)
        ]  # fmt: skip

    def foresee(self, site: str, phase: str, t0: float, t1: float, *, watts: float | None = None) -> None:
        """``[t0, t1)`` has passed in that phase and will be booked later: a microgrid goes on, so that its signals are of now."""
        if site in self.microgrids:
            self.microgrids[site].advance(self._power[site].watts(phase) if watts is None else watts, t0, t1)

    def book_at(self, site: str, phase: str, t: float, joules: float) -> list[Interval]:
        """Book ``joules`` of ``site`` at run time ``t``, under the readings of that instant; the entry takes no time."""
        if joules == 0.0:
            return []
        tariff, kwh = self.tariffs[site], joules / J_PER_KWH
        _, _, values = _together((tariff.first, tariff.emissions, tariff.average, tariff.price), t, t + 1.0)
        first, g, average, price = (_known(float(v[0])) for v in values)
        e = Interval(
            t, t, site, phase, 0.0, g, joules, 0.0 if g is None else kwh * g,
            None if first is None else bool(tariff.inside(np.array([first]))[0]),
            None if average is None else kwh * average, None if price is None else kwh * price / 1000.0,
        )  # fmt: skip
        self._enter(e)
        return [e]

    def correct(
        self, was: Interval, t0: float, t1: float, watts: float, *, measured: float, cause: str, booked_at: float
    ) -> Interval:
        """Correct the part ``[t0, t1)`` of an entry of a model: it took ``watts``, of which ``measured`` J were measured.

        The readings stay those under which the entry was booked: a meter knows nothing of them. So does what it was made of, where
        the site has a microgrid: plants and battery have gone on under the load that was booked.
        """
        joules = (watts - was.watts) * (t1 - t0)
        part = joules / was.joules
        e = replace(
            was, t0=t0, t1=t1, watts=watts - was.watts, joules=joules, grams=was.grams * part,
            average_grams=None if was.average_grams is None else was.average_grams * part,
            money=None if was.money is None else was.money * part, measured_joules=measured, cause=cause,
            booked_at=booked_at, own_joules=was.own_joules * part, stored_joules=was.stored_joules * part,
        )  # fmt: skip
        self._enter(e)
        return e

    def _enter(self, e: Interval) -> None:
        """Add an entry without time of its own to the sums."""
        grid = from_grid(e.joules, e.own_joules, e.stored_joules)
        self.totals.setdefault((e.site, e.phase), Total()).add(
            Total(
                0.0, e.joules, e.grams, e.joules if e.inside else 0.0, grid if e.g_per_kwh is None else 0.0,
                e.joules if e.inside is None else 0.0, grid if e.money is None else 0.0, e.average_grams or 0.0, e.money or 0.0,
                e.measured_joules, e.own_joules, e.stored_joules,
            )
        )  # fmt: skip

    def add(self, site: str, phase: str, t0: float, t1: float, *, watts: float | None = None) -> None:
        """Book as ``book`` does, without making the entries."""
        self._price(site, phase, self._power[site].watts(phase) if watts is None else watts, t0, t1)

    def _price(
        self, site: str, phase: str, watts: float, t0: float, t1: float, *, measured: float = 0.0, corrects: bool = False
    ) -> tuple[npt.NDArray[Any], ...] | None:
        """Add to the sums. Returns the intervals and their figures, or None where no energy is used."""
        if t1 <= t0:
            return None
        total = self.totals.setdefault((site, phase), Total())
        microgrid = self.microgrids.get(site)
        flows = None if microgrid is None or corrects else microgrid.use(watts, t0, t1)
        if watts == 0.0 and measured == 0.0:
            total.seconds += 0.0 if corrects else t1 - t0
            return None
        tariff = self.tariffs[site]
        starts, ends, (first, intensity, average, price) = _together(
            (tariff.first, tariff.emissions, tariff.average, tariff.price), t0, t1
        )
        if flows is not None:
            starts, ends, values = _cut_at(starts, ends, flows.starts, [first, intensity, average, price])
            first, intensity, average, price = values
        length = ends - starts
        joules = watts * length
        if flows is not None:
            i = np.maximum(np.searchsorted(flows.starts, starts, side="right") - 1, 0)
            own, stored = flows.own_w[i] * length, flows.stored_w[i] * length
        else:
            own = stored = np.zeros(len(starts))
        grid = joules - own - stored
        grid = np.where(np.abs(grid) > 1e-9 * np.abs(joules), grid, 0.0)
        known, judged = np.isfinite(intensity), np.isfinite(first)
        grams = np.where(known, grid / J_PER_KWH * intensity, 0.0)
        inside = np.where(judged, tariff.inside(first), np.nan)
        by_average = grid / J_PER_KWH * average
        money = grid / J_PER_KWH * price / 1000.0
        total.add(
            Total(
                0.0 if corrects else float(length.sum()), float(joules.sum()), float(grams.sum()),
                float(joules[inside == 1.0].sum()), float(grid[~known].sum()), float(joules[~judged].sum()),
                float(grid[~np.isfinite(price)].sum()), float(np.nansum(by_average)), float(np.nansum(money)), measured,
                float(own.sum()), float(stored.sum()),
            )
        )  # fmt: skip
        return starts, ends, joules, intensity, grams, inside, by_average, money, own, stored

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


def _cut_at(starts: Array, ends: Array, cuts: Array, values: list[Array]) -> tuple[Array, Array, list[Array]]:
    """Intervals with their values, cut at further instants."""
    found = np.union1d(starts, cuts[(cuts > starts[0]) & (cuts < ends[-1])])
    i = np.searchsorted(starts, found, side="right") - 1
    return found, np.append(found[1:], ends[-1]), [v[i] for v in values]


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
