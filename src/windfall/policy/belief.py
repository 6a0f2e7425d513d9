"""What is likely to follow a reading: Markov chains of a signal's values, learned from the site's own past.

Values are told by their distance, 1 − gain: 0 is worth a whole second of training, 1 is the worth, more is over it. Distances fall
into `_EDGES`' classes, and the past says how often each class follows each. A matrix of a year of California stands for what the
past has not shown yet, with the weight of `_WEIGHT` readings a class. What follows depends on the time of day, as sun and load do,
so each hour has a chain of its own; the chain of the whole day stands for what the hour has not shown, with the weight of
`_HOUR_WEIGHT` readings. It depends on the season and the weather too, so a reading counts the less the older it is.

`Chain.later` is what a reading says of the time now if it is known late, and `Belief.advantage` what being on is worth.
"""

from __future__ import annotations

import bisect
import functools

import numpy as np
import numpy.typing as npt

from windfall.grid.signal import Columns

Array = npt.NDArray[np.float64]

#: Where one class of distances ends and the next begins. The first class is a value of zero and under.
_EDGES = np.array([1e-6, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.5])
_EDGES_LIST: list[float] = _EDGES.tolist()
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
_WEIGHT, _HOUR_WEIGHT = 30.0, 5.0
#: After so long a reading counts half (s).
_HALF_LIFE_S = 16 * 86400.0
#: If so much of a signal's changes come on the half hour or the hour, its values hold for that long, whatever its rows say.
_CADENCES_S, _CADENCE_SHARE, _LEAST_CHANGES = (3600.0, 1800.0), 0.95, 6
HOURS = 24
_NEXT_HOURS = np.roll(np.arange(HOURS), -1)


class Chain:
    """A chain with the moves of ``distances`` [n], a value every step; NaN where nothing is known."""

    def __init__(self, distances: Array, step_s: float = _PRIOR_STEP_S) -> None:
        """``step_s``: how long a step is, for the prior's moves and for how much each reading counts."""
        #: [n]: whether anything is known, the class, and how much it counts.
        self.known = np.isfinite(distances)
        self.classes = classes = np.searchsorted(_EDGES, np.where(self.known, distances, 0.0), side="right")
        self.weights = weights = _ages(len(distances), step_s)
        known, pairs = _chosen(self.known), _chosen(self.known[:-1] & self.known[1:])
        moves = np.bincount((classes[:-1] * _CLASSES + classes[1:])[pairs], weights[:-1][pairs], _CLASSES**2)
        counts = moves.reshape(_CLASSES, _CLASSES) + _WEIGHT * _moves(max(1, round(step_s / _PRIOR_STEP_S)))
        #: [classes, classes]: how likely each class (column) follows each (row).
        self.moves = counts / counts.sum(axis=1, keepdims=True)
        sums = np.bincount(classes[known], (distances * weights)[known], _CLASSES)
        often = np.bincount(classes[known], weights[known], _CLASSES)
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
        self._distances, self._weights = distances, self.day.weights
        #: [n]: hour and class of each, as one number; −1 where nothing is known.
        self._cells = np.where(self.day.known, hours_of(times) * _CLASSES + self.day.classes, -1)
        known, pairs = _chosen(self.day.known), _chosen(self.day.known[:-1] & self.day.known[1:])
        flat = self._cells[:-1][pairs] * _CLASSES + self._cells[1:][pairs] % _CLASSES
        moves = np.bincount(flat, self._weights[:-1][pairs], HOURS * _CLASSES**2).reshape(HOURS, _CLASSES, _CLASSES)
        counts = moves + _HOUR_WEIGHT * self.day.moves
        #: [hours, classes]: how often each was seen.
        often = np.bincount(self._cells[known], self._weights[known], HOURS * _CLASSES)
        self._often: Array = often.reshape(HOURS, _CLASSES).astype(np.float64)
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
        both = _chosen((self._cells[:-late] >= 0) & np.isfinite(then))
        cells, weights = self._cells[:-late][both], self._weights[:-late][both]
        sums = np.bincount(cells, weights * (1.0 - then[both]), HOURS * _CLASSES).reshape(HOURS, _CLASSES)
        often = np.bincount(cells, weights, HOURS * _CLASSES).reshape(HOURS, _CLASSES)
        return (sums + _HOUR_WEIGHT * found) / (often + _HOUR_WEIGHT)

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
            next_ = (1.0 - self._crosses) * next_ + self._crosses * next_[_NEXT_HOURS]
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
    return np.asarray(times.astype(np.int64) // 3600 % HOURS)


def class_of(distance: float) -> int:
    """The class of a distance."""
    return bisect.bisect_right(_EDGES_LIST, distance)


@functools.cache
def usual_gain(late: int) -> tuple[float, ...]:
    """By class, the mean gain so many five minutes after a reading, of which nothing is known but the prior."""
    chain = Chain(np.empty(0))
    return tuple((chain.later(late) @ (1.0 - chain.means)).tolist())


def _chosen(which: npt.NDArray[np.bool_]) -> slice | npt.NDArray[np.bool_]:
    """What takes those of an array that are true in ``which``, without copying it if they all are."""
    return slice(None) if which.all() else which


@functools.lru_cache(maxsize=8)
def _ages(n: int, step_s: float) -> Array:
    """How much each of ``n`` readings counts, the newest last and wholly; [n]."""
    return np.asarray(0.5 ** (np.arange(n - 1, -1, -1) * (step_s / _HALF_LIFE_S)))


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
    changes = past.starts[1:][np.diff(past.values) != 0].astype(np.int64)
    if len(changes) < _LEAST_CHANGES:
        return step_s
    found = (c for c in _CADENCES_S if c > step_s and np.mean(changes % int(c) == 0) >= _CADENCE_SHARE)
    return next(found, step_s)


def stepped(past: Columns, step_s: float) -> tuple[Array, Array]:
    """The past as a value every ``step_s``: instants (Unix seconds, multiples of the step) and values, NaN in holes; both [n]."""
    none = np.empty(0)
    if not len(past.values):
        return none, none
    times = np.arange(np.ceil(past.starts[0] / step_s), np.ceil(past.ends[-1] / step_s)) * step_s
    if not len(times):
        return none, none
    if len(times) == len(past.starts) and np.array_equal(times, past.starts):
        at = np.arange(len(times))
    else:
        at = np.maximum(np.searchsorted(past.starts, times, side="right") - 1, 0)
    return times, np.where(times < past.ends[at], past.values[at], np.nan)
