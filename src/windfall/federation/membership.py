"""Who is in, and what arrives from there: hellos, answers, contributions, and what is handed in by those who leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from windfall.energy.levels import PowerLevels
from windfall.errors import DataError, Refused
from windfall.federation.beside import Beside
from windfall.federation.dispatch import Dispatch
from windfall.federation.fixed_rounds import KeptRound
from windfall.federation.greetings import Stranger, read_hello, unread
from windfall.federation.intake import Committed, Intake
from windfall.federation.members import Member, Settings
from windfall.federation.nodes import Nodes
from windfall.federation.orders import Orders
from windfall.federation.reports import Doing, SiteReports
from windfall.federation.rounds import Rounds
from windfall.fleet.machine import Site
from windfall.store.blobs import Blob
from windfall.store.bus import Bus
from windfall.store.files import Envelope
from windfall.store.ledger import Ledger
from windfall.store.telemetry import Events
from windfall.wire.fields import text
from windfall.wire.messages import PROTOCOL, Ack, ContributionHeader, Standing, cut_of
from windfall.wire.transport import Reply

#: A site whose node is gone and whose heartbeats go on may take this many heartbeat time-outs to connect again.
_LINK_PATIENCE = 2.0
#: Out of reach for so long, a site is not waited for where an operator has said that it is to be off (wall time).
_SILENT_S = 10.0
#: Blobs of what sites offer are read into memory up to this size.
_IN_MEMORY = 2**20
#: Orders that a site may say it cannot read, one after another, before it is given up.
_REFUSALS = 3
#: A site counts as faster than its configuration says by this factor at the most.
_FASTEST = 4.0


#: From a node and the site that it says it is to whether it may be.
Registered = Callable[[str, str], bool]


class Membership:
    """The members, by site. Everything that is said by them or of them is told to ``rounds`` where it concerns a round."""

    def __init__(
        self, *, ledger: Ledger, intake: Intake, bus: Bus, nodes: Nodes, events: Events, settings: Settings, fence: int,
        sites: list[str], generations: Mapping[str, int], orders: Orders, dispatch: Dispatch, beside: Beside, rounds: Rounds,
        reports: SiteReports, kept: KeptRound | None, levels: PowerLevels, registered: Registered | None = None,
    ) -> None:  # fmt: skip
        """``registered``: whether a node may be that of the site that it says it is; without it every one may."""
        self._levels = levels
        self._registered = registered
        self._ledger = ledger
        self._intake = intake
        self._bus = bus
        self._nodes = nodes
        self._events = events
        self._s = settings
        self._fence = fence
        self._sites = sites
        self._generations: dict[str, int] = dict(generations)
        self._orders = orders
        self._dispatch = dispatch
        self._beside = beside
        self._rounds = rounds
        self._reports = reports
        self._kept = kept
        self._by_site: dict[str, Member] = {}
        #: By site: why it cannot go on.
        self.fatal = reports.fatal
        #: By site: why its platform ends it.
        self.leaving = reports.leaving
        #: How long each site was sent the version with which it joins, since somebody asked (run time).
        self.fetched: list[float] = []
        #: Sites whose work has been taken since somebody asked: their failures are forgotten.
        self.proven: set[str] = set()

    def __getitem__(self, site: str) -> Member:
        return self._by_site[site]

    def __contains__(self, site: str) -> bool:
        return site in self._by_site

    def get(self, site: str) -> Member | None:
        """A member, if this site is one."""
        return self._by_site.get(site)

    def all(self) -> dict[str, Member]:
        """All members."""
        return dict(self._by_site)

    def ready(self, site: str, generation: int) -> bool:
        """Whether this life of a site has said hello, and is there."""
        m = self._by_site.get(site)
        return m is not None and m.generation == generation and self._nodes.listed(m.node)

    def able(self, site: str) -> bool:
        """Whether a member can be given an order now."""
        m = self._by_site[site]
        return m.message is None and not m.drained and not m.unsure

    def lost(self, site: str, wall: float) -> str:
        """Why a site must be given up, or an empty string."""
        if site in self.fatal:
            return self.fatal[site]
        m = self._by_site.get(site)
        if m is None:
            return ""
        if m.gone_since is not None and wall - m.gone_since > _LINK_PATIENCE * self._s.heartbeat_timeout_s:
            return f"its node has been gone for {wall - m.gone_since:.0f} s"
        return self._reports.silent(site, wall)

    # -- what arrives ----------------------------------------------------------------------------------------

    def poll(self, t: float, wall: float, sites: Mapping[str, Site]) -> None:
        """Take in what has arrived by run time ``t`` and monotonic wall time ``wall``."""
        self.know(sites)
        for node, site in self._nodes.look():
            m = self._by_site.get(site)
            if m is None or m.node != node:
                continue
            m.gone_since = wall
            if not m.drained and not (site in sites and sites[site].down_asked):  # else it goes because it was told to
                self._events.event(t, "node_gone", site=site, node=node)
        for kind, node, site, reply in self._nodes.replies():
            if kind == "hello":
                self._on_hello(t, wall, node, reply)
            else:
                self._on_reply(t, wall, node, site, reply)
        r = self._rounds.current
        self._reports.listen(t, wall, self._sites, self._generations, r.mode if r else "local")

    def doing(self, site: str, wall: float) -> Doing | None:
        """What a site is at, by its own word."""
        return self._reports.doing(site, self._generations.get(site, 0), wall)

    def know(self, sites: Mapping[str, Site]) -> None:
        """Which life of each site counts. Between two ticks a site may have failed and been started again."""
        for name, site in sites.items():
            self._generations[name] = site.generation
            m = self._by_site.get(name)
            if m is not None and m.generation != site.generation:
                self.forget(name, failed=True)

    def forget(self, site: str, *, failed: bool) -> None:
        """A life of a site is over."""
        m = self._by_site.pop(site, None)
        self._reports.forget(site)
        if m is None:
            return
        self._rounds.gone(site, failed=failed)
        if not failed and m.drained:  # else its next life may still have work of these leases to offer
            self._release(site)

    def _release(self, site: str) -> None:
        for lease in self._ledger.live_leases(site):
            self._ledger.release(lease.epoch)

    def _on_reply(self, t: float, wall: float, node: str, site: str, reply: Reply) -> None:
        site = site or next((m.site for m in self._by_site.values() if m.message == reply.message_id), "")
        if site and reply.envelope:
            self._beside.received(site, reply.envelope.all_blobs())
        m = self._by_site.get(site)
        if m is None:
            # The site has been given up in the meantime; its late work is judged by the ledger all the same.
            if site and reply.envelope:
                self._take(t, site, reply.envelope)
            return
        current = m.message == reply.message_id
        header = reply.envelope.header if reply.envelope else {}
        if current:
            m.message = None
        if header.get("kind") == "error":
            error = text(header.get("error"))
            self._events.event(t, "message_failed", site=site, reason=error, current=current)
            if not current:
                return  # it was for a life of the site that is over
            m.refusals += 1
            if header.get("refused") is not True or m.refusals > _REFUSALS or header.get("protocol") != PROTOCOL:
                self.fatal[site] = f"its message failed: {error}"
            else:  # it could not be read there: changed on its way, perhaps
                self._ask_again(m, wall)
            return
        if reply.envelope is None or header.get("kind") == "void":
            if current:
                self._events.event(t, "message_failed", site=site, reason=reply.error or "it was given up", current=True)
                self._ask_again(m, wall)
            return
        if current:
            self._rounds.answered(site, t)
            if m.fetching_since is not None:
                self.fetched.append(t - m.fetching_since)
                m.fetching_since = None
        if header.get("drained") is True and header.get("generation") == m.generation:
            m.drained = True
        self._take(t, site, reply.envelope)
        if m.drained:  # what it has not trained can be lent with the commit that its work is in
            self._release(site)

    def _ask_again(self, m: Member, wall: float) -> None:
        """Its message is lost; its work is still there, in its hands or its outbox: asked, it says how things stand."""
        m.unsure, m.unsure_since = True, wall
        if self._nodes.listed(m.node):
            self._nodes.greet(m.node)

    def _on_hello(self, t: float, wall: float, node: str, reply: Reply) -> None:
        if unread(reply) and self._nodes.greet_again(node):
            return
        said = (reply.envelope.header if reply.envelope else {}).get("site")
        if self._registered is not None and isinstance(said, str) and not self._registered(node, said):
            reason = f"node {node} says that it is {text(said, 100)}, and was not registered by that site"
            self._events.event(t, "stranger", site=None, reason=reason)
            return
        try:
            stands = read_hello(reply, self._sites, self._generations, self._s.manifest)
        except Stranger as e:
            if e.fails:
                self.fatal[e.site] = str(e)
            else:
                self._events.event(t, "stranger", site=e.site or None, reason=str(e))
            return
        site = stands.site
        self._nodes.belongs(node, site)
        known = self._by_site.get(site)
        m = known or Member(site, self._generations[site], node, stands.inner_tokens)
        m.node, m.message, m.gone_since, m.fetching_since = node, None, None, None
        m.unsure = False
        blobs = reply.envelope.all_blobs() if reply.envelope else {}
        self._beside.received(site, blobs)
        if known is None:
            self._by_site[site] = m
            self._reports.begin(site, wall)
            # A site that an earlier coordinator of this run started may be anywhere in its work.
            m.first_order = stands.fresh
        m.held = self._held_by(stands)
        self._events.event(
            t, "hello", site=site, generation=stands.generation, offered=len(blobs), again=known is not None,
            uncut_blocks=stands.uncut_blocks,
        )  # fmt: skip
        self._take_all(t, site, blobs)
        # After what it offers, which is older: these blocks are above its newest cut.
        m.uncut, m.cut = stands.uncut_blocks, max(m.cut, stands.cut)
        if known is None:
            m.blocks = -stands.uncut_blocks
        # What an earlier life of this site had to offer has been offered now.
        held: list[tuple[int, int]] = []
        for lease in self._ledger.live_leases(site):
            if lease.generation < m.generation:
                held += self._orders.end(t, lease)
        if known is None and self._orders.broke(t, m, stands, self._reports.last_block.pop(site, None), held):
            self.proven.add(site)  # it was the block's fault, and that is out of the way
        self._back_in_its_round(t, m, stands, known=known is not None)

    def _back_in_its_round(self, t: float, m: Member, stands: Standing, *, known: bool) -> None:
        """A site that the round under way waits for has said how things stand there."""
        r = self._rounds.current
        if r is None or m.site not in r.waiting:
            return
        if known and (stands.round, stands.order_fence) == (r.number, self._fence):
            self._dispatch.resume(m, r)
            return
        # Else it has cut meanwhile, and what it had is in its outbox; or its order is lost, or what it had done under it.
        cut = self._kept.handed_in(m.site, r) if self._kept else stands.has_seen(r.number, self._fence)
        if cut or not self._dispatch.again(t, m, r):
            self._rounds.answered(m.site, t)

    def _held_by(self, stands: Standing) -> int | None:
        """The version that a site holds: by its own word, if it is one of this run's, bit for bit."""
        version = self._ledger.version(stands.base) if stands.base is not None else None
        return version.version if version is not None and version.sha256 == stands.base_sha256 else None

    # -- contributions ---------------------------------------------------------------------------------------

    def _take_all(self, t: float, site: str, blobs: Mapping[str, Blob]) -> None:
        """Take contributions in as they lie in the site's outbox. A damaged one is refused by its name."""
        for name, blob in blobs.items():
            try:
                # A large difference is checked as it is merged: nothing large is read in the loop.
                self._take(t, site, Envelope.within(blob, name, in_memory_up_to=_IN_MEMORY, check=False))
            except DataError as e:
                self._events.event(t, "refused", site=site, reason=str(e))
                cut = cut_of(name)
                if cut and site in self._by_site:
                    self._by_site[site].acks.append(Ack(*cut, False, None, str(e)))

    def _take(self, t: float, site: str, envelope: Envelope) -> None:
        m = self._by_site.get(site)
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
                self._intake.keep_inner(header, envelope.blob("inner"))
            self._take_all(t, site, late)
            return  # nothing was trained: nothing to merge, nothing to refuse
        ack = self._intake.take(t, envelope, site)
        if m and header and mine and (ack is None or ack.accepted) and header.cut not in m.counted:
            self._count(t, m, header)
        if ack is None:
            # Work that an earlier life left behind proves nothing of this one.
            if mine:
                self.proven.add(site)
        elif m:
            m.acks.append(ack)
        self._take_all(t, site, late)

    def _count(self, t: float, m: Member, header: ContributionHeader) -> None:
        """Note what a cut says of its site's pace."""
        m.counted.add(header.cut)
        m.refusals = 0
        m.blocks += sum(c.end - c.start for c in header.consumed)
        since = self._rounds.current.begins_at if self._rounds.current else t
        m.measured_rate = min(header.tokens / max(self._s.tick_s, t - since), _FASTEST * self._s.tokens_per_s[m.site])
        pace = header.metrics.get("tokens_per_s", 0.0)
        if header.tokens and self._levels.learn(m.site, pace, since):
            watts = self._levels.watts(m.site, "training")
            self._events.event(t, "power_level_measured", site=m.site, power_w=watts, tokens_per_s=pace)

    def acknowledge(self, outcome: Committed | None) -> None:
        """Note what became of cuts, for their sites' next orders."""
        for c, why in self._intake.discarded:
            if c.site in self._by_site:
                self._by_site[c.site].acks.append(Ack(c.generation, c.cut, False, None, why))
        self._intake.discarded.clear()
        for c in outcome.contributions if outcome else ():
            if c.site in self._by_site:
                self._by_site[c.site].acks.append(Ack(c.generation, c.cut, True, outcome.version.version if outcome else None))

    # -- leaving ---------------------------------------------------------------------------------------------

    def drain(self, t: float, wall: float, site: str, *, held: bool) -> None:
        """Let a site hand in all that it has; ``held``: an operator wants it off."""
        m = self._by_site.get(site)
        if m is None or m.drained:
            return
        if held and (why := self._out_of_reach(m, wall)):
            m.drained = True
            reason = f"{why}; it is held, and not waited for any more: what it has not handed in stays in its outbox"
            self._events.event(t, "given_up", site=site, reason=reason)
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
                self._dispatch.fetch_rest(t, m, self._rounds.number)
        elif m.fetching_since is not None and not m.uncut and not m.owes_inner:
            m.drained = True  # it has nothing but what it is just being sent
        elif not m.drain_sent:
            m.drain_sent = True
            self._bus.send(site, {"kind": "drain", "generation": m.generation})

    def _out_of_reach(self, m: Member, wall: float) -> str:
        """Why a site cannot be expected to hand in what it has, or an empty string."""
        if m.gone_since is not None and wall - m.gone_since > _SILENT_S:
            return f"its SuperNode has been gone for {wall - m.gone_since:.0f} s"
        if m.unsure and wall - m.unsure_since > _SILENT_S:
            return f"it has not said for {wall - m.unsure_since:.0f} s how things stand"
        return self._reports.silent(m.site, wall, _SILENT_S)
