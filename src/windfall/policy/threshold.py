"""The threshold policy: levels to start and stop at, confirmation, delay to stop, shortest on-period. `percentile` builds on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from windfall.policy.base import Decision, Judged, Memory, SiteView
from windfall.policy.criterion import quantity
from windfall.units import duration_text


class Threshold:
    """On below ``start``, off at or above ``stop`` (gCO2/kWh); a value equal to a level counts as off.

    Sites whose criterion is not an intensity have no levels here: they start when it is met and stop when it is not.
    """

    def __init__(
        self,
        start_g_per_kwh: float = 100.0,
        stop_g_per_kwh: float | None = None,
        confirm_s: float = 0.0,
        off_delay_s: float = 0.0,
        min_up_s: float = 0.0,
        name: str = "threshold",
        leveled: Mapping[str, bool] | None = None,
    ) -> None:
        """``leveled`` says which sites' criterion is an intensity; default: all."""
        self.name = name
        self.start = start_g_per_kwh
        self.stop = start_g_per_kwh if stop_g_per_kwh is None else stop_g_per_kwh
        self.confirm_s = confirm_s
        self.off_delay_s = off_delay_s
        self.min_up_s = min_up_s
        self._leveled = leveled

    def decide_site(self, t: float, site: SiteView, judged: Judged) -> Decision:
        if self._leveled is not None and not self._leveled[site.name]:
            return self.against(t, site, judged, judged.open, judged.text)
        level = self.stop if site.on else self.start
        under = judged.value < level
        text = f"{judged.value:.0f} g is {'under' if under else 'at or over'} {level:.0f} g"
        return self.against(t, site, judged, under, text, level)

    def against(
        self, t: float, site: SiteView, judged: Judged, open_: bool, text: str, level: float | None = None, unit: str = ""
    ) -> Decision:
        """The decision where the criterion is met (``open_``) or not."""
        # `crossed` is when the value first called for the other state. It is forgotten if the value goes back.
        crossed = site.memory.get("crossed")
        numbers = {"value": judged.value, "worth": judged.level if level is None else level}
        state = "on" if site.on else "off"
        if open_ == site.on:
            quiet = None
            if level is not None and judged.single:
                quiet = (-math.inf, level) if site.on else (level, math.inf)
            return Decision(site.on, f"{state}: {text}", numbers, None, {}, quiet)
        crossed = t if crossed is None else crossed
        due = crossed + (self.off_delay_s if site.on else self.confirm_s)
        if site.on:
            due = max(due, site.since + self.min_up_s)
        if t >= due:
            held = f" for {duration_text(t - crossed)}" if t > crossed else ""
            return Decision(not site.on, f"{'stop' if site.on else 'start'}: {text}{held}", numbers, None, {})
        what = "stops" if site.on else "starts"
        return Decision(site.on, f"{state}: {text}; {what} in {duration_text(due - t)}", numbers, due, {"crossed": crossed})

    def hold_site(self, t: float, site: SiteView, stale: bool) -> Memory:
        return {} if stale else site.memory


def paper(leveled: Mapping[str, bool] | None = None) -> Threshold:
    """The study's rule: 100 g/kWh, off ten minutes after a window ends."""
    return Threshold(100.0, off_delay_s=600.0, name="paper", leveled=leveled)


class Percentile:
    """On while the reading is among the lowest ``percentile`` % of the last ``window_s``, and below the ceiling.

    The ceiling is the site's worth: without it the least dirty hours of a dirty week would count as clean. The level is computed
    anew once an hour.
    """

    name = "percentile"
    _EVERY_S = 3600.0
    #: With less past than this no level is computed.
    _LEAST_S = 6 * 3600.0

    def __init__(self, percentile: float, window_s: float, threshold: Threshold, kinds: Mapping[str, tuple[str, str]]) -> None:
        """``threshold`` brings confirmation, delay and shortest on-period; ``kinds`` signal type and currency by site."""
        self.percentile = percentile
        self.window_s = window_s
        self._threshold = threshold
        self._kinds = kinds

    def decide_site(self, t: float, site: SiteView, judged: Judged) -> Decision:
        level, at = site.memory.get("level"), site.memory.get("level_at", -math.inf)
        if level is None or t - at >= self._EVERY_S:
            level, at = self._level(site), t
        memory = {"level": level, "level_at": at}
        kind, currency = self._kinds[site.name]
        bound = min(level, judged.level)
        shown, against = quantity(judged.value, kind, currency), quantity(bound, kind, currency)
        about = "the ceiling" if level >= judged.level else f"the {self.percentile:g} % lowest of {self.window_s / 86400:g} days,"
        open_ = judged.value < bound
        text = f"{shown} is {'under' if open_ else 'at or over'} {about} {against}"
        if level == -math.inf:
            text = f"{shown}; less than {self._LEAST_S / 3600:.0f} h of the past are known, so nothing is low yet"
        plain = replace(site, memory={k: v for k, v in site.memory.items() if k == "crossed"})
        d = self._threshold.against(t, plain, judged, open_, text, bound)
        until = at + self._EVERY_S if d.until is None else min(d.until, at + self._EVERY_S)
        return Decision(d.on, d.reason, {**d.numbers, "worth": bound}, until, {**memory, **d.memory}, d.quiet)

    def hold_site(self, t: float, site: SiteView, stale: bool) -> Memory:
        return {k: v for k, v in site.memory.items() if k != "crossed"} if stale else site.memory

    def _level(self, site: SiteView) -> float:
        past = site.outlook.history(self.window_s).known() if site.outlook else None
        if past is None or float((past.ends - past.starts).sum()) < self._LEAST_S:
            return -math.inf
        order = np.argsort(past.values, kind="stable")
        weight = np.cumsum((past.ends - past.starts)[order])
        place = int(np.searchsorted(weight, self.percentile / 100.0 * weight[-1], side="left"))
        return float(past.values[order][min(place, len(order) - 1)])
