"""What is likely to follow a reading: a Markov chain of a signal's values, learned from the site's own past.

Values are told by their distance, 1 − gain: 0 is worth a whole second of training, 1 is the worth, more is over it. Distances fall
into `_EDGES`' classes, and the past says how often each class follows each. A matrix of a year of California stands for what the
past has not shown yet, with the weight of `_WEIGHT` readings a class. The chain is the belief that policies share: `later` is what
a reading says of the time now if it is known late, and `advantage` what being on is worth.
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
#: Where advantages are sought for a level; beyond, they only go on falling.
_GRID = np.arange(-3.0, 6.0, 0.01)


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

    def advantage(self, restart: float, steps: int) -> tuple[Array, Array]:
        """What being on rather than off is worth, in starts, at each distance of `_GRID`; falling. Both [n].

        ``restart``: how many steps of full gain a start costs. ``steps``: how late the reading is. With g the gain and D the worth
        of being on at the next step, both as expected after the reading, it is v = g / restart + D, and the D of a step is v
        clipped to 0 and 1: under 0 it is better to stop, over 1 to start (dynamic programming; starts that are given up half way
        apart).
        """
        gain = self.later(steps) @ (1.0 - self.means) / restart
        v, ahead = gain, np.zeros(_CLASSES)
        for _ in range(400):
            ahead = self.moves @ np.clip(v, 0.0, 1.0)
            if np.abs(gain + ahead - v).max() < 1e-4:
                break
            v = gain + ahead
        # A reading that is not late says exactly what the gain is now.
        now = (1.0 - _GRID) / restart if steps == 0 else np.interp(_GRID, self.means, gain)
        return _GRID, np.minimum.accumulate(now + np.interp(_GRID, self.means, ahead))

    def levels(self, restart: float, steps: int) -> tuple[float, float]:
        """The distances under which it is better to start, and at or over which to stop."""
        grid, v = self.advantage(restart, steps)
        return _falls_below(grid, v, 1.0), _falls_below(grid, v, 0.0)


def _falls_below(grid: Array, v: Array, level: float) -> float:
    """Where a falling ``v`` falls below ``level``; infinite where it does not, minus infinity where it is below everywhere."""
    i = int(np.searchsorted(-v, -level, side="right"))
    if i == 0:
        return -np.inf
    if i == len(v):
        return np.inf
    return float(grid[i - 1] + (grid[i] - grid[i - 1]) * (v[i - 1] - level) / (v[i - 1] - v[i]))


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
