"""The loop: readings, policy, fleet, work, account, once per tick, on whichever clock it is given."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from windfall.clock import Clock
from windfall.energy.account import Account, Interval
from windfall.fleet.controller import Controller
from windfall.fleet.machine import Site, State
from windfall.fleet.workload import Workload
from windfall.grid.signal import Columns, Forecast, Signal
from windfall.policy.base import Decision, FleetView, Policy, SiteView

#: How much of a newly seen start counts in what a start is taken to last.
_ALPHA = 0.3
_HOUR_S = 3600.0


class Recorder(Protocol):
    """Where the loop's story goes."""

    def decided(self, view: FleetView, decisions: Mapping[str, Decision]) -> None: ...
    def booked(self, entries: list[Interval]) -> None: ...


class NullRecorder:
    """Forgets. For the manual clock."""

    def decided(self, view: FleetView, decisions: Mapping[str, Decision]) -> None:
        return None

    def booked(self, entries: list[Interval]) -> None:
        return None


class OperatorHolds(Protocol):
    """The operator's, over every policy."""

    def keeps_off(self, t: float, decisions: Mapping[str, Decision]) -> dict[str, str]:
        """Sites that must be off, each with the reason."""
        ...


class NoHolds:
    """Nobody's. For the manual clock."""

    def keeps_off(self, t: float, decisions: Mapping[str, Decision]) -> dict[str, str]:
        return {}


@dataclass
class Wanted:
    """What was last decided for a site."""

    on: bool
    since: float
    memory: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SiteProfile:
    """What the loop must know of a site. ``spin_up_s`` until starts have been seen; ``load_s`` is its last part, at idle power.

    ``rate``: tokens per second while it trains; ``watts``: power then.
    """

    spin_up_s: float
    load_s: float
    rate: float
    watts: float


class SignalOutlook:
    """What one signal knows at one instant, asked only if a policy asks."""

    __slots__ = ("_signal", "_t", "asked_forecast", "asked_history")

    def __init__(self, signal: Signal, t: float) -> None:
        self._signal = signal
        self._t = t
        #: What was asked and answered, for the record.
        self.asked_forecast: Forecast | None = None
        self.asked_history: Columns | None = None

    def forecast(self, horizon_s: float) -> Forecast | None:
        self.asked_forecast = self._signal.forecast(self._t, horizon_s)
        return self.asked_forecast

    def history(self, span_s: float) -> Columns:
        self.asked_history = self._signal.history(self._t, span_s)
        return self.asked_history


class StartHistory:
    """What a site's starts have been: when within the last hour, and how long one takes.

    The latter is the configured time, then the moving average (weight 0.3) of the starts that came to work; failed ones apart.
    """

    def __init__(self, spin_up_s: float) -> None:
        self.spin_up_s = spin_up_s
        self.seen = 0
        self.recent: tuple[float, ...] = ()
        self._generation = 0
        self._measured = 0

    def look(self, t: float, site: Site) -> None:
        """Take note of where the site is."""
        if site.generation != self._generation and site.state is not State.OFF and not site.adopted:
            self._generation = site.generation
            self.recent = (*self.recent, site.started_at)
        if self.recent and t - self.recent[0] >= _HOUR_S:
            self.recent = tuple(s for s in self.recent if t - s < _HOUR_S)
        ours = site.generation == self._generation and site.generation != self._measured
        if ours and site.state is State.TRAINING and site.ready_at is not None:
            self._measured = site.generation
            took = site.ready_at - site.started_at
            self.spin_up_s = took if not self.seen else (1 - _ALPHA) * self.spin_up_s + _ALPHA * took
            self.seen += 1

    def restore(self, spin_up_s: float, seen: int, recent: tuple[float, ...], generation: int) -> None:
        """Go on where an earlier life of the run ended."""
        self.spin_up_s, self.seen, self.recent, self._generation = spin_up_s, seen, recent, generation


