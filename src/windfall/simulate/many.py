"""Policies compared from many start dates and under many settings, with what is to be said of all of them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from windfall import clock
from windfall.config.schema import Config
from windfall.errors import RunError
from windfall.grid.build import build_grid
from windfall.simulate.backtest import oddities, span_of
from windfall.simulate.deadlines import deadlines_of
from windfall.simulate.paired import PairedDifference, paired
from windfall.simulate.provenance import Provenance, as_asked, provenance
from windfall.simulate.regions import jobs_for, with_deadlines
from windfall.simulate.sweep import SweepJob, SweepPoint, SweepSummary, combinations, summarise, sweep

#: More start dates than this are a mistake.
MOST_STARTS = 10_000


@dataclass(frozen=True)
class PlacedJobs:
    """What will be simulated."""

    config: Config
    jobs: list[SweepJob]
    warnings: list[str]
    deadlines: list[float]
    provenance: Provenance


@dataclass(frozen=True)
class Compared:
    """Results from many start dates or under many settings."""

    points: list[SweepPoint]
    summaries: list[SweepSummary]
    pairs: list[PairedDifference]
    simulations: int
    elapsed_s: float
    warnings: list[str]
    provenance: Provenance

    def as_json(self) -> dict[str, Any]:
        """The object that `windfall backtest --starts N --json` prints."""
        return {
            "sweep": [s.as_json() for s in self.summaries],
            "points": [{"start": p.start, "settings": dict(p.settings), **p.row.as_json()} for p in self.points],
            "paired": [d.as_json() for d in self.pairs],
            "simulations": self.simulations, "elapsed_s": round(self.elapsed_s, 4), "warnings": self.warnings,
            "provenance": self.provenance.as_json(),
        }  # fmt: skip

    def __repr__(self) -> str:
        starts = len({p.start for p in self.points})
        policies = ", ".join(dict.fromkeys(p.row.policy for p in self.points))
        return f"Compared({starts} start dates, {len(self.points)} outcomes: {policies})"

    def require_finished(self) -> None:
        """Raise RunError if no simulation trained its budget."""
        if self.points and all(s.finished == 0 for s in self.summaries):
            raise RunError("no simulation finished the budget before the traces ended; lower site_hours or budget_tokens")


def prepare(
    config: Config, policies: Sequence[str], *, start: float | None, until: float | None, starts: int, span_days: float | None,
    sweeps: Mapping[str, Sequence[float]], command: Sequence[str] | str = (),
) -> PlacedJobs:  # fmt: skip
    """Place the start dates.

    Raises:
        SignalError, ConfigError: as ``backtest``.
        RunError: no start date has a deadline within the signals.
    """
    grid = build_grid(config)
    span = span_of(config, grid, start, until)
    jobs, late = with_deadlines(config, jobs_for(config, span, policies, starts, span_days, combinations(sweeps)))
    if not jobs:
        raise RunError(f"nothing to compare: {late[0]}; choose an earlier start (--from), a nearer deadline, or longer traces")
    warnings = [*grid.warnings, *oddities(grid, span, until), *late]
    made = provenance(as_asked(config, policies, start, until), grid, command)
    return PlacedJobs(config, jobs, warnings, deadlines_of(config, span), made)


def compare_many(
    made: PlacedJobs, *, workers: int | None = None, tell: Callable[[float, str], None] = lambda _, what: None
) -> Compared:
    """Simulate all that was prepared."""
    before = clock.monotonic()
    points = sweep(made.config, made.jobs, workers=workers, tell=tell)
    elapsed = clock.monotonic() - before
    with_budget = made.config.backtest.target == "budget"
    summaries = summarise(points, with_budget=with_budget, deadlines=made.deadlines)
    pairs = paired(points, made.deadlines)
    return Compared(points, summaries, pairs, len(made.jobs), elapsed, made.warnings, made.provenance)
