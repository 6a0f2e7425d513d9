"""One simulation: a policy over recorded signals, through the real controller, policies and account."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from windfall.clock import ManualClock
from windfall.config.schema import Config, SiteTable
from windfall.energy.account import Account
from windfall.energy.levels import PowerLevels
from windfall.energy.microgrid import Microgrid, microgrids
from windfall.energy.power import PowerModel
from windfall.energy.tariff import Tariff
from windfall.fleet.controller import Controller, NullJournal
from windfall.fleet.driver import MemoryDriver
from windfall.fleet.loop import Loop, NullRecorder, Recorder, SiteProfile
from windfall.fleet.machine import Patience, Site, State
from windfall.grid.build import Grid, recorded
from windfall.grid.signal import Signal, StepSignal
from windfall.policy.base import Policy
from windfall.policy.build import build_policy
from windfall.policy.fixed import Scheduled
from windfall.simulate.drive import Drive
from windfall.simulate.oracle import share_of, short_of, valued, worth_of
from windfall.simulate.work import SimulatedWork, TrainerModel
from windfall.units import kwh


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """From when to when (Unix seconds)."""

    start: float
    end: float


@dataclass(frozen=True)
class SimulationResult:
    """What a simulation brought. ``value`` is in kW·s, divided by the worth's scale; None where the signals have no worth.

    ``unknown_kwh`` was used in hours without a reading of the intensity. It is part of ``kwh`` and not of ``kg``.
    """

    policy: str
    preset: str
    done_at: float | None
    site_hours: float
    kwh: float
    unknown_kwh: float
    kg: float | None
    kg_by_method: dict[str, float]
    money_by_currency: dict[str, float]
    starts: int
    idle_h: float
    share_inside: float | None
    value: float | None
    tokens: float
    hours_by_site: dict[str, float]
    lanes: dict[str, list[tuple[float, float, str]]]
    notes: list[str] = field(default_factory=list)
    #: Mean intensity of the energy of training, without starts and stalls (g/kWh); None where it is unknown.
    g_per_kwh_training: float | None = None
    #: Where the energy of sites with a microgrid came from (kWh): own, stored, grid; empty without such a site.
    kwh_by_origin: dict[str, float] = field(default_factory=dict)
    #: Of sites with power levels: (from, to, W) of each stretch of training at one level, in order.
    levels: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)


def _intensity(account: Account, sites: Sequence[str]) -> float | None:
    """g/kWh of the energy of training at ``sites``, as far as its intensity is known."""
    found = [account.total(n, "training") for n in sites]
    joules = sum(t.joules - t.unpriced_joules for t in found)
    return sum(t.grams for t in found) / kwh(joules) if joules > 0 else None


def _lengthen(spans: list[tuple[float, float, float]], t0: float, t1: float, watts: float) -> None:
    """Add a stretch at a level to those before it; one that goes on is one."""
    if spans and spans[-1][1:] == (t0, watts):
        t0 = spans.pop()[0]
    spans.append((t0, t1, watts))


def _origins(account: Account) -> dict[str, float]:
    """kWh of sites with a microgrid by origin."""
    found = [account.total(n) for n in account.microgrids]
    return {
        "own": kwh(sum(t.own_joules for t in found)), "stored": kwh(sum(t.stored_joules for t in found)),
        "grid": kwh(sum(t.grid_joules for t in found)),
    } if found else {}  # fmt: skip


def _behind_the_meter(name: str, account: Account, m: Microgrid) -> str:
    """What a site's microgrid did, in words."""
    t, s, b = account.total(name), m.sums, m.table.battery
    took = f"{name}: {kwh(t.own_joules):,.2f} kWh own, {kwh(t.stored_joules):,.2f} stored, {kwh(t.grid_joules):,.2f} from the grid"
    left = f"{kwh(s.exported):,.2f} exported, {kwh(s.curtailed):,.2f} curtailed"
    charged = (
        "" if b is None else f", battery {b.initial_soc * 100:.0f} to {m.soc * 100:.0f} %, {kwh(m.lost_j):,.2f} kWh lost in it"
    )
    short = f"; {kwh(s.unserved):,.2f} kWh were more than its grid connection lets through" if s.unserved > 1.0 else ""
    blind = f"; for {kwh(s.unknown):,.2f} kWh nobody knew what its plants delivered" if s.unknown > 1.0 else ""
    return f"{took}; {left}{charged}{short}{blind}"


