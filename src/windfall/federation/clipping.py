"""How much a contribution counts for whose movement is far larger than is usual: it is scaled down to the largest usual one.

The measure is a movement's norm (L2 over all parameters) for each of its optimizer steps. Usual is the median of those of the last
contributions taken, as they were counted then, and of those that are merged now; of an even number the smaller of the two in the
middle, so that one of two sites cannot make itself usual. Nothing else enters, so equal records give equal versions.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from windfall.wire.rounding import Floats

#: So many contributions say what is usual.
RECENT = 20
_PIECE = 2**20


@dataclass(frozen=True)
class Clip:
    """``ratio``: of a contribution's norm for each step to the usual one, at most. ``recent``: those of the last contributions."""

    ratio: float
    recent: Sequence[float] = ()


@dataclass(frozen=True)
class Weighed:
    """What one contribution's movement measures for each step, and what it is multiplied by (a float32 value)."""

    norm: float
    scale: float = 1.0

    @property
    def counted(self) -> float:
        """The norm for each step as it counts."""
        return self.norm * self.scale


def squares(pieces: Iterable[Floats]) -> float:
    """The sum of all values' squares."""
    total = 0.0
    for values in pieces:
        flat = values.reshape(-1)
        for start in range(0, flat.size, _PIECE):
            total += float(np.square(flat[start : start + _PIECE], dtype=np.float64).sum())
    return total


def weigh(norms: Mapping[int, float], clip: Clip) -> dict[int, Weighed]:
    """How much each contribution counts, by whatever ``norms`` (for each step) are known by."""
    usual = [n for n in (*clip.recent, *norms.values()) if n > 0.0]
    if not usual:  # nothing has moved
        return {which: Weighed(norm) for which, norm in norms.items()}
    most = clip.ratio * statistics.median_low(usual)
    return {
        which: Weighed(norm, 1.0 if norm <= most else float(np.float32(most / norm))) for which, norm in norms.items()
    }  # fmt: skip


def scaled(values: Floats, scale: float) -> Floats:
    """The values as they count, in their place."""
    if scale != 1.0:
        values *= np.float32(scale)
    return values
