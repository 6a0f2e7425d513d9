"""How long rounds are.

On a gated clock the configuration says it. On one that does not wait, joint rounds are measured: a merge that is a tenth of a
round late costs nothing that can be seen, so a round takes at least ten times what its transfer and merge take. It is short
early in a run, when the model changes fast, and longer late.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from windfall.federation.members import Settings

#: The last round of a run takes in what would be less than this share of another one.
_WORTH_A_ROUND = 0.25
#: A round is at least so many times its transfer and merge.
_TRANSFERS = 10.0
#: The longest of so many measurements counts.
_REMEMBERED = 3


class Transfers:
    """Measures how long it takes from a cut until every site has taken in the version that it became part of (run time)."""

    def __init__(self) -> None:
        self._took: deque[float] = deque(maxlen=_REMEMBERED)
        self._since: float | None = None
        self._version: int | None = None
        self._waiting: set[str] = set()

    @property
    def longest(self) -> float | None:
        """The longest of the last measurements, in seconds; None before the first."""
        return max(self._took, default=None)

    def cut(self, since: float, now: float, sites: Iterable[str]) -> None:
        """What these sites have handed in at a cut that was due at ``since`` is being merged."""
        if self._since is not None and self._waiting:
            self._took.append(now - self._since)  # the one before has taken so long at least
        self._since, self._version, self._waiting = since, None, set(sites)

    def committed(self, version: int) -> None:
        """The merge has become this version."""
        self._version = version if self._since is not None and self._version is None else self._version

    def taken_in(self, site: str, version: int, now: float) -> None:
        """A site has taken a version in."""
        if self._version is not None and version >= self._version:
            self._done(site, now)

    def gone(self, site: str) -> None:
        """A site will not say it any more, and nothing is measured without the others."""
        self._waiting.discard(site)
        if not self._waiting:
            self._since = None

    def fetched(self, took_s: float) -> None:
        """A site that joins was sent the model in this time: the first measurement, until there is one of a round."""
        if not self._took:
            self._took.append(took_s)

    def _done(self, site: str, now: float) -> None:
        if site in self._waiting:
            self._waiting.discard(site)
            if not self._waiting and self._since is not None:
                self._took.append(max(0.0, now - self._since))
                self._since = None


@dataclass(frozen=True)
class CutTime:
    """When a round is cut (run time), and how its length came about, where it was chosen."""

    at: float
    length_s: float
    reason: str = ""


class RoundLengths:
    """Chooses them."""

    def __init__(self, settings: Settings, transfers: Transfers) -> None:
        self._s = settings
        self._transfers = transfers

    def cut(
        self, t: float, participants: Collection[str], *, company: Collection[str], free_blocks: int, progress: float
    ) -> CutTime:
        """When a round that begins at ``t`` is cut, at the latest, with so many blocks left to lend.

        ``company``: its participants and those who train beside it. ``progress``: of the budget, 0 to 1.
        """
        if self._s.round_blocks is not None:
            length, reason = self.longest(participants), ""
            return CutTime(t + length, length)
        if len(company) == 1:
            length, reason = self._s.solo_cut_s, ""
        elif self._s.gated:
            length, reason = self._s.round_s, ""
        else:
            length, reason = self._measured(progress)
        whole = length if reason else math.ceil(length / self._s.tick_s) * self._s.tick_s
        whole += self._rest(participants, length, free_blocks)
        return CutTime(t + whole, whole, reason)

    def _measured(self, progress: float) -> tuple[float, str]:
        longest = self._s.round_s
        shortest = min(self._s.round_min_s, longest)
        took = self._transfers.longest
        if took is None:
            least, why = shortest, f"the shortest is {shortest:g} s, and no transfer has been measured"
        elif _TRANSFERS * took > longest:
            least, why = longest, f"transfer and merge take {took:.1f} s, ten times which is more than the longest, {longest:g} s"
        else:
            least = max(shortest, _TRANSFERS * took)
            why = f"transfer and merge take {took:.1f} s, so the least is {least:.0f} s"
        share = min(1.0, max(0.0, progress))
        return least + (longest - least) * share, f"{why}; at {share:.0%} of the budget so much of the way to {longest:g} s"

    def _rest(self, participants: Iterable[str], length: float, free_blocks: int) -> float:
        """How much longer a round takes that leaves nothing worth a round of its own behind."""
        rate = sum(self._s.tokens_per_s[s] for s in participants) / self._s.tokens_per_block
        left = free_blocks / rate - length
        if not 0 < left < _WORTH_A_ROUND * length:
            return 0.0
        return math.ceil(left / self._s.tick_s + 1) * self._s.tick_s

    def longest(self, participants: Iterable[str]) -> float:
        """What a round of fixed tokens may take, and no more: a limit for a site that does not come forward."""
        assert self._s.round_blocks is not None
        slowest = max(self._s.round_blocks * self._s.tokens_per_block / self._s.tokens_per_s[s] for s in participants)
        return 10 * math.ceil(slowest / self._s.tick_s) * self._s.tick_s
