"""Taking contributions in and making versions of them: everything between a reply and a commit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from windfall import clock, faults
from windfall.errors import DataError, Refused
from windfall.federation.checkpoints import Checkpoints
from windfall.federation.merge import Outer, combine
from windfall.store.files import Envelope
from windfall.store.ledger import Ledger
from windfall.store.records import Received, Version
from windfall.store.telemetry import Events
from windfall.store.tensors import Tensors
from windfall.wire import codec
from windfall.wire.fields import is_count
from windfall.wire.messages import METRICS, Ack, ContributionHeader


@dataclass(frozen=True)
class Committed:
    """What a commit made."""

    version: Version
    contributions: list[Received]
    #: The version is its only contributor's own parameters at its cut, bit for bit.
    exact_for: str | None


class Intake:
    """Receives into the ledger, and commits what it has received."""

    def __init__(
        self, ledger: Ledger, checkpoints: Checkpoints, outer: Outer, events: Events, *, sites: set[str], max_base_age: int
    ) -> None:
        self._ledger = ledger
        self._checkpoints = checkpoints
        self._outer = outer
        self._events = events
        self._sites = sites
        self._max_base_age = max_base_age
        #: Contributions given up since the last look, whose sites have to be told, with the reason.
        self.discarded: list[tuple[Received, str]] = []

    def take(self, t: float, envelope: Envelope, sender: str) -> Ack | None:
        """Receive one contribution from ``sender``: None if it waits for its commit, else what became of it."""
        try:
            header = ContributionHeader.parse(envelope.header)
        except Refused as e:
            self._events.event(t, "refused", site=sender, reason=str(e))
            return Ack(*_named(envelope.header), False, None, str(e))
        fate = self._ledger.fate(header.site, header.generation, header.cut)
        if fate and header.site == sender and fate[0] in ("received", "committed"):
            # Sent twice (a site keeps its work until it is told): once is enough, and it may let go of it.
            return Ack(header.generation, header.cut, True, fate[1])
        name = ""
        try:
            if header.site not in self._sites or header.site != sender:
                raise Refused(f"comes from {sender} and says that it is from {header.site}")
            if not header.consumed:
                raise Refused("names no blocks for its work")
            if "delta" not in envelope.blobs:
                raise Refused("has no delta")
            like = self._checkpoints.weights(self._ledger.head())
            codec.decode(envelope.blobs["delta"], header.codec, like)
            name = self._checkpoints.spool(envelope, header.site, header.generation, header.cut)
            self._ledger.receive(
                header.site, header.generation, header.cut, header.base_version, header.tokens,
                header.consumed, header.header(), name, t, self._max_base_age,
            )  # fmt: skip
        except (Refused, DataError) as e:
            return self._refuse(t, header, sender, name, str(e))
        faults.reach("received")
        metrics = {k: round(header.metrics[k], 6) for k in METRICS if k in header.metrics}
        self._events.event(
            t, "contribution", site=header.site, version=header.base_version,
            generation=header.generation, cut=header.cut, tokens=header.tokens, drained=header.drained, **metrics,
        )  # fmt: skip
        return None

    def _refuse(self, t: float, header: ContributionHeader, sender: str, name: str, reason: str) -> Ack:
        known = [c for c in self._ledger.pending() if (c.site, c.generation, c.cut) == (header.site, header.generation, header.cut)]
        if name and not known:
            self._checkpoints.unspool([name])
        self._events.event(
            t, "refused", site=sender, generation=header.generation, cut=header.cut, tokens=header.tokens, reason=reason
        )
        return Ack(header.generation, header.cut, False, None, reason)

    def keep_inner(self, site: str, blob: bytes) -> None:
        """Keep the inner state of a site that leaves right after its cut."""
        head = self._ledger.head()
        self._ledger.keep_inner(site, head, *self._checkpoints.write_inner(site, head.version, blob))
        self._checkpoints.sweep_inner({file for _, file, _ in self._ledger.inner_states().values()})

    def commit(self, t: float, mode: str) -> Committed | None:
        """Make a version of everything received; None, and no version, if there is nothing (invariant 3)."""
        pending = self._sound(t, self._ledger.pending())
        if not pending:
            return None
        head = self._ledger.head()
        new, momentum = self.merged(head, pending)
        if not all(np.isfinite(w).all() for w in new.values()):
            for c in pending:  # each was finite by itself; which of them is to blame nobody can say
                self._give_up(t, c, "merged, the parameters are not finite any more")
            return None
        number = head.version + 1
        file, digest = self._checkpoints.write(number, new)
        outer_file = self._checkpoints.write_outer(number, momentum)
        codecs = {c.header["codec"] for c in pending}
        exact = len(pending) == 1 and pending[0].base_version == head.version and codecs == {"fp32"}
        exact_for = pending[0].site if exact else None
        inner = []
        for c in pending:
            blob = self._checkpoints.spooled(c).blobs.get("inner")
            if blob:
                inner.append((c.site, *self._checkpoints.write_inner(c.site, number, blob)))
        version = self._ledger.commit(
            t_run=t, t_wall=clock.wall(), file=file, sha256=digest, mode=mode, contributions=pending,
            outer_file=outer_file, inner=inner, detail={"exact_for": exact_for},
        )  # fmt: skip
        faults.reach("after-commit", self._checkpoints.path(version))
        self._checkpoints.committed(version, new)
        # The newest version's contributions stay: it can be made again from them, should its file be damaged.
        self._checkpoints.unspool([c.file for c in self._ledger.contributions(head.version)])
        self._checkpoints.sweep_inner({file for _, file, _ in self._ledger.inner_states().values()})
        self._events.event(
            t, "commit", version=version.version, mode=mode, tokens=version.tokens, tokens_total=version.tokens_total,
            sites=version.sites,
        )  # fmt: skip
        return Committed(version, pending, exact_for)

    def merged(self, head: Version, contributions: list[Received]) -> tuple[Tensors, Tensors | None]:
        """What these contributions make of ``head``: weights and outer momentum. Raises DataError if a file is damaged."""
        faults.reach("during-merge")
        weights = self._checkpoints.weights(head)
        # Outer momentum is of no use once the membership has changed.
        old = self._checkpoints.outer(head) if set(head.sites) == {c.site for c in contributions} else None
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is given up by `commit`
            return combine(weights, contributions, lambda c: self._delta(c, weights), self._outer, old)

    def _sound(self, t: float, pending: list[Received]) -> list[Received]:
        """Those whose file is still there and whole; the others' blocks are freed."""
        found = []
        for c in pending:
            try:
                self._checkpoints.spooled(c)
            except DataError as e:
                self._give_up(t, c, str(e))
                continue
            found.append(c)
        return found

    def _give_up(self, t: float, c: Received, why: str) -> None:
        """Discard a received contribution: its blocks are free again, and its site is told."""
        self._ledger.discard(c.id, why)
        self.discarded.append((c, why))
        self._events.event(t, "discarded", site=c.site, generation=c.generation, cut=c.cut, reason=why)

    def _delta(self, c: Received, like: Tensors) -> Tensors:
        return codec.decode(self._checkpoints.spooled(c).blobs["delta"], c.header["codec"], like)


def _named(raw: dict[str, Any]) -> tuple[int, int]:
    """Generation and cut of a header that is malformed otherwise; zeros if it does not say."""
    generation, cut = raw.get("generation"), raw.get("cut")
    return (generation, cut) if is_count(generation) and is_count(cut) and cut else (0, 0)
