"""Parity: an elastic run over the study's day against one uninterrupted run at equal tokens, over seeds.

    make bench-parity                                   (1 and 4 times the demo's tokens, three seeds, and the variants at 1)
    .venv/bin/python benchmarks/parity.py --times 16    (by hand: hours)
    .venv/bin/python benchmarks/parity.py --times 1 --seeds 1 --variants product,site-batch
    .venv/bin/python benchmarks/parity.py --times 4 --only-seed 2 --threads 1 --variants control-1,control-2,control-3,exact,product
    .venv/bin/python benchmarks/parity.py --same-as runs/demo    (after `make demo`: the same versions without Flower, bit for bit)

The elastic run is the demo's configuration with its real policy, loop, ledger, leases, cuts and merging, and real
trainers; messages go through memory instead of Flower, so that three seeds take minutes. With more tokens the day stays as it is,
sites are so many times as fast, and rounds have as many optimizer steps. The uninterrupted run is the same trainer stepping
through the same blocks in order, with nothing around it. Compared is the last value of the validation loss in nats per byte, seed
by seed: on the demo's held-out sequences, and again on eight times as many, which is less noisy.

Variants change something of the demo's configuration each. Some are no elastic run at all: `control` is the uninterrupted run over
the same blocks in another order, and `control-1` to `control-3` in further ones. How far they are from 1 is what chance does here,
and no elastic run can be told from 1 any better. These and the factors on the mean are run by their names alone.
The exit status tells whether the demo's own configuration is within its marks.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from windfall import clock
from windfall.cli.demo import bundled
from windfall.clock import ManualClock
from windfall.config.load import loads, stored
from windfall.config.schema import Config
from windfall.fleet.driver import MemoryDriver
from windfall.fleet.loop import NoHolds
from windfall.fleet.serve import serve
from windfall.grid.build import build_grid
from windfall.run.compose import compose
from windfall.run.prepare import prepare_run
from windfall.run.recorder import TelemetryRecorder
from windfall.run.training_inputs import data_dir, trainer_spec
from windfall.site.worker import SiteWorker
from windfall.store.bus import MemoryBus
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.store.tensors import load_file
from windfall.train.evaluate import evaluate
from windfall.train.trainer import LocalTrainer
from windfall.units import parse_utc
from windfall.wire.transport import MemoryTransport

#: What the demo's own configuration must hold: the mean ratio over seeds by times the demo's tokens, and any seed's.
MARKS = {1: 1.010, 4: 1.005}
MARK_OF_A_SEED = 1.02
#: Held-out sequences of the second, quieter comparison, as a multiple of the demo's.
_MORE_SEQUENCES = 8
#: Two-sided 95 % points of Student's t by degrees of freedom.
_T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}

#: Changes to the demo's configuration, by table and key.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "product": {},
    "control": {},
    "control-1": {},
    "control-2": {},
    "control-3": {},
    "exact": {"federation": {"codec": "fp32", "overlap": False}},
    "no-overlap": {"federation": {"overlap": False}},
    "fp32": {"federation": {"codec": "fp32"}},
    "int4": {"federation": {"codec": "int4"}},
    "int2": {"federation": {"codec": "int2"}},
    "nesterov": {"federation": {"outer": "nesterov"}},
    "mean-x1.25": {"federation": {"outer": "nesterov", "outer_lr": 1.25, "outer_momentum": 0.0}},
    "mean-x1.41": {"federation": {"outer": "nesterov", "outer_lr": 1.41, "outer_momentum": 0.0}},
    "site-batch": {"train": {"batch": "site"}},
    "inner-averaged": {"federation": {"average_inner_every": 1}},
    "rounds-x2": {"federation": {"round_s": 480.0}},
    "rounds-x4": {"federation": {"round_s": 960.0}},
    "rounds-x20": {"federation": {"round_s": 4800.0}},
    "as-before": {"train": {"batch": "site"}, "federation": {"codec": "fp32", "overlap": False, "round_s": 4800.0}},
}
#: What is run where nothing is named.
_USUAL = [name for name in VARIANTS if not name.startswith(("control-", "mean-"))]


@dataclass(frozen=True)
class Losses:
    """Nats per byte on the demo's held-out sequences, and on more of them."""

    own: float
    more: float


