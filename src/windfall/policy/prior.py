"""Days that stand for the past of a site of which nothing is known."""

from __future__ import annotations

import functools

import numpy as np

from windfall.config.signals import SignalTable
from windfall.grid.trace import load_trace
from windfall.policy.reservation import DAY_S, STEP_S, Array

#: Every 13th day of the bundled year: 28 days from all seasons, neighbours of which have nothing to do with each other.
_DAYS, _APART = 28, 13


@functools.cache
def prior_days() -> Array:
    """Marginal intensities (gCO2/kWh) of 28 days of California from all seasons: every `STEP_S` from midnight (UTC) on."""
    signal = load_trace(SignalTable.model_validate({"path": "bundled:caiso", "column": "pge_moer_g"}), "CAISO_NORTH").signal
    start = np.ceil(signal.starts_at() / DAY_S) * DAY_S
    found = []
    for i in range(_DAYS):
        times = start + i * _APART * DAY_S + np.arange(0.0, DAY_S, STEP_S)
        c = signal.between(float(times[0]), float(times[-1]) + STEP_S)
        found.append(c.values[np.searchsorted(c.starts, times, side="right") - 1])
    return np.concatenate(found)
