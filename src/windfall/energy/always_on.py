"""What one uninterrupted site would have emitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windfall.grid.signal import Signal
from windfall.units import J_PER_KWH


@dataclass(frozen=True, slots=True)
class AlwaysOn:
    """One uninterrupted site: kgCO2 of the hours with a known intensity, and how many hours are unknown.

    The kg can be compared with others only where ``unknown_h`` is 0. None: no hour is known.
    """

    kg: float | None
    unknown_h: float

    @property
    def whole_kg(self) -> float | None:
        """The kg, if every hour is known."""
        return self.kg if self.unknown_h == 0 else None


def always_on(signal: Signal, watts: float, start: float, hours: float) -> AlwaysOn:
    """One uninterrupted site at ``watts`` for ``hours`` from ``start`` (Unix seconds)."""
    columns = signal.between(start, start + hours * 3600)
    length = columns.ends - columns.starts
    known = np.isfinite(columns.values)
    unknown_h = max(0.0, hours - float(length[known].sum()) / 3600)
    if not known.any():
        return AlwaysOn(None, unknown_h)
    kg = float((columns.values * length)[known].sum()) * watts / J_PER_KWH / 1000.0
    # A second missing at the end of a signal comes from rounding.
    return AlwaysOn(kg, unknown_h if unknown_h * 3600 > 1.0 else 0.0)