class InProcess:
    """A run whose sites live in this process. Host of ``fleet.serve`` and driver of its sites."""

    def __init__(self, config: Config, root: Path) -> None:
        self.config, self.run = config, RunDir(root)
        prepare_run(config, self.run, lambda _: None)
        self.ledger, self.telemetry = Ledger.open(self.run.ledger), Telemetry.open(self.run.telemetry)
        self.bus, self.transport, self.driver = MemoryBus(), MemoryTransport(), MemoryDriver()
        self.workers: dict[str, SiteWorker] = {}
        self.spec = trainer_spec(config, data_dir(config, self.run))
        up, down = self.driver.ensure_up, self.driver.ensure_down

        def ensure_up(site: str, generation: int) -> None:
            up(site, generation)
            self.workers[site] = SiteWorker(
                site=site, generation=generation, trainer=LocalTrainer(self.spec), bus=self.bus.site(site, generation),
                mailbox=self.transport.connect(f"{site}#{generation}"), folder=self.run.sites / site,
                snapshot_s=math.inf, dead_man_s=math.inf,
            )  # fmt: skip

        def ensure_down(site: str, grace_s: float, reason: str) -> None:
            down(site, grace_s, reason)
            worker = self.workers.pop(site)
            self.transport.disconnect(f"{site}#{worker.generation}")

        self.driver.ensure_up, self.driver.ensure_down = ensure_up, ensure_down  # type: ignore[method-assign]
        self.recorder = TelemetryRecorder(self.telemetry)
        self.loop, self.work = compose(
            config, self.run, ledger=self.ledger, telemetry=self.telemetry, grid=build_grid(config),
            clock=ManualClock(parse_utc(config.run.start or "")), driver=self.driver, bus=self.bus, transport=self.transport,
            recorder=self.recorder, fence=self.ledger.new_fence(), observer=self.recorder.moved, holds=NoHolds(),
        )  # fmt: skip

    def granted(self, t: float) -> None:
        for site in self.config.site:
            self.bus.set(site.name, "clock", {"granted": t, "beat": 0})

    def idle(self) -> None:
        for worker in list(self.workers.values()):
            worker.pump()

    def stop_asked(self) -> str:
        return ""

    def noted(self, t: float) -> None:
        self.recorder.mode(t, self.loop.controller.mode())

    def moved(self, t: float) -> None:
        self.telemetry.flush()

    def losses(self) -> Losses:
        """Run to the end; what the last version is worth."""
        assert serve(self.loop, self.config.run.tick_s, self) == "done"
        self.telemetry.flush()
        assert self.ledger.complete()
        value = self.telemetry.rows("SELECT value FROM metrics WHERE name = 'val_nats_per_byte' ORDER BY version DESC LIMIT 1")
        last = load_file(self.run.checkpoints / self.ledger.head().file)
        trainer = LocalTrainer(self.spec)
        trainer.load(last)
        found = losses_of(trainer, self.config)
        assert abs(found.own - float(value[0][0])) < 1e-6, "the run's last evaluation is not that of its last version"
        return found

    def share_federated(self) -> float:
        """Share of the tokens in versions of federated rounds."""
        found = self.ledger.versions()
        return sum(v.tokens for v in found if v.mode == "federated") / found[-1].tokens_total


def losses_of(trainer: LocalTrainer, config: Config) -> Losses:
    """Nats per byte of what a trainer holds now."""
    own = trainer.evaluate().nats_per_byte
    more = evaluate(trainer.model, trainer.data, _MORE_SEQUENCES * config.data.eval_sequences, precision="fp32")
    return Losses(own, more.nats_per_byte)


def uninterrupted(config: Config, run: RunDir, *, order_seed: int | None = None) -> Losses:
    """The same trainer over the same blocks, in order (or all but the first fifth in one that ``order_seed`` draws), alone."""
    trainer = LocalTrainer(trainer_spec(config, data_dir(config, run)))
    size, steps = trainer.blocks_per_step, config.budget_blocks // trainer.blocks_per_step
    order = list(range(steps))
    if order_seed is not None:
        order[steps // 5 :] = random.Random(order_seed).sample(order[steps // 5 :], steps - steps // 5)
    for step, at in enumerate(order):
        trainer.step(list(range(at * size, (at + 1) * size)), step * trainer.tokens_per_step)
    return losses_of(trainer, config)


def configured(base: Config, times: int, seed: int, changes: Mapping[str, Mapping[str, Any]]) -> Config:
    """The demo with another seed, so many times its tokens in the same day, and a variant's changes."""
    tables: dict[str, Any] = {name: {} for name in ("run", *changes)}
    for table, values in changes.items():
        tables[table].update(values)
    tables["run"].update(seed=seed, budget_tokens=times * base.run.budget_tokens)
    tables.setdefault("federation", {}).setdefault("round_s", base.federation.round_s)
    # Of as many optimizer steps; no shorter than a tick, as nothing is decided in between.
    tables["federation"]["round_s"] = max(base.run.tick_s, tables["federation"]["round_s"] / times)
    update: dict[str, Any] = {table: getattr(base, table).model_copy(update=values) for table, values in tables.items()}
    update["site"] = [s.model_copy(update={"tokens_per_s": s.tokens_per_s * times}) for s in base.site]
    return base.model_copy(update=update)


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval of paired ratios."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.4f}"
    half = _T95.get(len(values) - 1, 2.0) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.4f} ± {half:.4f} ({min(values):.4f} to {max(values):.4f})"


