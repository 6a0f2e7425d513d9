"""How long a run will take on this machine, from what was measured here before."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from windfall import clock
from windfall.config.schema import Config
from windfall.errors import ConfigError, DataError, SignalError, StoreError
from windfall.grid.build import build_grid, recorded, with_start
from windfall.run.preflight import vocabulary
from windfall.run.speeds import Speed, keep_run, keep_speed, known_run, known_speed, shown_by, site_key
from windfall.simulate.simulation import Simulation, SimulationResult, TimeSpan
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.units import duration_text, iso_utc, parse_utc

#: Policies that decide quickly. The others plan, which takes too long for `windfall check`.
_QUICK = ("breakeven", "threshold", "paper", "always", "learned")
#: How long (s) a run is simulated at most on traces whose last reading holds for ever.
_LONGEST_S = 2 * 365 * 86400.0
#: Seconds that a local site's start takes, and a version beside its steps, until they have been measured on this machine.
_START_S, _VERSION_S = 12.0, 6.0


@dataclass(frozen=True)
class Expectation:
    """How long a run will take (``wall_s``; None: unknown).

    ``text`` says it with its source. ``done_at``: run time, on gated clocks. ``short``: why the run will not end, if it will not.
    """

    text: str
    wall_s: float | None = None
    tokens_per_s: float | None = None
    done_at: float | None = None
    short: str = ""

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "text": self.text, "wall_s": self.wall_s, "tokens_per_s": self.tokens_per_s,
            "done_at": None if self.done_at is None else iso_utc(self.done_at), "short": self.short,
        }  # fmt: skip


def expect(
    config: Config, vocab_size: int, file: Path | None, *, cores: int | None = None, now: bool = False
) -> Expectation:  # fmt: skip
    """How long ``config`` takes on this machine, as far as that is known.

    ``cores``: how many the sites share (default: this machine's). ``now``: use the last measurement even if the same run has been
    timed before.
    """
    again = known_run(config, file)
    if again is not None and not now:
        return Expectation(f"about {duration_text(again[0])} here: so long it took on {iso_utc(again[1])[:10]}", again[0])
    simulated = _replayed(config) if config.run.clock == "scaled" else None
    if simulated is not None and simulated.done_at is None:
        share = simulated.tokens / config.run.budget_tokens
        short = (
            f"the traces end before the budget is trained: by then {config.policy.name} has trained some {share:.0%} of it; "
            "name longer traces, or lower run.budget_tokens"
        )
        return Expectation("its traces end before it does", short=short)
    speeds = {s.name: known_speed(config, s, vocab_size, file) for s in config.site}
    known = {n: s for n, s in speeds.items() if s is not None}
    if len(known) < len(speeds):
        return Expectation("unknown for this model on this machine; `check --measure` takes a few steps and says")
    slowest = min(s.tokens_per_s for s in known.values())
    when = iso_utc(min(s.at for s in known.values()))[:10]
    measured = f"{slowest:,.0f} tokens/s a site, measured on {when}"
    if config.run.clock != "scaled":
        wall = config.run.budget_tokens / slowest
        return Expectation(f"about {duration_text(wall)} of one site's training here, in windows ({measured})", wall, slowest)
    if simulated is None or simulated.done_at is None:
        # How long the pauses are is unknown, so this is the training alone, at no more than the clock's speed.
        wall = config.run.budget_tokens / min(slowest, *(s.tokens_per_s * config.run.speed for s in config.site))
        return Expectation(f"at least {duration_text(wall)} of training here, and pauses ({measured})", wall, slowest)
    wall = _wall_s(config, simulated, known, cores or os.cpu_count() or 1)
    return Expectation(
        f"about {duration_text(wall)} here, to {iso_utc(simulated.done_at)} of run time, at most {config.run.speed:g} times real "
        f"time ({measured})", wall, slowest, simulated.done_at,
    )  # fmt: skip


def note(config: Config, run: RunDir, *, done: bool, file: Path | None) -> bool:
    """Keep the speeds that a run has just shown on this machine; False if nothing could be kept.

    ``config``: as its file says. How long the whole run took is kept only if it was done without an interruption.
    """
    try:
        vocab_size = vocabulary(config)
        shown = {s.name: shown_by(run, s) for s in config.site}
        ledger = Ledger.open(run.ledger, read_only=True)
        versions = ledger.head().version
        ledger.close()
        telemetry = Telemetry.open(run.telemetry, read_only=True)
        lives = [e.t_wall for _, e in telemetry.events_of("started", "resumed")]
        span = telemetry.wall_span()
        telemetry.close()
    except (StoreError, DataError):
        return False
    known = {n: s for n, s in shown.items() if s is not None}
    whole = done and len(lives) == 1 and span is not None and versions > 0
    wall_s = span[1] - lives[0] if whole and span is not None else 0.0
    simulated = _replayed(config) if whole and config.run.clock == "scaled" else None
    if simulated is not None and all(n in known for n, lane in simulated.lanes.items() if any(s != "off" for _, _, s in lane)):
        beside = max(0.0, wall_s - _wall_s(config, simulated, known, os.cpu_count() or 1)) / versions
        known = {n: replace(s, version_s=round(beside, 2)) for n, s in known.items()}
    kept = [keep_speed(config, s, vocab_size, known[s.name], file) for s in config.site if s.name in known]
    if whole:
        kept.append(keep_run(config, round(wall_s, 1), file))
    return any(kept)


def _replayed(config: Config) -> SimulationResult | None:
    """The run simulated with its policy and traces; None if it cannot be simulated, or that would take long."""
    if config.policy.name not in _QUICK:
        return None
    try:
        grid = build_grid(config)
        config = with_start(config, grid)
        own = [recorded(s) for s in grid.by_site.values()]
        begins = parse_utc(config.run.start or "")
        ends = min(max(s.ends_at() for s in own), begins + _LONGEST_S)
        plain = config.backtest.model_copy(update={"site_hours": None, "target": "budget", "tick_s": None})
        one = config.model_copy(update={"backtest": plain})
        return Simulation(one, grid, TimeSpan(begins, ends), "windfall").run(config.policy.name)
    except (SignalError, ConfigError):
        return None  # the rest of `check` tells of it


def _wall_s(config: Config, simulated: SimulationResult, known: dict[str, Speed], cores: int) -> float:
    """Wall seconds of a simulated run: at each time it has the clock's speed, or that of the slowest training site if lower."""
    sites = {s.name: s for s in config.site}

    def pace() -> float:
        """Wall seconds for one second of run time while ``training`` sites train."""
        busy = sum(sites[n].threads * sites[n].ranks for n in training if sites[n].device == "cpu")
        crowd = max(1.0, busy / cores)
        return max([1 / config.run.speed, *(crowd * sites[n].tokens_per_s / known[n].tokens_per_s for n in training)])

    # (instant, site, whether it trains from then on)
    changes = sorted(
        (t, n, begins)
        for n, lane in simulated.lanes.items()
        for a, b, state in lane
        for t, begins in ((a, state in ("ready", "training")), (b, False))
    )
    training: set[str] = set()
    wall, last = 0.0, changes[0][0] if changes else 0.0
    for t, n, begins in changes:
        wall += (t - last) * pace()
        last = t
        (training.add if begins else training.discard)(n)
    # A start lasts at least as long as the real processes take to start.
    for n, lane in simulated.lanes.items():
        seen = known[n].start_s if n in known else 0.0
        start_s = _START_S if seen is None else seen
        wall += sum(max(0.0, start_s - (b - a) / config.run.speed) for a, b, state in lane if state == "provisioning")
    trained_s = sum(b - a for lane in simulated.lanes.values() for a, b, state in lane if state in ("ready", "training"))
    versions = math.ceil(trained_s / config.federation.solo_cut_s)
    return wall + versions * max((_VERSION_S if s.version_s is None else s.version_s) for s in known.values())


def measure(config: Config, tell: Callable[[float, str], None], file: Path | None) -> list[str]:
    """Time a few real optimizer steps of every kind of site. Returns what could not be kept, in words.

    Raises:
        ConfigError: the model does not fit into this machine's memory.
        DataError: the tokenizer is no good.
    """
    # As in the sites' processes. It only has an effect if torch has not been imported yet.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from windfall.run.training_inputs import trainer_spec
    from windfall.train.measure import tokens_per_s  # torch takes a while to import

    vocab_size = vocabulary(config)
    kinds = {site_key(config, s, vocab_size): s for s in reversed(config.site)}
    untold = []
    for i, site in enumerate(kinds.values()):
        spec = replace(trainer_spec(config, Path(config.data.source)), device=site.device)

        def part(fraction: float, what: str, i: int = i, name: str = site.name) -> None:
            tell((i + fraction) / len(kinds), f"{name}: {what}")

        rate = tokens_per_s(spec, vocab_size, site.threads, part) * site.ranks
        before = known_speed(config, site, vocab_size, file)
        found = Speed(rate, clock.wall()) if before is None else replace(before, tokens_per_s=rate, at=clock.wall())
        if not keep_speed(config, site, vocab_size, found, file):
            untold.append(f"{site.name}: {rate:,.0f} tokens/s; the cache folder cannot be written, so this is not kept")
    return untold
