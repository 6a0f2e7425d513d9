"""Budgeted: trains a number of tokens by a deadline, at the cheapest times.

All sites share one worth lambda. A bisection finds the worth at which what is planned meets what is left to train. If the forecast
reaches the deadline, the planner (`planner`) plans on it exactly, and sites follow that plan. If it does not, the time beyond it
is assumed to be like the same hours of the trailing days (climatology): the policy counts how long a site would have trained at a
worth, less its starts. Each site then decides by break-even at the worth found, and its reasons say so.

If every site must run from now on to meet the deadline, every site runs. If even that is too late they run too, with an alarm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from windfall.grid.signal import Columns, Forecast
from windfall.policy.base import Criterion, Decision, FleetView, Judged, SiteView, Unknown, unknown
from windfall.policy.breakeven import Breakeven
from windfall.policy.planner import PlannedSite, plan_budget
from windfall.policy.programme import OnPeriod, Programme, SpinUp, StepFunction
from windfall.units import clock_text, duration_text

#: Time kept free before the deadline, for the last commit and for starts that take longer than the last ones did: `_SPARE_S`
#: (less in the last `_SPARE_WHOLE_S`) and a share of the time that is left.
_SPARE_S = 60.0
_SPARE_WHOLE_S = 7200.0
_SPARE_SHARE = 0.002
#: The share where no forecast reaches the deadline. It is larger, because the future may be worse than the past.
_SPARE_SHARE_BLIND = 0.05
_LEAST_HISTORY_S = 86400.0
#: Of a plan, so many of the next switches are remembered.
_EDGES = 8


class Budgeted:
    """Meets a token target by a deadline."""

    name = "budgeted"
    whole = True

    def __init__(
        self, criteria: Mapping[str, Criterion], spins: Mapping[str, SpinUp], *, deadline: float | None, deadline_h: float | None,
        climatology_s: float, replan_s: float, breakeven: Breakeven,
    ) -> None:  # fmt: skip
        """``deadline`` in Unix seconds, or ``deadline_h`` hours from the run's begin; ``spins``: starts and their power by site."""
        self._criteria = criteria
        self._spins = spins
        self._deadline = deadline
        self._deadline_h = deadline_h
        self._climatology_s = climatology_s
        self._replan_s = replan_s
        self._breakeven = breakeven

    def deadline(self, view: FleetView) -> float:
        """When the budget must be trained."""
        return self._deadline if self._deadline is not None else view.begun + 3600.0 * (self._deadline_h or 0.0)

    def decide(self, view: FleetView) -> dict[str, Decision]:
        deadline = self.deadline(view)
        found = self._urgent(view, deadline)
        if found is None:
            found = self._planned(view, deadline)
        for name, site in view.sites.items():
            judged = self._criteria[name].judge(view.t, site)
            if isinstance(judged, Unknown) and (found[name].on or judged.stale):
                # Whatever is planned, no site starts without a fresh reading (invariant 5). Its plan is kept.
                found[name] = replace(unknown(site, judged, found[name].memory), alarm=found[name].alarm)
        return found

    def _urgent(self, view: FleetView, deadline: float) -> dict[str, Decision] | None:
        """Every site on, if the deadline cannot be met otherwise; None if it can."""
        left = deadline - view.t
        rate = sum(s.rate for s in view.sites.values())

        def capacity(time_s: float) -> float:
            return sum(s.rate * max(0.0, time_s - _warm_s(s)) for s in view.sites.values())

        # A plan keeps some time free before the deadline, so a plan that is being met is not urgent.
        if math.isinf(view.left) or capacity(left - view.tick_s) >= view.left:
            return None
        late = (view.left - capacity(left)) / rate if rate else math.inf
        numbers = {"left_tokens": view.left, "left_s": left, "late_s": late}
        if late > 0 and view.left > 0:
            reason = f"on: {duration_text(late)} too little is left before {clock_text(deadline)} UTC even with every site on"
            alarm = f"the deadline {clock_text(deadline)} UTC cannot be met any more; every site trains"
        else:
            reason, alarm = f"on: every site is needed from now to {clock_text(deadline)} UTC", ""
        return {n: Decision(True, reason, numbers, None, {"worth": math.inf}, None, alarm) for n in view.sites}

    def _planned(self, view: FleetView, deadline: float) -> dict[str, Decision]:
        t = view.t
        at = min((s.memory.get("plan_at", -math.inf) for s in view.sites.values()), default=-math.inf)
        if t - at >= self._replan_s:
            return self._replan(view, deadline)
        return {n: self._carry_on(view, s, s.memory) for n, s in view.sites.items()}

    def _replan(self, view: FleetView, deadline: float) -> dict[str, Decision]:
        t = view.t
        forecasts = {n: s.outlook.forecast(deadline - t) if s.outlook else None for n, s in view.sites.items()}
        blind = any(f is None or f.ends_at < deadline - 1.0 for f in forecasts.values())
        # Towards the deadline less can go wrong, so less time is kept free: small delays must not cost an extra start.
        left = deadline - t
        spare = view.tick_s + _SPARE_S * min(1.0, left / _SPARE_WHOLE_S) + (_SPARE_SHARE_BLIND if blind else _SPARE_SHARE) * left
        end = max(t + 60.0, deadline - spare)
        sites = {n: s for n, s in ((n, self._site(view.sites[n], f, t, end)) for n, f in forecasts.items()) if s is not None}
        past = {n: self._past(s, forecasts[n], t, end) for n, s in view.sites.items()}
        scale = {n: s.rate / s.watts for n, s in view.sites.items()}
        on_periods: dict[str, list[OnPeriod]] = {}
        if blind and not sites and not any(past.values()):
            # Neither forecast nor past is known, so the configured worth is used until one of them is.
            levels = [j.level for n, s in view.sites.items() if isinstance(j := self._criteria[n].judge(t, s), Judged)]
            worths, planned_at = dict.fromkeys(scale, max(levels, default=0.0)), -math.inf
        else:
            if blind:
                worth, unit = self._bisect(view.left, view.sites, sites, past, scale), max(scale.values())
            else:
                made = plan_budget(sites, view.left)
                worth, on_periods, unit = made.worth, made.on_periods, min((scale[n] for n in sites), default=1.0)
            worths, planned_at = {n: worth * x / unit for n, x in scale.items()}, t
        last = max((s.stop for x in on_periods.values() for s in x), default=math.inf)
        found = {}
        for name, site in view.sites.items():
            memory = {"plan_at": planned_at, "worth": worths[name], "blind": float(blind)}
            if not blind:
                # The site that is planned to train last goes on until the budget is trained, also if the plan has slipped a little.
                edges = [x for s in on_periods.get(name, []) for x in (s.start, deadline if s.stop >= last else s.stop)]
                if len(edges) > _EDGES:  # the rest of the plan is made again when it is due
                    memory["plan_at"] = min(t, edges[_EDGES - 1] - self._replan_s)
                memory |= {f"e{i}": x for i, x in enumerate(edges[:_EDGES])}
            else:
                memory |= {k: v for k, v in site.memory.items() if k in ("acc", "to", "gain")}
                memory["known"] = float(past[name] is not None)
            found[name] = self._carry_on(view, site, memory)
        return found

    def _carry_on(self, view: FleetView, site: SiteView, memory: Mapping[str, float]) -> Decision:
        """What the plan in ``memory`` says for one site."""
        t = view.t
        worth = memory["worth"]
        if memory["blind"]:
            return self._by_worth(t, site, memory)
        edges = [memory[f"e{i}"] for i in range(_EDGES) if f"e{i}" in memory]
        # A decision is made once a tick, so a planned switch happens at the tick that is nearest to it.
        near = t + max(1e-3, 0.5 * view.tick_s)
        on = sum(x <= near for x in edges) % 2 == 1
        coming = [x for x in edges if x > near]
        until = min([*coming, memory["plan_at"] + self._replan_s])
        numbers = {"value": site.reading.value} if site.reading else {}
        unit = site.reading.unit.replace("gCO2", "g") if site.reading else "g/kWh"
        reason = f"{'on' if on else 'off'}: planned to the deadline at worth {worth:.1f} {unit}"
        if coming:
            reason += f"; {'off' if on else 'on'} at {clock_text(coming[0])} UTC"
        return Decision(on, reason, {**numbers, "worth": worth}, until, dict(memory))

    def _by_worth(self, t: float, site: SiteView, memory: Mapping[str, float]) -> Decision:
        """What break-even decides at the worth that the plan found."""
        plan_part = {k: memory[k] for k in ("plan_at", "worth", "blind", "known") if k in memory}
        judged = self._criteria[site.name].judge(t, site)
        if isinstance(judged, Unknown):
            return unknown(site, judged, {**plan_part, **self._breakeven.hold_site(t, replace(site, memory=memory), judged.stale)})
        worth = memory["worth"]
        under = judged.value < worth
        text = f"{judged.value:.0f} is {'under' if under else 'at or over'} {worth:.0f}, the worth that meets the deadline"
        # The scale of an intensity is the worth itself; a price has a scale of its own.
        scale = max(1e-9, abs(worth)) if judged.unit == "g·s/kWh" else judged.scale
        at_worth = Judged(
            under, worth - judged.value, scale, judged.value, worth, text, judged.valid_from, judged.valid_until, False, judged.unit
        )
        rest = {k: v for k, v in memory.items() if k in ("acc", "to", "gain")}
        d = self._breakeven.decide_site(t, replace(site, memory=rest), at_worth)
        how = "climatology, no forecast to the deadline" if memory.get("known", 1.0) else "no forecast and no past"
        return Decision(d.on, f"{d.reason} ({how})", d.numbers, d.until, {**d.memory, **plan_part})

    def _site(self, site: SiteView, forecast: Forecast | None, t: float, end: float) -> PlannedSite | None:
        if forecast is None or not np.isfinite(forecast.values).any():
            return None
        times, values = forecast.times, forecast.values
        # The first value is used for the time before the forecast begins too. Where the forecast is NaN nothing is planned.
        edges = np.clip(np.concatenate(([min(t, times[0])], times[1:], [forecast.ends_at])), t, end)
        lasts = np.diff(edges) > 0
        if not lasts.any():
            return None
        values, edges = values[lasts], np.append(edges[:-1][lasts], edges[-1])
        running = site.on and site.state in ("provisioning", "ready", "training")
        spin = self._spins[site.name]
        parts = spin.parts or ((1.0, 1.0),)
        shape = sum(s for s, _ in parts)
        learned = SpinUp(tuple((s * site.spin_up_s / shape, share) for s, share in parts if site.spin_up_s > 0))
        programme = Programme(StepFunction(edges, values), learned, on=running, ready_in_s=site.ready_in_s)
        return PlannedSite(programme, site.rate, site.watts / 1000.0)

    def _past(self, site: SiteView, forecast: Forecast | None, t: float, end: float) -> _Climate | None:
        begin = t if forecast is None else max(t, min(end, forecast.ends_at))
        past = site.outlook.history(self._climatology_s).known() if site.outlook else None
        least = min(_LEAST_HISTORY_S, self._climatology_s) - 1.0
        if past is None or not len(past.values) or past.ends[-1] - past.starts[0] < least:
            return None
        return _Climate(past, begin, end, site.spin_up_s)

    def _bisect(
        self, left: float, views: Mapping[str, SiteView], sites: Mapping[str, PlannedSite], past: Mapping[str, _Climate | None],
        scale: Mapping[str, float],
    ) -> float:  # fmt: skip
        """The worth, at the site with the greatest ``scale``, at which forecast and climatology together train what is left."""
        unit = max(scale.values())

        def tokens(worth: float) -> float:
            total = 0.0
            for name, site in views.items():
                own = worth * scale[name] / unit
                if name in sites:
                    total += site.rate * sum(s.stop - s.ready for s in sites[name].programme.solve(own)[1])
                climate = past[name]
                if climate is not None:
                    total += site.rate * climate.seconds(own)
            return total

        seen = [(scale[n] / unit, c.values) for n, c in past.items() if c is not None]
        seen += [(scale[n] / unit, p.programme.signal.values) for n, p in sites.items()]
        low = min((float(np.nanmin(values)) - 1.0) / share for share, values in seen)
        high = max((float(np.nanmax(values)) + 1.0) / share for share, values in seen)
        if tokens(high) < left:
            return high
        for _ in range(20):
            middle = 0.5 * (low + high)
            low, high = (low, middle) if tokens(middle) >= left else (middle, high)
        return high


