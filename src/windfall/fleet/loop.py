"""The loop: readings, policy, fleet, work, account, once per tick, on whichever clock it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from windfall.clock import Clock
from windfall.energy.account import Account, Interval
from windfall.fleet.controller import Controller
from windfall.fleet.machine import Site, State
from windfall.fleet.workload import Workload
from windfall.grid.signal import Signal
from windfall.policy.base import Decision, FleetView, Policy, SiteView


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


class Hand(Protocol):
    """The operator's, over every policy."""

    def keeps_off(self, t: float, decisions: Mapping[str, Decision]) -> dict[str, str]:
        """Sites that must be off, each with the reason."""
        ...


class NoHand:
    """Nobody's. For the manual clock."""

    def keeps_off(self, t: float, decisions: Mapping[str, Decision]) -> dict[str, str]:
        return {}


@dataclass
class Wanted:
    """What was last decided for a site."""

    on: bool
    since: float
    memory: Mapping[str, float]


class Loop:
    """One tick at a time; the caller owns the waiting between ticks."""

    def __init__(
        self,
        *,
        clock: Clock,
        signals: Mapping[str, Signal],
        spin_up_s: Mapping[str, float],
        policy: Policy,
        controller: Controller,
        work: Workload,
        account: Account,
        recorder: Recorder,
        load_s: Mapping[str, float],
        hand: Hand | None = None,
    ) -> None:
        self.clock = clock
        self.controller = controller
        self.work = work
        self.account = account
        self.wanted: dict[str, Wanted] = {n: Wanted(False, clock.now(), {}) for n in controller.sites}
        self.decisions: dict[str, Decision] = {}
        self._signals = signals
        self._spin_up_s = spin_up_s
        self._load_s = load_s
        self._policy = policy
        self._recorder = recorder
        self._hand: Hand = hand or NoHand()
        #: Set to stop: every site is decided off with this reason.
        self.stopping = ""

    def tick(self, t: float, wall: float, t_next: float) -> None:
        """Everything that is due at run time ``t``; the work handed out may last until ``t_next``."""
        self.poll()
        self._decide(t)
        self.settle(t, wall, t_next)

    def settle(self, t: float, wall: float, t_next: float) -> None:
        """Carry on with what was decided: take in what has arrived, move sites, hand out and merge work."""
        self.poll()
        self.controller.observe()
        self.controller.reconcile(t, wall, self.decisions, self.work)
        self.work.tick(t, t_next, self.controller.sites)
        self.controller.reconcile(t, wall, self.decisions, self.work)

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
            for phase, start, end in self.phases(site, t0, t1):
                self._recorder.booked(self.account.book(name, phase, start, end))

    def phases(self, site: Site, t0: float, t1: float) -> list[tuple[str, float, float]]:
        """The energy phases of one site over ``[t0, t1)``."""
        match site.state:
            case State.OFF:
                return [("off", t0, t1)]
            case State.PROVISIONING if site.adopted:
                return [("training", t0, t1)]  # as far as anybody knows it never stopped
            case State.PROVISIONING:
                # The last load_s of a spin-up are loading on nodes that are already there: idle power.
                load = site.started_at + max(0.0, site.patience.spin_up_s - self._load_s[site.name])
                parts = [("provisioning", t0, min(t1, load)), ("idle", max(t0, load), t1)]
                return [p for p in parts if p[2] > p[1]]
            case State.TRAINING:
                return [(self.work.phase(site.name, t0), t0, t1)]
            case State.READY:
                return [("idle", t0, t1)]
            case State.DRAINING:
                return [("draining", t0, t1)]
            case State.FAILED:
                return [("idle" if site.ready_at is not None else "provisioning", t0, t1)]

    def view(self, t: float) -> FleetView:
        """What policies see at ``t``."""
        return FleetView(
            t,
            {n: SiteView(n, self._signals[n].at(t), w.on, w.since, self._spin_up_s[n], w.memory) for n, w in self.wanted.items()},
        )

    def _decide(self, t: float) -> None:
        view = self.view(t)
        self.decisions = self._policy.decide(view)
        self._recorder.decided(view, self.decisions)
        for name, decision in self.decisions.items():
            was = self.wanted[name]
            self.wanted[name] = Wanted(decision.on, was.since if decision.on == was.on else t, decision.memory)
        held = self._hand.keeps_off(t, self.decisions)
        for name, d in list(self.decisions.items()):
            over = self.stopping or held.get(name, "") or ("nothing is left to train on" if self.work.finished(name) else "")
            if over:
                self.decisions[name] = Decision(False, over, d.numbers, None, d.memory)
