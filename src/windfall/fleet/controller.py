"""The controller: reconciles what policies want with what drivers observe, one action per site at a time.

Each request to a driver is in the journal before it is made. A driver's error, or a slow site, delays that site and no other
(invariant 6). A start that failed half way is stopped before it is tried again. A site that is asked to stop is asked until it is
observed to be gone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

from windfall.errors import DriverError, Permanent, Unauthorized
from windfall.fleet.driver import Driver, Owned
from windfall.fleet.machine import Action, DriverFault, Inputs, Observation, Observed, Patience, Site, State
from windfall.fleet.workload import Workload
from windfall.policy.base import Decision
from windfall.units import counted

#: What a gated clock waits for, in words.
_WAITED_FOR = {
    "starting": "its processes are starting", "draining": "it hands in its work", "stopping": "its processes are stopping",
    "being cleared away": "it has failed and is being cleared away",
}  # fmt: skip


class Journal(Protocol):
    """The durable record of what was asked of drivers."""

    def asked(self, t: float, site: str, generation: int, action: str, reason: str) -> None: ...


class NullJournal:
    """Keeps nothing. For the manual clock."""

    def asked(self, t: float, site: str, generation: int, action: str, reason: str) -> None:
        return None


#: Called at each transition: run time, site, old state, new state.
Observer = Callable[[float, Site, State, State], None]


#: Told when a driver's trouble with a site begins (`driver_trouble`) and ends (`driver_back`), and when a site is waited for no
#: longer (`out_of_reach`): run time, kind, site, reason.
Teller = Callable[[float, str, str, str], None]

#: How long a driver's refusal lasts, as messages say it.
_MEANS = {
    DriverFault.TRANSIENT: "for now",
    DriverFault.PERMANENT: "until somebody changes something",
    DriverFault.UNAUTHORIZED: "until its driver has valid credentials",
}
_UNKNOWN = Observation(Observed.UNKNOWN)
_STRAY = "left over from an earlier start"
#: How often sites that the run does not have any more are looked at and asked to stop (wall time).
_STRAYS_S = 2.0


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
        gone_after_s: float = math.inf,
        observer: Observer | None = None,
        teller: Teller | None = None,
    ) -> None:
        """``gone_after_s``: a site that is to be off and that nobody has seen for so long (wall time) has stopped by itself
        (invariant 4). It is not waited for any more; it still counts as it was, until it is seen to be gone."""
        self.sites = {name: Site(name, p) for name, p in patience.items()}
        self._driver = driver
        self._journal = journal
        self._gated = gated
        self._rng = random.Random(seed)
        self._grace = stop_grace_s
        self._gone_after_s = gone_after_s
        self._observer = observer
        self._teller = teller
        self._observed: dict[str, Observation] = dict.fromkeys(self.sites, _UNKNOWN)
        #: What was last told of each site in its platform's words.
        self._said: dict[str, str] = {}
        #: What a driver cannot do now, by site and what (`see` or `stop`); and the same as it was last told.
        self._trouble: dict[tuple[str, str], str] = {}
        self._told: dict[tuple[str, str], str] = {}
        #: Sites that an earlier coordinator started and that this run does not have any more: their generation.
        self._strays: dict[str, int] = {}
        self._strays_at = -math.inf
        #: By site: since when it has not been seen (monotonic wall time).
        self._unseen_since: dict[str, float] = {}
        #: Sites that are not waited for any more.
        self.out_of_reach: set[str] = set()

    def adopt(self, t: float, wall: float, owned: Iterable[Owned], last: Mapping[str, tuple[int, str, float]]) -> list[Owned]:
        """Go on with the sites that an earlier coordinator started, or end those that it had asked to stop.

        ``owned``: what the driver finds. ``last``: by site, generation, action and run time of the journal's last entry. Returns
        those of ``owned`` with which the run goes on.
        """
        taken = []
        for one in owned:
            site = self.sites.get(one.site)
            generation, action, asked_at = last.get(one.site, (0, "", t))
            if site is not None and one.generation == generation and action == Action.UP.value:
                site.adopt(generation, asked_at, t, wall)
                taken.append(one)
            elif site is not None:
                site.leave(t, wall, _STRAY)
            else:
                self._strays[one.site] = one.generation
        return taken

    def observe(self, names: Collection[str] | None = None) -> None:
        """Ask the driver what there is of all sites, or of ``names``. A site that it cannot see is unknown."""
        asked = list(self.sites if names is None else names)
        try:
            found = self._driver.observe(asked)
        except DriverError as e:
            if len(asked) > 1:  # ask for each by itself: what cannot be seen of one site must not hide the others
                for name in asked:
                    self.observe([name])
                return
            for name in asked:
                self._observed[name] = _UNKNOWN
                self._trouble[(name, "see")] = f"it cannot be seen {_MEANS[fault_of(e)]}: {e}"
            return
        for name in asked:
            self._observed[name] = found.get(name, _UNKNOWN)
            self._trouble.pop((name, "see"), None)

    def reconcile(
        self, t: float, wall: float, decisions: Mapping[str, Decision], work: Workload, names: Collection[str] | None = None
    ) -> None:
        """Move every site's state machine (or those of ``names``), and carry out the actions that follow."""
        for name in self.sites if names is None else names:
            site = self.sites[name]
            decision = decisions[name]
            # A site may change its state several times in a tick: to ready and on to training, or to drained and on to off.
            for _ in range(3):
                if not self._step(site, t, wall, decision, work):
                    break
        if names is None:
            self._end_strays(t, wall)
        if self._gone_after_s < math.inf:
            self._look_for_lost(t, wall)
        if self._trouble != self._told:
            self._tell(t)
        self._tell_what_platforms_say(t)

    def _step(self, site: Site, t: float, wall: float, decision: Decision, work: Workload) -> bool:
        before, seen = site.state, self._observed[site.name]
        if seen.fault is not None and before is State.PROVISIONING:
            self._refused_up(site, t, wall, seen.words, seen.fault)
            return True
        inputs = Inputs(
            t, wall, decision.on, decision.reason, seen.state,
            work.ready(site.name, site.generation), work.working(site.name), work.drained(site.name),
            work.lost(site.name), work.busy(site.name), seen.words, seen.queued, seen.planned, work.leaving(site.name),
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
                self._observed[site.name] = Observation(Observed.STARTING)
            else:
                self._driver.ensure_down(site.name, self._grace, site.reason)
                self._observed[site.name] = Observation(Observed.STOPPING)
                self._trouble.pop((site.name, "stop"), None)
                site.asked_down(wall)
        except DriverError as e:
            self._refused(site, t, wall, action, e)
            return
        self.observe([site.name])

    def _refused(self, site: Site, t: float, wall: float, action: Action, e: DriverError) -> None:
        fault = fault_of(e)
        if action is Action.DOWN:
            site.refused_down(wall, fault)
            self._trouble[(site.name, "stop")] = f"it cannot be stopped {_MEANS[fault]}, and is asked again: {e}"
            return
        self._refused_up(site, t, wall, str(e), fault)

    def _refused_up(self, site: Site, t: float, wall: float, why: str, fault: DriverFault) -> None:
        before = site.state
        words = f"cannot be started {_MEANS[fault]}: {why}"
        site.refused_up(t, wall, why, words, fault, self._rng.random())
        if self._observer:
            self._observer(t, site, before, site.state)
        # What exists of the failed start must be stopped before the next try. What was observed before the start does not show it.
        self._observed[site.name] = _UNKNOWN
        self._act(site, t, wall, Action.DOWN)

    def _look_for_lost(self, t: float, wall: float) -> None:
        """Note which sites are to be off and have been out of everybody's sight for so long that they are not waited for."""
        for name, site in self.sites.items():
            if self._observed[name].state is not Observed.UNKNOWN:
                self._unseen_since.pop(name, None)
                self.out_of_reach.discard(name)
                continue
            unseen_s = wall - self._unseen_since.setdefault(name, wall)
            stopping = site.state in (State.DRAINING, State.FAILED)
            if stopping and unseen_s > self._gone_after_s and name not in self.out_of_reach:
                self.out_of_reach.add(name)
                if self._teller:
                    self._teller(
                        t, "out_of_reach", name,
                        f"nobody has seen it for {unseen_s:.0f} s, by when it stops by itself (fleet.dead_man_s); the run does not "
                        "wait for it, and `windfall gc` ends what is left of it",
                    )  # fmt: skip

    def _end_strays(self, t: float, wall: float) -> None:
        """End what an earlier coordinator started at sites that this run does not have any more."""
        if not self._strays or wall < self._strays_at:
            return
        self._strays_at = wall + _STRAYS_S
        for name, generation in list(self._strays.items()):
            try:
                if self._driver.observe([name]).get(name, _UNKNOWN).state is Observed.ABSENT:
                    del self._strays[name]
                    self._trouble.pop((name, "stop"), None)
                    continue
                self._journal.asked(t, name, generation, Action.DOWN.value, _STRAY)
                self._driver.ensure_down(name, self._grace, _STRAY)
            except DriverError as e:
                self._trouble[(name, "stop")] = f"it cannot be stopped {_MEANS[fault_of(e)]}, and is asked again: {e}"

    def _tell(self, t: float) -> None:
        """Tell of each driver's trouble once when it begins and once when it is over."""
        for key in sorted(self._trouble.keys() | self._told.keys()):
            now, was = self._trouble.get(key, ""), self._told.get(key, "")
            if now != was and self._teller and (not now or not was):
                what = "seen" if key[1] == "see" else "stopped"
                self._teller(t, "driver_trouble" if now else "driver_back", key[0], now or f"it can be {what} again")
        self._told = dict(self._trouble)

    def _tell_what_platforms_say(self, t: float) -> None:
        """Tell what a site's platform says while it starts or stops, whenever that is something new."""
        for name, site in self.sites.items():
            words = self._observed[name].words if site.state in (State.PROVISIONING, State.DRAINING, State.FAILED) else ""
            if words != self._said.get(name, ""):
                self._said[name] = words
                if words and self._teller:
                    self._teller(t, "platform", name, words)

    def platforms(self) -> dict[str, str]:
        """By site: what its platform says while it starts or stops, and what its driver cannot do now."""
        found = {name: words for name, words in self._said.items() if words}
        for (name, _), why in sorted(self._trouble.items()):
            found[name] = why
        return found

    def given_up(self, limit: int) -> str:
        """If every site has failed ``limit`` times in a row: a sentence with the newest reason. Else empty."""
        if any(s.failures < limit for s in self.sites.values()):
            return ""
        last = max(self.sites.values(), key=lambda s: s.failed_at)
        return f"every site has failed {counted(limit, 'time')} in a row; the last reason at {last.name}: {last.failure}"

    def owes(self, t: float, work: Workload) -> str:
        """Which real start or stop a gated clock has to wait for before it leaves ``t``, or an empty string."""
        for name, site in self.sites.items():
            if name in self.out_of_reach:
                continue
            why = site.holds(t, ready=work.ready(name, site.generation), drained=work.drained(name))
            if why:
                return f"{name}: {_WAITED_FOR[why]}"
        return ""

    def alive(self) -> set[str]:
        """The sites that are ready, training or draining."""
        return {n for n, s in self.sites.items() if s.state in (State.READY, State.TRAINING, State.DRAINING)}

    def mode(self) -> str:
        """paused, local or federated, by the number of sites training."""
        training = sum(s.state is State.TRAINING for s in self.sites.values())
        return ("paused", "local")[training] if training < 2 else "federated"


def fault_of(e: DriverError) -> DriverFault:
    """What kind of refusal a driver's error is."""
    if isinstance(e, Unauthorized):
        return DriverFault.UNAUTHORIZED
    return DriverFault.PERMANENT if isinstance(e, Permanent) else DriverFault.TRANSIENT
