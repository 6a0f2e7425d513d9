"""Many simulations at once: over start dates, settings and regions, on all cores."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from windfall.config.load import with_settings
from windfall.config.schema import Config
from windfall.errors import ConfigError
from windfall.grid.build import Grid, build_grid
from windfall.simulate.backtest import Row, compare
from windfall.simulate.quantiles import quantiles
from windfall.simulate.simulation import TimeSpan

Settings = tuple[tuple[str, float], ...]
_MOST_VALUES = 1000
#: How often progress is told (s).
_TELL_S = 0.4


@dataclass(frozen=True)
class SweepPoint:
    """One simulation of a sweep: its start (Unix seconds), its settings and its result."""

    start: float
    settings: Settings
    row: Row


@dataclass(frozen=True)
class SweepJob:
    """What one worker simulates."""

    start: float
    end: float
    settings: Settings
    policies: tuple[str, ...]


@dataclass(frozen=True)
class SweepSummary:
    """One policy with one choice of settings over its start dates. Triples are the 10th, 50th and 90th percentile."""

    policy: str
    settings: Settings
    publication_delay_s: float | None
    deadline_h: float | None
    start_dates: int
    #: From how many start dates the budget was trained before the signals ended. The figures are of these; without a budget, of
    #: all.
    finished: int
    figures: dict[str, tuple[float, ...]]

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        triples = {k: dict(zip(("p10", "p50", "p90"), v, strict=True)) for k, v in self.figures.items()}
        return {
            "policy": self.policy, "settings": dict(self.settings), "publication_delay_s": self.publication_delay_s,
            "deadline_h": self.deadline_h, "start_dates": self.start_dates, "finished": self.finished, **triples,
        }  # fmt: skip


#: The figures of rows of which summaries have quantiles.
FIGURES = (
    "finish_h", "site_hours", "energy_kwh", "kg_co2", "money", "starts", "idle_h", "share_inside", "share_of_oracle",
    "kg_over_oracle", "unknown_kwh", "g_per_kwh_training",
)  # fmt: skip


def summarise(points: Sequence[SweepPoint], *, with_budget: bool, deadlines: Sequence[float] = ()) -> list[SweepSummary]:
    """Points by policy, settings, delay and deadline (of ``deadlines``, those set), in the order in which they first came."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for p in points:
        r = p.row
        # A deadline that was not configured is the row's own finish, by which rows cannot be grouped.
        deadline = r.deadline_h if r.policy in ("budgeted", "oracle") and r.deadline_h in deadlines else None
        groups.setdefault((r.policy, p.settings, r.publication_delay_s, deadline), []).append(r)
    found = []
    for (policy, settings, delay, deadline), rows in groups.items():
        used = [r for r in rows if r.finish_h is not None] if with_budget else rows
        values = {k: [v for v in (getattr(r, k) for r in used) if v is not None] for k in FIGURES}
        triples = {k: quantiles(v) for k, v in values.items() if v}
        found.append(SweepSummary(policy, settings, delay, deadline, len(rows), len(used), triples))
    return found


def start_dates(span: TimeSpan, count: int, least_s: float) -> list[float]:
    """``count`` starts evenly over a span, each with at least ``least_s`` before the end; fewer where they do not fit.

    They are whole hours apart and spread over the day as well.
    """
    room = span.end - least_s - span.start
    if count <= 1 or room <= 0:
        return [span.start]
    step = max(3600.0, room / (count - 1))
    found = [span.start + math.floor(i * step / 3600.0) * 3600.0 for i in range(count)]
    return [t for t in dict.fromkeys(found) if t <= span.start + room]


def parse_setting(text: str) -> tuple[str, list[float]]:
    """``worth_g_per_kwh=60,80,100`` or ``spin_up_s=300:1200:300`` (from, to, step).

    Raises:
        ConfigError: it is neither.
    """
    key, sep, values = text.partition("=")
    try:
        if not sep or not key:
            raise ValueError
        numbers = [float(v) for v in values.split(":" if ":" in values else ",")]
        if ":" in values and len(numbers) != 3:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"--sweep {text}: write KEY=VALUE,VALUE or KEY=FROM:TO:STEP, spin_up_s=300:1200:300 for example"
        ) from None
    if not all(math.isfinite(v) for v in numbers):
        raise ConfigError(f"--sweep {text}: not a finite number; for example spin_up_s=300:1200:300")
    if ":" not in values:
        return key.strip(), list(dict.fromkeys(numbers))
    first, last, step = numbers
    if step <= 0 or last < first:
        raise ConfigError(f"--sweep {text}: goes nowhere; write FROM:TO:STEP upwards, spin_up_s=300:1200:300 for example")
    if (last - first) / step > _MOST_VALUES:
        raise ConfigError(f"--sweep {text}: more than {_MOST_VALUES} values; take a longer step, as in spin_up_s=300:1200:300")
    found = [first + i * step for i in range(math.floor((last - first) / step + 1e-9) + 1)]
    return key.strip(), found


def combinations(sweeps: Mapping[str, Sequence[float]]) -> list[Settings]:
    """Every combination of the settings swept over; one without any if there are none."""
    keys = list(sweeps)
    return [tuple(zip(keys, values, strict=True)) for values in itertools.product(*(sweeps[k] for k in keys))]


def sweep(
    config: Config,
    jobs: Iterable[SweepJob],
    *,
    workers: int | None = None,
    tell: Callable[[float, str], None] = lambda _, what: None,
) -> list[SweepPoint]:
    """Run every job on ``workers`` processes (default: one per core). The result does not depend on the order in which they end.

    ``tell`` is called with the share done and what is being done, with several processes at least twice a second.

    Raises:
        ConfigError: a setting is not known, or makes the configuration invalid.
    """
    work = list(jobs)
    for settings in dict.fromkeys(j.settings for j in work):
        with_settings(config, dict(settings))  # so that a mistake is told before anything is simulated
    count = min(workers or os.cpu_count() or 1, len(work))
    if count <= 1:
        _begin(config)
        points = []
        for i, job in enumerate(work):
            tell(i / len(work), f"simulation {i + 1} of {len(work)}")
            points += _run(job)
        return points
    # Forking is quick, and safe while this process has no other threads.
    how = "fork" if threading.active_count() == 1 and "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(how)
    with ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(config,)) as pool:
        futures = [pool.submit(_run, job) for job in work]
        waiting = set(futures)
        while waiting:
            done = len(work) - len(waiting)
            tell(done / len(work), f"{done} of {len(work)} simulations")
            over, waiting = wait(waiting, timeout=_TELL_S, return_when=FIRST_EXCEPTION)
            if any(f.exception() for f in over):
                break  # its error is raised below
        return [p for f in futures for p in f.result()]


_state: dict[str, tuple[Config, Grid]] = {}


def _begin(config: Config) -> None:
    # Each worker reads the traces once.
    _state["run"] = (config, build_grid(config))


def _run(job: SweepJob) -> list[SweepPoint]:
    config, grid = _state["run"]
    rows = compare(with_settings(config, dict(job.settings)), grid, TimeSpan(job.start, job.end), job.policies)
    return [SweepPoint(job.start, job.settings, r) for r in rows]
