"""The logic of rounds, as a state machine: what has happened goes in, what is to be done comes out.

It knows no threads, files, messages, ledger or clock. What happens between two looks is told by a method each (`answered`,
`gone`, `missing`, `begun`); `due` says how things stand at a moment and returns commands, which whoever asks carries out
in their order before asking again, until nothing is due. `Begin` and `EvaluateLast` end a moment: if they come to something,
`begun` says so.

A round is under way, or closed (what came is being merged), or there is none. Solo is a round of one. A site that joins brings
the cut forward. A round closes when nobody is waited for any more: everybody has answered or is gone, or, on a clock that does
not wait, a quorum has answered and grace is over. On a gated clock everybody is waited for, and given up if that takes too long.

Rounds of fixed tokens are done as they were begun, by those who began them, so that a killed run's weights are an unkilled
one's. They wait for a dead site while it is on its way back, and no longer than the round's own limit, ten times its length;
who joins waits for the next one. Between two rounds as well those who did the last one are waited for, as long and no longer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from windfall.federation.lengths import RoundLengths
from windfall.federation.members import Settings

#: A site that answers heartbeats but no messages has this many heartbeat time-outs from the round's end.
_PATIENCE = 4.0
#: And whatever it says that it is at, no longer than this (wall time).
_LONGEST_EXCUSE_S = 3600.0


@dataclass
class Round:
    """One round. ``waiting`` are participants that have not answered."""

    number: int
    base: int
    begins_at: float
    cut_at: float
    participants: set[str]
    waiting: set[str]
    mode: str
    #: Every participant has answered or is gone, and what came is being merged.
    closed: bool = False
    #: Run time of the tick in which a participant answered.
    answered: dict[str, float] = field(default_factory=dict)
    #: Monotonic wall time since when the cut is due.
    due_wall: float | None = None
    #: Sites that have been given up because they did not answer.
    given_up: set[str] = field(default_factory=set)
    #: Monotonic wall time up to which a site had something to finish before it could answer.
    excused_at: dict[str, float] = field(default_factory=dict)
    #: Sites that an earlier round was closed without, and that train on beside this one until their work has come.
    beside: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Situation:
    """How things stand. ``t`` is run time (to the second, on a calendar), ``wall`` monotonic wall time."""

    t: float
    wall: float
    #: Sites that have said hello and are there.
    members: Set[str]
    #: Those of them that can be given an order now.
    able: Set[str]
    #: Sites that are there, or on their way.
    coming: Set[str]
    #: Blocks that can be lent.
    free_blocks: int
    #: Nothing is left to train.
    complete: bool
    #: A merge has been begun that is not done.
    merging: bool
    #: Work waits for a commit, and no round has been under way at this moment.
    late_work: bool
    #: Of those that are waited for: who says what it is at, and since when (monotonic wall time; None: it sends or fetches).
    busy: Mapping[str, float | None] = field(default_factory=dict)
    #: Of the budget that is settled, 0 to 1.
    progress: float = 0.0
    #: When all that are waited for train on the round's own version (run time); one that trains past its cut does so later.
    taken_in_at: float = -math.inf


@dataclass(frozen=True)
class Begin:
    """Lend to these sites for a round that is cut at ``cut_at`` (run time), and send them their orders.

    ``beside`` are those who train on from an earlier one. ``reason``: of its length, where it was chosen.
    """

    number: int
    participants: frozenset[str]
    cut_at: float
    beside: frozenset[str] = frozenset()
    reason: str = field(default="", compare=False)


@dataclass(frozen=True)
class BringForward:
    """The cut of the round is at ``at``, now or soon: tell those that are still waited for. ``joiners`` are the reason."""

    number: int
    at: float
    joiners: frozenset[str]
    tell: frozenset[str]


@dataclass(frozen=True)
class GiveUp:
    """This site is not waited for any more: it has failed."""

    site: str
    reason: str


@dataclass(frozen=True)
class Close:
    """Begin to merge what has come of the round. ``without`` are sites that have not answered."""

    number: int
    without: frozenset[str]


@dataclass(frozen=True)
class Commit:
    """Make a version of what has been merged."""

    mode: str


@dataclass(frozen=True)
class EvaluateLast:
    """All is trained: the last version is evaluated, by one of these."""

    number: int
    participants: frozenset[str]


Command = Begin | BringForward | GiveUp | Close | Commit | EvaluateLast


class Rounds:
    """See the module."""

    def __init__(
        self, settings: Settings, lengths: RoundLengths, *, number: int, current: Round | None = None, regulars: Iterable[str] = ()
    ) -> None:
        """``number``: of the last round that there was. ``current`` and ``regulars`` are what an earlier coordinator left of
        a round of fixed tokens: the round itself, and who did the last one."""
        self._s = settings
        self._lengths = lengths
        self.number = number
        self.current = current
        self._fixed = settings.round_blocks is not None
        #: Who did the last round of fixed tokens.
        self._regulars = set(regulars)
        #: Run time since when the next one waits for one of them.
        self._waits_since: float | None = None
        #: Sites that a round has been closed without, whose work has yet to come; they are in no round meanwhile.
        self._late: set[str] = set()

    # -- what has happened -----------------------------------------------------------------------------------

    def begun(self, r: Round) -> None:
        """A round has begun."""
        assert self.current is None, "there is one round at a time"
        self.number, self.current = r.number, r
        self._late -= r.participants
        if self._fixed:
            self._regulars, self._waits_since = set(r.participants), None

    def answered(self, site: str, t: float) -> None:
        """A participant has answered its order, or has nothing to answer."""
        if self.current is not None and site in self.current.participants:
            self.current.waiting.discard(site)
            self.current.answered[site] = t

    def gone(self, site: str, *, failed: bool) -> None:
        """A life of a site is over. ``failed``: its next one may have work of it to offer."""
        self._late.discard(site)
        if self.current is not None:
            self.current.beside.discard(site)
        if self.current is not None and not (failed and self._fixed):
            self.current.waiting.discard(site)

    def missing(self, site: str, t: float, *, coming: bool) -> None:
        """A site is not there; ``coming``: it is on its way."""
        r = self.current
        if r is not None and site in r.waiting and (not coming or t >= r.cut_at):
            r.waiting.discard(site)  # even a round of fixed tokens does not wait for a site that does not come back
            self._regulars.discard(site)

    # -- what is due -----------------------------------------------------------------------------------------

    def due(self, now: Situation) -> list[Command]:
        """What is to be done."""
        r = self.current
        if r is None:
            if now.merging:
                return []
            return [Commit("paused")] if now.late_work else self._next(now)
        if r.closed:
            if now.merging:
                return []
            self.current = None
            return [Commit(r.mode)]
        forward: list[Command] = []
        # Who was late trains on, and is in the next round: only who has nothing to do is not kept waiting.
        joiners = frozenset(now.able - r.participants - (self._late if self._s.overlap else set()))
        # On a gated clock nobody can cut a round before it trains in it, and run time stands still at the cut.
        ticks = math.ceil(max(0.0, now.taken_in_at - now.t) / self._s.tick_s) if self._s.gated else 0
        at = now.t + ticks * self._s.tick_s
        # A round of fixed tokens is done as it was begun: who joins waits for the next one.
        if joiners and not self._fixed and r.cut_at > at and now.free_blocks:
            r.cut_at = at
            forward = [BringForward(r.number, at, joiners, frozenset(r.waiting & now.members))]
        return [*forward, *self._closing(now, r)]

    def _closing(self, now: Situation, r: Round) -> list[Command]:
        if r.waiting:
            if r.due_wall is None and now.t >= r.cut_at:
                r.due_wall = now.wall
            if r.due_wall is None:
                return []
            over = now.wall - r.due_wall
            answered = 1 - len(r.waiting) / max(1, len(r.participants))
            grace = 0.0 if self._s.gated else self._s.grace_s
            if self._s.gated or answered < self._s.quorum or over <= grace:
                lost = sorted(self._mute(now, r, grace) - r.given_up)
                r.given_up |= set(lost)
                return [GiveUp(site, "it does not answer its message") for site in lost]
        r.closed = True
        self._late |= r.waiting
        return [Close(r.number, frozenset(r.waiting))]

    def _mute(self, now: Situation, r: Round, grace: float) -> set[str]:
        """Sites that give signs of life and no answer. What one began before the cut was due may take its time, and so may what
        it sends or fetches: until that is done it is not waited for."""
        assert r.due_wall is not None
        mute = set()
        for site in r.waiting:
            since = max(r.due_wall, r.excused_at.get(site, r.due_wall))
            short_enough = now.wall - r.due_wall < _LONGEST_EXCUSE_S
            if site in now.busy and short_enough and ((begun := now.busy[site]) is None or begun <= since):
                since = r.excused_at[site] = now.wall
            if now.wall - since > grace + _PATIENCE * self._s.heartbeat_timeout_s:
                mute.add(site)
        return mute

    def _next(self, now: Situation) -> list[Command]:
        able = frozenset(now.able)
        if self._fixed and now.free_blocks and self._expects(now):
            return []
        if not able:
            return []
        if now.complete:
            return [EvaluateLast(self.number + 1, able)]
        beside = frozenset(self._late & now.members) - able if self._s.overlap else frozenset()
        cut = self._lengths.cut(now.t, able, company=able | beside, free_blocks=now.free_blocks, progress=now.progress)
        return [Begin(self.number + 1, able, cut.at, beside, cut.reason)]

    def _expects(self, now: Situation) -> bool:
        """Whether to wait before the next round of fixed tokens: somebody who did the last one is not able yet, and coming.

        Whoever is not there after a round's limit, in which others could have worked, is not waited for any more.
        """
        missing = (self._regulars - now.able) & now.coming
        if not missing or not now.able:
            self._waits_since = None
            return bool(missing)
        self._waits_since = now.t if self._waits_since is None else self._waits_since
        if now.t - self._waits_since < self._lengths.longest(now.able):
            return True
        self._regulars -= missing
        return False
