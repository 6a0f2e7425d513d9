"""What is likely to follow a reading: Markov chains of a signal's values, learned from the site's own past.

Values are told by their distance, 1 − gain: 0 is worth a whole second of training, 1 is the worth, more is over it. Distances fall
into `_EDGES`' classes, and the past says how often each class follows each. A matrix of a year of California stands for what the
past has not shown yet, with the weight of `_WEIGHT` readings a class. What follows depends on the time of day, as sun and load do,
so each hour has a chain of its own; the chain of the whole day stands for what the hour has not shown, with the same weight.

`Chain.later` is what a reading says of the time now if it is known late, and `Belief.advantage` what being on is worth.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from windfall.grid.signal import Columns

Array = npt.NDArray[np.float64]

#: Where one class of distances ends and the next begins. The first class is a value of zero and under.
_EDGES = np.array([1e-6, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.5])
_CLASSES = len(_EDGES) + 1
#: How often each class follows each in five minutes, per thousand, and the mean distances: California, September 2020 to August
#: 2021, both regions, against a worth of 100 g/kWh.
_PRIOR = np.array([
    (890, 16, 21, 14, 14, 12, 15, 11, 5, 1, 1, 0),
    (304, 356, 121, 73, 39, 34, 26, 26, 13, 8, 0, 0),
    (148, 80, 501, 105, 49, 39, 36, 34, 5, 2, 1, 1),
    (94, 33, 86, 506, 111, 60, 53, 33, 18, 4, 0, 1),
    (96, 20, 56, 107, 385, 155, 100, 51, 23, 5, 1, 1),
    (76, 11, 25, 45, 115, 399, 216, 72, 31, 5, 4, 0),
    (36, 6, 9, 19, 38, 114, 535, 189, 45, 7, 2, 1),
    (12, 2, 5, 6, 7, 20, 102, 644, 187, 11, 3, 0),
    (2, 0, 1, 1, 1, 2, 9, 66, 777, 129, 9, 1),
    (0, 0, 0, 0, 0, 0, 1, 2, 61, 819, 113, 3),
    (0, 0, 0, 0, 0, 0, 0, 0, 2, 59, 885, 53),
    (0, 0, 0, 0, 0, 0, 0, 0, 1, 4, 117, 877),
], np.float64)  # fmt: skip
_PRIOR /= _PRIOR.sum(axis=1, keepdims=True)
_PRIOR_MEANS = np.array([0.0, 0.05, 0.18, 0.36, 0.64, 0.89, 1.14, 1.39, 1.76, 2.29, 2.89, 4.46])
_PRIOR_STEP_S = 300.0
_WEIGHT = 30.0
#: If so much of a signal's changes come on the half hour or the hour, its values hold for that long, whatever its rows say.
_CADENCES_S, _CADENCE_SHARE, _LEAST_CHANGES = (3600.0, 1800.0), 0.95, 6
HOURS = 24


class Chain:
    """A chain with the moves of ``distances`` [n], a value every step; NaN where nothing is known."""

    def __init__(self, distances: Array, step_s: float = _PRIOR_STEP_S) -> None:
        """``step_s``: how long a step is, for the prior's moves."""
        known = np.isfinite(distances)
        classes = np.digitize(np.where(known, distances, 0.0), _EDGES)
        pairs = known[:-1] & known[1:]
        moves = np.bincount((classes[:-1] * _CLASSES + classes[1:])[pairs], minlength=_CLASSES**2)
        counts = moves.reshape(_CLASSES, _CLASSES) + _WEIGHT * _moves(max(1, round(step_s / _PRIOR_STEP_S)))
        #: [classes, classes]: how likely each class (column) follows each (row).
        self.moves = counts / counts.sum(axis=1, keepdims=True)
        sums = np.bincount(classes[known], distances[known], minlength=_CLASSES)
        often = np.bincount(classes[known], minlength=_CLASSES)
        #: [classes]: the mean distance of each.
        self.means = (sums + _WEIGHT * _PRIOR_MEANS) / (often + _WEIGHT)

    def later(self, steps: int) -> Array:
        """[classes, classes]: how likely each class holds ``steps`` after a reading of each."""
        return np.asarray(np.linalg.matrix_power(self.moves, steps))


