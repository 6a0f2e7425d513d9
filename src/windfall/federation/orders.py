"""What sites are lent and told: leases for a round, and the order that goes with them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, replace

from windfall import faults
from windfall.errors import DataError
from windfall.federation.checkpoints import Checkpoints
from windfall.federation.inner_mean import averages_inner
from windfall.federation.members import Member, Settings
from windfall.fleet.machine import Site, State
from windfall.store.blobs import Blob
from windfall.store.ledger import Ledger
from windfall.store.records import Lease, StoredInner, Version
from windfall.store.telemetry import Events
from windfall.wire.messages import RoundOrder, Standing, difference_blob, inner_goes_along

#: Of a round: what a cut's way and the merge's way back take, where nothing else is said; and what they take at most.
_TRANSFER, _LATEST = 0.1, 0.5


class Orders:
    """Makes orders from the ledger's state and the run's settings."""

    def __init__(self, ledger: Ledger, checkpoints: Checkpoints, events: Events, settings: Settings, fence: int) -> None:
        self._ledger = ledger
        self._checkpoints = checkpoints
        self._events = events
        self._s = settings
        self._fence = fence
        self.inline_bytes = settings.inline_bytes

    def step_sizes(self, fleet: Collection[str]) -> dict[str, int]:
        """Blocks of an optimizer step at each site of a round."""
        if self._s.batch == "site":
            return dict.fromkeys(fleet, self._s.blocks_per_step)
        return shared(self._s.blocks_per_step, {s: self._s.tokens_per_s[s] for s in fleet}, self._s.blocks_at_once)

    def lend(self, t: float, cut_at: float, members: Mapping[str, Member]) -> dict[str, list[Lease]]:
        """Leases for a round, by site; a site for which nothing is left is not in it."""
        faults.reach("before-lease")
        need: dict[str, int] = {}
        have: dict[str, list[Lease]] = {}
        sizes = self.step_sizes(members)
        for site in sorted(members):
            m = members[site]
            rate = self._s.tokens_per_s[site]
            if m.began_at is None:
                m.began_at = t
            if self._s.round_blocks is not None:
                blocks = self._s.round_blocks
            elif self._s.gated:
                # One step more than is owed, so that a site does not run dry before its cut; it keeps what is left.
                until = cut_at + self.transfer_s(site, cut_at - t)
                owed = math.floor(rate * (until - m.began_at) / self._s.tokens_per_block + 1e-9)
                blocks = owed - m.blocks + sizes[site]
            else:
                # A site faster than its configuration says, or at a higher power before the cut, must not run dry either.
                most = max(rate, m.measured_rate, self._s.full_tokens_per_s.get(site, 0.0))
                blocks = math.ceil(most * (cut_at - t) / self._s.tokens_per_block * self._s.lease_margin * 2)
            mine = [x for x in self._ledger.live_leases(site) if x.generation == m.generation]
            held = sum(b - a for x in mine for a, b in self._ledger.remaining(x.epoch))
            have[site] = mine
            need[site] = max(0, max(sizes[site], blocks) - held)
        free = self._ledger.counts().free
        wanted = sum(need.values())
        result: dict[str, list[Lease]] = {}
        for site in sorted(members):
            # Towards the end leases shrink: what is left is shared in proportion to speed.
            share = need[site] if wanted <= free else math.ceil(free * need[site] / wanted / sizes[site]) * sizes[site]
            expires = cut_at + 2 * max(self._s.round_s, self._s.solo_cut_s)
            for x in have[site]:
                self._ledger.extend(x.epoch, expires)
            leases = list(have[site])
            while share > 0:
                new = self._ledger.lease(site, members[site].generation, share, t, expires)
                if new is None:
                    break
                share -= new.end - new.start
                leases.append(new)
            if any(self._ledger.remaining(x.epoch) for x in leases):
                result[site] = leases
        return result

    def expire(self, t: float, sites: Mapping[str, Site]) -> None:
        """End the leases whose time is over and whose holder is not there."""
        for lease in self._ledger.live_leases():
            holder = sites.get(lease.site)
            if lease.expires > t:
                continue
            if holder and holder.generation == lease.generation and holder.state not in (State.OFF, State.FAILED):
                continue  # its holder is here, or found running and about to say what it has: the round's end decides
            self.end(t, lease)

    def end(self, t: float, lease: Lease) -> list[tuple[int, int]]:
        """End a lease whose holder failed: its blocks are free. What it still held."""
        held = self._ledger.remaining(lease.epoch)
        self._ledger.release(lease.epoch)
        self._events.event(t, "lease_ended", site=lease.site, epoch=lease.epoch, blocks=sum(b - a for a, b in held))
        return held

    def broke(self, t: float, m: Member, stands: Standing, seen: int | None, held: list[tuple[int, int]]) -> bool:
        """Note where a site's last life ended; whether the blocks there are now set aside, as it happened again and again.

        The site's own word counts, written down at every step; which block of a step is to blame nobody can say. Without
        it (its disk is gone) the place of its last heartbeat, ``seen``, must do, which is up to a second old, or the first
        block that it ``held``.
        """
        at, size = stands.broke_at, stands.broke_blocks
        if at is None and held and not stands.remembers:
            size, at = self._s.blocks_per_step, seen if seen is not None and any(a <= seen < b for a, b in held) else held[0][0]
        if at is None:
            return False
        bad = self._ledger.fail(m.site, m.generation, range(at, at + size))
        for block in bad:
            self._events.event(t, "quarantined", site=m.site, block=block, reason="three leases failed at its step")
        return bool(bad)

    def order(
        self, m: Member, number: int, t: float, cut_at: float, leases: list[Lease], *,
        evaluate: bool = False, drain: bool = False, fleet: list[str] | None = None,
    ) -> RoundOrder:  # fmt: skip
        fleet = fleet or [m.site]
        head = self._ledger.head()
        own = self._s.tokens_per_s[m.site]
        solo = len(fleet) == 1
        segments = [{"epoch": x.epoch, "start": a, "end": b} for x in leases for a, b in self._ledger.remaining(x.epoch)]
        return RoundOrder(
            fence=self._fence, round=number, version=m.held or 0, sha256="", model="none", inner="own",
            after="continue" if self.goes_on(solo) and not drain else "wait", apply_at=t + self.transfer_s(m.site, cut_at - t),
            cut_at=cut_at, begins_at=m.began_at if m.began_at is not None else t,
            valid_until=cut_at + 2 * max(self._s.round_s, self._s.solo_cut_s),
            blocks_before=m.blocks + m.uncut, step_blocks=self.step_sizes(fleet)[m.site],
            tokens_per_s=own, gated=self._s.gated, leases=segments,
            progress_start=float(head.tokens_total),
            progress_rate=sum(self._s.tokens_per_s[s] for s in fleet) / own,
            acks=[asdict(a) for a in m.acks], evaluate=evaluate, drain=drain,
            codec="fp32" if solo else self._s.codec,
            average=not solo and not drain and averages_inner(head.version + 1, self._s.average_inner_every),
        )  # fmt: skip

    def goes_on(self, solo: bool) -> bool:
        """Whether sites of a round train on past their cut."""
        return self._s.round_blocks is None and (self._s.overlap or (solo and not self._s.gated))

    def transfer_s(self, site: str, length_s: float) -> float:
        """After how much of a round of ``length_s`` a site takes its beginning's version in, on a gated clock (run time)."""
        if not self._s.overlap or not self._s.gated:
            return 0.0
        return min(self._s.transfer_s.get(site, _TRANSFER * length_s), _LATEST * length_s)

    def with_model(self, m: Member, order: RoundOrder) -> tuple[RoundOrder, dict[str, Blob]]:
        """An order with the newest version, and what the site needs to come by it."""
        head = self._ledger.head()
        if m.held == head.version:
            return replace(order, version=head.version, sha256=head.sha256), {}
        whole = self._checkpoints.whole(head)
        chain, blobs = self._chain(m, head)
        if chain and sum(b.size for b in blobs.values()) < whole.size:
            return replace(order, version=head.version, sha256=head.sha256, model="chain", chain=chain), blobs
        return replace(order, version=head.version, sha256=head.sha256, model="full"), {"weights": whole}

    def _chain(self, m: Member, head: Version) -> tuple[list[dict[str, int]], dict[str, Blob]]:
        """What made each version since the one that a site holds; empty if that is not known, or not there any more."""
        chain: list[dict[str, int]] = []
        blobs: dict[str, Blob] = {}
        for version in self._ledger.last_versions(head.version - m.held) if m.held is not None and m.held < head.version else []:
            own = version.alone is not None and version.alone[:2] == (m.site, m.generation)
            difference = None if own else self._checkpoints.difference(version)
            if difference is None and not own:
                return [], {}
            chain.append({"version": version.version, "cut": version.alone[2] if own and version.alone else 0})
            if difference is not None:
                blobs[difference_blob(version.version)] = difference
        return chain, blobs

    def with_inner(self, t: float, m: Member, order: RoundOrder, blobs: dict[str, Blob]) -> tuple[RoundOrder, dict[str, Blob]]:
        """Decide on a returning site's inner state: its own, unless a stored one is clearly fresher; none if both are old."""
        if not m.first_order or order.drain:
            return order, blobs
        head = self._ledger.head()
        oldest = head.tokens_total - self._s.inner_max_age * self._s.budget_tokens
        stored = self._stored_inner()
        inner, source = "reset", list[str | int]()
        detail: dict[str, str] = {}
        if m.inner_tokens >= max(0.0, oldest) and (stored is None or m.inner_tokens >= stored.tokens_total - self._clearly):
            inner = "own"
        elif stored and stored.tokens_total >= oldest:
            blob = self._checkpoints.inner(stored.file, stored.sha256)
            if blob is not None:
                inner, blobs, source = "sent", {**blobs, "inner": blob}, [stored.site, stored.version]
                detail = {"giver": stored.site}
                if stored.generation is not None and stored.cut is not None:
                    source += [stored.generation, stored.cut]
        self._events.event(t, "inner_state", site=m.site, choice=inner, version=head.version, **detail)
        return replace(order, inner=inner, inner_from=source), blobs

    def with_mean(self, m: Member, order: RoundOrder, blobs: dict[str, Blob]) -> tuple[RoundOrder, dict[str, Blob]]:
        """An order with the mean of inner states that goes with the newest version, if the site's own is in it."""
        head = self._ledger.head()
        own = [cut for cut in head.inner_mean.cuts if cut[0] == m.site] if head.inner_mean else []
        mean = self._checkpoints.inner(head.inner_mean.file, head.inner_mean.sha256) if own and head.inner_mean else None
        if mean is None:
            return order, blobs
        return replace(order, mean_of=[head.version, *own[0][1:3]]), {**blobs, "mean": mean}

    @property
    def _clearly(self) -> float:
        """By how many tokens one inner state must be newer than another to be the better one: half of what counts as fresh."""
        return self._s.inner_max_age * self._s.budget_tokens / 2

    def _stored_inner(self) -> StoredInner | None:
        """The freshest inner state that is kept."""
        kept = self._ledger.inner_states().values()
        return max(kept, key=lambda state: (state.tokens_total, state.version, state.site), default=None)

    def giver(self, under_way: float, joiners: Iterable[Member], peers: Iterable[Member]) -> str:
        """Which of ``peers``, whose cut is brought forward for ``joiners``, is to hand in its inner state with it; empty: none.

        Where a site that joins would have to begin with none, or with one that is clearly older, the fastest peer gives its own.
        ``under_way``: tokens that have been trained since the newest version, about. A large one is never asked for: the merge
        would have to wait for gigabytes, and no gain in loss was measured at rounds of a few steps.
        """
        head = self._ledger.head()
        stored = self._stored_inner()
        newest = stored.tokens_total if stored else -math.inf
        old = head.tokens_total + under_way - self._clearly
        stale = any(m.first_order and max(newest, m.inner_tokens if m.inner_tokens >= 0 else -math.inf) < old for m in joiners)
        able = [m.site for m in peers if not m.drain_sent]
        if not stale or not able:
            return ""
        try:
            parameters = sum(math.prod(shape) for shape in self._checkpoints.shapes().values())
        except DataError:
            return ""  # the merge will have more to say of it
        return min(able, key=lambda site: (-self._s.tokens_per_s[site], site)) if inner_goes_along(parameters) else ""


def shared(blocks: int, speeds: Mapping[str, float], at_once: Mapping[str, int]) -> dict[str, int]:
    """A step's ``blocks`` over sites, in proportion to their speeds: whole multiples of what each computes at once where
    that can be, at least one block each, ``blocks`` in all (more where there are more sites than blocks)."""
    total = sum(speeds.values())
    exact = {s: blocks * speeds[s] / total for s in speeds}
    units = {s: min(max(1, at_once.get(s, 1)), blocks) for s in speeds}
    sizes = {s: max(1, int(exact[s] / units[s] + 1e-9) * units[s]) for s in speeds}
    while (left := blocks - sum(sizes.values())) > 0:
        # The site that is furthest behind its share is given more, by as much as it computes at once if so much is left.
        site = max(sorted(speeds), key=lambda s: (units[s] <= left, exact[s] - sizes[s]))
        sizes[site] += min(units[site], left)
    while sum(sizes.values()) > blocks and (large := [s for s in sorted(speeds) if sizes[s] > 1]):
        sizes[max(large, key=lambda s: sizes[s] - exact[s])] -= 1
    return sizes
