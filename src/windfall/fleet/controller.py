"""The controller: reconciles what policies want with what drivers observe, one action per site at a time.

What it asks of a driver is in the journal before it asks. A driver that raises, or a site that is slow, costs that
site its own progress and no other site anything (invariant 6).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

from windfall.errors import Permanent, Transient
from windfall.fleet.driver import Driver, Owned
from windfall.fleet.machine import Action, Inputs, Observed, Patience, Site, State
from windfall.fleet.workload import Workload
from windfall.policy.base import Decision

#: What a gated clock waits for, in words.
_WAITED_FOR = {
    "starting": "its processes are starting", "draining": "it hands in its work", "stopping": "its processes are stopping",
    "being cleared away": "it has failed and is being cleared away",
}  # fmt: skip


class Journal(Protocol):
    """The durable record of what was asked of drivers."""

    def asked(self, t: float, site: str, generation: int, action: str, reason: str) -> None: ...


class NullJournal:
    """Forgets. For the manual clock."""

    def asked(self, t: float, site: str, generation: int, action: str, reason: str) -> None:
        return None


#: Called at each transition: run time, site, old state, new state.
Observer = Callable[[float, Site, State, State], None]


class Controller:
    """The fleet: its sites and the rules by which they move."""

    def __init__(
        self,
        patience: Mapping[str, Patience],
        driver: Driver,
        journal: Journal,
        *,
        gated: bool,
        seed: int = 0,
        stop_grace_s: float = 10.0,
        observer: Observer | None = None,
    ) -> None:
        self.sites = {name: Site(name, p) for name, p in patience.items()}
        self._driver = driver
        self._journal = journal
        self._gated = gated
        self._rng = random.Random(seed)
        self._grace = stop_grace_s
        self._observer = observer
        self._observed: dict[str, Observed] = dict.fromkeys(self.sites, Observed.UNKNOWN)

    def adopt(self, t: float, wall: float, owned: Iterable[Owned], last: Mapping[str, tuple[int, str, float]]) -> list[Owned]:
        """Go on with what an earlier coordinator started, by the journal; what it had asked to stop is stopped.

        ``last`` is, by site, the generation, action and run time of the journal's last entry. Returns those adopted.
        """
        taken = []
        for one in owned:
            site = self.sites.get(one.site)
            generation, action, asked_at = last.get(one.site, (0, "", t))
            if site is not None and one.generation == generation and action == Action.UP.value:
                site.adopt(generation, asked_at, t, wall)
                taken.append(one)
            else:
                self._driver.ensure_down(one.site, self._grace, "left over from an earlier start")
                if site is not None:
                    site.state, site.down_asked, site.reason = State.DRAINING, True, "left over from an earlier start"
        return taken

    def observe(self, names: Collection[str] | None = None) -> None:
        """Ask the driver what there is of all sites or of ``names``. A driver that cannot say leaves them unknown."""
        asked = self.sites if names is None else names
        try:
            self._observed.update(self._driver.observe(asked))
        except Transient:
            self._observed.update(dict.fromkeys(asked, Observed.UNKNOWN))

    def reconcile(
        self, t: float, wall: float, decisions: Mapping[str, Decision], work: Workload, names: Collection[str] | None = None
    ) -> None:
        """One step for every site, or for those of ``names``."""
        for name in self.sites if names is None else names:
            site = self.sites[name]
            decision = decisions[name]
            # A site may pass through several states in a tick (ready and training, drained and off).
            for _ in range(3):
                if not self._step(site, t, wall, decision, work):
                    break

    def _step(self, site: Site, t: float, wall: float, decision: Decision, work: Workload) -> bool:
        before = site.state
        inputs = Inputs(
            t, wall, decision.on, decision.reason, self._observed[site.name],
            work.ready(site.name, site.generation), work.working(site.name), work.drained(site.name),
            work.lost(site.name),
        )  # fmt: skip
        action = site.step(inputs, gated=self._gated, jitter=self._rng.random() if before is not State.OFF else 0.0)
        if site.state is not before and self._observer:
            self._observer(t, site, before, site.state)
        if action is not Action.NONE:
            self._act(site, t, wall, action)
            return False
        return site.state is not before

    def _act(self, site: Site, t: float, wall: float, action: Action) -> None:
        self._journal.asked(t, site.name, site.generation, action.value, site.reason)
        try:
            if action is Action.UP:
                self._driver.ensure_up(site.name, site.generation)
                self._observed[site.name] = Observed.STARTING
            else:
                self._driver.ensure_down(site.name, self._grace, site.reason)
                self._observed[site.name] = Observed.STOPPING
            self.observe_one(site.name)
        except Transient as e:
            self._refused(site, t, wall, action, str(e))
        except Permanent as e:
            self._refused(site, t, wall, action, str(e))

    def observe_one(self, name: str) -> None:
        """Look at one site again, right after acting on it."""
        self._observed.update(self._driver.observe([name]))

    def _refused(self, site: Site, t: float, wall: float, action: Action, why: str) -> None:
        before = site.state
        if action is Action.UP:
            failed = Inputs(t, wall, True, why, Observed.FAILED, False, False, False, lost=why)
            site.step(failed, gated=self._gated, jitter=self._rng.random())
            if self._observer:
                self._observer(t, site, before, site.state)
        else:
            site.down_asked = False  # ask again next tick

    def owes(self, t: float, work: Workload) -> str:
        """What real starts and stops a gated clock waits for before it leaves ``t``, or an empty string."""
        for name, site in self.sites.items():
            why = site.holds(t, ready=work.ready(name, site.generation), drained=work.drained(name))
            if why:
                return f"{name}: {_WAITED_FOR[why]}"
        return ""

    def alive(self) -> set[str]:
        """Sites that have work or hand it in."""
        return {n for n, s in self.sites.items() if s.state in (State.READY, State.TRAINING, State.DRAINING)}

    def mode(self) -> str:
        """paused, local or federated, by the number of sites training."""
        training = sum(s.state is State.TRAINING for s in self.sites.values())
        return ("paused", "local")[training] if training < 2 else "federated"
