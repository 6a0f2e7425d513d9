"""Differences between policies from the same start dates, with an interval that says how far chance could have made them.

Start dates are resampled in blocks of neighbours (circular block bootstrap, Politis and Romano 1992), as simulations that overlap
are no independent observations: a block has as many start dates as one simulation lasts. The interval is the expanded percentile
interval (Hesterberg 2015, The American Statistician 69:4), whose percentiles lie as far out as Student's t does for so many blocks.
The draws are seeded, and are the same ones for every pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from windfall.simulate.sweep import Settings, SweepPoint

Array = npt.NDArray[np.float64]

#: Figures that are compared.
COMPARED = ("kg_co2", "g_per_kwh_training", "share_of_oracle", "kg_over_oracle", "finish_h", "site_hours", "money")
#: What others are compared with first, where it is there.
REFERENCE = "breakeven"
DRAWS = 4000
CONFIDENCE = 0.95
_SEED = 20210901
#: With fewer blocks there is no interval, and below the second number it means little.
LEAST_BLOCKS, FEW_BLOCKS = 3.0, 8.0


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """``policy`` minus ``against`` in one figure, over the start dates from which both have it.

    ``mean`` with its interval from ``low`` to ``high`` (95 %; None with fewer than three blocks); ``lower``: the share of start
    dates from which ``policy`` has the lower figure. ``block_starts``: start dates a block of the bootstrap; ``blocks``: how many
    of these there are.
    """

    policy: str
    against: str
    settings: Settings
    publication_delay_s: float | None
    deadline_h: float | None
    figure: str
    start_dates: int
    mean: float
    low: float | None
    high: float | None
    median: float
    lower: float
    block_starts: int
    blocks: float

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "settings": dict(self.settings)}


def paired(points: Sequence[SweepPoint], deadlines: Sequence[float] = ()) -> list[PairedDifference]:
    """Every two policies under the same settings, delay and deadline (of ``deadlines``, those configured), in the points' order."""
    groups: dict[tuple[Settings, float | None], dict[tuple[str, float | None], dict[float, SweepPoint]]] = {}
    for p in points:
        bound = p.row.deadline_h if p.row.policy in ("budgeted", "oracle") and p.row.deadline_h in deadlines else None
        rows = groups.setdefault((p.settings, p.row.publication_delay_s), {})
        rows.setdefault((p.row.policy, bound), {})[p.start] = p
    found = []
    for (settings, delay), rows in groups.items():
        # The default policy stands first, so that others are compared with it and not it with them.
        keys = sorted(rows, key=lambda k: k[0] != REFERENCE)
        for j, one in enumerate(keys):
            for other in keys[:j]:
                bounds = {b for b in (one[1], other[1]) if b is not None}
                if len(bounds) > 1:
                    continue  # two deadlines are two questions
                bound = next(iter(bounds), None)
                found += _pairs(one[0], other[0], settings, delay, bound, rows[one], rows[other])
    return found


def _pairs(
    policy: str, against: str, settings: Settings, delay: float | None, deadline: float | None, own: dict[float, SweepPoint],
    theirs: dict[float, SweepPoint],
) -> list[PairedDifference]:  # fmt: skip
    found = []
    for figure in COMPARED:
        both = [
            (t, a, b)
            for t in sorted(own.keys() & theirs.keys())
            if (a := getattr(own[t].row, figure)) is not None and (b := getattr(theirs[t].row, figure)) is not None
        ]
        if len(both) < 2:
            continue
        differences = np.array([a - b for _, a, b in both])
        span_s = float(np.median([max(own[t].row.span_h, theirs[t].row.span_h) for t, _, _ in both])) * 3600
        block = block_length([t for t, _, _ in both], span_s)
        low, high = interval(differences, block) or (None, None)
        middle, lower = float(np.median(differences)), float((differences < 0).mean())
        found.append(PairedDifference(
            policy, against, settings, delay, deadline, figure, len(both), float(differences.mean()), low, high, middle, lower,
            block, len(both) / block,
        ))  # fmt: skip
    return found


def block_length(starts: Sequence[float], span_s: float) -> int:
    """How many neighbouring start dates a simulation of ``span_s`` overlaps with, itself included."""
    step = float(np.median(np.diff(sorted(starts))))
    return max(1, min(len(starts), math.ceil(span_s / step - 1e-9)))


def interval(values: Array, block: int, *, draws: int = DRAWS, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Interval of the mean of ``values`` [n], in the order of their start dates; None where these are too few blocks."""
    n = len(values)
    if n / block < LEAST_BLOCKS:
        return None
    generator = np.random.default_rng(_SEED)
    count = math.ceil(n / block)
    # Sums of blocks from a table, so that a thousand start dates do not make a table of draws × n.
    around = np.concatenate([values, values[: block - 1]]) if block > 1 else values
    sums = np.convolve(around, np.ones(block), "valid")
    rest = n - (count - 1) * block
    short = np.convolve(np.concatenate([values, values[: rest - 1]]) if rest > 1 else values, np.ones(rest), "valid")
    begins = generator.integers(0, n, (draws, count))
    means = (sums[begins[:, :-1]].sum(axis=1) + short[begins[:, -1]]) / n
    tail = _tail((1 - confidence) / 2, n / block)
    low, high = np.quantile(means, (tail, 1 - tail))
    return float(low), float(high)


def _tail(tail: float, blocks: float) -> float:
    """The share of means to leave out at each end: ``tail``, less for few blocks."""
    normal = NormalDist()
    z, v = normal.inv_cdf(1 - tail), blocks - 1
    # Student's quantile by its expansion about the normal one (Abramowitz and Stegun 26.7.5).
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    return normal.cdf(-t * math.sqrt(blocks / v))