def same_versions(root: Path) -> bool:
    """Whether a finished run on replayed time, over Flower, has the very versions that its configuration gives in this process."""
    config = stored(RunDir(root).config.read_text(encoding="utf-8"))
    ledger = Ledger.open(RunDir(root).ledger, read_only=True)
    theirs = [(v.sha256, v.mode, v.tokens_total) for v in ledger.versions()]
    ledger.close()
    torch.set_num_threads(config.site[0].threads)
    with tempfile.TemporaryDirectory() as folder:
        run = InProcess(config, Path(folder) / "run")
        run.losses()
        ours = [(v.sha256, v.mode, v.tokens_total) for v in run.ledger.versions()]
    same = sum(a == b for a, b in zip(theirs, ours, strict=False))
    figure = {"figure": "versions over Flower = in process", "versions": len(theirs), "in_process": len(ours), "same": same}
    print(json.dumps(figure), flush=True)
    return theirs == ours


def main() -> None:
    """Print one line per seed and variant, one JSON line per variant, and the verdict on the demo's own configuration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only-seed", type=int, help="instead of all: this one")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument("--times", default="1,4", help="how many times the demo's tokens, several with commas (default: 1,4)")
    parser.add_argument("--variants", default="", help=f"of {', '.join(VARIANTS)} (default: all at 1, else product and control)")
    parser.add_argument("--same-as", metavar="RUN", help="instead: a run directory, whose versions are to come out")
    given = parser.parse_args()
    if given.same_as:
        raise SystemExit(not same_versions(Path(given.same_as)))
    torch.set_num_threads(given.threads)
    seeds = range(given.seeds) if given.only_seed is None else [given.only_seed]
    base = loads(bundled("demo.toml"), "demo.toml", Path.cwd())
    failed = False
    for times in map(int, given.times.split(",")):
        names = given.variants.split(",") if given.variants else _USUAL if times == 1 else ["product", "control"]
        plain: dict[int, Losses] = {}
        for name in names:
            ratios, more, versions = list[float](), list[float](), 0
            for seed in seeds:
                config = configured(base, times, seed, VARIANTS[name])
                begun = clock.monotonic()
                with tempfile.TemporaryDirectory() as folder:
                    run = InProcess(config, Path(folder) / "run")
                    if name.startswith("control"):
                        _, _, number = name.partition("-")
                        drawn = 1000 + int(number) if number else config.run.seed
                        found, what = uninterrupted(config, run.run, order_seed=drawn), "in another order"
                    else:
                        found, versions = run.losses(), run.ledger.head().version
                        what = f"elastic over {versions} versions ({run.share_federated():.0%} of the tokens federated)"
                    took = clock.monotonic() - begun
                    if seed not in plain:
                        plain[seed] = uninterrupted(config, run.run)
                ratios.append(found.own / plain[seed].own)
                more.append(found.more / plain[seed].more)
                print(
                    f"x{times} {name}, seed {seed}: {what} {found.own:.4f} nats/byte, uninterrupted {plain[seed].own:.4f}, "
                    f"ratio {ratios[-1]:.4f}, on more sequences {more[-1]:.4f} ({took:.0f} s)",
                    flush=True,
                )
            figure = {
                "figure": "elastic / uninterrupted", "variant": name, "tokens": times * base.run.budget_tokens,
                "versions": versions, "seeds": len(seeds), "ratios": [round(r, 4) for r in ratios],
                "mean": round(statistics.mean(ratios), 4), "mean_on_more": round(statistics.mean(more), 4),
            }  # fmt: skip
            print(f"x{times} {name}: {interval(ratios)}; on more sequences {interval(more)}")
            print(json.dumps(figure), flush=True)
            if name == "product":
                failed |= statistics.mean(ratios) > MARKS.get(times, math.inf) or max(ratios) > MARK_OF_A_SEED
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
