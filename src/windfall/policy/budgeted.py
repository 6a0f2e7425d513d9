"""Budgeted: trains a number of tokens by a deadline, at the cheapest times.

Sites share a reservation price (`reservation`): what a token may cost now, from what the past says of the time until the deadline,
from a prior where there is little past, and from forecasts as far as they have come true (`skill`). Each site then decides by
break-even at that price, and its reasons say so. Where every site's forecast is sure and reaches the deadline (backtests with
`forecast = "perfect"`), the planner (`planner`) plans on them exactly, and sites follow that plan.

If every site must run from now on to meet the deadline, every site runs. If even that is too late they run too, with an alarm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace

import numpy as np

from windfall.grid.signal import Columns, Forecast
from windfall.policy import skill
from windfall.policy.base import Criterion, Decision, FleetView, Judged, SiteView, Unknown, unknown
from windfall.policy.breakeven import Breakeven
from windfall.policy.planner import PlannedSite, plan_budget
from windfall.policy.programme import Programme, SpinUp, StepFunction
from windfall.policy.reservation import DAY_S, STEP_S, Array, SiteSupply, reserve, steps_of
from windfall.units import clock_text, duration_text

#: Time kept free before the deadline, for the last commit and for starts that take longer than the last ones did: `_SPARE_S`
#: (less in the last `_SPARE_WHOLE_S`) and a share of the time that is left.
_SPARE_S = 60.0
_SPARE_WHOLE_S = 7200.0
_SPARE_SHARE = 0.002
#: With fewer days of past than this, days of the prior stand before them.
_LEAST_DAYS = 7
_PER_DAY = round(DAY_S / STEP_S)
#: For how long a price stands: a part of the time left, but no longer than some hours (s), more of them if the date is weeks away.
_HOLDS_PART, _HOLDS_FAR_PART, _HOLDS_S = 28, 168, (7200.0, 21600.0)
#: Tokens left at which prices are remembered: as shares of what can be trained until prices are made anew.
_TRAINED = (1.0, 0.5, 0.0)
#: Of a plan, so many of the next switches are remembered.
_EDGES = 8
#: What break-even remembers.
_BREAKEVENS = ("acc", "to", "gain")


@dataclass(frozen=True, slots=True)
class _Past:
    """A site's past in steps, whole days to now; how many of the days are its own; and what is known of it as it came."""

    values: Array
    known: int
    columns: Columns


