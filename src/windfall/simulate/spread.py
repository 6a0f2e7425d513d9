"""Results over many start dates: points."""

from __future__ import annotations

from dataclasses import dataclass

from windfall.simulate.backtest import Row


@dataclass(frozen=True)
class SpreadPoint:
    """What a policy brought from one start (Unix seconds)."""

    policy: str
    start: float
    row: Row
