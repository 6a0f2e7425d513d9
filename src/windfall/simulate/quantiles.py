"""Quantiles, one way everywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence


def quantiles(values: Sequence[float], at: Sequence[float] = (0.1, 0.5, 0.9)) -> tuple[float, ...]:
    """Quantiles of ``values``, linear between neighbours; NaN where there are no values."""
    if not values:
        return tuple(math.nan for _ in at)
    ordered = sorted(values)
    found = []
    for q in at:
        place = q * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        found.append(ordered[low] + (ordered[high] - ordered[low]) * (place - low))
    return tuple(found)