class Belief:
    """A chain for each hour of the day (UTC), from ``distances`` [n] at ``times`` [n] (Unix seconds, ``step_s`` apart)."""

    def __init__(self, times: Array, distances: Array, step_s: float = _PRIOR_STEP_S) -> None:
        self.day = Chain(distances, step_s)
        self.means = self.day.means
        known = np.isfinite(distances)
        self._distances = distances
        #: [n]: hour and class of each, as one number; −1 where nothing is known.
        self._cells = np.where(known, hours_of(times) * _CLASSES + np.digitize(np.where(known, distances, 0.0), _EDGES), -1)
        pairs = known[:-1] & known[1:]
        flat = self._cells[:-1][pairs] * _CLASSES + self._cells[1:][pairs] % _CLASSES
        counts = np.bincount(flat, minlength=HOURS * _CLASSES**2).reshape(HOURS, _CLASSES, _CLASSES) + _WEIGHT * self.day.moves
        #: [hours, classes]: how often each was seen.
        self._often = np.bincount(self._cells[known], minlength=HOURS * _CLASSES).reshape(HOURS, _CLASSES).astype(float)
        #: [hours, classes, classes]: how likely each class (column) follows each (row).
        self.moves = counts / counts.sum(axis=2, keepdims=True)
        #: How much of an hour a step is: so often the next reading is one of the next hour.
        self._crosses = min(1.0, step_s / 3600.0)

    def gain(self, late: int) -> Array:
        """[hours, classes]: the mean gain at the time when a reading of that hour and class is known, ``late`` steps after it."""
        found = np.tile(self.day.later(late) @ (1.0 - self.means), (HOURS, 1))
        if late == 0 or len(self._distances) <= late:
            return found
        then = self._distances[late:]
        both = (self._cells[:-late] >= 0) & np.isfinite(then)
        cells = self._cells[:-late][both]
        sums = np.bincount(cells, 1.0 - then[both], HOURS * _CLASSES).reshape(HOURS, _CLASSES)
        often = np.bincount(cells, minlength=HOURS * _CLASSES).reshape(HOURS, _CLASSES)
        return (sums + _WEIGHT * found) / (often + _WEIGHT)

    def advantage(self, restart: float, late: int) -> tuple[Array, Array]:
        """Of what being on rather than off is worth, in starts: what this step brings, and what the next ones do; [hours, classes].

        ``restart``: how many steps of full gain a start costs. ``late``: how many steps late readings are. With g the gain and D
        the worth of being on at the next step, both as expected after the reading, being on is worth v = g / restart + D, and the
        D of a step is v clipped to 0 and 1: under 0 it is better to stop, over 1 to start (dynamic programming; starts that are
        given up half way apart).
        """
        gain = self.gain(late) / restart
        v, ahead = gain, np.zeros_like(gain)
        for _ in range(400):
            next_ = np.clip(v, 0.0, 1.0)
            next_ = (1.0 - self._crosses) * next_ + self._crosses * np.roll(next_, -1, axis=0)
            ahead = np.matmul(self.moves, next_[:, :, None])[:, :, 0]
            if np.abs(gain + ahead - v).max() < 1e-3:
                break
            v = gain + ahead
        return gain, ahead

    def levels(self, restart: float, late: int) -> tuple[Array, Array]:
        """The distances under which it is better to start, and at or over which to stop; both [hours], infinite where none is."""
        gain, ahead = self.advantage(restart, late)
        # A reading that is not late says exactly what the gain is now.
        now = np.broadcast_to((1.0 - self.means) / restart, gain.shape) if late == 0 else gain
        v = falling(now + ahead, self._often + 1.0)
        knots = np.concatenate([[min(-3.0, self.means[0] - 1.0)], self.means, [max(6.0, self.means[-1] + 1.0)]])
        v = np.pad(v, ((0, 0), (1, 1)), mode="edge")
        if late == 0:
            v[:, [0, -1]] += (knots[[1, -2]] - knots[[0, -1]]) / restart
        return _falls_below(knots, v, 1.0), _falls_below(knots, v, 0.0)


def falling(v: Array, weights: Array) -> Array:
    """The rows nearest to those of ``v`` that nowhere rise: weighted isotonic regression by its min-max formula; [rows, columns].

    The higher a distance, the less being on is worth, so what says otherwise is chance, the more so the less often it was seen.
    """
    n = v.shape[1]
    sums, totals = (np.pad(np.cumsum(x, axis=1), ((0, 0), (1, 0))) for x in (v * weights, weights))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (sums[:, None, 1:] - sums[:, :-1, None]) / (totals[:, None, 1:] - totals[:, :-1, None])
    mean = np.where(np.tri(n, k=-1, dtype=bool), -np.inf, mean)
    most = np.maximum.accumulate(mean[:, :, ::-1], axis=2)[:, :, ::-1]
    least = np.minimum.accumulate(most, axis=1)
    return np.asarray(np.diagonal(least, axis1=1, axis2=2))


def hours_of(times: Array) -> npt.NDArray[np.int64]:
    """The hour of the day (UTC) of each of ``times`` (Unix seconds)."""
    return np.asarray(times // 3600 % HOURS).astype(np.int64)


def _falls_below(knots: Array, v: Array, level: float) -> Array:
    """Where each row of ``v``, falling and straight between ``knots``, falls below ``level``; [rows].

    Infinite where it does not, minus infinity where it is below everywhere.
    """
    below = v < level
    i = np.clip(np.argmax(below, axis=1), 1, None)
    rows = np.arange(len(v))
    high, low = v[rows, i - 1], v[rows, i]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = knots[i - 1] + (knots[i] - knots[i - 1]) * (high - level) / (high - low)
    return np.where(below[:, 0], -np.inf, np.where(below.any(axis=1), found, np.inf))


@functools.cache
def _moves(steps: int) -> Array:
    return np.asarray(np.linalg.matrix_power(_PRIOR, steps))


def cadence_s(past: Columns, step_s: float) -> float:
    """How long values hold: ``step_s``, or longer if the past changes only on the half hour or the hour."""
    changes = past.starts[1:][np.diff(past.values) != 0]
    if len(changes) < _LEAST_CHANGES:
        return step_s
    found = (c for c in _CADENCES_S if c > step_s and np.mean(changes % c < 1.0) >= _CADENCE_SHARE)
    return next(found, step_s)


def stepped(past: Columns, step_s: float) -> tuple[Array, Array]:
    """The past as a value every ``step_s``: instants (Unix seconds, multiples of the step) and values, NaN in holes; both [n]."""
    none = np.empty(0)
    if not len(past.values):
        return none, none
    times = np.arange(np.ceil(past.starts[0] / step_s), np.ceil(past.ends[-1] / step_s)) * step_s
    if not len(times):
        return none, none
    at = np.maximum(np.searchsorted(past.starts, times, side="right") - 1, 0)
    return times, np.where(times < past.ends[at], past.values[at], np.nan)
