"""Criteria: they say what training is worth at a site, from its readings.

A criterion of one signal compares it with a level: an intensity with the worth (gCO2/kWh), a price with ``worth_per_mwh`` on the
scale ``value_scale_per_mwh``, a power with the site's demand (gain +1 at or above it, else −1). A trigger joins several criteria:
`any` takes the largest of their gains, `all` the smallest, each divided by its scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from windfall.config.policy import PolicyTable
from windfall.config.schema import Config, SiteTable
from windfall.config.signals import SignalTable
from windfall.config.trigger import Comparison, Joined, Trigger, parse_trigger
from windfall.grid.signal import Reading
from windfall.policy.base import Criterion, Judged, SiteView, Unknown
from windfall.units import duration_text


def quantity(value: float, kind: str, currency: str = "") -> str:
    """A value of a signal type as reasons write it: `65 g`, `-3.20 USD/MWh`, `12 MW`."""
    match kind:
        case "price":
            return f"{value:.2f} {currency}/MWh"
        case "curtailed_power":
            return f"{value:.3g} MW"
        case "surplus_power":
            return f"{value:.0f} W"
        case "state_of_charge":
            return f"{value * 100:.0f} %"
        case _:
            return f"{value:.0f} g"


def intensity(kind: str) -> bool:
    """Whether a signal type is emissions per energy."""
    return kind in ("marginal_co2", "average_co2")


@dataclass(frozen=True, slots=True)
class Level:
    """Compares one signal with one level. ``sign`` is 1 if low values are good, −1 if high values are.

    ``scale`` is the gain at which a second of training is worth a whole second. None: only the gain's sign counts (power, charge).
    """

    label: str
    kind: str
    currency: str
    level: float
    sign: float
    scale: float | None
    holds: Callable[[float], bool]
    first: bool = True

    def judge(self, t: float, site: SiteView) -> Judged | Unknown:
        reading = site.reading if self.first else site.readings.get(self.label)
        missing = lacking(t, reading)
        if missing is not None:
            return missing
        assert reading is not None
        return self.of(reading)

    def of(self, reading: Reading) -> Judged:
        """What the criterion makes of a reading, whatever its age."""
        value = reading.value
        open_ = self.holds(value)
        if self.scale is None:
            gain, scale = (1.0 if open_ else -1.0), 1.0
        else:
            gain, scale = self.sign * (self.level - value), self.scale
        shown = quantity(value, self.kind, self.currency)
        level = quantity(self.level, self.kind, self.currency)
        if shown == level and value != self.level:  # 79.9 g, not "80 g is under worth 80 g"
            number = value * 100 if self.kind == "state_of_charge" else value
            shown = f"{number:.6g} {shown.partition(' ')[2]}"
        # The level itself is on the side on which the criterion puts it: `price <= 0` holds at 0, `moer < 100` does not at 100.
        low = (self.sign > 0) == open_
        at = self.holds(self.level) == open_
        side = ("at or " if at else "") + ("under" if low else "over")
        name = "worth" if self.scale is not None else "the charge" if self.kind == "state_of_charge" else "the demand"
        unit = "s" if self.scale is None else f"{self.currency}·s/MWh" if self.kind == "price" else "g·s/kWh"
        return Judged(
            open_, gain, scale, value, self.level, f"{shown} is {side} {name} {level}", reading.valid_from,
            reading.valid_until, self.first and self.sign > 0 and not self.holds(self.level), unit,
        )  # fmt: skip


def under(worth_g_per_kwh: float) -> Level:
    """The criterion of a site with one marginal intensity: it is under ``worth``."""
    return Level("marginal_co2", "marginal_co2", "", worth_g_per_kwh, 1.0, worth_g_per_kwh, lambda v: v < worth_g_per_kwh)


def distances(level: Level, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """1 − gain of each of ``values`` [n], in units of which the scale is one: 0 is worth a whole second, over 1 nothing."""
    if level.scale is None:
        found = np.array([0.0 if level.holds(v) else 2.0 for v in values.tolist()])
        return np.where(np.isnan(values), np.nan, found)
    return np.asarray(1.0 - level.sign * (level.level - values) / level.scale)


@dataclass(frozen=True, slots=True)
class Several:
    """Criteria joined: ``any`` of them, or ``all``."""

    how: str
    parts: tuple[Criterion, ...]

    def judge(self, t: float, site: SiteView) -> Judged | Unknown:
        found = [p.judge(t, site) for p in self.parts]
        fresh = [j for j in found if isinstance(j, Judged)]
        missing = [u for u in found if isinstance(u, Unknown)]
        stale = [u for u in missing if u.stale]
        # `all` can be decided in spite of a late reading if another criterion is not met.
        shut = self.how == "all" and not stale and any(not j.open for j in fresh)
        if (self.how == "all" and missing and not shut) or not fresh:
            # For `all` one stale reading makes the result stale; for `any` every reading must be stale.
            gone = bool(stale) and (self.how == "all" or len(stale) == len(found))
            late = [u for u in missing if not u.stale]
            worst = stale[0] if gone else late[0]
            ends = [u.stale_at for u in late if u.stale_at is not None]
            last = (min if self.how == "all" else max)(ends) if ends and not gone else None
            return Unknown(gone, worst.text, worst.value, last)
        pick = max if self.how == "any" else min
        best = pick(fresh, key=lambda j: (j.open, j.gain / j.scale))
        whole = any(j.open for j in fresh) if self.how == "any" else all(j.open for j in fresh)
        begin, end = max(j.valid_from for j in fresh), min(j.valid_until for j in fresh)
        return Judged(
            # With different publication delays the readings may be about times that do not overlap. The result then has no end.
            whole, best.gain / best.scale, 1.0, best.value, best.level, best.text, begin, end if end > begin else math.inf,
            False, "s",
        )  # fmt: skip


def lacking(t: float, reading: Reading | None) -> Unknown | None:
    """Why a reading is not fresh at ``t``; None if it is."""
    if reading is None:
        return Unknown(True, "no reading", None, None)
    if not math.isfinite(reading.value):
        return Unknown(True, "the reading is no number", None, None)
    if reading.is_fresh(t):
        return None
    minutes = f"{duration_text(reading.age_s(t))} old"
    if reading.is_stale(t):
        return Unknown(True, f"the last reading ({minutes}) no longer holds", None, None)
    return Unknown(False, f"reading is late ({minutes})", reading.value, reading.stale_at)


def criteria(config: Config, policy: PolicyTable) -> dict[str, Criterion]:
    """The criterion of every site."""
    return {s.name: _of_site(s, policy) for s in config.site}


def _of_site(site: SiteTable, policy: PolicyTable) -> Criterion:
    if site.trigger is None:
        return plain(site.signal, site, policy)
    tables = {t.label: t for t in site.all_signals}
    for t in site.all_signals:
        if t.type == "marginal_co2":
            tables.setdefault("moer", t)
    return _joined(parse_trigger(site.trigger), tables, site, policy)


def plain(table: SignalTable, site: SiteTable, policy: PolicyTable) -> Level:
    """The criterion of one signal, with the level that the policy's configuration gives."""
    if intensity(table.type):
        level = policy.worth_g_per_kwh
        return Level(table.label, table.type, "", level, 1.0, level, lambda v: v < level)
    if table.type == "price":
        worth = policy.worth_per_mwh
        return Level(table.label, table.type, table.currency, worth, 1.0, policy.value_scale_per_mwh, lambda v: v < worth)
    demand = site.demand_w / (1e6 if table.type == "curtailed_power" else 1.0)
    return Level(table.label, table.type, "", demand, -1.0, None, lambda v: v >= demand)


def _joined(trigger: Trigger, tables: dict[str, SignalTable], site: SiteTable, policy: PolicyTable) -> Criterion:
    if isinstance(trigger, Joined):
        return Several(trigger.how, tuple(_joined(p, tables, site, policy) for p in trigger.parts))
    return _compared(trigger, tables[trigger.signal], site, policy)


def _compared(c: Comparison, table: SignalTable, site: SiteTable, policy: PolicyTable) -> Level:
    # The scale of an intensity is its level; a price has the configured scale; of a power or a charge only the sign counts.
    scale = (abs(c.level) or policy.worth_g_per_kwh) if intensity(table.type) else policy.value_scale_per_mwh
    power = table.type in ("curtailed_power", "surplus_power", "state_of_charge")
    first = table.label == site.signal.label
    return Level(
        table.label, table.type, table.currency, c.level, 1.0 if c.below else -1.0, None if power else scale, c.holds, first
    )