class Budgeted:
    """Meets a token target by a deadline."""

    name = "budgeted"
    whole = True

    def __init__(
        self, criteria: Mapping[str, Criterion], spins: Mapping[str, SpinUp], *, deadline: float | None, deadline_h: float | None,
        climatology_s: float, replan_s: float, breakeven: Breakeven, prior: Callable[[str], Array],
        sure: Container[str] = frozenset(),
    ) -> None:  # fmt: skip
        """``deadline`` in Unix seconds, or ``deadline_h`` hours from the run's begin; ``spins``: starts and their power by site.

        ``prior``: values of a site of which nothing is known, whole days from midnight (UTC) in steps of `STEP_S`.
        ``sure``: sites whose forecasts are what will be. Others' count by what came true of them.
        """
        self._criteria = criteria
        self._spins = spins
        self._deadline = deadline
        self._deadline_h = deadline_h
        self._climatology_s = climatology_s
        self._replan_s = replan_s
        self._breakeven = breakeven
        self._prior = prior
        self._sure = sure

    def deadline(self, view: FleetView) -> float:
        """When the budget must be trained."""
        return self._deadline if self._deadline is not None else view.begun + 3600.0 * (self._deadline_h or 0.0)

    def decide(self, view: FleetView) -> dict[str, Decision]:
        deadline = self.deadline(view)
        found = self._urgent(view, deadline)
        if found is None:
            found = self._planned(view, deadline)
            if not self._in_time(view, deadline, found):
                found = self._everything(view, deadline, found)
        for name, site in view.sites.items():
            judged = self._criteria[name].judge(view.t, site)
            if isinstance(judged, Unknown) and (found[name].on or judged.stale):
                # Whatever is planned, no site starts without a fresh reading (invariant 5). Its plan is kept.
                found[name] = replace(unknown(site, judged, found[name].memory), alarm=found[name].alarm)
        return found

    def _urgent(self, view: FleetView, deadline: float) -> dict[str, Decision] | None:
        """Every site on, if the deadline cannot be met otherwise; None if it can."""
        left = deadline - view.t
        able = self._able(view)

        def capacity(time_s: float, sites: Mapping[str, SiteView]) -> float:
            return sum(s.rate * max(0.0, time_s - _warm_s(s)) for s in sites.values())

        # A plan keeps some time free before the deadline, so a plan that is being met is not urgent.
        if math.isinf(view.left) or capacity(left - view.tick_s, able) >= view.left:
            return None
        rate = sum(s.rate for s in view.sites.values())
        late = (view.left - capacity(left, view.sites)) / rate if rate else math.inf
        if late <= 0 or view.left <= 0:
            return self._everything(view, deadline, {})
        numbers = {"left_tokens": view.left, "left_s": left, "late_s": late}
        reason = f"on: {duration_text(late)} too little is left before {clock_text(deadline)} UTC even with every site on"
        alarm = f"the deadline {clock_text(deadline)} UTC cannot be met any more; every site trains"
        return {n: Decision(True, reason, numbers, None, {"worth": math.inf}, None, alarm) for n in view.sites}

    def _everything(self, view: FleetView, deadline: float, found: Mapping[str, Decision]) -> dict[str, Decision]:
        """Every site on, to keep the date. What ``found`` would remember is remembered."""
        reason = f"on: every site is needed from now to {clock_text(deadline)} UTC"
        numbers = {"left_tokens": view.left, "left_s": deadline - view.t}
        memories = {
            n: found[n].memory if n in found else {"worth": math.inf, **skill.kept(s.memory)} for n, s in view.sites.items()
        }
        return {n: Decision(True, reason, numbers, None, memory) for n, memory in memories.items()}

    def _in_time(self, view: FleetView, deadline: float, found: Mapping[str, Decision]) -> bool:
        """Whether every site from the next decision on would still be enough, after ``found``: a site that is off must start first.

        A plan on sure forecasts knows of its starts.
        """
        if math.isinf(view.left) or not all(d.memory.get("blind", 0.0) for d in found.values()):
            return True
        left, more, time_s = view.left, 0.0, _end(view, deadline) - view.t - view.tick_s
        for name, site in self._able(view).items():
            on, warm = found[name].on, _warm_s(site)
            left -= site.rate * max(0.0, view.tick_s - warm) * on
            more += site.rate * max(0.0, time_s - (max(0.0, warm - view.tick_s) if on else site.spin_up_s))
        return more >= left

    def _able(self, view: FleetView) -> dict[str, SiteView]:
        """The sites that can be counted on: those that have not failed and have a reading; all, if there are none."""
        found = {
            n: s for n, s in view.sites.items()
            if s.state != "failed" and not (isinstance(j := self._criteria[n].judge(view.t, s), Unknown) and j.stale)
        }  # fmt: skip
        return found or dict(view.sites)

    def _planned(self, view: FleetView, deadline: float) -> dict[str, Decision]:
        t = view.t
        at = min((s.memory.get("plan_at", -math.inf) for s in view.sites.values()), default=-math.inf)
        holds = min((s.memory.get("plan_until", at + self._replan_s) for s in view.sites.values()), default=-math.inf)
        if t >= holds:
            return self._replan(view, deadline)
        return {n: self._carry_on(view, s, s.memory) for n, s in view.sites.items()}

    def _replan(self, view: FleetView, deadline: float) -> dict[str, Decision]:
        t = view.t
        forecasts = {n: s.outlook.forecast(deadline - t) if s.outlook else None for n, s in view.sites.items()}
        end = _end(view, deadline)
        if any(n not in self._sure or f is None or f.ends_at < deadline - 1.0 for n, f in forecasts.items()):
            return self._reserve(view, end, forecasts)
        sites = {n: s for n, s in ((n, self._site(view.sites[n], f, t, end)) for n, f in forecasts.items()) if s is not None}
        scale = {n: s.rate / s.watts for n, s in view.sites.items()}
        made = plan_budget(sites, view.left)
        unit = min((scale[n] for n in sites), default=1.0)
        last = max((s.stop for x in made.on_periods.values() for s in x), default=math.inf)
        found = {}
        for name, site in view.sites.items():
            memory = {"plan_at": t, "plan_until": t + self._replan_s, "worth": made.worth * scale[name] / unit, "blind": 0.0}
            # The site that is planned to train last goes on until the budget is trained, also if the plan has slipped a little.
            edges = [x for s in made.on_periods.get(name, []) for x in (s.start, deadline if s.stop >= last else s.stop)]
            if len(edges) > _EDGES:  # the rest of the plan is made again when it is due
                memory["plan_until"] = max(t, min(memory["plan_until"], edges[_EDGES - 1]))
            memory |= {f"e{i}": x for i, x in enumerate(edges[:_EDGES])}
            found[name] = self._carry_on(view, site, memory)
        return found

    def _reserve(self, view: FleetView, end: float, forecasts: Mapping[str, Forecast | None]) -> dict[str, Decision]:
        """Make prices anew, and decide by them."""
        t = view.t
        able = self._able(view)
        days = {n: self._days(s, t) for n, s in able.items()}
        most = int(max(_LEAST_DAYS, *(d.known for d in days.values())))
        sources: list[SiteSupply] = []
        skills: dict[str, dict[str, float]] = {}
        told: dict[str, dict[str, float]] = {}
        for name, past in days.items():
            site, skills[name] = able[name], skill.learned(able[name].memory, past.columns, t)
            ahead, weight = _told(forecasts[name], skills[name], t, sure=name in self._sure)
            sources.append(SiteSupply(
                past.values[-most * _PER_DAY :], site.spin_up_s, self._start_share(name), site.rate, site.watts / 1e3,
                ahead, weight, _late(site),
            ))  # fmt: skip
        most_left = sum(s.rate for s in sources) * (end - t)
        left = min(max(view.left, 1e-3 * most_left), most_left)
        made = reserve(sources, left, end - t, most - max(d.known for d in days.values()))
        for i, (name, source) in enumerate(zip(days, sources, strict=True)):
            if (forecast := forecasts[name]) is not None:
                skills[name] = skill.noted(skills[name], forecast, made.likely[i], STEP_S, t)
            told[name] = {
                "trusted": float(source.weight.max(initial=0.0)), "chance": float(made.chance[i]), "wait": float(made.wait_s[i])
            }  # fmt: skip
        hold_s = max(self._replan_s, min((end - t) / _HOLDS_PART, float(np.clip((end - t) / _HOLDS_FAR_PART, *_HOLDS_S))))
        trained = sum(s.rate for s in sources) * hold_s
        tokens = [max(0.0, left - share * trained) for share in _TRAINED]
        plan = {"plan_at": t, "plan_until": t + hold_s, "blind": 1.0, "known": float(min(d.known for d in days.values()))}
        plan |= {f"left{i}": x for i, x in enumerate(tokens)}
        found = {}
        for name, site in view.sites.items():
            own = site.rate / site.watts * 1000.0
            memory = {**plan, **told.get(name, {}), "expected": made.cost * own / max(left, 1e-9)}
            values = np.sort(days[name].values if name in days else sources[0].values)
            for i, x in enumerate(tokens):
                memory[f"worth{i}"] = worth = made.price(x) * own
                # What training has cost on average when it cost less than that.
                memory[f"under{i}"] = float(values[: max(1, int(np.searchsorted(values, worth)))].mean())
            memory |= {k: v for k, v in site.memory.items() if k in _BREAKEVENS}
            found[name] = self._carry_on(view, site, memory | skills.get(name, skill.kept(site.memory)))
        return found

    def _days(self, site: SiteView, t: float) -> _Past:
        """A site's past, its days without readings filled from the prior."""
        days = max(_LEAST_DAYS, round(self._climatology_s / DAY_S))
        none = np.empty(0)
        past = site.outlook.history(days * DAY_S).known() if site.outlook else Columns(none, none, none)
        prior = np.roll(self._prior(site.name), -round(t % DAY_S / STEP_S)).reshape(-1, _PER_DAY)
        filled = prior[(np.arange(days) - days) % len(prior)]
        own = steps_of(past, t, days).reshape(-1, _PER_DAY)
        known = np.isfinite(own).mean(axis=1) > 0.5
        # Short holes are bridged.
        flat, steps = own.ravel(), np.arange(own.size)
        whole = np.isfinite(flat)
        if whole.any():
            own = np.interp(steps, steps[whole], flat[whole]).reshape(own.shape)
        return _Past(np.where(known[:, None], own, filled).ravel(), int(known.sum()), past)

    def _start_share(self, name: str) -> float:
        spin = self._spins[name]
        return sum(s * share for s, share in spin.parts) / spin.seconds if spin.seconds > 0 else 0.0

    def _carry_on(self, view: FleetView, site: SiteView, memory: Mapping[str, float]) -> Decision:
        """What the plan in ``memory`` says for one site."""
        t = view.t
        if memory["blind"]:
            return self._by_price(view, site, memory)
        worth = memory["worth"]
        edges = [memory[f"e{i}"] for i in range(_EDGES) if f"e{i}" in memory]
        # A decision is made once a tick, so a planned switch happens at the tick that is nearest to it.
        near = t + max(1e-3, 0.5 * view.tick_s)
        on = sum(x <= near for x in edges) % 2 == 1
        coming = [x for x in edges if x > near]
        until = min([*coming, memory["plan_until"]])
        numbers = {"value": site.reading.value} if site.reading else {}
        unit = site.reading.unit.replace("gCO2", "g") if site.reading else "g/kWh"
        reason = f"{'on' if on else 'off'}: planned to the deadline at worth {worth:.1f} {unit}"
        if coming:
            reason += f"; {'off' if on else 'on'} at {clock_text(coming[0])} UTC"
        return Decision(on, reason, {**numbers, "worth": worth}, until, dict(memory))

    def _by_price(self, view: FleetView, site: SiteView, memory: Mapping[str, float]) -> Decision:
        """What break-even decides at the price in ``memory``."""
        t = view.t
        plan = {k: v for k, v in memory.items() if k not in _BREAKEVENS}
        judged = self._criteria[site.name].judge(t, site)
        if isinstance(judged, Unknown):
            return unknown(site, judged, {**plan, **self._breakeven.hold_site(t, replace(site, memory=memory), judged.stale)})
        tokens, worths, unders = ([memory[f"{x}{i}"] for i in range(len(_TRAINED))] for x in ("left", "worth", "under"))
        worth, usual = float(np.interp(view.left, tokens, worths)), float(np.interp(view.left, tokens, unders))
        value, under = judged.value, judged.value < worth
        unit = site.reading.unit.replace("gCO2", "g") if site.reading else "g/kWh"
        # A start costs its energy. A stop costs a start later, and what training would have brought over its price meanwhile.
        scale = self._start_share(site.name) * max(0.0, value) + (max(0.0, worth - usual) if site.on else 0.0)
        text = f"{value:.0f} {unit} is {'under' if under else 'at or over'} {worth:.0f}, what it may cost now"
        if not under and memory.get("chance", 0.0) > 0:
            text += f" ({memory['chance']:.0%} of days like this are under it within {duration_text(DAY_S)}, "
            text += f"half of them within {duration_text(memory['wait'])})"
        at_worth = Judged(
            under, worth - value, scale, value, worth, text, judged.valid_from, judged.valid_until, False, judged.unit
        )
        rest = {k: v for k, v in memory.items() if k in _BREAKEVENS}
        d = self._breakeven.decide_site(t, replace(site, memory=rest), at_worth)
        days = int(memory["known"])
        how = f"{days} days of its past" if days >= _LEAST_DAYS else f"{days} days of its past and a prior"
        if late := _late(site):
            how += f" as told {duration_text(late * STEP_S)} late"
        if memory.get("trusted", 0.0) > 0:
            how += f", and its forecast, trusted by {memory['trusted']:.0%}"
        reason = f"{d.reason} (climatology: {how}; what is left should cost {memory['expected']:.0f} {unit})"
        numbers = {**d.numbers, "expected": memory["expected"], "wait_saves": max(0.0, value - worth)}
        until = memory["plan_until"] if d.until is None else min(d.until, memory["plan_until"])
        return Decision(d.on, reason, numbers, until, {**d.memory, **plan})

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


