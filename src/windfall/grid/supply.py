"""What the plants behind a site's meter deliver together, as one signal in watts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from windfall.config.microgrid import SourceTable
from windfall.config.signals import SignalTable
from windfall.errors import SignalError
from windfall.grid.signal import Signal, StepSignal
from windfall.units import counted

Array = npt.NDArray[np.float64]

#: From a table and a region to its signal, and what is odd about its source.
Make = Callable[[SignalTable, str], tuple[Signal, list[str]]]
#: What an inverter takes at night is less than this share of what its plant delivers at most.
_NIGHT = 0.05


def make_source(table: SourceTable, region: str, make: Make) -> tuple[Signal, list[str]]:
    """One plant's power (W), never below 0, and what is odd about it.

    Raises:
        SignalError: its trace cannot be used, or is below 0 by more than what an inverter takes at night.
    """
    found, said = make(table.as_signal(), region)
    if not isinstance(found, StepSignal):
        return found, said
    values = found.rows()[1]
    least, most = float(values.min()), float(values.max())
    name = table.name or table.path
    if most <= 0.0 or least < -_NIGHT * most:
        what = "never above 0" if most <= 0.0 else f"as low as {least:,.0f}, and {most:,.0f} at most"
        raise SignalError(f"{name}: values of `{table.column}` are {what}: a plant delivers none below 0; check column and scale")
    night = int((values < 0).sum())
    if night:
        said = [*said, f"{name}: {counted(night, 'row')} of `{table.column}` below 0 count as 0"]
    values = np.maximum(values, 0.0)
    if table.peak_of_largest_w is not None:
        values = values * (table.peak_of_largest_w / most)
    return found.with_values(values), said


def supply(sources: Sequence[SourceTable], region: str, make: Make) -> tuple[Signal, list[str]]:
    """The power (W) of all plants, and what is odd about them. Where one of several is not known, their sum is not either.

    Raises:
        SignalError: as ``make_source``; or they have no time in common.
    """
    made = [make_source(s, region, make) for s in sources]
    said = [w for _, warnings in made for w in warnings]
    if len(made) == 1:
        return made[0][0], said
    parts = [s for s, _ in made if isinstance(s, StepSignal)]
    assert len(parts) == len(made), "the schema adds up traces alone"
    begin, end = max(s.starts_at() for s in parts), min(s.ends_at() for s in parts)
    if begin >= end:
        names = ", ".join(str(s.name or s.path) for s in sources)
        raise SignalError(f"{names}: these plants' traces have no time in common; give traces of the same time")
    return _sum(parts, begin, end), said


def _sum(parts: Sequence[StepSignal], begin: float, end: float) -> StepSignal:
    last = max(s.last_row_at() for s in parts)
    # A row without a period holds without end: then the sum's last one does, too.
    columns = [s.between(begin, min(end, last + 1.0) if end == np.inf else end) for s in parts]
    edges = np.unique(np.concatenate([c.starts for c in columns]))
    values = np.sum([c.values[np.searchsorted(c.starts, edges, side="right") - 1] for c in columns], axis=0)
    known = np.isfinite(values)
    lengths = np.append(np.diff(edges), end - edges[-1])
    # A value counts for as long as the coarsest of its traces says, or until what it is the sum of is not known any more.
    stale, period = 3.0, max(s.period_s for s in parts)
    follows = np.append(known[1:], True)
    periods = np.where(follows, period, np.minimum(period, lengths / stale)) if period > 0 else None
    return StepSignal(
        edges[known], values[known], unit=parts[0].unit, source=" + ".join(s.source for s in parts), period_s=period,
        until=end, publication_delay_s=max(s.delay_s for s in parts), stale_periods=stale,
        periods=None if periods is None else periods[known], perfect=all(s.perfect for s in parts),
    )  # fmt: skip
