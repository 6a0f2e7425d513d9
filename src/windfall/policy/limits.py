"""Limits: how much power or money sites may use together, how many may run, and how often one may start.

They wrap any policy: they turn off what it wants on, and never turn a site on. If not all sites fit, those with the best readings
go first. A site that runs is preferred to one that would have to start, unless the other is better by more than `_INCUMBENT`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from windfall.config.schema import LimitsTable
from windfall.policy.base import Criterion, Decision, FleetView, Judged, Policy, SiteView
from windfall.units import duration_text

_HOUR_S = 3600.0
#: A site that runs is preferred as if its gain were higher by this share of its scale.
_INCUMBENT = 0.5
#: Keys of a policy's memory that say how far it is towards its next switch.
_TOWARDS = ("acc", "to", "gain", "crossed")


@dataclass(frozen=True, slots=True)
class SiteLimits:
    """Limits of one site. ``price`` is the label of its price signal, if it has one."""

    max_starts_per_h: int | None
    ramp_w_per_min: float | None
    price: str | None


class Limited:
    """A policy within limits."""

    whole = True

    def __init__(
        self, policy: Policy, limits: LimitsTable, sites: Mapping[str, SiteLimits], criteria: Mapping[str, Criterion]
    ) -> None:
        self.policy = policy
        self.name = policy.name
        self._limits = limits
        self._sites = sites
        self._criteria = criteria

    def decide(self, view: FleetView) -> dict[str, Decision]:
        decisions = self.policy.decide(view)
        for name, d in list(decisions.items()):
            if d.on and not view.sites[name].on and (why := self._site(view, view.sites[name])):
                decisions[name] = _kept_off(d, view.sites[name], why)
        self._together(view, decisions)
        return decisions

    def _site(self, view: FleetView, site: SiteView) -> str:
        """Why one site may not start now, or an empty string."""
        t, own = view.t, self._sites[site.name]
        if own.max_starts_per_h is not None:
            recent = [s for s in site.starts if t - s < _HOUR_S]
            if len(recent) >= own.max_starts_per_h:
                return f"{len(recent)} starts in the last hour, {own.max_starts_per_h} are allowed"
        # Until its first switch a site counts as off since the run began (or an instant later).
        if own.ramp_w_per_min is not None and (site.starts or site.since > view.begun + 1.0):
            wait = site.watts / own.ramp_w_per_min * 60.0 - (t - site.since)
            if wait > 0:
                return f"its load may rise by {own.ramp_w_per_min:g} W a minute: not for {duration_text(wait)}"
        return ""

    def _together(self, view: FleetView, decisions: dict[str, Decision]) -> None:
        wanted = [n for n, d in decisions.items() if d.on]
        wanted.sort(key=lambda n: (-self._rank(view, n), n))
        count, watts, hourly = 0, 0.0, 0.0
        limits = self._limits
        for name in wanted:
            site = view.sites[name]
            price = self._price(view.t, site)
            cost = None if price is None else price * site.watts / 1e6
            why = ""
            if limits.max_sites is not None and count >= limits.max_sites:
                why = f"{count} sites are on, {limits.max_sites} are allowed"
            elif limits.max_power_w is not None and watts + site.watts > limits.max_power_w:
                why = f"{watts:.0f} W are on and it takes {site.watts:.0f} W, {limits.max_power_w:.0f} W are allowed"
            elif limits.max_spend is not None and view.spent >= limits.max_spend and (price is None or price > 0):
                why = f"{view.spent:.2f} have been spent, {limits.max_spend:.2f} are allowed"
            elif limits.max_spend_per_h is not None and cost is None:
                why = "its price is not known, and what an hour may cost is limited"
            elif limits.max_spend_per_h is not None and hourly + max(0.0, cost or 0.0) > limits.max_spend_per_h:
                why = f"{hourly:.2f} an hour are spent and it would cost {cost:.2f}, {limits.max_spend_per_h:.2f} are allowed"
            if why:
                decisions[name] = _kept_off(decisions[name], site, why)
                continue
            count, watts, hourly = count + 1, watts + site.watts, hourly + max(0.0, cost or 0.0)

    def _rank(self, view: FleetView, name: str) -> float:
        judged = self._criteria[name].judge(view.t, view.sites[name])
        gain = judged.gain / judged.scale if isinstance(judged, Judged) else -1.0
        return gain + (_INCUMBENT if view.sites[name].on else 0.0)

    def _price(self, t: float, site: SiteView) -> float | None:
        label = self._sites[site.name].price
        reading = site.readings.get(label) if label else None
        known = reading is not None and math.isfinite(reading.value) and not reading.is_stale(t)
        return reading.value if reading is not None and known else None


def _kept_off(d: Decision, site: SiteView, why: str) -> Decision:
    """A decision to be off because of a limit. What the policy remembers is kept, except its progress towards the next switch."""
    if site.on:  # the on-period ends here, and with it what has added up towards its end
        memory = {k: v for k, v in d.memory.items() if k not in ("acc", "crossed")}
    else:  # it has not started
        memory = {k: v for k, v in d.memory.items() if k not in _TOWARDS}
        memory |= {k: v for k, v in site.memory.items() if k in _TOWARDS}
    return Decision(False, f"off: {why} (the policy: {d.reason})", d.numbers, None, memory, None, d.alarm)
