"""The federation: who is in, what each site is asked to do, when a round closes, and what becomes of it.

It is the loop's workload: it answers what the loop asks, tells ``rounds`` how things stand, and carries out what that says is
due. On a gated clock run time stands still until a round is closed, so that the same things happen at the same run times on
any machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from windfall import clock
from windfall.energy.levels import PowerLevels
from windfall.energy.phases import Span
from windfall.federation.beside import Beside
from windfall.federation.checkpoints import Checkpoints
from windfall.federation.dispatch import Dispatch
from windfall.federation.evaluations import Evaluations
from windfall.federation.fixed_rounds import KeptRound
from windfall.federation.intake import Intake
from windfall.federation.lengths import RoundLengths, Transfers
from windfall.federation.members import Settings
from windfall.federation.membership import Membership, Registered
from windfall.federation.nodes import Nodes
from windfall.federation.orders import Orders
from windfall.federation.reports import EVALUATING, Doing, Metered, SiteReports
from windfall.federation.rounds import Begin, BringForward, Close, Command, Commit, EvaluateLast, GiveUp, Round, Rounds, Situation
from windfall.federation.together import Together
from windfall.fleet.machine import Site, State
from windfall.store.bus import Bus
from windfall.store.ledger import Ledger
from windfall.store.telemetry import Events
from windfall.wire.fields import finite, is_count
from windfall.wire.transport import Transport


class Federation:
    """See the module. Implements ``fleet.workload.Workload``."""

    def __init__(
        self, *, ledger: Ledger, checkpoints: Checkpoints, intake: Intake, bus: Bus, transport: Transport,
        events: Events, settings: Settings, fence: int, now: float, sites: list[str], generations: Mapping[str, int],
        calendar: Callable[[], float] = clock.wall, registered: Registered | None = None, levels: PowerLevels | None = None,
    ) -> None:  # fmt: skip
        """``calendar`` says what time it is between two ticks, on a clock that does not wait (run time). ``registered``: as
        ``Membership`` has it. ``levels``: which power levels sites are at, whose paces are those of ``settings``."""
        self._ledger = ledger
        self._intake = intake
        self._bus = bus
        self._events = events
        self._s = settings
        self._fence = fence
        self._t = now
        self._calendar = calendar
        self._transfers = Transfers()
        self._together: Together | None = None
        self._levels = levels or PowerLevels(())
        self._orders = Orders(ledger, checkpoints, events, settings, fence)
        self._kept = KeptRound(ledger) if settings.round_blocks is not None else None
        left = self._kept.under_way(sites) if self._kept else None
        if self._kept and left:
            self._levels.put(self._kept.powers_w())
        self._rounds = Rounds(
            settings, RoundLengths(settings, self._transfers), current=left,
            number=max(ledger.head().version, left.number if left else 0),
            regulars=self._kept.participants() if self._kept else (),
        )  # fmt: skip
        self._evaluations = Evaluations(ledger, events, every_tokens=settings.eval_every_tokens)
        self._reports = SiteReports(bus, events, self._evaluations, settings.heartbeat_timeout_s)
        nodes = Nodes(transport, fence)
        self._beside = Beside(settings, events)
        self._dispatch = Dispatch(ledger, self._orders, nodes, self._evaluations, self._beside)
        self.members = Membership(
            ledger=ledger, intake=intake, bus=bus, nodes=nodes, events=events, settings=settings, fence=fence, sites=sites,
            generations=generations, orders=self._orders, dispatch=self._dispatch, beside=self._beside, rounds=self._rounds,
            reports=self._reports, kept=self._kept, registered=registered, levels=self._levels,
        )  # fmt: skip

    @staticmethod
    def _wall() -> float:
        """The one place that reads the machine's clock."""
        return clock.monotonic()

    def _now(self, t: float) -> float:
        """Run time between two ticks, of which the last was at ``t``."""
        return t if self._s.gated else max(t, self._calendar())

    # -- what the loop asks ----------------------------------------------------------------------------------

    def ready(self, site: str, generation: int) -> bool:
        return self.members.ready(site, generation)

    def working(self, site: str) -> bool:
        r = self._rounds.current
        return r is not None and site in r.participants | r.beside and site in self.members

    def drained(self, site: str) -> bool:
        m, r = self.members.get(site), self._rounds.current
        # On a gated clock everything that is due at an instant happens in one order, whoever is faster: first the commit.
        if self._s.gated and r is not None and site in r.participants and r.cut_at <= self._t:
            return m is None
        return m is None or m.drained

    def lost(self, site: str) -> str:
        return self.members.lost(site, self._wall())

    def leaving(self, site: str) -> str:
        return self.members.leaving.get(site, "")

    def merging(self) -> bool:
        return self._intake.begun

    def busy(self, site: str) -> bool:
        return self.doing(site) is not None

    def doing(self, site: str) -> Doing | None:
        """What a site is at, by its own word."""
        return self.members.doing(site, self._wall())

    def phases(self, site: str, t0: float, t1: float) -> list[Span]:
        r = self._rounds.current
        # The tick in which a site hands in is one in which it worked, however fast its message was.
        works = r is not None and (
            site in r.waiting or site in r.beside or r.answered.get(site) == t0 or (self._s.overlap and site in r.answered)
        )
        # On replayed time an evaluation takes none: it is the machine's, and not the run's.
        said = self.doing(site) if works and not self._s.gated else None
        if said is not None and said.what.startswith(EVALUATING):
            return [("evaluation", t0, t1)]
        return [("training" if works else "stall", t0, t1)]

    def hear_meters(self, take: Callable[[str, Metered], None]) -> None:
        """From now on ``take`` is told what sites' meters say."""
        self._reports.metered = take

    def beside(self) -> list[tuple[str, str, float]]:
        return self._beside.take(self._t, self.members.all())

    def left(self) -> float:
        counts = self._ledger.counts()
        return float((self._ledger.budget_blocks - counts.settled) * self._ledger.tokens_per_block)

    def finished(self, site: str) -> bool:
        counts = self._ledger.counts()
        if counts.settled == self._ledger.budget_blocks:
            return not self._wants_final_evaluation(site)
        if counts.free or self._ledger.live_leases(site):
            return False
        # Nothing is free and this site holds nothing: those that do finish.
        r = self._rounds.current
        return any(other != site for other in (r.waiting if r else ()))

    def complete(self) -> bool:
        return self._ledger.complete() and not any(self._wants_final_evaluation(s) for s in self.members.all())

    def evaluated_before(self, versions: Iterable[int]) -> None:
        """Versions that need no evaluation any more."""
        self._evaluations.known(versions)

    def owes(self, t: float) -> str:
        """What must be real before a gated clock leaves ``t``."""
        r = self._rounds.current
        if r is not None and t >= r.cut_at:
            if r.closed:
                return f"the merge of round {r.number}"
            return f"{', '.join(sorted(r.waiting))}: the work of round {r.number}"
        return "the merge of late work" if r is None and self._intake.begun else ""

    def behind(self, t_next: float, alive: set[str]) -> str:
        """Which site has not yet done the work owed by ``t_next``, or an empty string."""
        r = self._rounds.current
        for site in sorted(r.waiting & alive if r else ()):
            m = self.members.get(site)
            if m is None or self.lost(site):
                continue
            progress = self._bus.get(site, "progress")
            if not progress or progress.get("generation") != m.generation:
                return site
            number, covered = progress.get("round"), finite(progress.get("covered"))
            if not is_count(number) or covered is None or number < m.round:
                return site  # what makes no sense is no word of it
            # A site that has used up its leases hands in at once; run time waits for that too.
            if progress.get("exhausted") is True or covered < t_next:
                return site
        return ""

    def poll(self, sites: Mapping[str, Site]) -> None:
        now = self._now(self._t)
        self.members.poll(now, self._wall(), sites)
        for site, version in self._reports.taken_in:
            self._transfers.taken_in(site, version, now)
        self._reports.taken_in.clear()
        for site, why in self._reports.unheld.items():
            self._levels.unheld.setdefault(site, why)
        for took_s in self.members.fetched:
            self._transfers.fetched(took_s)
        self.members.fetched.clear()

    # -- what is due -----------------------------------------------------------------------------------------

    def tick(self, t: float, t_next: float, sites: Mapping[str, Site]) -> None:
        self._t, wall = t, self._wall()
        self.members.know(sites)
        for name in self.members.proven & sites.keys():
            sites[name].failures = 0
        self.members.proven.clear()
        for name, site in sites.items():
            if site.state in (State.OFF, State.FAILED):
                self.members.forget(name, failed=comes_back(t, site))
            elif site.state is State.DRAINING:
                self.members.drain(t, wall, name, held=bool(site.held))
            if name not in self.members:
                self._rounds.missing(name, t, coming=comes_back(t, site))
            if name not in self.members:
                self._transfers.gone(name)
        self._orders.expire(t, sites)
        if not self._s.gated:
            self._bring_versions(t, sites)
            self._take_levels(t, sites)
        late_work = self._rounds.current is None and bool(self._ledger.pending())
        while True:
            if self._rounds.current is None and self._ledger.counts().free:
                self._take_levels(t, sites)  # before the next round is made: it is trained at them
            commands = self._rounds.due(self._situation(t, wall, sites, late_work=late_work))
            if not commands:
                break
            for command in commands:
                self._carry_out(t, command)
            if isinstance(commands[-1], Begin | EvaluateLast):
                break
            late_work = late_work and self._intake.begun
        if self._together is not None and self._rounds.current is None and self._ledger.complete():
            self._tell(t)

    def _situation(self, t: float, wall: float, sites: Mapping[str, Site], *, late_work: bool) -> Situation:
        here = self._here(sites)
        counts = self._ledger.counts()
        waiting = self._rounds.current.waiting if self._rounds.current else set()
        return Situation(
            self._now(t), wall, members=self.members.all().keys(), able={n for n in here if self.members.able(n)},
            coming={n for n, s in sites.items() if comes_back(t, s)}, free_blocks=counts.free,
            complete=counts.settled == self._ledger.budget_blocks, merging=self._intake.merging, late_work=late_work,
            busy={n: said.since for n in waiting if (said := self.doing(n))},
            progress=counts.settled / self._ledger.budget_blocks,
            taken_in_at=max((m.takes_in_at for n, m in self.members.all().items() if n in waiting), default=-math.inf),
        )  # fmt: skip

    def _here(self, sites: Mapping[str, Site]) -> set[str]:
        """Sites that are there and not leaving."""
        states = (State.READY, State.TRAINING)
        return {n for n, s in sites.items() if s.state in states and self.members.ready(n, s.generation)}

    def _take_levels(self, t: float, sites: Mapping[str, Site]) -> None:
        """What the adapters of the sites that are there have chosen counts from now on."""
        for site in sorted(self._here(sites)):
            was = self._s.tokens_per_s[site]
            if not self._levels.take(t, site):
                continue
            m, now = self.members[site], self._s.tokens_per_s[site]
            if m.began_at is not None:
                # What it owes by now stays what it is: from here on it grows at another pace.
                m.began_at = t - was / now * (t - m.began_at)
            self._events.event(
                t, "power_level", site=site, power_w=self._levels.watts(site, "training"), tokens_per_s=now,
                surplus_w=self._levels.surplus_w(site),
            )  # fmt: skip

    def _bring_versions(self, t: float, sites: Mapping[str, Site]) -> None:
        """Send those who join what is large before they count, so that nobody waits for its way."""
        if not self._ledger.counts().free:
            return
        for site in sorted(self._here(sites)):
            m = self.members[site]
            if self.members.able(site) and self._dispatch.wants_version(m):
                self._dispatch.bring_version(self._now(t), m, self._rounds.number)
                self._events.event(t, "version_sent", site=site, version=m.held)

    def _carry_out(self, t: float, command: Command) -> None:
        match command:
            case Begin():
                self._begin(t, command)
            case BringForward():
                self._bring_forward(t, command)
            case GiveUp(site, reason):
                self.members.fatal[site] = reason
            case Close(number, without):
                if without:
                    self._events.event(t, "round_closed_without", round=number, sites=sorted(without))
                self._measure(t)
                self._intake.begin(t)
            case Commit(mode):
                if not self._intake.begun and self._intake.begin(t) and self._intake.merging:
                    return  # late work: the loop does not wait for its merge, and asks again
                outcome = self._intake.commit(t, mode)
                self.members.acknowledge(outcome)
                if outcome is not None:
                    self._transfers.committed(outcome.version.version)
            case EvaluateLast(number, participants):
                self._evaluate_last(t, number, participants)

    def _bring_forward(self, t: float, command: BringForward) -> None:
        """Tell sites that their cut is now, and one of them to hand in its inner state too, if a site that joins needs one."""
        r = self._rounds.current
        rate = sum(self._s.tokens_per_s[s] for s in (r.participants if r else ()))
        under_way = rate * max(0.0, command.at - r.begins_at) if r else 0.0
        giver = self._orders.giver(
            under_way, [self.members[s] for s in sorted(command.joiners)], [self.members[s] for s in sorted(command.tell)]
        )
        asked: dict[str, Any] = {"inner_of": giver} if giver else {}
        reason = f"{', '.join(sorted(command.joiners))} joins"
        self._events.event(t, "cut_forward", round=command.number, reason=reason, **asked)
        for site in sorted(command.tell):
            cut = {
                "kind": "cut", "round": command.number, "at": command.at, "fence": self._fence,
                "generation": self.members[site].generation,
            }  # fmt: skip
            self._bus.send(site, {**cut, "inner": True} if site == giver else cut)

    def _measure(self, t: float) -> None:
        """A joint round has been cut: measure until its sites have what it becomes."""
        r = self._rounds.current
        if r is not None and len(r.participants) > 1 and not self._s.gated:
            now = self._now(t)
            self._transfers.cut(min(r.cut_at, now), now, r.answered.keys() & r.participants)

    def _begin(self, t: float, command: Begin) -> None:
        """Begin a round with those for whom something is left."""
        members = self.members.all()
        lent = self._orders.lend(t, command.cut_at, {n: members[n] for n in command.participants})
        if not lent:
            return
        head = self._ledger.head()
        company = lent.keys() | command.beside
        mode = "local" if len(company) == 1 else "federated"
        r = Round(command.number, head.version, t, command.cut_at, set(lent), set(lent), mode, beside=set(command.beside))
        self._rounds.begun(r)
        if self._kept:
            self._kept.keep(r, self._levels.powers_w(sorted(lent)))
        self._events.event(
            t, "round", version=head.version, round=r.number, mode=mode, sites=sorted(lent), cut_at=command.cut_at
        )  # fmt: skip
        if command.reason:
            length_s = round(command.cut_at - self._now(t), 1)
            self._events.event(t, "round_length", round=r.number, length_s=length_s, reason=command.reason)
        if self._together is None or self._together.sites != company:
            self._tell(t)
            sent, received = self._beside.sent_bytes, self._beside.received_bytes
            self._together = Together(frozenset(company), t, head.tokens_total, sent, received)
        self._together.rounds += 1
        self._dispatch.begin(t, r, members, lent)

    def _tell(self, t: float) -> None:
        """What the sites of the last rounds have come to together."""
        so_far, self._together = self._together, None
        if so_far is not None:
            told = so_far.told(t, self._ledger.head().tokens_total, self._beside.sent_bytes, self._beside.received_bytes)
            self._events.event(t, "together", **told)

    # -- the end ---------------------------------------------------------------------------------------------

    def _wants_final_evaluation(self, site: str) -> bool:
        if not self._ledger.complete() or self._evaluations.has(self._ledger.head().version):
            return False
        able = [s for s, m in self.members.all().items() if not m.drain_sent and not m.drained]
        return bool(able) and site == min(able)

    def _evaluate_last(self, t: float, number: int, participants: Iterable[str]) -> None:
        """One site evaluates the last version."""
        site = min(participants)
        head = self._ledger.head()
        if self._evaluations.has(head.version) or not self._wants_final_evaluation(site):
            return
        r = Round(number, head.version, t, t, {site}, {site}, "local")
        self._rounds.begun(r)
        self._dispatch.evaluate(t, self.members[site], r)


def comes_back(t: float, site: Site) -> bool:
    """Whether a site that is not there is on its way: it starts, has failed just now, or waits for its next try."""
    return site.retry_at > t if site.state is State.OFF else site.state is not State.DRAINING
