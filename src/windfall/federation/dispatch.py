"""Sending orders: who is told what, in which round, with which blobs."""

from __future__ import annotations

import math
from collections.abc import Mapping

from windfall.federation.beside import Beside
from windfall.federation.evaluations import Evaluations
from windfall.federation.members import Member
from windfall.federation.nodes import Nodes
from windfall.federation.orders import Orders
from windfall.federation.rounds import Round
from windfall.store.blobs import Blob
from windfall.store.ledger import Ledger
from windfall.store.records import Lease
from windfall.wire.messages import RoundOrder


class Dispatch:
    """Makes orders and sends them. A member has one message at a time."""

    def __init__(self, ledger: Ledger, orders: Orders, nodes: Nodes, evaluations: Evaluations, beside: Beside) -> None:
        self._ledger = ledger
        self._orders = orders
        self._nodes = nodes
        self._evaluations = evaluations
        self._beside = beside

    def begin(self, t: float, r: Round, members: Mapping[str, Member], lent: Mapping[str, list[Lease]]) -> None:
        """Send everybody what has been lent for a round that begins. One of them evaluates its version, if that is due."""
        head = self._ledger.head()
        evaluator = self._evaluations.whose_turn(lent) if self._evaluations.due(head) else None
        for site in sorted(lent):
            self._order(t, members[site], r, lent[site], evaluate=site == evaluator)

    def again(self, t: float, m: Member, r: Round) -> bool:
        """The order of a round anew, to a site that never read it; False if nothing is left for it.

        A round of fixed tokens is also done again by a site that was killed in it, or gone on with under a new coordinator.
        """
        lent = self._orders.lend(t, r.cut_at, {m.site: m})
        if m.site in lent:
            evaluate = m.site == min(r.participants) and not self._evaluations.has(r.base)
            self._order(t, m, r, lent[m.site], evaluate=evaluate)
        return m.site in lent

    def resume(self, m: Member, r: Round) -> None:
        """The same order once more: its SuperNode was restarted, the trainer has gone on under it."""
        leases = [x for x in self._ledger.live_leases(m.site) if x.generation == m.generation]
        order = self._orders.order(m, r.number, r.begins_at, r.cut_at, leases, fleet=sorted(r.participants | r.beside))
        self._send(m, *self._orders.with_model(m, order))

    def wants_version(self, m: Member) -> bool:
        """Whether a site that joins has to be sent the newest version, or most of it, before it is to train on it.

        What is small comes with its first order. Once it has been sent a version it lags behind by what others have made
        meanwhile, and that does come with the order: asked again it might never catch up.
        """
        if not m.first_order or m.fetched:
            return False
        _, blobs = self._orders.with_model(m, self._orders.order(m, 0, 0.0, 0.0, []))
        return sum(b.size for b in blobs.values()) > self._orders.inline_bytes

    def bring_version(self, t: float, m: Member, number: int) -> None:
        """Send a site the newest version and nothing to train on: it answers as soon as it holds it."""
        self._send(m, *self._orders.with_model(m, self._orders.order(m, number, t, t, [])), first=m.first_order)
        m.fetched, m.fetching_since = True, t

    def fetch_rest(self, t: float, m: Member, number: int) -> None:
        """Ask a site that leaves for what it has trained since its last cut."""
        self._send(m, self._orders.order(m, number, t, t, [], drain=True), {})

    def evaluate(self, t: float, m: Member, r: Round) -> None:
        """Let a site evaluate the newest version: an order without leases."""
        self._send(m, *self._orders.with_model(m, self._orders.order(m, r.number, t, t, [], evaluate=True)))

    def _order(self, t: float, m: Member, r: Round, leases: list[Lease], *, evaluate: bool) -> None:
        order = self._orders.order(m, r.number, t, r.cut_at, leases, evaluate=evaluate, fleet=sorted(r.participants | r.beside))
        order, blobs = self._orders.with_model(m, order)
        self._send(m, *self._orders.with_mean(m, *self._orders.with_inner(t, m, order, blobs)))

    def _send(self, m: Member, order: RoundOrder, blobs: dict[str, Blob], *, first: bool = False) -> None:
        """``first``: the next one still counts as the first that the site is given."""
        m.acks = []
        m.takes_in_at = -math.inf if m.first_order else order.apply_at
        m.first_order = m.first_order and (first or order.drain)
        m.fetching_since = None
        self._beside.sent(m.site, blobs)
        if order.evaluate:
            self._beside.evaluates(m.site)
        m.round = order.round
        if order.model != "none":
            m.held = order.version
        m.message = self._nodes.send(m.node, order, blobs)
