"""What readings allow: how near the oracle any policy of the newest readings and the time of day can come, beside the marks.

make bench-policies
python -m benchmarks.policies --only california prices

What will come is not known as a law, only as the one year that came, so a bound in the strict sense does not exist. Three figures
stand for it, each a share of the oracle's value:

- levels: the best pair of levels, chosen in hindsight on the year itself. No rule of two fixed levels does better.
- in hindsight: an optimal stopping programme (the recursion of `policy.belief`) over more than a thousand states, whose moves are
  those of the very year on which it is then judged. It knows what followed in each state, of chance too, so it is too high.
- across weeks: the same, but the moves are those of the other weeks, of 28 pairs of a fortnight, with those of the newest reading
  alone standing for what is rare. It has half a year to learn from, past and to come. It may be too low.

A state is the newest reading (12 classes), the one before (12) and the time of day (3 h); for prices, which may hold for an hour,
the newest reading, the place within the hour (12) and the time of day. A mark over all three is called out of reach of such
policies; one that is only under the figure in hindsight is likely to be.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from windfall.policy.learned import gains_of, on_by_levels, value_of
from windfall.policy.programme import Programme, SpinUp, StepFunction

Array = npt.NDArray[np.float64]
Cells = npt.NDArray[np.int64]
STEP_S = 300.0
EDGES = np.array([1e-6, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.5])
CLASSES = len(EDGES) + 1
WEIGHT = 30.0


@dataclass(frozen=True)
class Case:
    """A signal by its distances [n] (1 − gain); start and delay of readings in steps; what a step of a start costs."""

    distances: Array
    restart: int
    late: int = 0
    share: float = 1.0
    hourly: bool = False


def bounds(case: Case, mark: float | None) -> str:
    """The three figures and the mark, in words."""
    d, late = case.distances, case.late
    best = oracle(case)
    told, real = d[: len(d) - late], d[late:]

    def worth(on: npt.NDArray[np.bool_]) -> float:
        return value_of(on, real, float(case.restart), case.share) / best

    lattice = [(a, b) for a, b in itertools.product(np.arange(0.0, 1.01, 0.1), np.arange(1.0, 1.61, 0.1))]
    levels = max(worth(on_by_levels(told, a, b)) for a, b in lattice)
    coarse, fine = states(d, case.hourly)
    hindsight = worth(on_by_worth(programme(case, fine)))
    weeks = np.arange(len(told)) // 2016 % 2
    v = np.empty(len(told))
    for w in (0, 1):
        v[weeks == w] = programme(case, fine, weeks != w, coarse)[weeks == w]
    across = worth(on_by_worth(v))
    if mark is None:
        verdict = ""
    elif mark > max(hindsight, levels, across):
        verdict = f"; mark {mark:.3f}: out of reach"
    else:
        verdict = f"; mark {mark:.3f}: {'within' if mark <= max(across, levels) else 'over what was found across weeks'}"
    return f"best levels {levels:.3f}, in hindsight {hindsight:.3f}, across weeks {across:.3f}{verdict}"


def oracle(case: Case) -> float:
    """The oracle's value in steps of full gain."""
    d = case.distances
    edges = np.arange(len(d) + 1).astype(np.float64) * STEP_S
    # Distances are such that 1 is the worth; what a start pays is its energy at the price, d − 1 + share of full gain a step.
    signal = StepFunction(edges, d - 1.0 + case.share)
    value, _ = Programme(signal, SpinUp(((case.restart * STEP_S, 1.0),)), gives_up=True).solve(case.share)
    return float(value) / STEP_S


def states(d: Array, hourly: bool) -> tuple[Cells, Cells]:
    """Of each reading: its class, and its state, both [n]."""
    steps = np.arange(len(d))
    classes = np.digitize(d, EDGES)
    other = steps % 12 if hourly else np.append(classes[0], classes[:-1])
    return classes, (classes * 12 + other) * 8 + steps % 288 // 36


def programme(case: Case, cells: Cells, known: npt.NDArray[np.bool_] | None = None, coarse: Cells | None = None) -> Array:
    """What being on is worth at each reading, in starts [n − late]: by the moves between ``cells`` where ``known``.

    ``coarse``: cells whose mean stands for `_WEIGHT` readings of each; None: what never came is worth nothing.
    """
    restart = max(case.restart * case.share, 1e-9)
    real = case.distances[case.late :]
    n = len(real)
    cells = cells[:n]
    gain = (1.0 - real) / restart
    at = np.flatnonzero(np.append(np.ones(n - 1, bool) if known is None else known[:-1], False))
    size = int(cells.max()) + 1
    often = np.bincount(cells[at], minlength=size).astype(float)
    group = np.zeros(size, np.int64)
    if coarse is not None:
        group[cells] = coarse[:n]
        of = coarse[:n][at]
        count = np.maximum(np.bincount(of, minlength=CLASSES), 1)
    ahead = np.zeros(size)
    for _ in range(200):
        v = ahead[cells[at + 1]] + (gain[at + 1] if case.late == 0 else 0.0)
        y = np.clip(v, 0.0, 1.0) + (gain[at] if case.late else 0.0)
        sums = np.bincount(cells[at], y, size)
        if coarse is None:
            new = sums / np.maximum(often, 1.0)
        else:
            mean = np.bincount(of, y, CLASSES) / count
            new = (sums + WEIGHT * mean[group]) / (often + WEIGHT)
        if np.abs(new - ahead).max() < 1e-3:
            break
        ahead = new
    return np.asarray(ahead[cells] + (gain if case.late == 0 else 0.0))


def on_by_worth(v: Array) -> npt.NDArray[np.bool_]:
    """Whether a site is on at each step, if it starts where being on is worth a start and stops where it is worth nothing."""
    return on_by_levels(-v, np.nextafter(-1.0, 0.0), np.nextafter(0.0, 1.0))


def by_month(on: npt.NDArray[np.bool_], d: Array, begin: float, restart: float, share: float = 1.0) -> Array:
    """The value of a schedule in each month from ``begin`` (Unix seconds) on, in steps of full gain; [months]."""
    return np.asarray(np.bincount(months(len(d), begin), np.nan_to_num(gains_of(on, d, restart, share))), np.float64)


def months(n: int, begin: float) -> Cells:
    """The month of each of n steps, counted from the first."""
    stamps = (begin + STEP_S * np.arange(n)).astype("datetime64[s]").astype("datetime64[M]").astype(np.int64)
    return np.asarray(stamps - stamps[0])
