"""The loop: at each tick it takes readings, asks the policy, moves the sites' state machines, hands out work and books energy.

The same loop runs on every clock; it is told the time and never asks for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from windfall.clock import Clock
from windfall.energy.account import Interval
from windfall.energy.levels import PowerLevels
from windfall.energy.phases import Span, of_state
from windfall.fleet.controller import Controller
from windfall.fleet.machine import Site, State
from windfall.fleet.workload import Workload
from windfall.grid.signal import Columns, Forecast, Signal
from windfall.policy.base import Decision, FleetView, Policy, SiteView

#: Weight of the newest start in the moving average of how long starts take (DESIGN's EWMA).
_ALPHA = 0.3
_HOUR_S = 3600.0


class Recorder(Protocol):
    """Where decisions and booked energy are recorded."""

    def decided(self, view: FleetView, decisions: Mapping[str, Decision]) -> None: ...
    def booked(self, entries: list[Interval]) -> None: ...


class NullRecorder:
    """Records nothing. For the manual clock."""

    def decided(self, view: FleetView, decisions: Mapping[str, Decision]) -> None:
        return None

    def booked(self, entries: list[Interval]) -> None:
        return None


class Booking(Protocol):
    """Where energy is booked: the account itself, or books that wait for meters."""

    def book(self, site: str, phase: str, t0: float, t1: float, *, watts: float | None = None) -> list[Interval]:
        """Book ``[t0, t1)`` (run time) of a site in a phase; returns the entries that this makes.

        ``watts``: at its power level (default: what its model always takes in that phase).
        """
        ...

    def book_at(self, site: str, phase: str, t: float, joules: float) -> list[Interval]:
        """Book energy that was used at an instant, beside the phase that the site is in."""
        ...

    def spent(self) -> float:
        """The cost of what has been booked."""
        ...


class OperatorHolds(Protocol):
    """What the operator holds off, whatever the policy decides."""

    def begin(self, t: float) -> None:
        """A tick begins at run time ``t``: what changes how it decides is changed now."""
        ...

    def keeps_off(self, t: float, decisions: Mapping[str, Decision]) -> dict[str, str]:
        """The sites that must be off at run time ``t``, each with the reason. ``decisions``: the policy's own, by site."""
        ...


class NoHolds:
    """No operator, no holds. For the manual clock."""

    def begin(self, t: float) -> None:
        return None

    def keeps_off(self, t: float, decisions: Mapping[str, Decision]) -> dict[str, str]:
        return {}


@dataclass
class Wanted:
    """What was last decided for a site. ``since``: run time of its last change; ``memory``: what the policy remembers of it."""

    on: bool
    since: float
    memory: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SiteProfile:
    """What is configured of a site that the loop needs.

    ``spin_up_s``: how long a start takes, until starts of the site have been seen. ``load_s``: the last part of that, at idle
    power. ``rate``: tokens per second while the site trains. ``watts``: its power then.
    """

    spin_up_s: float
    load_s: float
    rate: float
    watts: float


class SignalOutlook:
    """Forecast and past of one signal as known at one instant. The signal is asked only if a policy asks."""

    __slots__ = ("_signal", "_t", "asked_forecast", "asked_history")

    def __init__(self, signal: Signal, t: float) -> None:
        self._signal = signal
        self._t = t
        #: The answers, to be stored with the decision; None where the policy did not ask.
        self.asked_forecast: Forecast | None = None
        self.asked_history: Columns | None = None

    def forecast(self, horizon_s: float) -> Forecast | None:
        self.asked_forecast = self._signal.forecast(self._t, horizon_s)
        return self.asked_forecast

    def history(self, span_s: float) -> Columns:
        self.asked_history = self._signal.history(self._t, span_s)
        return self.asked_history


