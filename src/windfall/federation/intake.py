"""Taking contributions in and making versions of them: everything between a reply and a commit.

The merging itself is work for a thread beside the loop (``begin``); the loop only commits what has been merged.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from windfall import clock, faults
from windfall.errors import DataError, Refused
from windfall.federation.checkpoints import Checkpoints
from windfall.federation.clipping import RECENT, Clip
from windfall.federation.inner_mean import StatePart, averages_inner, mean_name, write_mean
from windfall.federation.merge import Outer
from windfall.federation.merger import Damaged, Merged, MergeJob, Part, Stored, merge, movements
from windfall.store.background import Background
from windfall.store.blobs import Blob, FileBlob
from windfall.store.files import Envelope
from windfall.store.ledger import Ledger, TooLate
from windfall.store.records import Received, StoredInner, Version
from windfall.store.streams import Made
from windfall.store.telemetry import Events
from windfall.wire.codec import DifferenceReader
from windfall.wire.fields import is_count
from windfall.wire.messages import METRICS, Ack, ContributionHeader

#: Differences up to this size are looked through when they arrive, so that their site hears at once what is wrong with them.
_LOOKED_THROUGH = 64 * 2**20
#: Late work may always be based on a version that is so many behind.
_VERSIONS_ALLOWED = 2

#: kWh of a site's work: by its name, tokens, and the wall seconds that it says it has trained.
WorkKwh = Callable[[str, int, float], float]


@dataclass(frozen=True)
class Committed:
    """What a commit made."""

    version: Version
    contributions: list[Received]


@dataclass
class _Merge:
    """A merge that has been begun."""

    head: Version
    contributions: list[Received]
    merged: Merged | None = None
    damaged: Damaged | None = None
    #: The mean of these inner states, if some were to be averaged; or why they were not.
    averaged: list[StatePart] = field(default_factory=list)
    mean: Made | None = None
    not_averaged: str = ""

    def how_averaged(self) -> dict[str, Any]:
        """What the version's row keeps of it."""
        if self.mean is None:
            return {}
        cuts = [[s.site, s.generation, s.cut, s.tokens] for s in self.averaged]
        return {"inner_mean": {"file": self.mean.name, "sha256": self.mean.sha256, "cuts": cuts}}


