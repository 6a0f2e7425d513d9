"""How much a provider's forecasts count: by what came true of the last ones, at each lead.

At a few leads a policy remembers what a forecast said and what it would have expected without one. When the time has come both are
compared with the reading. The weight of forecasts at a lead is the share of the squared error that they have saved, shrunk towards
nothing while there are few comparisons, and nothing where they have saved none. Leads count from when a forecast was made, so an
old one counts less. All of it is kept in a policy's memory, as numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from windfall.grid.signal import Columns, Forecast
from windfall.policy.base import Memory

Array = npt.NDArray[np.float64]

#: The leads at which forecasts are compared (s).
_LEADS_S = (300.0, 3600.0, 3 * 3600.0, 8 * 3600.0, 24 * 3600.0, 60 * 3600.0)
#: What a comparison still counts when the next has been made, and so many comparisons without any saving stand before the first.
_KEPT, _DOUBT = 0.97, 6.0
#: What has not become known so long after its time is not waited for (s).
_PATIENCE_S = 6 * 3600.0
_PREFIX = "skill_"


def kept(memory: Memory) -> dict[str, float]:
    """What of a memory is about forecasts."""
    return {k: v for k, v in memory.items() if k.startswith(_PREFIX)}


def learned(memory: Memory, past: Columns, t: float) -> dict[str, float]:
    """``memory`` after what was expected of times that have come is compared with ``past``, which is known at ``t``."""
    found = kept(memory)
    for i in range(len(_LEADS_S)):
        at = found.get(_key(i, "at"))
        if at is None or at > t:
            continue
        place = int(np.searchsorted(past.starts, at, side="right")) - 1
        true = place >= 0 and at < past.ends[place]
        if true:
            value = float(past.values[place])
            for said, error in (("said", "error"), ("else", "without")):
                found[_key(i, error)] = _KEPT * found.get(_key(i, error), 0.0) + (found[_key(i, said)] - value) ** 2
            found[_key(i, "n")] = _KEPT * found.get(_key(i, "n"), 0.0) + 1.0
        if true or t > at + _PATIENCE_S:
            for name in ("at", "said", "else"):
                del found[_key(i, name)]
    return found


def noted(memory: Memory, forecast: Forecast, likely: Array, step_s: float, t: float) -> dict[str, float]:
    """``memory`` with what ``forecast`` says at each lead of which nothing is waited for.

    ``likely`` [n]: what is expected without a forecast in each step of ``step_s`` from ``t`` on, and around after the last.
    """
    found = kept(memory)
    for i, lead_s in enumerate(_LEADS_S):
        at = forecast.made_at + lead_s
        if _key(i, "at") in found or not t < at < forecast.ends_at:
            continue
        said = forecast.values[max(0, int(np.searchsorted(forecast.times, at, side="right")) - 1)]
        if np.isfinite(said):
            otherwise = float(likely[int((at - t) / step_s) % len(likely)])
            found |= {_key(i, "at"): at, _key(i, "said"): float(said), _key(i, "else"): otherwise}

    return found


def weights(memory: Mapping[str, float], leads_s: Array) -> Array:
    """How much a forecast counts at each lead [n], 0 to 1."""
    found = []
    for i in range(len(_LEADS_S)):
        n, error, without = (memory.get(_key(i, x), 0.0) for x in ("n", "error", "without"))
        found.append(max(0.0, 1.0 - error / without) * n / (n + _DOUBT) if without > 0 else 0.0)
    return np.asarray(np.interp(leads_s, _LEADS_S, found))


def _key(i: int, name: str) -> str:
    return f"{_PREFIX}{name}{i}"