def _end(view: FleetView, deadline: float) -> float:
    """By when the budget should be trained. Towards the deadline less can go wrong, so less time is kept free.

    Small delays must not cost an extra start.
    """
    left = deadline - view.t
    return max(view.t + 60.0, deadline - view.tick_s - _SPARE_S * min(1.0, left / _SPARE_WHOLE_S) - _SPARE_SHARE * left)


def _told(forecast: Forecast | None, memory: Mapping[str, float], t: float, *, sure: bool) -> tuple[Array, Array]:
    """What a forecast says of each step from ``t`` on (NaN: nothing), and how much that counts; both [n]."""
    if forecast is None or not len(forecast.values) or forecast.ends_at <= t:
        return np.empty(0), np.empty(0)
    times = np.arange(t + 0.5 * STEP_S, forecast.ends_at, STEP_S)
    place = np.searchsorted(forecast.times, times, side="right") - 1
    ahead = np.where(place >= 0, forecast.values[np.maximum(place, 0)], np.nan)
    weight = np.ones(len(times)) if sure else skill.weights(memory, times - forecast.made_at)
    return ahead, weight


def _late(site: SiteView) -> int:
    """How many steps late readings are, told by the newest."""
    return 0 if site.reading is None else max(0, round((site.reading.known_at - site.reading.valid_from) / STEP_S))


def _warm_s(site: SiteView) -> float:
    """Seconds until the site trains, if it is wanted on from now."""
    if site.state in ("ready", "training"):
        return 0.0
    return site.ready_in_s if site.state == "provisioning" else site.spin_up_s
