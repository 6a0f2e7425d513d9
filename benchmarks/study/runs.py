"""Real training of a scenario, with all processes or in this one, and what came out of it."""

from __future__ import annotations

import itertools
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from benchmarks.parity import InProcess
from benchmarks.study.scenarios import scenario

from windfall import clock
from windfall.config.load import to_toml
from windfall.config.schema import Config
from windfall.run.prepare import prepare_run
from windfall.run.training_inputs import data_dir, trainer_spec
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.train.trainer import LocalTrainer
from windfall.units import J_PER_KWH
from windfall.view.account import run_account
from windfall.view.series import RunSeries, run_series

#: Energy phases of the study: it books nothing while nodes are provisioned.
STUDY_PHASES = ("training", "idle", "stall")
_EMA = 0.99


@dataclass
class Outcome:
    """One training. Losses are nats per byte of held-out text; perplexities are of training, per token, by moving mean."""

    scenario: str
    seed: int
    how: str
    tokens: int
    val_last: float
    val_best: float
    perplexity_last: float
    perplexity_least: float
    runtime_h: float | None
    site_hours: float
    versions: int
    share_federated: float
    #: By energy phase.
    kwh: dict[str, float] = field(default_factory=dict)
    kg: dict[str, float] = field(default_factory=dict)
    share_inside: float | None = None
    #: (tokens, validation loss).
    curve: list[tuple[float, float]] = field(default_factory=list)
    wall_s: float = 0.0
    #: For the figure of the day, of the seed with real processes.
    root: str | None = None

    def study_kwh(self) -> float:
        """Energy of the phases that the study counts."""
        return sum(self.kwh.get(p, 0.0) for p in STUDY_PHASES)

    def study_kg(self) -> float:
        """Emissions of these."""
        return sum(self.kg.get(p, 0.0) for p in STUDY_PHASES)

    def as_json(self) -> dict[str, Any]:
        """As kept between calls."""
        return asdict(self)


def with_processes(config: Config, name: str, root: Path) -> Outcome:
    """`windfall run` on the scaled clock: supervisor, SuperLink, coordinator, agents, SuperNodes, trainers."""
    before = clock.monotonic()
    file = root.with_suffix(".toml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(to_toml(config), encoding="utf-8")
    command = [sys.executable, "-m", "windfall", "run", str(file), "--run-dir", str(root), "--quiet"]
    subprocess.run(command, check=True)
    found = outcome(config, name, RunDir(root), "real processes")
    found.wall_s, found.root = clock.monotonic() - before, str(root)
    return found


def in_process(config: Config, name: str) -> Outcome:
    """The same loop, ledger, sites and trainers in this process, messages through memory, on a manual clock."""
    before = clock.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run = InProcess(config, Path(folder) / "run")
        run.losses()
        run.telemetry.close()
        run.ledger.close()
        found = outcome(config, name, run.run, "in process")
    found.wall_s = clock.monotonic() - before
    return found


def uninterrupted(config: Config) -> Outcome:
    """The trainer alone through the same blocks: what the centralised run is, without processes around it."""
    before = clock.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder) / "run")
        prepare_run(config, run, lambda _: None)
        trainer = LocalTrainer(trainer_spec(config, data_dir(config, run)))
        every_tokens = config.data.eval_every_tokens
        assert every_tokens is not None, "the scenarios of the study are evaluated"
        size, steps = trainer.blocks_per_step, config.budget_blocks // trainer.blocks_per_step
        every = max(1, every_tokens // trainer.tokens_per_step)
        curve, losses = [(0.0, trainer.evaluate().nats_per_byte)], []
        for step in range(steps):
            losses.append(float(trainer.step(list(range(step * size, (step + 1) * size)), step * trainer.tokens_per_step)))
            if (step + 1) % every == 0 or step + 1 == steps:
                curve.append(((step + 1) * trainer.tokens_per_step, trainer.evaluate().nats_per_byte))
    tokens = steps * config.tokens_per_step
    hours = tokens / config.site[0].tokens_per_s / 3600
    least, last = perplexity(((i * config.tokens_per_step, x) for i, x in enumerate(losses)), config.tokens_per_step)
    values = [v for _, v in curve]
    return Outcome(
        "single", config.run.seed, "trainer alone", tokens, values[-1], min(values), last, least, None, hours, len(curve) - 1, 0.0,
        {"training": hours * config.site[0].train_power_w / 1000}, curve=curve, wall_s=clock.monotonic() - before,
    )  # fmt: skip


def outcome(config: Config, name: str, run: RunDir, how: str) -> Outcome:
    """What a finished run directory says."""
    series = run_series(run)
    account = run_account(run)
    telemetry = Telemetry.open(run.telemetry, read_only=True)
    found = {m.version: m.value for m in telemetry.metrics("val_nats_per_byte") if m.version is not None}
    telemetry.close()
    totals = {v.version: v.tokens_total for v in series.versions}
    curve = sorted((float(totals[v]), x) for v, x in found.items() if v in totals)
    least, last = perplexity(((s.tokens, s.loss) for s in series.steps), config.tokens_per_step)
    phases = account.lines("phase")
    judged = sum(p.joules - p.unjudged_joules for p in phases if p.name in STUDY_PHASES)
    inside = sum(p.inside_joules for p in phases if p.name in STUDY_PHASES)
    end = series.versions[-1]
    return Outcome(
        name, config.run.seed, how, end.tokens_total, curve[-1][1], min(x for _, x in curve), last, least,
        (end.t_run - series.start) / 3600, sum(p.seconds for p in phases if p.name == "training") / 3600, end.version,
        _federated(series), {p.name: p.joules / J_PER_KWH for p in phases}, {p.name: p.grams / 1000 for p in phases},
        inside / judged if judged > 0 else None, curve,
    )  # fmt: skip


def _federated(series: RunSeries) -> float:
    return sum(v.tokens for v in series.versions if v.mode == "federated") / series.versions[-1].tokens_total


def perplexity(steps: Iterable[tuple[float, float]], tokens_per_step: int) -> tuple[float, float]:
    """The least and the last of exp(moving mean of the training loss), without bias at the beginning.

    ``steps``: (tokens before it, loss). Where sites share a step's batch, each has a loss at the same place: these are one step.
    """
    places: dict[float, list[float]] = {}
    for tokens, loss in steps:
        places.setdefault(tokens, []).append(loss)
    order = sorted(places)
    mean, weight, least = 0.0, 0.0, math.inf
    for tokens, following in itertools.pairwise([*order, math.inf]):
        kept = _EMA ** min(1.0, (following - tokens) / tokens_per_step)
        mean = kept * mean + (1 - kept) * statistics.mean(places[tokens])
        weight = kept * weight + (1 - kept)
        least = min(least, mean / weight)
    return math.exp(least), math.exp(mean / weight) if weight else math.inf


def trained(base: Config, name: str, seed: int, folder: Path | None, threads: int) -> Outcome:
    """One scenario with one seed: with real processes below ``folder``, or without a folder in this process."""
    torch.set_num_threads(threads)
    config = scenario(base, name, seed)
    if folder is not None:
        o = with_processes(config, name, folder / f"seed-{seed}-{name}")
    else:
        o = uninterrupted(config) if name == "single" else in_process(config, name)
    told = f"{o.val_last:.4f} nats/byte (best {o.val_best:.4f}), {o.wall_s:.0f} s"
    print(f"{name}, seed {seed}, {o.how}: {told}", flush=True)
    return o
