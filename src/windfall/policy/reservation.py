"""What a token should cost at most now, if a budget is due at a date and the time until then is not known.

A stochastic dynamic programme over the time left and the tokens left. What may come is drawn from the past, days whole and of all
sites together: from an instant of a past day, the next hours are those of another past day at the same time of day, the likelier
the more its last 24 hours and its last hour were like this one's, and the later it was (a stochastic mesh; Broadie and Glasserman
2004, with the weights of a kernel). In each stretch of time one price per token applies to all sites, whatever comes in it, because
nobody knows which continuation it will be; it is the price at which the stretch and everything after it are expected to cost least.
So the price is low while clean hours are likely to come in time, follows what today looks like, and rises as the date nears.

A forecast shifts the continuations towards what it says and draws them together, by its weight at each lead (`skill`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from windfall.grid.signal import Columns

Array = npt.NDArray[np.float64]

DAY_S, HOUR_S = 86400.0, 3600.0
#: The past is looked at in steps of this length (s).
STEP_S = 300.0
_PER_DAY, _PER_HOUR = round(DAY_S / STEP_S), round(HOUR_S / STEP_S)
#: Shares of the past's values at which prices are tried. Low values are few and matter most.
_QUANTILES = np.array([0.005, 0.01, 0.02, 0.04, 0.06, 0.09, 0.12, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85])
#: Points of tokens left.
_POINTS = 25
_MORE = 1.1
#: Costs that differ by less than this share of the dearest count as equal.
_TIE = 0.001
#: What a token that misses the date costs, in those of the dearest.
_MISSED = 3.0
#: Longest and shortest stretches of time (s) that have one price, and how many of them are planned at least. All divide a day.
_STRETCHES_S, _LEAST = (28800.0, 14400.0, 7200.0, 3600.0, 1800.0, 900.0, 300.0), 9
#: After so many days a stretch is a day, and after so many one stretch stands for the rest, in which each day is the mean day.
_FINE_DAYS, _FAR_DAYS = 14, 42
#: How alike two instants are: by the mean of the cheapest hours of the last 24, and by the last hour, each over its spread in the
#: past; the kernel's width; and the share of continuations that are drawn without looking.
_CHEAP_H, _WIDTH, _ANY = 4, 0.5, 0.1
#: After so many days a day counts half, as seasons and weather change.
_HALF_LIFE_DAYS = 8.0


@dataclass(frozen=True, slots=True)
class SiteSupply:
    """One site: the values of its past [n], a step each, whole days to now; what a start takes; tokens per second; kW.

    ``start_share``: the power of a start, as a share of the training power. ``ahead`` [m]: what a forecast says of the steps to
    come, NaN where nothing, and ``weight`` [m] how much it counts, 0 to 1. ``late``: how many steps late readings are.
    """

    values: Array
    spin_up_s: float
    start_share: float
    rate: float
    kw: float
    ahead: Array = field(default_factory=lambda: np.empty(0))
    weight: Array = field(default_factory=lambda: np.empty(0))
    late: int = 0


@dataclass(frozen=True, slots=True)
class Reservation:
    """Prices per token (the signal's unit × kW × s) by tokens left, both [n].

    ``cost``: what the tokens left are expected to cost in all. ``chance`` [sites] and ``wait_s`` [sites]: how likely it is that a
    site's value falls under its price within a day, and half of these times are shorter. ``likely`` [sites][steps]: the mean of
    what may come in the next day, in each signal's own unit, without forecasts.
    """

    tokens: Array
    prices: Array
    cost: float
    chance: Array
    wait_s: Array
    likely: Array

    def price(self, left: float) -> float:
        """The price with ``left`` tokens to train."""
        return float(np.interp(left, self.tokens, self.prices))


def steps_of(past: Columns, t: float, days: int) -> Array:
    """The last ``days`` whole days before ``t`` as a value every `STEP_S`; NaN where nothing is known."""
    times = t - days * DAY_S + STEP_S * np.arange(int(days * DAY_S / STEP_S))
    if not len(past.values):
        return np.full(len(times), np.nan)
    at = np.maximum(np.searchsorted(past.starts, times + 1e-3, side="right") - 1, 0)
    known = (times + 1e-3 >= past.starts[at]) & (times + 1e-3 < past.ends[at])
    return np.where(known, past.values[at], np.nan)


def reserve(sources: list[SiteSupply], left: float, time_s: float, ageless: int = 0) -> Reservation:
    """The prices now, if ``left`` tokens are due in ``time_s``; all sources have pasts of one length, at least two days.

    The first ``ageless`` days are of no date (a prior's), and all as old as the first of the others.
    """
    each = np.concatenate([s.values * (s.kw / s.rate) for s in sources])
    top = float(np.abs(each).max()) + 1.0
    # The lowest price is one at which nothing trains, the highest one at which all does.
    tries = np.quantile(each, _QUANTILES) + 1e-6 * (1.0 + top)
    levels = np.unique(np.concatenate(([each.min()], tries, [each.max() + 1.0])))
    alike = _Likeness(np.mean([s.values * (s.kw / s.rate) for s in sources], axis=0), ageless)
    supply = _Supplies(sources, levels, alike.weights(0)[-1])
    # A little more than is left is planned for too, so that the last token's price has neighbours on both sides.
    points = np.linspace(0.0, left * _MORE, _POINTS)
    days = len(sources[0].values) // _PER_DAY
    begins, rest_days = _begins(max(1, int(time_s / STEP_S)))
    # The date is kept first of all: tokens that miss it cost more than any.
    after = np.tile(_MISSED * top * points, (days, 1))
    if rest_days:
        tokens, costs = (np.tile(x.mean(axis=0) * rest_days, (days, 1)) for x in supply.between(_FAR_DAYS, 0, _PER_DAY))
        after = _costs(tokens, costs, points, after).min(axis=2)
    for a, b in zip(begins[-2::-1], begins[:0:-1], strict=True):
        tokens, costs = supply.between(a // _PER_DAY, a % _PER_DAY, a % _PER_DAY + b - a)
        all_costs = _costs(tokens, costs, points, after)
        weights = alike.weights(a % _PER_DAY)
        # [days, points, levels]: what each price is expected to cost, after each past day's like.
        expected = (weights @ all_costs.reshape(days, -1)).reshape(all_costs.shape)
        if a == 0:
            break
        after = expected.min(axis=2)
    own = weights[-1]
    best = _choose(expected[-1], own @ after, points, levels, _TIE * top * np.minimum(points, tokens.max()))
    price = float(np.interp(left, points, levels[best]))
    waits = [_wait(supply.next_day(i), own, price * s.rate / s.kw) for i, s in enumerate(sources)]
    chance, wait_s = (np.array(x) for x in zip(*waits, strict=True))
    cost = np.interp(left, points, expected[-1][np.arange(_POINTS), best])
    return Reservation(points, levels[best], float(cost), chance, wait_s, supply.likely)


def _begins(steps: int) -> tuple[list[int], int]:
    """Where stretches begin, from now on, in steps, and the end; and how many days more there are."""
    stretch = next((s for s in _STRETCHES_S if steps * STEP_S / s >= _LEAST), _STRETCHES_S[-1])
    fine, far = _FINE_DAYS * _PER_DAY, _FAR_DAYS * _PER_DAY
    end = min(steps, far)
    found = [*range(0, min(end, fine), round(stretch / STEP_S)), *range(fine, end, _PER_DAY), end]
    return found, (steps - end) // _PER_DAY


def _costs(tokens: Array, costs: Array, points: Array, after: Array) -> Array:
    """[days, points, levels]: what each price costs with so much left, ``tokens`` and ``costs`` [days, levels] in the stretch
    and ``after`` [days, points] from its end on."""  # fmt: skip
    made = tokens[:, None, :]
    share = np.minimum(1.0, points[:, None] / np.maximum(made, 1e-9))
    place = (points[:, None] - made * share) / (points[1] - points[0])
    low = np.clip(place.astype(np.int64), 0, _POINTS - 2)
    part = place - low
    lines = (np.arange(len(tokens)) * _POINTS)[:, None, None] + low
    flat = after.ravel()
    return np.asarray(costs[:, None, :] * share + flat[lines] * (1.0 - part) + flat[lines + 1] * part)


def _choose(expected: Array, after: Array, points: Array, levels: Array, tie: Array) -> npt.NDArray[np.int64]:
    """By tokens left, which level is the price: of those as good as the best, the one nearest to what a token more costs later.

    The past may have no values between them just here.
    """
    good = expected <= expected.min(axis=1, keepdims=True) + tie[:, None]
    saved = np.diff(after, prepend=0.0) / (points[1] - points[0])
    near = np.searchsorted(levels, saved * (1.0 + _TIE), side="right") - 1
    best = np.clip(near, np.argmax(good, axis=1), len(levels) - 1 - np.argmax(good[:, ::-1], axis=1))
    best[0] = 0
    return np.maximum.accumulate(best)


class _Likeness:
    """How like each other the past's days are, at each time of day."""

    def __init__(self, joint: Array, ageless: int) -> None:
        """``joint`` [n]: a value every step, over whole days to now, the first ``ageless`` of no date."""
        self._days = len(joint) // _PER_DAY
        #: [days]: how much each counts by its age.
        self._counts = 0.5 ** (np.minimum(np.arange(self._days)[::-1], self._days - ageless) / _HALF_LIFE_DAYS)
        self._until = np.append(0.0, np.cumsum(joint))
        hours = joint.reshape(-1, _PER_HOUR).mean(axis=1)
        last = np.lib.stride_tricks.sliding_window_view(hours, 24)
        #: By the hour at which 24 hours end: the mean of the cheapest.
        self._cheap = np.append(np.full(24, np.nan), np.sort(last, axis=1)[:, :_CHEAP_H].mean(axis=1))
        self._known: dict[int, Array] = {}

    def weights(self, step: int) -> Array:
        """[days, days]: from each day at ``step``, how likely it goes on like each day from there.

        At step 0 it is the end of each day, and the last row is now. A day does not go on like itself, which would be to know
        what comes; days without 24 hours of past before are not gone on like.
        """
        if step not in self._known:
            self._known[step] = self._weights(step)
        return self._known[step]

    def _weights(self, step: int) -> Array:
        days = self._days
        ends = np.arange(days + 1) * _PER_DAY + step
        ends = ends[ends <= days * _PER_DAY]
        cheap = self._cheap[ends // _PER_HOUR]
        before = np.maximum(ends - _PER_HOUR, 0)
        last = (self._until[ends] - self._until[before]) / np.maximum(ends - before, 1)
        seen = np.stack([cheap, last], axis=1)
        to = seen[:days]
        known = np.isfinite(to[:, 0])
        spread = to[known].std(axis=0)
        came = seen[1 : days + 1] if step == 0 else seen[:days]
        far = (((came[:, None] - to[None]) / (_WIDTH * np.where(spread > 0, spread, 1.0))) ** 2).sum(axis=2)
        counts = self._counts * known
        near = np.exp(-0.5 * np.where(np.isnan(far), np.inf, far)) * counts
        own = np.arange(days - 1)
        near[own, own + 1 if step == 0 else own] = 0.0
        if step:
            near[days - 1, days - 1] = 0.0
        total = near.sum(axis=1, keepdims=True)
        evenly = counts / counts.sum()
        return np.asarray(np.where(total > 1e-12, (1.0 - _ANY) * near / np.maximum(total, 1e-12) + _ANY * evenly, evenly))


class _Supplies:
    """What all sites together train under each price, and what that costs, if what comes is like each past day."""

    def __init__(self, sources: list[SiteSupply], levels: Array, weights: Array) -> None:
        self._sources = sources
        self._levels = levels
        #: [sites][steps]: the mean of what may come in the next day.
        self.likely = np.array([weights @ s.values.reshape(-1, _PER_DAY) for s in sources])
        self._reach = max((len(s.ahead) for s in sources), default=0)
        self._made: dict[int, tuple[Array, Array]] = {}

    def between(self, day: int, a: int, b: int) -> tuple[Array, Array]:
        """Tokens and costs, both [days, levels], from step ``a`` to ``b`` of the ``day``-th day from now."""
        day = day if day * _PER_DAY < self._reach else -1
        if day not in self._made:
            parts = [(s, supplied(self._values(i, day), s, self._levels * (s.rate / s.kw))) for i, s in enumerate(self._sources)]
            self._made[day] = (
                _summed(np.sum([seconds * s.rate for s, (seconds, _) in parts], axis=0)),
                _summed(np.sum([cost * s.kw for s, (_, cost) in parts], axis=0)),
            )
        tokens, costs = self._made[day]
        return tokens[:, b] - tokens[:, a], costs[:, b] - costs[:, a]

    def next_day(self, site: int) -> Array:
        """What a site's values may be in the next day, [days, steps]."""
        return self._values(site, 0).reshape(-1, _PER_DAY)

    def _values(self, site: int, day: int) -> Array:
        """A site's past days, shifted by what a forecast says of the ``day``-th day from now (-1: one of which it says nothing).

        With the weight w of the forecast f, what may come is c + w (f − c) on average, c being its mean before, and its spread
        falls by √(1 − w): what is left unexplained of its variance.
        """
        source = self._sources[site]
        ahead = source.ahead[day * _PER_DAY : (day + 1) * _PER_DAY] if day >= 0 else source.ahead[:0]
        if not len(ahead):
            return source.values
        weight = np.where(np.isfinite(ahead), source.weight[day * _PER_DAY :][: len(ahead)], 0.0)
        told = np.where(np.isfinite(ahead), ahead, 0.0)
        values = source.values.reshape(-1, _PER_DAY).copy()
        mean = self.likely[site][: len(ahead)]
        shifted = mean + weight * (told - mean) + np.sqrt(1.0 - weight) * (values[:, : len(ahead)] - mean)
        values[:, : len(ahead)] = np.maximum(shifted, min(float(source.values.min()), float(told.min())))
        return values.ravel()


def _summed(steps: Array) -> Array:
    """[days, steps + 1, levels] of [levels, n]: sums from each day's begin."""
    by_day = np.cumsum(steps.reshape(len(steps), -1, _PER_DAY), axis=2).transpose(1, 2, 0)
    return np.concatenate([np.zeros_like(by_day[:, :1]), by_day], axis=1)


def supplied(values: Array, source: SiteSupply, worths: Array) -> tuple[Array, Array]:
    """By worth and step, [worths, n]: seconds trained if the site runs while readings are under that worth, and their cost per kW.

    A site whose readings are late runs by a value that is so old, and pays for the value that holds by then.
    At the highest worth it runs all the time, and never starts.
    """
    under = np.roll(values, source.late)[None, :] < worths[:, None]
    # A window is a run of steps under the worth. Between two worths a step over it is put, so that no run goes on in the next.
    n = len(values) + 1
    flat = np.zeros((len(worths), n), np.int8)
    flat[:, :-1] = under
    change = np.diff(flat.ravel(), prepend=np.int8(0))
    begins, ends = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    lengths = ends - begins
    place = np.flatnonzero(flat)
    into = (place - np.repeat(begins, lengths)) * STEP_S
    seconds = np.clip(into - (source.spin_up_s - STEP_S), 0.0, STEP_S)
    # What a start costs is part of what the tokens of its window cost. A window that ends before the site is ready is left out.
    start = source.spin_up_s * source.start_share / np.maximum(lengths * STEP_S - source.spin_up_s, STEP_S)
    trained, paid = np.zeros((len(worths), n)), np.zeros((len(worths), n))
    trained.ravel()[place] = seconds
    paid.ravel()[place] = seconds * (1.0 + np.repeat(start, lengths))
    trained[-1], paid[-1] = STEP_S, STEP_S
    return trained[:, :-1], paid[:, :-1] * values


def _wait(days: Array, weights: Array, price: float) -> tuple[float, float]:
    """How likely values [days, steps] fall under a price, and the median of the times until then (s; of those that do)."""
    under = days < price
    does = under.any(axis=1)
    chance = float(weights[does].sum() / weights.sum())
    if not does.any():
        return chance, 0.0
    first = np.argmax(under[does], axis=1) * STEP_S
    order = np.argsort(first)
    reached = np.cumsum(weights[does][order])
    return chance, float(first[order][np.searchsorted(reached, 0.5 * reached[-1])])
