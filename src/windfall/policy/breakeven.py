"""Break-even: start when the gain so far would have paid for a start, stop when the loss so far would pay for one.

Worth lambda, restart cost R = spin_up_s x lambda (the opportunity cost of a start per kW of training power).
Off: acc = max(0, acc + (lambda - c) dt), on when c < lambda and acc >= a_on R.
On:  acc = max(0, acc + (c - lambda) dt), off when c >= lambda and acc >= a_off R.
The accumulator is zero at every transition, and a value equal to the worth is off. This is the ski-rental rule: whatever the
future is, its cost is at most a constant times that of a policy which knows the future (Karlin et al., 1988: competitive
snoopy caching).

A reading with a period counts for its whole interval as soon as it is known: five minutes at 20 g are a gain when they begin. A
reading without a period holds until the next one, so it counts for the time that has passed.
"""

from __future__ import annotations

import math

from windfall.policy.base import Decision, Judged, Memory, SiteView
from windfall.units import duration_text


def accumulate(t: float, memory: Memory, judged: Judged, on: bool) -> tuple[float, float]:
    """The accumulator at ``t``, and until when readings have been added to it; ``memory`` has both from the last decision."""
    sign = -1.0 if on else 1.0
    acc, to = memory.get("acc", 0.0), memory.get("to", -math.inf)
    if "gain" in memory and -math.inf < to < t:
        # The last reading has no period and held until now, so its interval is added only now.
        acc, to = max(0.0, acc + sign * memory["gain"] * (t - to)), t
    if judged.valid_until == math.inf:
        return acc, max(to, t)
    begins = max(to, judged.valid_from)
    if judged.valid_until > begins:
        acc, to = max(0.0, acc + sign * judged.gain * (judged.valid_until - begins)), judged.valid_until
    return acc, to


class Breakeven:
    """Break-even on any criterion."""

    name = "breakeven"

    def __init__(self, a_on: float = 0.5, a_off: float = 0.5) -> None:
        self.a_on = a_on
        self.a_off = a_off

    def decide_site(self, t: float, site: SiteView, judged: Judged) -> Decision:
        scale, gain = judged.scale, judged.gain
        restart = site.spin_up_s * scale
        acc, to = accumulate(t, site.memory, judged, site.on)
        need = (self.a_off if site.on else self.a_on) * restart
        flip = judged.open != site.on and acc >= need
        on = site.on != flip
        numbers = {"value": judged.value, "worth": judged.level, "accumulated": acc, "needed": need, "restart_cost": restart}
        unit = judged.unit
        until, quiet = None, None
        state = "on" if on else "off"
        if flip:
            reason = f"{'start' if on else 'stop'}: {judged.text} and {acc:.0f} of {need:.0f} {unit} are reached"
            acc = 0.0
        elif judged.open == site.on:
            reason = f"{state}: {judged.text}"
        else:
            wait = (need - acc) / abs(gain) if gain else math.inf
            pays = t + wait if math.isfinite(wait) else None
            what = "start" if judged.open else "stop"
            when = f"pays in {duration_text(wait)}" if pays else "does not pay at this value"
            reason = f"{state}: {judged.text}; {what} {when} ({acc:.0f} of {need:.0f} {unit})"
            until = pays
        if judged.open == on and acc == 0.0 and judged.single:
            quiet = (-math.inf, judged.level) if on else (judged.level, math.inf)
        memory = {"acc": acc, "to": to}
        if judged.valid_until == math.inf:
            memory["gain"] = gain
        return Decision(on, reason, numbers, until, memory, quiet)

    def hold_site(self, t: float, site: SiteView, stale: bool) -> Memory:
        if stale:
            return {}
        # An interval of which nothing is known adds neither gain nor loss.
        return {k: v for k, v in site.memory.items() if k in ("acc", "to")}
