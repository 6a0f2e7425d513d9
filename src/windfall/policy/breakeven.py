"""Break-even: start when the gain so far would have paid for a start, stop when the loss so far would pay for one.

DESIGN 7: worth lambda, restart cost R = spin_up_s x lambda (the opportunity cost of a start per kW of training power).
Off: acc = max(0, acc + (lambda - c) dt), on when c < lambda and acc >= a_on R.
On:  acc = max(0, acc + (c - lambda) dt), off when c >= lambda and acc >= a_off R.
The accumulator is zero at every transition; a value equal to the worth is off. This is the ski-rental rule: whatever
comes, it loses at most a constant factor to one who knew the future.
"""

from __future__ import annotations

from windfall.grid.signal import Reading
from windfall.policy.base import Decision, Memory, SiteView
from windfall.units import duration_text


class Breakeven:
    """Break-even on a marginal or average intensity (gCO2/kWh)."""

    name = "breakeven"

    def __init__(self, worth_g_per_kwh: float = 100.0, a_on: float = 0.5, a_off: float = 0.5) -> None:
        self.worth = worth_g_per_kwh
        self.a_on = a_on
        self.a_off = a_off

    def decide_site(self, t: float, site: SiteView, reading: Reading) -> Decision:
        c, worth = reading.value, self.worth
        restart = site.spin_up_s * worth
        # The interval since the last decision is priced at the value that held over it.
        dt = t - site.memory.get("t", t)
        past = site.memory.get("value", c)
        gain = (past - worth) if site.on else (worth - past)
        acc = max(0.0, site.memory.get("acc", 0.0) + gain * dt)
        need = (self.a_off if site.on else self.a_on) * restart
        under = c < worth
        flip = under != site.on and acc >= need
        on = site.on != flip
        numbers = {"value": c, "worth": worth, "accumulated": acc, "needed": need, "restart_cost": restart}
        if flip:
            verb = "start" if on else "stop"
            side = "under" if under else "at or over"
            reason = f"{verb}: {c:.0f} g is {side} worth {worth:.0f} g and {acc:.0f} of {need:.0f} g·s/kWh are reached"
            acc = 0.0
            until = None
        elif under == site.on:
            reason = f"{'on' if on else 'off'}: {c:.0f} g is {'under' if under else 'at or over'} worth {worth:.0f} g"
            until = None
        else:
            wait = (need - acc) / abs(worth - c) if c != worth else float("inf")
            until = t + wait if wait != float("inf") else None
            what = "start" if under else "stop"
            reason = (
                f"{'on' if on else 'off'}: {c:.0f} g is {'under' if under else 'at or over'} worth {worth:.0f} g; "
                f"{what} pays in {duration_text(wait) if until else 'never'} ({acc:.0f} of {need:.0f} g·s/kWh)"
            )
        return Decision(on, reason, numbers, until, {"t": t, "value": c, "acc": acc})

    def hold_site(self, t: float, site: SiteView) -> Memory:
        # Nothing is gained or lost over an interval of which nothing is known.
        return {"acc": site.memory.get("acc", 0.0)}