class StartHistory:
    """A site's starts: the run times of those within the last hour, and ``spin_up_s``, how long a start takes.

    ``spin_up_s`` is the configured time until a start has been seen. From then on it is an exponentially weighted moving average
    (weight 0.3) of the starts after which the site trained; failed starts do not count.
    """

    def __init__(self, spin_up_s: float) -> None:
        self.spin_up_s = spin_up_s
        self.seen = 0
        self.recent: tuple[float, ...] = ()
        self._generation = 0
        self._measured = 0

    def look(self, t: float, site: Site) -> None:
        """Take note of the site's state at run time ``t``."""
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
    """Does one tick at a time. Whoever calls it waits between the ticks (`fleet.serve`)."""

    def __init__(
        self,
        *,
        clock: Clock,
        signals: Mapping[str, Mapping[str, Signal]],
        profiles: Mapping[str, SiteProfile],
        policy: Policy,
        controller: Controller,
        work: Workload,
        account: Booking,
        recorder: Recorder,
        begun: float | None = None,
        tick_s: float = 0.0,
        holds: OperatorHolds | None = None,
        levels: PowerLevels | None = None,
    ) -> None:
        """``signals`` are by site and label; of each site the one that policies see as its reading comes first.

        ``begun``: run time at which the run began (default: now). ``tick_s``: what policies are told of the time between ticks.
        ``levels``: which power levels sites are at, where some have several; the workload has the same ones.
        """
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
        self.levels = levels or PowerLevels(())
        #: The policy's own decisions. A hold, a stop or the end of the budget overrides them in ``decisions``.
        self._chosen: dict[str, Decision] = {}
        #: Why the run is to stop, or empty. While it is set every site is decided off, with this reason.
        self.stopping = ""
        #: Why a gated clock stands still at this moment (a site, and what of it is waited for). Empty while it may move.
        self.waiting = ""

    def tick(self, t: float, wall: float, t_next: float, names: Collection[str] | None = None) -> None:
        """Decide and do all that is due at run time ``t``; work is handed out up to ``t_next``. ``wall`` is monotonic wall time.

        ``names``: the only sites that have anything due (default: all). A backtest that skips from event to event knows them.
        """
        self.poll()
        self._decide(t, names)
        self.settle(t, wall, t_next, names)

    def settle(self, t: float, wall: float, t_next: float, names: Collection[str] | None = None) -> None:
        """Carry on under the last decisions: take in what has arrived, move sites, hand out and merge work."""
        self.poll()
        self.controller.observe(names)
        self.controller.reconcile(t, wall, self.decisions, self.work, names)
        sites = self.controller.sites
        self.work.tick(t, t_next, sites if names is None else {n: sites[n] for n in names})
        self.controller.reconcile(t, wall, self.decisions, self.work, names)

    def watch(self, t: float, wall: float) -> None:
        """Notice sites that fail while they work towards the next tick; hand out nothing."""
        self.poll()
        self.controller.observe()
        self.controller.reconcile(t, wall, self.decisions, self.work)

    def poll(self) -> None:
        """Take in what has arrived."""
        self.work.poll(self.controller.sites)

    def owes(self, t: float) -> str:
        """What must really be done before a gated clock may leave ``t``, or an empty string."""
        return self.controller.owes(t, self.work) or self.work.owes(t)

    def behind(self, t_next: float) -> str:
        """Which site keeps a gated clock from reaching ``t_next``, or an empty string."""
        return self.work.behind(t_next, self.controller.alive())

    def done(self) -> bool:
        """Whether every site is off or lost, and the loop may end: nothing is left to train, or it was asked to stop."""
        over = self.work.complete() or bool(self.stopping)
        lost = self.controller.out_of_reach
        return over and not self.work.merging() and all(s.state is State.OFF or n in lost for n, s in self.controller.sites.items())

    def book(self, t0: float, t1: float) -> None:
        """Book the time from ``t0`` to ``t1``, in the phases that the sites are in, and what was used beside them by ``t0``."""
        for name, phase, joules in self.work.beside():
            if name in self.controller.sites:
                self._recorder.booked(self.account.book_at(name, phase, t0, joules))
        for name, site in self.controller.sites.items():
            for phase, start, end in self.phases(site, site.state, t0, t1):
                self._recorder.booked(self.account.book(name, phase, start, end, watts=self.levels.watts(name, phase)))

    def phases(self, site: Site, state: State, t0: float, t1: float) -> list[Span]:
        """The energy phases of one site that was in ``state`` over ``[t0, t1)``."""
        return of_state(
            state.value, t0, t1, loads_at=site.started_at + max(0.0, site.patience.spin_up_s - self._profiles[site.name].load_s),
            was_ready=site.ready_at is not None, adopted=site.adopted, ending=site.down_asked,
            work=partial(self.work.phases, site.name),
        )  # fmt: skip

    def view(self, t: float, names: Collection[str] | None = None) -> FleetView:
        """What policies see at run time ``t``, of all sites or of ``names``."""
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

    def decide_by(self, policy: Policy, *, remembers: bool) -> None:
        """From the next tick on another policy decides. ``remembers``: what the last one remembers has the same meaning to it."""
        self._policy = policy
        if not remembers:
            for wanted in self.wanted.values():
                wanted.memory = {}

    def _decide(self, t: float, names: Collection[str] | None) -> None:
        self._holds.begin(t)
        view = self.view(t, None if self._policy.whole else names)
        for name, site in view.sites.items():
            if name in self.levels:
                self.levels.look(t, name, site.reading)
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
            over = self.stopping or held.get(name, "") or self.levels.keeps_off(name)
            over = over or ("nothing is left to train on" if self.work.finished(name) else "")
            self.decisions[name] = Decision(False, over, d.numbers, None, d.memory) if over else d

    def obey(self, t: float) -> bool:
        """Apply at once, at the same run time, what the operator has asked since the last decision.

        True if a site needs attention because of it: its decision has changed, or it is held and still drains. The decisions of
        other sites are not made again, so what happens to them does not depend on when this is called.
        """
        held = self._holds.keeps_off(t, self._chosen)
        changed = [n for n in self._chosen if bool(held.get(n)) != bool(self.controller.sites[n].held)]
        self._override(changed, held)
        return bool(changed) or any(s.held and s.state is State.DRAINING for s in self.controller.sites.values())
