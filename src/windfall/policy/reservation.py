"""What a token should cost at most now, if a budget is due at a date and the time until then is not forecast.

A dynamic programme over the time left and the tokens left, on scenarios from the past. A scenario is the past from one of its days
on, at the same hours of the day, day after day and around from its end to its begin. It says, slot by slot, how much all sites
together would train under each price per token, and what that would cost. In each slot one price applies in all scenarios, because
nobody knows which of them will come: the one at which the rest is expected to cost least. So the price is low while clean hours are
likely to come in time, and rises as the date nears and they have not come. Scenarios that follow days like the last ones count for
more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from windfall.grid.signal import Columns

Array = npt.NDArray[np.float64]

DAY_S = 86400.0
#: The past is looked at in steps of this length (s).
STEP_S = 300.0
#: Shares of the past's values at which prices are tried. Low values are few and matter most.
_QUANTILES = np.array([0.005, 0.01, 0.02, 0.04, 0.06, 0.09, 0.12, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
#: Points of tokens left.
_POINTS = 25
_MORE = 1.1
#: Costs that differ by less than this share of the dearest count as equal.
_TIE = 0.001
#: What a token that misses the date costs, in those of the dearest.
_MISSED = 3.0
#: Longest and shortest slots of time (s), and about how many of them are planned at least.
_SLOTS_S, _LEAST_SLOTS = (14400.0, 7200.0, 3600.0, 1800.0, 900.0, 300.0), 24
#: How much a scenario counts that does not follow a day like the last one, besides one that does.
_UNLIKE = 0.2


@dataclass(frozen=True, slots=True)
class SiteSupply:
    """One site: the values of its past [n], a step each, to now; what a start takes; tokens per second; kW.

    ``start_share``: the power of a start, as a share of the training power.
    """

    values: Array
    spin_up_s: float
    start_share: float
    rate: float
    kw: float


@dataclass(frozen=True, slots=True)
class Reservation:
    """Prices per token (the signal's unit × kW × s) from ``at`` to ``until`` (Unix seconds), at ``tokens`` [2, n] left then.

    ``cost``: what the tokens left are expected to cost in all, from ``at`` on.
    """

    at: float
    until: float
    tokens: Array
    prices: Array
    cost: float

    def price(self, t: float, left: float) -> float:
        """The price at ``t`` with ``left`` tokens to train."""
        ends = [float(np.interp(left, self.tokens, p)) for p in self.prices]
        share = min(1.0, max(0.0, (t - self.at) / max(1.0, self.until - self.at)))
        return ends[0] + (ends[1] - ends[0]) * share


def steps_of(past: Columns, t: float, days: int) -> Array:
    """The last ``days`` whole days before ``t`` as a value every `STEP_S`; NaN where nothing is known."""
    times = t - days * DAY_S + STEP_S * np.arange(int(days * DAY_S / STEP_S))
    if not len(past.values):
        return np.full(len(times), np.nan)
    at = np.maximum(np.searchsorted(past.starts, times + 1e-3, side="right") - 1, 0)
    known = (times + 1e-3 >= past.starts[at]) & (times + 1e-3 < past.ends[at])
    return np.where(known, past.values[at], np.nan)


def reserve(sources: list[SiteSupply], left: float, t: float, end: float, hold_s: float) -> Reservation:
    """The prices from ``t`` for ``hold_s``, if ``left`` tokens are due at ``end``; all sources have pasts of one length."""
    slot_s = next((s for s in _SLOTS_S if (end - t) / s >= _LEAST_SLOTS), _SLOTS_S[-1])
    slots = max(1, int((end - t) / slot_s))
    each = np.concatenate([s.values[np.isfinite(s.values)] * (s.kw / s.rate) for s in sources])
    top = float(each.max()) + 1.0
    tries = np.quantile(each, _QUANTILES) + 1e-6 * (1.0 + abs(top))
    # The lowest price is one at which nothing trains, the highest one at which all does.
    levels = np.unique(np.concatenate(([each.min()], tries, [top])))
    supplies = [(s, _supply(s, levels * (s.rate / s.kw), slot_s)) for s in sources]
    tokens = np.sum([seconds * s.rate for s, (seconds, _) in supplies], axis=0)
    costs = np.sum([cost * s.kw for s, (_, cost) in supplies], axis=0)
    per_day = round(DAY_S / slot_s)
    begins = np.arange(0, len(tokens), per_day)
    weights = _weights(_mean(np.array([s.values * (s.kw / s.rate) for s in sources]), 0), len(begins))
    # A little more than is left is planned for too, so that the last token's price has neighbours on both sides.
    points = np.linspace(0.0, left * _MORE, _POINTS)
    gap = points[1] - points[0]
    # The date is kept first of all: tokens that miss it cost more than any.
    after = np.tile(_MISSED * abs(top) * points, (len(begins), 1))
    chosen = np.full((slots + 1, _POINTS), len(levels) - 1)
    lines = (np.arange(len(begins)) * _POINTS)[:, None, None]
    for k in reversed(range(slots)):
        rows = (begins + k) % len(tokens)
        made, paid = tokens[rows][:, None, :], costs[rows][:, None, :]
        share = np.minimum(1.0, points[:, None] / np.maximum(made, 1e-9))
        place = (points[:, None] - made * share) / gap
        low = np.minimum(place.astype(np.int64), _POINTS - 2)
        part = place - low
        flat = after.ravel()
        cost = paid * share + flat[lines + low] * (1.0 - part) + flat[lines + low + 1] * part
        mean = np.tensordot(weights, cost, 1)
        # Of prices that are as good as the best it is the one that is nearest to what a token more costs from the next slot on: the
        # scenarios may have no values between them just here.
        good = mean <= mean.min(axis=1, keepdims=True) + _TIE * abs(top) * np.minimum(points[:, None], tokens.max())
        saved = np.diff(weights @ after, prepend=0.0) / gap
        near = np.searchsorted(levels, saved * (1.0 + _TIE) + _TIE * abs(top), side="right") - 1
        best = np.clip(near, np.argmax(good, axis=1), len(levels) - 1 - np.argmax(good[:, ::-1], axis=1))
        best[0] = 0
        best = np.maximum.accumulate(best)
        chosen[k] = best
        after = cost[:, np.arange(_POINTS), best]
    prices = levels[chosen]
    later = min(slots, max(1, round(hold_s / slot_s)))
    return Reservation(t, t + later * slot_s, points, prices[[0, later]], float(np.interp(left, points, weights @ after)))


def _supply(source: SiteSupply, worths: Array, slot_s: float) -> tuple[Array, Array]:
    """By slot of the past and worth, [slots, worths]: seconds trained if the site runs under that worth, and what they cost.

    At the highest worth the site runs all the time, and starts never.
    """
    values = source.values
    under = values[None, :] < worths[:, None]
    steps = np.arange(len(values))
    before = np.maximum.accumulate(np.where(under, -1, steps), axis=1)
    after = np.minimum.accumulate(np.where(under, len(values), steps)[:, ::-1], axis=1)[:, ::-1]
    into, length = (steps - before) * STEP_S, (after - before - 1) * STEP_S
    trained = np.where(under, np.clip(into - source.spin_up_s, 0.0, STEP_S), 0.0)
    # What a start costs is part of what the tokens of its window cost. A window that ends before the site is ready is left out.
    start = source.spin_up_s * source.start_share / np.maximum(length - source.spin_up_s, STEP_S)
    paid = trained * (1.0 + start)
    known = np.where(np.isnan(values), 0.0, values)
    trained[-1], paid[-1] = STEP_S, STEP_S
    shape = (len(worths), -1, round(slot_s / STEP_S))
    return trained.reshape(shape).sum(axis=2).T, (paid * known).reshape(shape).sum(axis=2).T


def _weights(values: Array, days: int) -> Array:
    """How much each day's scenario counts: more where the day before was like the last day."""
    means = _mean(values.reshape(days, -1), 1)
    known = means[np.isfinite(means)]
    spread = (float(known.std()) if len(known) else 0.0) or 1.0
    near = np.exp(-0.5 * (((means - means[-1]) / spread) / 0.5) ** 2)
    weights = _UNLIKE + np.where(np.isnan(near), 0.0, near)
    weights = np.roll(weights, 1)
    return np.asarray(weights / weights.sum())


def _mean(values: Array, axis: int) -> Array:
    """The mean over what is known; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))
