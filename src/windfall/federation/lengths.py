"""How long rounds are: from the configuration alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from windfall.federation.members import Settings

#: The last round of a run takes in what would be less than this share of another one.
_WORTH_A_ROUND = 0.25


class RoundLengths:
    """When rounds are cut (run time)."""

    def __init__(self, settings: Settings) -> None:
        self._s = settings

    def cut_at(self, t: float, participants: Collection[str], free_blocks: int) -> float:
        """When a round that begins at ``t`` is cut, at the latest, with so many blocks left to lend."""
        if self._s.round_blocks is not None:
            return t + self.longest(participants)
        length = self._s.solo_cut_s if len(participants) == 1 else self._s.round_s
        return t + math.ceil(length / self._s.tick_s) * self._s.tick_s + self._rest(participants, length, free_blocks)

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
