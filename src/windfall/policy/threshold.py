"""Threshold with hysteresis: start and stop levels, confirmation, off delay, shortest on-period; and `always`."""

from __future__ import annotations

from windfall.grid.signal import Reading
from windfall.policy.base import Decision, FleetView, Memory, SiteView
from windfall.units import duration_text


class Threshold:
    """On below ``start``, off at or above ``stop`` (gCO2/kWh); a value equal to the level is off."""

    def __init__(
        self,
        start_g_per_kwh: float = 100.0,
        stop_g_per_kwh: float | None = None,
        confirm_s: float = 0.0,
        off_delay_s: float = 0.0,
        min_up_s: float = 0.0,
        name: str = "threshold",
    ) -> None:
        self.name = name
        self.start = start_g_per_kwh
        self.stop = start_g_per_kwh if stop_g_per_kwh is None else stop_g_per_kwh
        self.confirm_s = confirm_s
        self.off_delay_s = off_delay_s
        self.min_up_s = min_up_s

    def decide_site(self, t: float, site: SiteView, reading: Reading) -> Decision:
        c = reading.value
        # `crossed` is when the value first called for the other state; flickering back clears it.
        crossed = site.memory.get("crossed")
        calls = c >= self.stop if site.on else c < self.start
        numbers = {"value": c, "worth": self.stop if site.on else self.start}
        state = "on" if site.on else "off"
        if not calls:
            side = f"under {self.stop:.0f} g" if site.on else f"at or over {self.start:.0f} g"
            return Decision(site.on, f"{state}: {c:.0f} g is {side}", numbers, None, {})
        crossed = t if crossed is None else crossed
        due = crossed + (self.off_delay_s if site.on else self.confirm_s)
        if site.on:
            due = max(due, site.since + self.min_up_s)
        side = f"at or over {self.stop:.0f} g" if site.on else f"under {self.start:.0f} g"
        if t >= due:
            held = f" for {duration_text(t - crossed)}" if t > crossed else ""
            return Decision(not site.on, f"{'stop' if site.on else 'start'}: {c:.0f} g is {side}{held}", numbers, None, {})
        wait = duration_text(due - t)
        what = "stops" if site.on else "starts"
        return Decision(site.on, f"{state}: {c:.0f} g is {side}; {what} in {wait}", numbers, due, {"crossed": crossed})

    def hold_site(self, t: float, site: SiteView) -> Memory:
        return site.memory


def paper() -> Threshold:
    """The study's rule: 100 g/kWh, off ten minutes after a window ends."""
    return Threshold(100.0, off_delay_s=600.0, name="paper")


class Always:
    """Every site on, whatever the grid says. A baseline."""

    name = "always"

    def decide(self, view: FleetView) -> dict[str, Decision]:
        return {
            name: Decision(True, "on: always", {"value": s.reading.value} if s.reading else {}, None, {})
            for name, s in view.sites.items()
        }
