"""Policies for comparison in backtests: some do not look at the grid, one carries out a schedule that was made with hindsight."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence

from windfall.policy.base import Decision, FleetView

#: About twice the smallest step between float64 Unix seconds (s).
_APART_S = 1e-6


class Always:
    """Every site on, whatever the grid says. A baseline."""

    name = "always"
    whole = False

    def decide(self, view: FleetView) -> dict[str, Decision]:
        return {
            name: Decision(True, "on: always", {"value": s.reading.value} if s.reading else {}, None, {}, (-math.inf, math.inf))
            for name, s in view.sites.items()
        }


class RandomDuty:
    """Each site on in a random share ``duty`` of equal stretches of ``period_s``, whatever the grid says. A baseline.

    The draw is a hash of seed, site and stretch since the run began: the same whenever it is asked.
    """

    name = "random_duty"
    whole = False

    def __init__(self, duty: float, period_s: float, seed: int) -> None:
        self.duty = duty
        self.period_s = period_s
        self.seed = seed

    def decide(self, view: FleetView) -> dict[str, Decision]:
        stretch = math.floor((view.t - view.begun) / self.period_s)
        until = view.begun + (stretch + 1) * self.period_s
        found = {}
        for name in view.sites:
            digest = hashlib.sha256(f"{self.seed} {name} {stretch}".encode()).digest()
            draw = int.from_bytes(digest[:8], "big") / 2**64
            on = draw < self.duty
            reason = f"{'on' if on else 'off'}: drew {draw:.2f}, on below {self.duty:g}"
            found[name] = Decision(on, reason, {"draw": draw}, until, {}, (-math.inf, math.inf))
        return found


class Scheduled:
    """On in given on-periods: what the oracle, who knows the future, has chosen beforehand."""

    name = "oracle"
    whole = False

    def __init__(self, on_periods: Mapping[str, Sequence[tuple[float, float]]], name: str = "oracle") -> None:
        """``on_periods``: by site, sorted, from the decision to start to the decision to stop (run time)."""
        self.name = name
        self._edges: dict[str, list[float]] = {}
        for site, pairs in on_periods.items():
            edges = self._edges[site] = []
            for start, stop in pairs:
                # One on-period may begin where another ends, where starting in a dear hour is cheaper than training in it. The site
                # is off for an instant between them.
                edges += [max(start, edges[-1] + _APART_S) if edges else start, stop]

    def decide(self, view: FleetView) -> dict[str, Decision]:
        found = {}
        for name in view.sites:
            edges = self._edges.get(name, [])
            i = bisect_right(edges, view.t)
            on = i % 2 == 1
            until = edges[i] if i < len(edges) else None
            reason = f"{'on' if on else 'off'}: the best schedule for what was to come"
            found[name] = Decision(on, reason, {}, until, {}, (-math.inf, math.inf))
        return found