class Intake:
    """Receives into the ledger, and commits what it has received."""

    def __init__(
        self, ledger: Ledger, checkpoints: Checkpoints, outer: Outer, events: Events, *, sites: set[str],
        base_max_age_tokens: float = 0.0, work_kwh: WorkKwh | None = None, codec: str = "fp32", average_inner_every: int = 0,
        clip_delta_norm: float | None = None, executor: Executor | None = None,
    ) -> None:  # fmt: skip
        """``base_max_age_tokens``: how much of the run's progress may have been made since the version that late work is based on
        (two versions are always allowed). ``work_kwh``: what a site is estimated to have used for its work. ``codec``: how
        differences between versions are written. ``average_inner_every``: inner states that come with the work of which such a
        version is made (``averages_inner``) are averaged. ``clip_delta_norm``: as ``clipping.Clip.ratio``
        (None: nothing is clipped). ``executor`` merges; without one it is done in ``begin``."""
        self._ledger = ledger
        self._checkpoints = checkpoints
        self._outer = outer
        self._events = events
        self._sites = sites
        self._base_max_age_tokens = base_max_age_tokens
        self._work_kwh = work_kwh
        self._codec = codec
        self._average_inner_every = average_inner_every
        self._clip_delta_norm = clip_delta_norm
        self._background = Background(executor)
        self._merge: _Merge | None = None
        #: Contributions given up since the last look, whose sites have to be told, with the reason.
        self.discarded: list[tuple[Received, str]] = []

    # -- receiving -------------------------------------------------------------------------------------------

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
            self._look_at(envelope, header)
            name = self._checkpoints.spool(envelope, header.site, header.generation, header.cut)
            self._ledger.receive(
                header.site, header.generation, header.cut, header.base_version, header.tokens,
                header.consumed, header.header(), name, t, self._oldest_base(header.base_version),
            )  # fmt: skip
        except (Refused, DataError) as e:
            if isinstance(e, TooLate):
                self._lost(t, header, str(e))
            return self._refuse(t, header, sender, name, str(e))
        faults.reach("received")
        metrics = {k: round(header.metrics[k], 6) for k in METRICS if k in header.metrics}
        self._events.event(
            t, "contribution", site=header.site, version=header.base_version,
            generation=header.generation, cut=header.cut, tokens=header.tokens, drained=header.drained, **metrics,
        )  # fmt: skip
        return None

    def _look_at(self, envelope: Envelope, header: ContributionHeader) -> None:
        """Raise Refused or DataError for a difference that is none of this model's. Of a large one the values are read later."""
        delta = envelope.blob("delta")
        where = {"offset": delta.offset, "size": delta.size} if isinstance(delta, FileBlob) else {}
        source = delta.path if isinstance(delta, FileBlob) else delta.read()
        with DifferenceReader(source, self._checkpoints.shapes(), "its delta", **where) as reader:
            if reader.codec != header.codec:
                raise Refused(f"its delta is {reader.codec}, and it says {header.codec}")
            if delta.size <= _LOOKED_THROUGH:
                reader.verify()

    def _oldest_base(self, base_version: int) -> int:
        """The oldest version that work may be based on, or ``base_version`` if that is younger than it must be."""
        head = self._ledger.head()
        oldest = max(0, head.version - _VERSIONS_ALLOWED)
        base = self._ledger.version(base_version) if base_version < oldest else None
        young = base is not None and base.tokens_total >= head.tokens_total - self._base_max_age_tokens
        return base_version if young else oldest

    def _lost(self, t: float, header: ContributionHeader, reason: str) -> None:
        """Book work that comes too late: what was trained, and what it took."""
        detail: dict[str, Any] = {}
        if self._work_kwh is not None:
            detail["kwh"] = self._work_kwh(header.site, header.tokens, header.metrics.get("train_seconds", 0.0))
        self._events.event(
            t, "work_lost", site=header.site, generation=header.generation, cut=header.cut, tokens=header.tokens, reason=reason,
            **detail,
        )  # fmt: skip

    def _refuse(self, t: float, header: ContributionHeader, sender: str, name: str, reason: str) -> Ack:
        known = [c for c in self._ledger.pending() if (c.site, c.generation, c.cut) == (header.site, header.generation, header.cut)]
        if name and not known:
            self._checkpoints.unspool([name])
        self._events.event(
            t, "refused", site=sender, generation=header.generation, cut=header.cut, tokens=header.tokens, reason=reason
        )
        return Ack(header.generation, header.cut, False, None, reason)

    def keep_inner(self, header: ContributionHeader, blob: Blob) -> None:
        """Keep the inner state of a site that leaves right after its cut."""
        head = self._ledger.head()
        kept = self._checkpoints.write_inner(header.site, head.version, blob)
        self._ledger.keep_inner(
            StoredInner(header.site, head.version, head.tokens_total, *kept, generation=header.generation, cut=header.cut)
        )
        self._checkpoints.sweep_inner()

    # -- merging ---------------------------------------------------------------------------------------------

    def begin(self, t: float) -> bool:
        """Begin to merge everything received; False, and no merge, if there is nothing (invariant 3)."""
        pending = self._there(t, self._ledger.pending())
        if not pending:
            return False
        merge_ = self._merge = _Merge(self._ledger.head(), pending)
        job = self.job(merge_.head, pending)
        states = self._states(job.number, pending)

        def work() -> None:
            try:
                merge_.merged = merge(job)
            except Damaged as e:
                merge_.damaged = e
                return
            if states:
                try:
                    merge_.mean = write_mean(states, job.folder / mean_name(job.number))
                    merge_.averaged = states
                except Refused as e:
                    merge_.not_averaged = str(e)

        self._background.begin(work)
        return True

    @property
    def begun(self) -> bool:
        """Whether a merge has been begun that is not committed."""
        return self._merge is not None

    @property
    def merging(self) -> bool:
        """Whether a merge has been begun that is not done."""
        return self._merge is not None and not self._background.idle

    def commit(self, t: float, mode: str) -> Committed | None:
        """Make a version of everything received, of what has been merged if a merge was begun; waits until it is done.

        None, and no version, if there is nothing (invariant 3).

        Raises:
            DataError: the newest version's weights are damaged.
            StoreError: something cannot be written.
        """
        while self._merge is not None or self.begin(t):
            merge_, self._merge = self._merge, None
            assert merge_ is not None
            self._background.wait()
            if merge_.damaged is not None:
                self._do_without(t, merge_)
                continue
            assert merge_.merged is not None
            if not merge_.merged.finite:
                for c in merge_.contributions:  # each was finite by itself; which of them is to blame nobody can say
                    self._give_up(t, c, "merged, the parameters are not finite any more")
                return None
            return self._commit(t, mode, merge_, merge_.merged)
        return None

    def _commit(self, t: float, mode: str, merge_: _Merge, merged: Merged) -> Committed:
        assert merged.weights is not None
        contributions, head = merge_.contributions, merge_.head
        number = head.version + 1
        inner = []
        for c in contributions:
            envelope = self._checkpoints.spooled(c)
            if "inner" in envelope.blobs:
                inner.append((c, *self._checkpoints.write_inner(c.site, number, envelope.blob("inner"))))
        version = self._ledger.commit(
            t_run=t, t_wall=clock.wall(), file=merged.weights.name, sha256=merged.weights.sha256, mode=mode,
            contributions=contributions, outer_file=merged.momentum.name if merged.momentum else None, inner=inner,
            detail={**self._how(head, contributions, merged), **merge_.how_averaged()},
        )  # fmt: skip
        if merged.difference is not None:
            self._checkpoints.made_difference(merged.difference)
        faults.reach("after-commit", self._checkpoints.path(version))
        self._make_sure(t, version, merged.weights.size)
        self._checkpoints.committed(version)
        # The newest version's contributions stay: it can be made again from them, should its file be damaged.
        self._checkpoints.unspool([c.file for c in self._ledger.contributions(head.version)])
        self._checkpoints.sweep_inner()
        self._events.event(
            t, "commit", version=version.version, mode=mode, tokens=version.tokens, tokens_total=version.tokens_total,
            sites=version.sites,
        )  # fmt: skip
        if version.inner_mean is not None:
            self._events.event(t, "inner_averaged", version=version.version, sites=sorted({c[0] for c in version.inner_mean.cuts}))
        elif merge_.not_averaged:
            self._events.event(t, "inner_not_averaged", version=version.version, reason=merge_.not_averaged)
        for site, generation, cut, norm, scale in version.norms:
            if scale != 1.0:
                self._events.event(
                    t, "clipped", site=site, version=version.version, generation=generation, cut=cut, norm=norm, scale=scale,
                    reason=f"its movement for each step is {norm:.3g}, far more than is usual, and counts {100 * scale:.2g} %",
                )  # fmt: skip
        return Committed(version, contributions)

    def _states(self, number: int, contributions: list[Received]) -> list[StatePart]:
        """The inner states to be averaged for version ``number``, one a site; none where fewer than two came."""
        if not averages_inner(number, self._average_inner_every):
            return []
        tokens: dict[str, int] = {}
        newest: dict[str, tuple[Received, Blob]] = {}
        for c in sorted(contributions, key=lambda c: (c.site, c.generation, c.cut)):
            tokens[c.site] = tokens.get(c.site, 0) + c.tokens
            envelope = self._checkpoints.spooled(c)
            if "inner" in envelope.blobs:
                newest[c.site] = c, envelope.blob("inner")
        if len(newest) < 2:
            return []
        return [StatePart(c.site, c.generation, c.cut, tokens[c.site], blob) for c, blob in newest.values()]

    def _how(self, head: Version, contributions: list[Received], merged: Merged) -> dict[str, Any]:
        """What a version's row keeps of how it was made."""
        if merged.alone:
            c = contributions[0]
            kept = {"alone": [c.site, c.generation, c.cut], **_norms(contributions, merged)}
            return {**kept, "residual": list(head.residual)} if head.residual else kept
        found: dict[str, Any] = {"codec": self._codec, **_norms(contributions, merged)}
        if merged.residual is not None:
            found["residual"] = [merged.residual.name, merged.residual.sha256]
        if merged.momentum is not None:
            found["outer_sha256"] = merged.momentum.sha256
        return found

    def job(self, head: Version, contributions: list[Received], made: Version | None = None) -> MergeJob:
        """What has to be merged to make these contributions a version after ``head``. ``made``: that version, if it has been."""
        # Outer momentum is of no use once the membership has changed.
        same = set(head.sites) == {c.site for c in contributions}
        return MergeJob(
            head.version + 1, Stored(self._checkpoints.path(head), head.sha256), self._checkpoints.residual(head),
            self._checkpoints.momentum(head) if same else None, movements(contributions, self._part), self._codec, self._outer,
            self._checkpoints.folder,
            clip=self._clip(head) if made is None else None,
            scales={c.id: made.scale(c.site, c.generation, c.cut) for c in contributions} if made is not None else None,
        )  # fmt: skip

    def _clip(self, head: Version) -> Clip | None:
        """What is done about movements that are too large for the version after ``head``."""
        if self._clip_delta_norm is None:
            return None
        last = [n * scale for v in self._ledger.last_versions(RECENT, head.version)[::-1] for *_, n, scale in v.norms[::-1]]
        return Clip(self._clip_delta_norm, last[:RECENT])

    def _part(self, c: Received) -> Part:
        delta = self._checkpoints.spooled(c).blob("delta")
        assert isinstance(delta, FileBlob)
        steps = int(c.header["last_step"]) - int(c.header["first_step"])
        return Part(c.id, c.site, c.tokens, delta.path, delta.offset, delta.size, steps)

    def _do_without(self, t: float, merge_: _Merge) -> None:
        """Something of a merge was damaged: give up what cannot be merged."""
        damaged = merge_.damaged
        assert damaged is not None
        if isinstance(damaged.what, Part):
            number = damaged.what.id
            self._give_up(t, next(c for c in merge_.contributions if c.id == number), str(damaged))
        elif damaged.what.path == self._checkpoints.path(merge_.head):
            if not self.make_again(merge_.head):
                raise DataError(str(damaged))
            reason = f"{damaged}; made again from its contributions"
            self._events.event(t, "checkpoint_repaired", version=merge_.head.version, reason=reason)
        else:
            # What rounding left, or momentum: training goes on without it.
            damaged.what.path.unlink(missing_ok=True)
            self._events.event(t, "outer_state_lost", version=merge_.head.version, reason=str(damaged))

    def _make_sure(self, t: float, version: Version, size: int) -> None:
        """Make a version's file again if it is not whole. A large one is read by the next merge, which does the same then.

        Raises:
            DataError: it is damaged, and cannot be made again.
        """
        if size > _LOOKED_THROUGH:
            return
        try:
            self._checkpoints.verify(version)
        except DataError as e:
            if not self.make_again(version):
                raise
            self._events.event(t, "checkpoint_repaired", version=version.version, reason=f"{e}; made again from its contributions")

    def make_again(self, version: Version) -> bool:
        """Make a version's damaged file again from its contributions; whether that was possible, bit for bit."""
        contributions = self._ledger.contributions(version.version)
        before = [v for v in self._ledger.retained() if v.version == version.version - 1]
        if not contributions or not before:
            return False
        try:
            made = merge(self.job(before[0], contributions, version))
        except (DataError, Damaged):
            return False
        return made is not None and made.weights is not None and made.weights.sha256 == version.sha256

    def _there(self, t: float, pending: list[Received]) -> list[Received]:
        """Those whose file is there and is one; the others' blocks are freed."""
        found = []
        for c in pending:
            try:
                if "delta" not in self._checkpoints.spooled(c).blobs:
                    raise DataError(f"{c.file}: has no delta any more")
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


def _norms(contributions: list[Received], merged: Merged) -> dict[str, Any]:
    """What a version's row keeps of how much each contribution counts."""
    norms = [[c.site, c.generation, c.cut, w.norm, w.scale] for c in contributions if (w := merged.weighed.get(c.id)) is not None]
    return {"norms": norms} if norms else {}


def _named(raw: dict[str, Any]) -> tuple[int, int]:
    """Generation and cut of a header that is malformed otherwise; zeros if it does not say."""
    generation, cut = raw.get("generation"), raw.get("cut")
    return (generation, cut) if is_count(generation) and is_count(cut) and cut else (0, 0)