def _warm_s(site: SiteView) -> float:
    """Seconds until the site trains, if it is wanted on from now."""
    if site.state in ("ready", "training"):
        return 0.0
    return site.ready_in_s if site.state == "provisioning" else site.spin_up_s


class _Climate:
    """Climatology: the time from ``begin`` to ``end`` (Unix seconds) as the trailing days were at the same hours of the day."""

    def __init__(self, past: Columns, begin: float, end: float, spin_up_s: float) -> None:
        self._length = past.ends - past.starts
        self.values = past.values
        self._spin = spin_up_s
        # Each past interval is weighted by how much of its hour of the day lies ahead, over how much of it the past has.
        ahead = np.zeros(24)
        for hour in range(24):
            ahead[hour] = _overlap(begin, end, hour)
        hours = ((past.starts % 86400) // 3600).astype(int)
        behind = np.bincount(hours, weights=self._length, minlength=24)
        self._weight = np.divide(ahead, behind, out=np.zeros(24), where=behind > 0)[hours]

    def seconds(self, worth: float) -> float:
        """Seconds that the site would train at ``worth``, its starts subtracted."""
        under = self.values < worth
        if not under.any():
            return 0.0
        begins = under & ~np.append(False, under[:-1])
        # For each interval, the time from its window's begin to its end: what exceeds the spin-up has been trained.
        total = np.cumsum(np.where(under, self._length, 0.0))
        base = np.maximum.accumulate(np.where(begins, total - self._length, 0.0))
        into = np.where(under, total - base, 0.0)
        trained = np.clip(into - self._spin, 0.0, self._length)
        return float((trained * np.where(under, self._weight, 0.0)).sum())


def _overlap(begin: float, end: float, hour: int) -> float:
    """Seconds of [begin, end) that lie in one hour of the day (UTC)."""

    def before(t: float) -> float:
        days, rest = divmod(t, 86400.0)
        return days * 3600.0 + min(max(rest - hour * 3600.0, 0.0), 3600.0)

    return max(0.0, before(end) - before(begin))
