"""Generated marginal-intensity traces with the flicker of real ones.

Real California windows (marginal intensity under 100 g/kWh) are short: a median of 15 minutes, a quarter under
ten. A day here is an alternating sequence of open and closed stretches around solar noon, with log-normal
lengths fitted to those two figures, on days that curtail at all.
"""

from __future__ import annotations

import math

import numpy as np

from windfall.grid.signal import StepSignal
from windfall.units import UNITS

_PERIOD_S = 300.0
_OPEN_MEDIAN_S = 13.5 * 60
#: ln(median / first quartile) over the normal quartile: ln(13.5 / 8.5) / 0.674.
_OPEN_SIGMA = math.log(13.5 / 8.5) / 0.674
_CLOSED_MEDIAN_S = 12 * 60
_CURTAILING_DAYS = 0.6
_DAYLIGHT_S = 8 * 3600.0


def synthetic(
    region: str,
    seed: int,
    start: float,
    days: float,
    *,
    publication_delay_s: float = 0.0,
    stale_periods: float = 3.0,
    perfect: bool = False,
) -> StepSignal:
    """A marginal-intensity signal (gCO2/kWh) of ``days`` days from ``start``, the same for equal region and seed.

    ``region`` shifts solar noon and the level of the marginal plant, so that regions differ and rarely coincide.
    """
    key = [seed, *region.encode()]
    rng = np.random.default_rng(key)
    noon = float(rng.uniform(0, 86400))
    level = float(rng.uniform(400, 750))
    steps = max(1, round(days * 86400 / _PERIOD_S))
    times = start + np.arange(steps) * _PERIOD_S
    values = level + 25 * rng.standard_normal(steps)
    for day in range(math.ceil(days) + 1):
        if rng.random() > _CURTAILING_DAYS:
            continue
        t = start + day * 86400 + noon - _DAYLIGHT_S / 2 + float(rng.normal(0, 1800))
        end = t + _DAYLIGHT_S * float(rng.uniform(0.4, 1.0))
        while t < end:
            length = float(rng.lognormal(math.log(_OPEN_MEDIAN_S), _OPEN_SIGMA))
            first = round((t - start) / _PERIOD_S)
            last = max(first + 1, round((t + length - start) / _PERIOD_S))
            inside = np.arange(max(first, 0), min(last, steps))
            values[inside] = np.abs(rng.normal(30, 25, len(inside))).clip(0, 95)
            t = start + last * _PERIOD_S + max(_PERIOD_S, float(rng.lognormal(math.log(_CLOSED_MEDIAN_S), 0.8)))
    return StepSignal(
        np.asarray(times, np.float64),
        np.asarray(values.round(1), np.float64),
        unit=UNITS["marginal_co2"],
        source=f"synthetic:{region}:{seed}",
        period_s=_PERIOD_S,
        publication_delay_s=publication_delay_s,
        stale_periods=stale_periods,
        perfect=perfect,
    )
