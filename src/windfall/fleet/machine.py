"""A site as a state machine: off, provisioning, ready, training, draining, failed.

It does no I/O: it is told what is wanted, what was observed and what the run knows, and answers with at most one action, which the
controller carries out. ``unknown`` is an observation and never causes a transition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Where a site is."""

    OFF = "off"
    PROVISIONING = "provisioning"
    READY = "ready"
    TRAINING = "training"
    DRAINING = "draining"
    FAILED = "failed"


class Observed(StrEnum):
    """What a driver sees of a site."""

    ABSENT = "absent"
    STARTING = "starting"
    UP = "up"
    STOPPING = "stopping"
    FAILED = "failed"
    UNKNOWN = "unknown"


class DriverFault(StrEnum):
    """Why a driver could not do what it was asked."""

    #: It may work later; nothing needs to change.
    TRANSIENT = "transient"
    #: A person has to change something.
    PERMANENT = "permanent"
    #: Credentials are missing, wrong or expired: a person has to renew them.
    UNAUTHORIZED = "unauthorized"


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at a site.

    ``words``: what its platform says of it, as far as that helps a person (why it waits, why it failed). ``fault``: its start was
    refused after `ensure_up` had returned, which a driver that asks from a thread of its own learns only then. ``queued``: its
    platform has not begun with the start, as it waits for its turn; that time is not the site's, however long it is.
    ``planned``: it ended in order and as was to be expected, as a job does at its time limit: that is no failure.
    """

    state: Observed
    words: str = ""
    fault: DriverFault | None = None
    queued: bool = False
    planned: bool = False


class Action(StrEnum):
    """What the controller does next for a site."""

    NONE = "none"
    UP = "ensure_up"
    DOWN = "ensure_down"


#: How long to wait until a site that is still there is asked to stop again (wall time).
_ASK_AGAIN_S = 5.0
#: How long to wait until a refused request to stop is made again, by the kind of refusal (wall time).
_REFUSED_S = {DriverFault.TRANSIENT: 2.0, DriverFault.PERMANENT: 60.0, DriverFault.UNAUTHORIZED: 60.0}
#: How long to wait at least with another start after credentials were refused (run time): services lock out those who keep asking.
_LOGIN_S = 300.0


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that one step of a site depends on. ``t`` is run time, ``wall`` monotonic wall time."""

    t: float
    wall: float
    wanted: bool
    reason: str
    observed: Observed
    #: The run knows this generation's node and it has answered `hello`.
    ready: bool
    #: The run has given the site work.
    working: bool
    #: The site has handed in what it had (or had nothing).
    drained: bool
    #: The trainer has been silent for too long, or said that it cannot go on.
    lost: str = ""
    #: It gives signs of life and says what it is at: loading, a step, a transfer.
    busy: bool = False
    #: What its platform says of it.
    words: str = ""
    #: Its start waits for its turn.
    queued: bool = False
    #: It ended as was to be expected.
    planned: bool = False
    #: Why its platform will end it soon.
    leaving: str = ""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a site may take. Wall time, except ``spin_up_s`` and the back-off, which are run time.

    ``busy_s``: how much longer a start, or a drain, may take while the site says what it is at.
    """

    spin_up_s: float
    start_timeout_s: float
    drain_timeout_s: float
    backoff_s: float
    backoff_max_s: float
    busy_s: float = 0.0


@dataclass
class Site:
    """State of one site. ``since`` is run time, ``since_wall`` monotonic wall time."""

    name: str
    patience: Patience
    state: State = State.OFF
    since: float = 0.0
    since_wall: float = 0.0
    generation: int = 0
    #: Run time at which the current spin-up began, and at which the site became ready.
    started_at: float = 0.0
    ready_at: float | None = None
    #: Failures in a row; forgotten when the site's work has been taken.
    failures: int = 0
    failure: str = ""
    retry_at: float = 0.0
    reason: str = ""
    starts: int = 0
    #: `ensure_down` has been asked for since the site began to drain or failed.
    down_asked: bool = False
    #: An earlier coordinator started it; it may be training, and has not answered this one's `hello` yet.
    adopted: bool = False
    #: Why an operator keeps it off, or empty. A held site is stopped at once, whatever its policy decides.
    held: str = ""
    #: Monotonic wall time before which its driver is not asked again to stop it.
    ask_at: float = -math.inf
    #: Monotonic wall time of its last failure.
    failed_at: float = -math.inf

    def adopt(self, generation: int, started_at: float, t: float, wall: float) -> None:
        """Take over a site that lives: it counts as starting until it has answered `hello`."""
        self.generation, self.started_at, self.ready_at = generation, started_at, None
        self.adopted, self.down_asked = True, False
        self.state, self.since, self.since_wall, self.reason = State.PROVISIONING, t, wall, "was found running"

    def leave(self, t: float, wall: float, reason: str) -> None:
        """Drain a site that lives and is not wanted any more. It can start again only after it is gone."""
        self.state, self.since, self.since_wall, self.reason = State.DRAINING, t, wall, reason
        self.down_asked, self.ask_at = False, -math.inf

    def asked_down(self, wall: float) -> None:
        """Note that its driver has accepted the request to stop it."""
        self.down_asked, self.ask_at = True, wall + _ASK_AGAIN_S

    def refused_down(self, wall: float, fault: DriverFault) -> None:
        """Note that its driver refused to stop it. It is asked again, later if a person has to act first."""
        self.down_asked, self.ask_at = False, wall + _REFUSED_S[fault]

    def refused_up(self, t: float, wall: float, why: str, words: str, fault: DriverFault, jitter: float) -> None:
        """Note that its driver refused to start it: the start has failed. What exists of it must be stopped.

        ``why`` goes into ``failure``, ``words`` into ``reason``.
        """
        self._failed(t, wall, why, words, jitter)
        least = {
            DriverFault.TRANSIENT: 0.0,
            DriverFault.UNAUTHORIZED: _LOGIN_S,
            DriverFault.PERMANENT: self.patience.backoff_max_s,
        }[fault]
        self.retry_at = max(self.retry_at, t + min(least, self.patience.backoff_max_s))

    def modelled_ready_at(self) -> float:
        """Run time before which a starting site is not counted as ready on a gated clock."""
        return self.started_at + self.patience.spin_up_s

    def step(self, i: Inputs, *, gated: bool, jitter: float) -> Action:
        """Advance by at most one transition. ``jitter`` in [0, 1) spreads retries."""
        match self.state:
            case State.OFF:
                if i.wanted and i.t >= self.retry_at and i.observed is Observed.ABSENT:
                    self.generation += 1
                    self.starts += 1
                    self.started_at, self.ready_at = i.t, None
                    self._to(State.PROVISIONING, i, i.reason)
                    return Action.UP
                if i.observed in (Observed.FAILED, Observed.UP, Observed.STARTING) and i.wall >= self.ask_at:
                    # Something is there that was not asked for, or that died unnoticed. Until it is stopped the site cannot start.
                    return Action.DOWN
            case State.PROVISIONING:
                if i.queued:
                    self.since_wall = i.wall  # what a start may take counts from when its platform begins with it
                if not i.wanted and not (self.adopted and self._still_comes(i)):
                    self._to(State.DRAINING, i, f"{i.reason}; it was starting, and is not waited for" if self.held else i.reason)
                elif i.lost or i.observed is Observed.FAILED:
                    return self._fail(i, i.lost or i.words or "its processes ended while starting", jitter)
                elif i.ready and (not gated or i.t >= self.modelled_ready_at()):
                    self.ready_at = i.t
                    self._to(State.READY, i, "answered hello")
                elif self._late(i, self.patience.start_timeout_s) and not i.ready:
                    return self._fail(
                        i, f"not ready after {self._most_s(i, self.patience.start_timeout_s):.0f} s of wall time", jitter
                    )
            case State.READY | State.TRAINING:
                if i.planned:
                    self._to(State.DRAINING, i, i.words)  # there is nothing to drain any more: it is cleared away, and starts again
                elif i.lost or i.observed is Observed.FAILED:
                    return self._fail(i, i.lost or i.words or "its processes ended", jitter)
                if not i.wanted:
                    self._to(State.DRAINING, i, i.reason)
                elif i.leaving:
                    self._to(State.DRAINING, i, i.leaving)
                elif i.working and self.state is State.READY:
                    self._to(State.TRAINING, i, "has a lease")
                elif not i.working and self.state is State.TRAINING:
                    self._to(State.READY, i, "has no lease")
            case State.DRAINING:
                late = self._late(i, self.patience.drain_timeout_s)
                dead = bool(i.lost) or i.observed in (Observed.FAILED, Observed.ABSENT)
                if self.down_asked and i.observed is Observed.ABSENT:
                    self._to(State.OFF, i, self.reason)
                elif (i.drained or late or dead or self.down_asked) and self._still_asks(i):
                    self.down_asked = True
                    if late and not i.drained:
                        self.reason = f"did not hand in its work within {self._most_s(i, self.patience.drain_timeout_s):.0f} s"
                    return Action.DOWN
            case State.FAILED:
                if i.observed is Observed.ABSENT:
                    self._to(State.OFF, i, f"tries again in {max(0.0, self.retry_at - i.t):.0f} s")
                elif self._still_asks(i):
                    self.down_asked = True
                    return Action.DOWN
        return Action.NONE

    def holds(self, t: float, *, ready: bool, drained: bool) -> str:
        """Why a gated clock may not leave ``t`` yet, or an empty string."""
        if self.state is State.PROVISIONING and not ready and t >= self.modelled_ready_at():
            return "starting"
        if self.state is State.DRAINING:
            return "stopping" if drained else "draining"
        if self.state is State.FAILED:
            return "being cleared away"
        return ""

    def _still_comes(self, i: Inputs) -> bool:
        """Whether to wait for an adopted site that is not wanted any more.

        It has work to hand in and may take as long as a start.
        """
        most = self.patience.drain_timeout_s if self.held else self.patience.start_timeout_s
        return not (i.ready or i.lost or self._late(i, most)) and i.observed not in (Observed.FAILED, Observed.ABSENT)

    def _late(self, i: Inputs, most_s: float) -> bool:
        """Whether what the site does has taken too long: longer than ``most_s``, and more if it says what it is at."""
        return i.wall - self.since_wall > self._most_s(i, most_s)

    def _most_s(self, i: Inputs, most_s: float) -> float:
        return most_s + (self.patience.busy_s if i.busy else 0.0)

    def _still_asks(self, i: Inputs) -> bool:
        """Whether its driver is to be asked (again) to stop it: as long as it is not seen to be stopping."""
        return (not self.down_asked or i.observed in (Observed.UP, Observed.STARTING)) and i.wall >= self.ask_at

    def _fail(self, i: Inputs, why: str, jitter: float) -> Action:
        self._failed(i.t, i.wall, why, why, jitter)
        self.down_asked = True
        return Action.DOWN

    def _failed(self, t: float, wall: float, why: str, words: str, jitter: float) -> None:
        self.failures += 1
        self.failure, self.failed_at = why, wall
        # A site that was up and died is started again at once. One that fails again, or cannot start, waits longer each time.
        again = self.failures - (1 if self.ready_at is not None else 0)
        delay = min(self.patience.backoff_max_s, self.patience.backoff_s * 2 ** (again - 1)) if again else 0.0
        self.retry_at = t + delay * (0.75 + 0.5 * jitter)
        self._enter(State.FAILED, t, wall, words)

    def _to(self, state: State, i: Inputs, reason: str) -> None:
        self._enter(state, i.t, i.wall, reason)

    def _enter(self, state: State, t: float, wall: float, reason: str) -> None:
        self.state, self.since, self.since_wall, self.reason = state, t, wall, reason
        self.down_asked = self.adopted = False
        self.ask_at = -math.inf
