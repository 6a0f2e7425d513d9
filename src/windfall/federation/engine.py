"""The federation: who is in, what each site is asked to do, when a round closes, and what becomes of it.

It is the loop's workload. Solo is a round of one; a site that joins brings the running round's cut forward; a site
that leaves hands in early and its work waits for the round's merge. On a gated clock run time stands still until a
round is closed, so that the same things happen at the same run times on any machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from windfall import clock
from windfall.errors import DataError, Refused
from windfall.federation.checkpoints import Checkpoints
from windfall.federation.evaluations import Evaluations
from windfall.federation.fixed_rounds import FixedRounds, comes_back
from windfall.federation.greetings import Stranger, read_hello, unread
from windfall.federation.intake import Committed, Intake
from windfall.federation.members import Member, Round, Settings
from windfall.federation.nodes import Nodes
from windfall.federation.orders import Orders
from windfall.federation.reports import Doing, SiteReports
from windfall.fleet.machine import Site, State
from windfall.store.blobs import Blob
from windfall.store.bus import Bus
from windfall.store.files import Envelope
from windfall.store.ledger import Ledger
from windfall.store.records import Lease
from windfall.store.telemetry import Events
from windfall.wire.fields import finite, is_count, text
from windfall.wire.messages import PROTOCOL, Ack, ContributionHeader, RoundOrder, Standing, cut_of
from windfall.wire.transport import Reply, Transport

#: A site whose node is gone and whose heartbeats go on may take this many heartbeat time-outs to connect again.
_LINK_PATIENCE = 2.0
#: A site that answers heartbeats but no messages has this many heartbeat time-outs from the round's end.
_PATIENCE = 4.0
#: Out of reach for so long, a site is not waited for where an operator has said that it is to be off (wall time).
_SILENT_S = 10.0
#: Blobs of what sites offer are read into memory up to this size.
_IN_MEMORY = 2**20
#: Orders that a site may say it cannot read, one after another, before it is given up.
_REFUSALS = 3
#: A site counts as faster than its configuration says by this factor at the most.
_FASTEST = 4.0


class Federation:
    """See the module. Implements ``fleet.workload.Workload``."""

    def __init__(
        self, *, ledger: Ledger, checkpoints: Checkpoints, intake: Intake, bus: Bus, transport: Transport,
        events: Events, settings: Settings, fence: int, now: float, sites: list[str], generations: Mapping[str, int],
    ) -> None:  # fmt: skip
        self._ledger = ledger
        self._checkpoints = checkpoints
        self._intake = intake
        self._bus = bus
        self._nodes = Nodes(transport, fence)
        self._events = events
        self._s = settings
        self._fence = fence
        self._orders = Orders(ledger, checkpoints, events, settings, fence)
        self._sites = sites
        self._t = now
        self._members: dict[str, Member] = {}
        self._generations: dict[str, int] = dict(generations)
        self._fixed = FixedRounds(ledger) if settings.round_blocks is not None else None
        self._round: Round | None = self._fixed.under_way(sites) if self._fixed else None
        self._rounds = max(ledger.head().version, self._round.number if self._round else 0)
        self._evaluations = Evaluations(ledger, events, every_tokens=settings.eval_every_tokens)
        self._reports = SiteReports(bus, events, self._evaluations, settings.heartbeat_timeout_s)
        self._fatal = self._reports.fatal
        #: Sites whose work has been taken since the last tick: their failures are forgotten.
        self._proven: set[str] = set()

    # -- what the loop asks ----------------------------------------------------------------------------------

    def ready(self, site: str, generation: int) -> bool:
        m = self._members.get(site)
        return m is not None and m.generation == generation and self._nodes.listed(m.node)

    def working(self, site: str) -> bool:
        return self._round is not None and site in self._round.participants and site in self._members

    def drained(self, site: str) -> bool:
        m = self._members.get(site)
        return m is None or m.drained

    def lost(self, site: str) -> str:
        if site in self._fatal:
            return self._fatal[site]
        m = self._members.get(site)
        if m is None:
            return ""
        if m.gone_since is not None and clock.monotonic() - m.gone_since > _LINK_PATIENCE * self._s.heartbeat_timeout_s:
            return f"its node has been gone for {clock.monotonic() - m.gone_since:.0f} s"
        return self._reports.silent(site)

    def busy(self, site: str) -> bool:
        return self.doing(site) is not None

    def doing(self, site: str) -> Doing | None:
        """What a site is at, by its own word."""
        return self._reports.doing(site, self._generations.get(site, 0))

    def phases(self, site: str, t0: float, t1: float) -> list[tuple[str, float, float]]:
        r = self._round
        # The tick in which a site hands in is one in which it worked, however fast its message was.
        works = r is not None and (site in r.waiting or r.answered.get(site) == t0 or (self._s.overlap and site in r.answered))
        return [("training" if works else "idle", t0, t1)]

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
        return any(other != site for other in (self._round.waiting if self._round else ()))

    def complete(self) -> bool:
        return self._ledger.complete() and not any(self._wants_final_evaluation(s) for s in self._members)

    def evaluated_before(self, versions: Iterable[int]) -> None:
        """Versions that need no evaluation any more."""
        self._evaluations.known(versions)

    def owes(self, t: float) -> str:
        """What must be real before a gated clock leaves ``t``."""
        if self._round and t >= self._round.cut_at:
            if self._round.closed:
                return f"the merge of round {self._round.number}"
            return f"{', '.join(sorted(self._round.waiting))}: the work of round {self._round.number}"
        return ""

    def behind(self, t_next: float, alive: set[str]) -> str:
        """Which site has not yet done the work owed by ``t_next``, or an empty string."""
        for site in sorted(self._round.waiting & alive if self._round else ()):
            m = self._members.get(site)
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

    # -- what arrives ----------------------------------------------------------------------------------------

    def poll(self, sites: Mapping[str, Site]) -> None:
        self._know(sites)
        for node, site in self._nodes.look():
            m = self._members.get(site)
            if m is None or m.node != node:
                continue
            m.gone_since = clock.monotonic()
            if not m.drained and not (site in sites and sites[site].down_asked):  # else it goes because it was told to
                self._events.event(self._t, "node_gone", site=site, node=node)
        for kind, node, site, reply in self._nodes.replies():
            if kind == "hello":
                self._on_hello(node, reply)
            else:
                self._on_reply(node, site, reply)
        self._reports.listen(self._t, self._sites, self._generations, self._round.mode if self._round else "local")

    def _know(self, sites: Mapping[str, Site]) -> None:
        """Which life of each site counts. Between two ticks a site may have failed and been started again."""
        for name, site in sites.items():
            self._generations[name] = site.generation
            m = self._members.get(name)
            if m is not None and m.generation != site.generation:
                self._forget(name, failed=True)

    def _on_reply(self, node: str, site: str, reply: Reply) -> None:
        site = site or next((m.site for m in self._members.values() if m.message == reply.message_id), "")
        m = self._members.get(site)
        if m is None:
            # The site has been given up in the meantime; its late work is judged by the ledger all the same.
            if site and reply.envelope:
                self._take(site, reply.envelope)
            return
        current = m.message == reply.message_id
        header = reply.envelope.header if reply.envelope else {}
        if current:
            m.message = None
        if header.get("kind") == "error":
            error = text(header.get("error"))
            self._events.event(self._t, "message_failed", site=site, reason=error, current=current)
            if not current:
                return  # it was for a life of the site that is over
            m.refusals += 1
            if header.get("refused") is not True or m.refusals > _REFUSALS or header.get("protocol") != PROTOCOL:
                self._fatal[site] = f"its message failed: {error}"
            else:  # it could not be read there: changed on its way, perhaps
                self._ask_again(m)
            return
        if reply.envelope is None or header.get("kind") == "void":
            if current:
                self._events.event(self._t, "message_failed", site=site, reason=reply.error or "it was given up", current=True)
                self._ask_again(m)
            return
        if current and self._round:
            self._answered(site)
        if header.get("drained") is True and header.get("generation") == m.generation:
            m.drained = True
        self._take(site, reply.envelope)

    def _ask_again(self, m: Member) -> None:
        """Its message is lost; its work is still there, in its hands or its outbox: asked, it says how things stand."""
        m.unsure, m.unsure_since = True, clock.monotonic()
        if self._nodes.listed(m.node):
            self._nodes.greet(m.node)

    def _answered(self, site: str) -> None:
        assert self._round is not None
        self._round.waiting.discard(site)
        self._round.answered[site] = self._t

    def _on_hello(self, node: str, reply: Reply) -> None:
        if unread(reply) and self._nodes.greet_again(node):
            return
        try:
            stands = read_hello(reply, self._sites, self._generations, self._s.manifest)
        except Stranger as e:
            if e.fails:
                self._fatal[e.site] = str(e)
            else:
                self._events.event(self._t, "stranger", site=e.site or None, reason=str(e))
            return
        site = stands.site
        self._nodes.belongs(node, site)
        known = self._members.get(site)
        m = known or Member(site, self._generations[site], node, stands.inner_tokens)
        m.node, m.message, m.gone_since = node, None, None
        m.unsure = False
        blobs = reply.envelope.all_blobs() if reply.envelope else {}
        if known is None:
            self._members[site] = m
            self._reports.begin(site)
            # A site that an earlier coordinator of this run started may be anywhere in its work.
            m.first_order = stands.fresh
        m.held = self._held_by(stands)
        self._events.event(
            self._t, "hello", site=site, generation=stands.generation, offered=len(blobs), again=known is not None,
            uncut_blocks=stands.uncut_blocks,
        )  # fmt: skip
        self._take_all(site, blobs)
        # After what it offers, which is older: these blocks are above its newest cut.
        m.uncut, m.cut = stands.uncut_blocks, max(m.cut, stands.cut)
        if known is None:
            m.blocks = -stands.uncut_blocks
        # What an earlier life of this site had to offer has been offered now.
        held: list[tuple[int, int]] = []
        for lease in self._ledger.live_leases(site):
            if lease.generation < m.generation:
                held += self._orders.end(self._t, lease)
        if known is None and self._orders.broke(self._t, m, stands, self._reports.last_block.pop(site, None), held):
            self._proven.add(site)  # it was the block's fault, and that is out of the way
        r = self._round
        if r is not None and site in r.waiting:
            if known is not None and (stands.round, stands.order_fence) == (r.number, self._fence):
                self._resume(m, r)
            elif not self._fixed.handed_in(site, r) if self._fixed else not stands.has_seen(r.number, self._fence):
                self._begin_again(m, r)  # its order is lost, or what it had done under it
            else:
                self._answered(site)  # it has cut meanwhile: what it had is in its outbox

    def _held_by(self, stands: Standing) -> int | None:
        """The version that a site holds: by its own word, if it is one of this run's, bit for bit."""
        version = self._ledger.version(stands.base) if stands.base is not None else None
        return version.version if version is not None and version.sha256 == stands.base_sha256 else None

    def _take_all(self, site: str, blobs: Mapping[str, Blob]) -> None:
        """Take contributions in as they lie in the site's outbox. A damaged one is refused by its name."""
        for name, blob in blobs.items():
            try:
                self._take(site, Envelope.within(blob, name, in_memory_up_to=_IN_MEMORY))
            except DataError as e:
                self._events.event(self._t, "refused", site=site, reason=str(e))
                cut = cut_of(name)
                if cut and site in self._members:
                    self._members[site].acks.append(Ack(*cut, False, None, str(e)))

    def _resume(self, m: Member, r: Round) -> None:
        """The same order once more: its SuperNode was restarted, the trainer has gone on under it."""
        fleet = sorted(r.participants)
        leases = [x for x in self._ledger.live_leases(m.site) if x.generation == m.generation]
        order = self._orders.order(m, r.number, r.begins_at, r.cut_at, leases, fleet=fleet)
        self._send(m, *self._orders.with_model(m, order))

    def _begin_again(self, m: Member, r: Round) -> None:
        """The order of a round anew, to a site that never read it.

        A round of fixed tokens is also done again by a site that was killed in it, or gone on with under a new coordinator.
        """
        lent = self._orders.lend(self._t, r.cut_at, {m.site: m})
        if m.site not in lent:
            self._answered(m.site)
            return
        evaluate = m.site == min(r.participants) and not self._evaluations.has(r.base)
        self._order_to(m, r, lent[m.site], evaluate=evaluate)

    def _take(self, site: str, envelope: Envelope) -> None:
        m = self._members.get(site)
        try:
            header = ContributionHeader.parse(envelope.header)
        except Refused:
            header = None  # the intake says why
        mine = m is not None and header is not None and header.generation == m.generation
        blobs = envelope.all_blobs()
        late = {n: b for n, b in blobs.items() if cut_of(n)}
        envelope = Envelope.of(envelope.header, {n: b for n, b in blobs.items() if n not in late})
        if m and header and mine and header.cut > m.cut:
            m.cut, m.uncut = header.cut, 0
            m.owes_inner = not header.drained and (bool(header.consumed) or m.owes_inner)
        if header and not header.consumed and "delta" not in envelope.blobs and not header.tokens:
            if header.site == site and header.drained and "inner" in envelope.blobs:
                self._intake.keep_inner(site, envelope.blob("inner"))
            self._take_all(site, late)
            return  # nothing was trained: nothing to merge, nothing to refuse
        ack = self._intake.take(self._t, envelope, site)
        if m and header and mine and (ack is None or ack.accepted) and header.cut not in m.counted:
            m.counted.add(header.cut)
            m.refusals = 0
            m.blocks += sum(c.end - c.start for c in header.consumed)
            since = self._round.begins_at if self._round else self._t
            rate = header.tokens / max(self._s.tick_s, self._t - since)
            m.measured_rate = min(rate, _FASTEST * self._s.tokens_per_s[site])
        if ack is None:
            # Work that an earlier life left behind proves nothing of this one.
            if mine:
                self._proven.add(site)
        elif m:
            m.acks.append(ack)
        self._take_all(site, late)

    # -- what is due -----------------------------------------------------------------------------------------

    def tick(self, t: float, t_next: float, sites: Mapping[str, Site]) -> None:
        self._t = t
        self._know(sites)
        for name in self._proven & sites.keys():
            sites[name].failures = 0
        self._proven.clear()
        for name, site in sites.items():
            if site.state in (State.OFF, State.FAILED):
                self._forget(name, failed=comes_back(t, site))
            elif site.state is State.DRAINING:
                self._drain(name, held=bool(site.held))
            r = self._round
            if r and name in r.waiting and name not in self._members and (not comes_back(t, site) or t >= r.cut_at):
                r.waiting.discard(name)  # even a round of fixed tokens does not wait for a site that does not come back
                if self._fixed:
                    self._fixed.without(name)
        self._orders.expire(t, sites)
        active = {n for n, s in sites.items() if s.state in (State.READY, State.TRAINING) and self.ready(n, s.generation)}
        if self._round:
            newcomers = {n for n in active - self._round.participants if self._can_start(self._members[n])}
            # A round of fixed tokens is done as it was begun: who joins waits for the next one.
            joinable = not self._round.closed and self._round.cut_at > t
            if newcomers and self._fixed is None and joinable and self._has_work():
                self._bring_forward(t, newcomers)
            self._close_if_over(t)
        elif self._ledger.pending():
            self._after(t, self._intake.commit(t, "paused"))  # late work, with nobody training
        able = {n for n in active if self._can_start(self._members[n])}
        if self._round is None and able and not self._expects(t, able, sites):
            self._start(t, able)

    def _expects(self, t: float, able: set[str], sites: Mapping[str, Site]) -> bool:
        if self._fixed is None or not self._has_work():
            return False
        return self._fixed.expects(t, able, sites, self._orders.longest(able))

    def _can_start(self, m: Member) -> bool:
        return m.message is None and not m.drained and not m.unsure

    def _has_work(self) -> bool:
        return self._ledger.counts().free > 0

    def _bring_forward(self, t: float, newcomers: set[str]) -> None:
        assert self._round is not None
        self._round.cut_at = t
        self._events.event(t, "cut_forward", round=self._round.number, reason=f"{', '.join(sorted(newcomers))} joins")
        for site in self._round.waiting & self._members.keys():
            command = {"kind": "cut", "round": self._round.number, "at": t, "fence": self._fence}
            self._bus.send(site, {**command, "generation": self._members[site].generation})

    def _drain(self, site: str, *, held: bool) -> None:
        m = self._members.get(site)
        if m is None or m.drained:
            return
        if held and (why := self._out_of_reach(m)):
            m.drained = True
            reason = f"{why}; it is held, and not waited for any more: what it has not handed in stays in its outbox"
            self._events.event(self._t, "given_up", site=site, reason=reason)
            return
        if m.unsure:
            return
        if m.message is None:
            idle = (self._s.gated or m.began_at is None) and not m.uncut and not m.owes_inner
            if idle or (m.drain_sent and not m.uncut):
                m.drained = True  # it trained on nothing since its last cut
            else:
                # It went on training after its cut: one more message fetches that work.
                m.drain_sent = True
                self._send(m, self._orders.order(m, self._rounds, self._t, self._t, [], drain=True), {})
        elif not m.drain_sent:
            m.drain_sent = True
            self._bus.send(site, {"kind": "drain", "generation": m.generation})

    def _out_of_reach(self, m: Member) -> str:
        """Why a site cannot be expected to hand in what it has, or an empty string."""
        now = clock.monotonic()
        if m.gone_since is not None and now - m.gone_since > _SILENT_S:
            return f"its SuperNode has been gone for {now - m.gone_since:.0f} s"
        if m.unsure and now - m.unsure_since > _SILENT_S:
            return f"it has not said for {now - m.unsure_since:.0f} s how things stand"
        return self._reports.silent(m.site, _SILENT_S)

    def _forget(self, site: str, *, failed: bool) -> None:
        m = self._members.pop(site, None)
        self._reports.forget(site)
        if m is None:
            return
        if self._round and not (failed and self._fixed):
            self._round.waiting.discard(site)
        if not failed and m.drained:  # else its next life may still have work of these leases to offer
            for lease in self._ledger.live_leases(site):
                self._ledger.release(lease.epoch)

    def _close_if_over(self, t: float) -> None:
        r = self._round
        assert r is not None
        if r.waiting and not r.closed:
            due = t >= r.cut_at
            if due and r.due_wall is None:
                r.due_wall = clock.monotonic()
            if r.due_wall is None:
                return
            over = clock.monotonic() - r.due_wall
            answered = 1 - len(r.waiting) / max(1, len(r.participants))
            if self._s.gated:
                self._give_up_mute(r, 0.0)
                return
            if answered < self._s.quorum or over <= self._s.grace_s:
                self._give_up_mute(r, self._s.grace_s)
                return
            self._events.event(t, "round_closed_without", round=r.number, sites=sorted(r.waiting))
        if not r.closed:
            r.closed = True
            self._intake.begin(t)
        if not self._intake.merging:
            self._round = None
            self._after(t, self._intake.commit(t, r.mode))

    def _give_up_mute(self, r: Round, grace_s: float) -> None:
        """Give up sites that give signs of life and no answer. What one began before the cut was due may take its time, and
        so may what it sends or fetches: until that is done it is not waited for."""
        assert r.due_wall is not None
        now = clock.monotonic()
        for site in r.waiting:
            said, m = self.doing(site), self._members.get(site)
            if m is not None and said is not None and (said.since is None or said.since <= max(r.due_wall, m.excused_at)):
                m.excused_at = now
            since = max(r.due_wall, m.excused_at if m else r.due_wall)
            if now - since > grace_s + _PATIENCE * self._s.heartbeat_timeout_s:
                self._fatal[site] = "it does not answer its message"

    def _after(self, t: float, outcome: Committed | None) -> None:
        for c, why in self._intake.discarded:
            if c.site in self._members:
                self._members[c.site].acks.append(Ack(c.generation, c.cut, False, None, why))
        self._intake.discarded.clear()
        if outcome is None:
            return
        for c in outcome.contributions:
            if c.site in self._members:
                self._members[c.site].acks.append(Ack(c.generation, c.cut, True, outcome.version.version))

    # -- starting a round ------------------------------------------------------------------------------------

    def _start(self, t: float, participants: set[str]) -> None:
        if not participants:
            return
        if self._ledger.complete():
            self._final_evaluation(t, participants)
            return
        head = self._ledger.head()
        cut_at = self._orders.cut_at(t, participants)
        lent = self._orders.lend(t, cut_at, {n: self._members[n] for n in participants})
        if not lent:
            return
        self._rounds += 1
        mode = "local" if len(lent) == 1 else "federated"
        r = self._round = Round(self._rounds, head.version, t, cut_at, set(lent), set(lent), mode)
        if self._fixed:
            self._fixed.begun(r)
        self._events.event(t, "round", version=head.version, round=self._rounds, mode=mode, sites=sorted(lent), cut_at=cut_at)
        evaluator = self._evaluations.whose_turn(lent) if self._evaluations.due(head) else None
        for site in sorted(lent):
            self._order_to(self._members[site], r, lent[site], evaluate=site == evaluator)

    def _order_to(self, m: Member, r: Round, leases: list[Lease], *, evaluate: bool) -> None:
        fleet = sorted(r.participants)
        order = self._orders.order(m, r.number, self._t, r.cut_at, leases, evaluate=evaluate, fleet=fleet)
        order, blobs = self._orders.with_model(m, order)
        self._send(m, *self._orders.with_inner(self._t, m, order, blobs))

    def _send(self, m: Member, order: RoundOrder, blobs: dict[str, Blob]) -> None:
        m.acks = []
        m.first_order = m.first_order and order.drain
        m.round = order.round
        if order.model != "none":
            m.held = order.version
        m.message = self._nodes.send(m.node, order, blobs)

    # -- the end ---------------------------------------------------------------------------------------------

    def _wants_final_evaluation(self, site: str) -> bool:
        if not self._ledger.complete() or self._evaluations.has(self._ledger.head().version):
            return False
        able = [s for s, m in self._members.items() if not m.drain_sent and not m.drained]
        return bool(able) and site == min(able)

    def _final_evaluation(self, t: float, participants: set[str]) -> None:
        """One site evaluates the last version: an order without leases."""
        site = min(participants)
        head = self._ledger.head()
        if self._evaluations.has(head.version) or not self._wants_final_evaluation(site):
            return
        m = self._members[site]
        self._rounds += 1
        self._round = Round(self._rounds, head.version, t, t, {site}, {site}, "local")
        self._send(m, *self._orders.with_model(m, self._orders.order(m, self._rounds, t, t, [], evaluate=True)))
