"""How long a run will take on this machine, from what was measured here before."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windfall.config.schema import Config
from windfall.errors import ConfigError, SignalError
from windfall.grid.build import build_grid, recorded, with_start
from windfall.run.speeds import Speed, known_run, known_speed
from windfall.simulate.simulation import Outcome, Simulation, Span
from windfall.units import duration_text, iso_utc, parse_utc

#: Policies that decide at once; the others plan, which may take longer than a look at a file should.
_QUICK = ("breakeven", "threshold", "paper", "always", "learned")


@dataclass(frozen=True)
class Expected:
    """``wall_s`` is None where nobody knows; ``text`` says it, and what it is from. ``done_at``: run time, replayed clocks only."""

    text: str
    wall_s: float | None = None
    tokens_per_s: float | None = None
    done_at: float | None = None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "text": self.text, "wall_s": self.wall_s, "tokens_per_s": self.tokens_per_s,
            "done_at": None if self.done_at is None else iso_utc(self.done_at),
        }  # fmt: skip


def expect(config: Config, vocab_size: int, file: Path | None, *, cores: int | None = None) -> Expected:
    """What is known of how long ``config`` takes here. ``cores``: of this machine, for sites that share them."""
    again = known_run(config, file)
    if again is not None:
        return Expected(f"about {duration_text(again[0])} here: so long it took on {iso_utc(again[1])[:10]}", again[0])
    speeds = {s.name: known_speed(config, s, vocab_size, file) for s in config.site}
    known = {n: s for n, s in speeds.items() if s is not None}
    if len(known) < len(speeds):
        return Expected("unknown for this model on this machine; `check --measure` takes a few steps and says")
    slowest = min(s.tokens_per_s for s in known.values())
    when = iso_utc(min(s.at for s in known.values()))[:10]
    measured = f"{slowest:,.0f} tokens/s a site, measured on {when}"
    if config.run.clock != "scaled":
        wall = config.run.budget_tokens / slowest
        return Expected(f"about {duration_text(wall)} of one site's training here, in windows ({measured})", wall, slowest)
    outcome = _replayed(config)
    if outcome is None or outcome.done_at is None:
        # Of the pauses nothing is known: this is the training alone, at no more than the clock's speed.
        wall = config.run.budget_tokens / min(slowest, *(s.tokens_per_s * config.run.speed for s in config.site))
        return Expected(f"at least {duration_text(wall)} of training here, and pauses ({measured})", wall, slowest)
    wall = _wall_s(config, outcome, known, cores or os.cpu_count() or 1)
    return Expected(
        f"about {duration_text(wall)} here, to {iso_utc(outcome.done_at)} of run time, at most {config.run.speed:g} times real "
        f"time ({measured})", wall, slowest, outcome.done_at,
    )  # fmt: skip


def _replayed(config: Config) -> Outcome | None:
    """The run's policy over its traces, on a manual clock; None where that is not known or would take long."""
    if config.policy.name not in _QUICK:
        return None
    try:
        grid = build_grid(config)
        config = with_start(config, grid)
        own = [recorded(s) for s in grid.by_site.values()]
        ends = max(s.ends_at() for s in own)
        plain = config.backtest.model_copy(update={"site_hours": None, "target": "budget", "tick_s": None})
        one = config.model_copy(update={"backtest": plain})
        return Simulation(one, grid, Span(parse_utc(config.run.start or ""), ends), "windfall").run(config.policy.name)
    except (SignalError, ConfigError):
        return None  # told by the rest of `check`


def _wall_s(config: Config, outcome: Outcome, known: dict[str, Speed], cores: int) -> float:
    """Wall seconds of a simulated run: every stretch at the clock's speed, or at that of the slowest site that trains in it."""
    sites = {s.name: s for s in config.site}

    def pace() -> float:
        """Wall seconds for one second of run time."""
        busy = sum(sites[n].threads * sites[n].ranks for n in training if sites[n].device == "cpu")
        crowd = max(1.0, busy / cores)
        return max([1 / config.run.speed, *(crowd * sites[n].tokens_per_s / known[n].tokens_per_s for n in training)])

    # (instant, site, whether it trains from then on)
    changes = sorted(
        (t, n, begins)
        for n, lane in outcome.lanes.items()
        for a, b, state in lane
        for t, begins in ((a, state in ("ready", "training")), (b, False))
    )
    training: set[str] = set()
    wall, last = 0.0, changes[0][0] if changes else 0.0
    for t, n, begins in changes:
        wall += (t - last) * pace()
        last = t
        (training.add if begins else training.discard)(n)
    # A start takes as long as processes take, where that is longer than its modelled time at the clock's speed.
    for n, lane in outcome.lanes.items():
        start_s = known[n].start_s or 0.0
        wall += sum(max(0.0, start_s - (b - a) / config.run.speed) for a, b, state in lane if state == "provisioning")
    return wall