class Loop:
    """One tick at a time; the caller owns the waiting between ticks."""

    def __init__(
        self,
        *,
        clock: Clock,
        signals: Mapping[str, Mapping[str, Signal]],
        profiles: Mapping[str, SiteProfile],
        policy: Policy,
        controller: Controller,
        work: Workload,
        account: Account,
        recorder: Recorder,
        begun: float | None = None,
        tick_s: float = 0.0,
        holds: OperatorHolds | None = None,
    ) -> None:
        """``signals`` by site and label, each site's first one first; ``begun``: run time of the run's begin (default: now)."""
        self.clock = clock
        self.controller = controller
        self.work = work
        self.account = account
        self.begun = clock.now() if begun is None else begun
        self.wanted: dict[str, Wanted] = {n: Wanted(False, clock.now(), {}) for n in controller.sites}
        self.decisions: dict[str, Decision] = {}
        self.starts = {n: StartHistory(f.spin_up_s) for n, f in profiles.items()}
        self._tick_s = tick_s
        self._first = {n: next(iter(s.values())) for n, s in signals.items()}
        self._signals = {n: tuple(s.items()) for n, s in signals.items()}
        self._profiles = profiles
        self._policy = policy
        self._recorder = recorder
        self._holds: OperatorHolds = holds or NoHolds()
        #: What the policy itself has said, which operator, end and stop override.
        self._chosen: dict[str, Decision] = {}
        #: Set to stop: every site is decided off with this reason.
        self.stopping = ""
        #: What a gated clock stands for at this moment: which site, and for what. Empty while it may move.
        self.waiting = ""

    def tick(self, t: float, wall: float, t_next: float, names: Collection[str] | None = None) -> None:
        """Everything that is due at run time ``t``; the work handed out may last until ``t_next``.

        ``names``: only these sites have anything due, as a backtest that skips ahead knows (default: all).
        """
        self.poll()
        self._decide(t, names)
        self.settle(t, wall, t_next, names)

    def settle(self, t: float, wall: float, t_next: float, names: Collection[str] | None = None) -> None:
        """Carry on with what was decided: take in what has arrived, move sites, holds out and merge work."""
        self.poll()
        self.controller.observe(names)
        self.controller.reconcile(t, wall, self.decisions, self.work, names)
        sites = self.controller.sites
        self.work.tick(t, t_next, sites if names is None else {n: sites[n] for n in names})
        self.controller.reconcile(t, wall, self.decisions, self.work, names)

    def watch(self, t: float, wall: float) -> None:
        """While sites work towards the next tick: notice those that fail, and nothing else."""
        self.poll()
        self.controller.observe()
        self.controller.reconcile(t, wall, self.decisions, self.work)

    def poll(self) -> None:
        """Take in what has arrived."""
        self.work.poll(self.controller.sites)

    def owes(self, t: float) -> str:
        """What a gated clock must see done before it leaves ``t``."""
        return self.controller.owes(t, self.work) or self.work.owes(t)

    def behind(self, t_next: float) -> str:
        """Who keeps a gated clock from reaching ``t_next``."""
        return self.work.behind(t_next, self.controller.alive())

    def done(self) -> bool:
        """Nothing is left to do (or to do now, when stopping) and every site is off."""
        over = self.work.complete() or bool(self.stopping)
        return over and all(s.state is State.OFF for s in self.controller.sites.values())

    def book(self, t0: float, t1: float) -> None:
        """Book the time from ``t0`` to ``t1``, in the phases that the sites are in."""
        for name, site in self.controller.sites.items():
            for phase, start, end in self.phases(site, site.state, t0, t1):
                self._recorder.booked(self.account.book(name, phase, start, end))

    def phases(self, site: Site, state: State, t0: float, t1: float) -> list[tuple[str, float, float]]:
        """The energy phases of one site that was in ``state`` over ``[t0, t1)``."""
        match state:
            case State.OFF:
                return [("off", t0, t1)]
            case State.PROVISIONING if site.adopted:
                return [("training", t0, t1)]  # as far as anybody knows it never stopped
            case State.PROVISIONING:
                # The last load_s of a spin-up are loading on nodes that are already there: idle power.
                load = site.started_at + max(0.0, site.patience.spin_up_s - self._profiles[site.name].load_s)
                parts = [("provisioning", t0, min(t1, load)), ("idle", max(t0, load), t1)]
                return [p for p in parts if p[2] > p[1]]
            case State.TRAINING:
                return self.work.phases(site.name, t0, t1)
            case State.READY:
                return [("idle", t0, t1)]
            case State.DRAINING:
                return [("draining", t0, t1)]
            case State.FAILED:
                return [("idle" if site.ready_at is not None else "provisioning", t0, t1)]

    def view(self, t: float, names: Collection[str] | None = None) -> FleetView:
        """What policies see at ``t``, of all sites or of ``names``."""
        seen = {n: self._site_view(t, n) for n in (self.wanted if names is None else names)}
        return FleetView(t, seen, self.begun, self.work.left(), self.account.spent(), self._tick_s)

    def _site_view(self, t: float, name: str) -> SiteView:
        wanted, profiles, starts, site = self.wanted[name], self._profiles[name], self.starts[name], self.controller.sites[name]
        starts.look(t, site)
        readings = {label: signal.at(t) for label, signal in self._signals[name]}
        ready_in = max(0.0, site.started_at + starts.spin_up_s - t) if site.state is State.PROVISIONING else 0.0
        return SiteView(
            name, readings[self._signals[name][0][0]], wanted.on, wanted.since, starts.spin_up_s, wanted.memory, readings,
            SignalOutlook(self._first[name], t), site.state.value, ready_in, profiles.rate, profiles.watts, starts.recent,
        )  # fmt: skip

    def _decide(self, t: float, names: Collection[str] | None) -> None:
        view = self.view(t, None if self._policy.whole else names)
        fresh = self._policy.decide(view)
        self._recorder.decided(view, fresh)
        self._chosen.update(fresh)
        for name, decision in fresh.items():
            was = self.wanted[name]
            self.wanted[name] = Wanted(decision.on, was.since if decision.on == was.on else t, decision.memory)
        self._override(fresh, self._holds.keeps_off(t, self._chosen))

    def _override(self, names: Iterable[str], held: Mapping[str, str]) -> None:
        for name in names:
            d = self._chosen[name]
            self.controller.sites[name].held = held.get(name, "")
            over = self.stopping or held.get(name, "") or ("nothing is left to train on" if self.work.finished(name) else "")
            self.decisions[name] = Decision(False, over, d.numbers, None, d.memory) if over else d

    def obey(self, t: float) -> bool:
        """Let what the operator has asked since the last decision act at once, at the same run time.

        Whether a site is to be seen to because of it: its decision is another one now, or it is not off yet.
        Nobody else's decision is made again: what happens to other sites must not depend on when this is asked.
        """
        held = self._holds.keeps_off(t, self._chosen)
        changed = [n for n in self._chosen if bool(held.get(n)) != bool(self.controller.sites[n].held)]
        self._override(changed, held)
        return bool(changed) or any(s.held and s.state is State.DRAINING for s in self.controller.sites.values())