class Simulation:
    """A run without trainers and real time. Each instance simulates once."""

    def __init__(
        self, config: Config, grid: Grid, span: TimeSpan, preset: str, *, delay_s: float | None = None, skip: bool = True
    ) -> None:
        """``delay_s`` replaces the signals' publication delays; ``skip=False`` asks every site at every tick.

        Raises:
            SignalError: a signal is live.
        """
        self._config = config
        self._span = span
        self._skip = skip
        self._grid = grid
        self.model = TrainerModel.of(config, preset)
        self.signals: dict[str, StepSignal] = {n: recorded(s) for n, s in grid.by_site.items()}
        self._all = {n: {label: recorded(s) for label, s in found.items()} for n, found in grid.signals.items()}
        if delay_s is not None:
            late = {id(s): s.delayed(delay_s) for found in self._all.values() for s in found.values()}
            self._all = {n: {label: late[id(s)] for label, s in found.items()} for n, found in self._all.items()}
            self.signals = {n: next(iter(found.values())) for n, found in self._all.items()}
        in_hours = config.backtest.site_hours is not None
        self.rates = {s.name: 1.0 if in_hours else s.tokens_per_s for s in config.site}
        self.budget = (config.backtest.site_hours or 0.0) * 3600 if in_hours else float(config.run.budget_tokens)
        if config.backtest.target == "none":
            self.budget = float("inf")

    def run(self, policy: str, *, deadline_h: float | None = None, recorder: Recorder | None = None) -> SimulationResult:
        """Simulate the named policy. Raises ConfigError if it cannot decide on these signals."""
        return self._go(build_policy(self._config, policy, deadline_h=deadline_h), recorder, exact=False)

    def decided_by(self, policy: Policy) -> SimulationResult:
        """Simulate any policy."""
        return self._go(policy, None, exact=False)

    def scheduled(self, on_periods: Mapping[str, Sequence[tuple[float, float]]]) -> SimulationResult:
        """Simulate a given schedule exactly. Whoever made it knew the signals, so power levels follow them without delay.

        ``on_periods``: by site, (decision to start, decision to stop) in run time, in order.
        """
        return self._go(Scheduled(on_periods), None, exact=True)

    def _go(self, policy: Policy, recorder: Recorder | None, *, exact: bool) -> SimulationResult:
        config, span, model = self._config, self._span, self.model
        own_signals, all_signals = self.signals, self._all
        if exact:
            own_signals = {n: s.delayed(0.0) for n, s in own_signals.items()}
            all_signals = {n: {label: s.delayed(0.0) for label, s in found.items()} for n, found in all_signals.items()}
        at_levels: dict[str, list[tuple[float, float, float]]] = {s.name: [] for s in config.site if s.power_levels}
        levels = PowerLevels(
            config.site, tokens_per_s=self.rates,
            changing=lambda t, name: book(controller.sites[name], controller.sites[name].state, t),
        )  # fmt: skip
        work = SimulatedWork(model, levels.tokens_per_s, self.budget, levels)
        own = microgrids(config.site, self._grid.supplies, span.start)
        seen: dict[str, Mapping[str, Signal]] = {
            **all_signals,
            **{n: m.signals(config.site_named(n), all_signals[n]) for n, m in own.items()},
        }
        power = {s.name: PowerModel.of(s) for s in config.site}
        account = Account(
            power,
            {s.name: Tariff.of(s, self._all[s.name], config.run) for s in config.site},
            own,
        )
        lanes: dict[str, list[tuple[float, float, str]]] = {s.name: [] for s in config.site}
        opened: dict[str, tuple[float, State]] = {s.name: (span.start, State.OFF) for s in config.site}
        booked: dict[str, float] = dict.fromkeys(lanes, span.start)

        def book(site: Site, state: State, t: float) -> None:
            # A machine that stays on takes power when its site is off, and a microgrid goes on without it.
            if t > booked[site.name] and (state is not State.OFF or power[site.name].off_w > 0 or site.name in own):
                for phase, a, b in loop.phases(site, state, booked[site.name], t):
                    watts = levels.watts(site.name, phase)
                    account.add(site.name, phase, a, b, watts=watts)
                    if watts is not None:
                        _lengthen(at_levels[site.name], a, b, watts)
            booked[site.name] = t

        def moved(t: float, site: Site, old: State, new: State) -> None:
            since, state = opened[site.name]
            if t > since:
                lanes[site.name].append((since, t, state.value))
            book(site, old, t)
            opened[site.name] = (t, new)

        time = ManualClock(span.start)
        controller = Controller(
            {n: Patience(start.seconds, 1e9, 1e9, 120.0, 3600.0) for n, start in model.starts.items()},
            MemoryDriver(), NullJournal(), gated=True, seed=config.run.seed, observer=moved,
        )  # fmt: skip
        loop = Loop(
            clock=time, signals=seen, policy=policy, controller=controller, work=work, account=account,
            # The policy is told the configured spin-up, as in a real run, whatever the preset's starts take.
            profiles={
                s.name: SiteProfile(s.spin_up_s, model.starts[s.name].load_s, self.rates[s.name], s.train_power_w)
                for s in config.site
            },
            recorder=recorder or NullRecorder(), tick_s=config.backtest.tick_s or config.run.tick_s, levels=levels,
        )  # fmt: skip

        # Stalls depend on which sites train together, and some policies look at what has been spent: then everything is booked at
        # each step. Else a site is booked only when it changes its state; but its microgrid, on which its signals depend, goes on.
        eager = model.stall_s > 0 or config.limits.max_spend is not None

        def book_all(t: float) -> None:
            for site in controller.sites.values():
                book(site, site.state, t)

        def foresee(t: float) -> None:
            for name, m in own.items():
                site = controller.sites[name]
                for phase, a, b in loop.phases(site, site.state, max(m.t, booked[name]), t):
                    account.foresee(name, phase, a, b, watts=levels.watts(name, phase))

        drive = Drive(
            loop, work, time, own_signals, tick_s=config.backtest.tick_s or config.run.tick_s, whole=policy.whole,
            skip=self._skip, exact=exact, before=book_all if eager else foresee if own else None,
        )  # fmt: skip
        end = drive.run(span.end)
        for name, site in controller.sites.items():
            moved(end, site, site.state, State.OFF)
            assert booked[name] == end
        return self._result(policy.name, work, account, controller, lanes, at_levels)

    def _result(
        self, name: str, work: SimulatedWork, account: Account, controller: Controller,
        lanes: dict[str, list[tuple[float, float, str]]], levels: dict[str, list[tuple[float, float, float]]],
    ) -> SimulationResult:  # fmt: skip
        total = account.total()
        hours = {n: account.total(n, "training").seconds / 3600 for n in lanes}
        kg: dict[str, float] = {}
        money: dict[str, float] = {}
        unknown = 0.0
        for n in lanes:
            tariff, own = account.tariffs[n], account.total(n)
            # For a site without an intensity, unknown energy is that used while its first signal was unknown.
            unknown += own.unpriced_joules if tariff.method != "none" else own.unjudged_joules
            # If the intensity was unknown for all of the energy, the kg are unknown too, and not 0.
            if tariff.method != "none" and own.priced:
                kg[tariff.method] = kg.get(tariff.method, 0.0) + own.grams / 1000
            if tariff.method == "marginal" and tariff.average is not None:
                kg["average"] = kg.get("average", 0.0) + own.average_grams / 1000
            if tariff.price is not None:
                money[tariff.currency] = money.get(tariff.currency, 0.0) + own.money
        if np.isfinite(self.budget):
            trained = self.budget - work.left()
        else:
            trained = sum(self._trained(s, hours[s.name], levels.get(s.name)) for s in self._config.site)
        shown = "marginal" if "marginal" in kg else "average"
        return SimulationResult(
            policy=name, preset=self.model.preset, done_at=work.done_at, site_hours=sum(hours.values()), kwh=kwh(total.joules),
            unknown_kwh=kwh(unknown), kg=kg.get("marginal", kg.get("average")), kg_by_method=kg, money_by_currency=money,
            starts=sum(s.starts for s in controller.sites.values()),
            idle_h=sum(account.total(phase=p).seconds for p in ("idle", "stall", "draining", "terminating")) / 3600,
            share_inside=account.share_inside(), value=self._value(lanes, levels), tokens=trained, hours_by_site=hours, lanes=lanes,
            notes=self._notes(account),
            g_per_kwh_training=_intensity(account, [n for n in lanes if account.tariffs[n].method == shown]),
            kwh_by_origin=_origins(account), levels=levels,
        )  # fmt: skip

    def _trained(self, site: SiteTable, hours: float, levels: Sequence[tuple[float, float, float]] | None) -> float:
        """What a site has trained in so many hours: the integral of its pace."""
        full = self.rates[site.name]
        return full * (hours * 3600 if levels is None else sum((b - a) * share_of(site, watts) for a, b, watts in levels))

    def _notes(self, account: Account) -> list[str]:
        """What the figures leave out, in words."""
        found = [self.model.differs(self._config)]
        unknown: dict[str, list[str]] = {"kg": [], "cost": []}
        for n, tariff in account.tariffs.items():
            own = account.total(n)
            if tariff.method != "none" and own.unpriced_joules > 1.0:
                unknown["kg"].append(f"{n} {kwh(own.unpriced_joules):,.2f} kWh")
            if tariff.price is not None and own.uncosted_joules > 1.0:
                unknown["cost"].append(f"{n} {kwh(own.uncosted_joules):,.2f} kWh")
        found += [_behind_the_meter(n, account, m) for n, m in account.microgrids.items()]
        found += [f"used in hours without a reading, and in no {what}: {', '.join(x)}" for what, x in unknown.items() if x]
        return [n for n in found if n]

    def _value(
        self, lanes: Mapping[str, Sequence[tuple[float, float, str]]], levels: Mapping[str, Sequence[tuple[float, float, float]]]
    ) -> float | None:
        """The value of the simulated schedule (kW·s, divided by the worth's scale), of known time only.

        A site that went on through unknown time is valued as if it had stopped when the readings ended and started again when they
        came back, because no policy that looks at readings could have done better. A second of starting counts minus the signal,
        and never more than a second of training (which matters at a negative worth). A second at another power level than the best
        one (by a late reading) counts as much less as it was worth less.
        """
        total, any_site = 0.0, False
        for site in self._config.site:
            worth = worth_of(site, self._config)
            if worth is None:
                continue
            any_site = True
            signal = valued(site, self._config, self.signals[site.name])
            spin_up_s = self.model.starts[site.name].seconds
            #: Until when training earns nothing, because the site would be starting.
            again = -math.inf
            before = -math.inf
            for t0, t1, state in lanes[site.name]:
                if state not in ("provisioning", "ready", "training"):
                    continue
                c = signal.between(t0, t1)
                known = np.isfinite(c.values)
                paid = float((c.values * (c.ends - c.starts))[known].sum())
                if before != t0:
                    again = -math.inf
                before = t1
                earned = 0.0
                if known.all() and again <= t0:
                    earned = t1 - t0 if state != "provisioning" else 0.0
                else:
                    for a, b, k in zip(c.starts.tolist(), c.ends.tolist(), known.tolist(), strict=True):
                        if not k:
                            again = b + spin_up_s
                        elif state != "provisioning":
                            earned += max(0.0, b - max(a, again))
                idle = float((c.ends - c.starts)[known].sum()) - earned
                total += (worth.level * earned + min(0.0, worth.level) * idle - paid) / worth.scale * site.train_power_w / 1000.0
            for a, b, watts in levels.get(site.name, ()):
                total -= short_of(site, self.signals[site.name], a, b, watts) * site.train_power_w / 1000.0
        return total if any_site else None
