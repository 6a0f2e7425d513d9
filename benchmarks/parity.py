"""Parity: an elastic run over the study's day against one uninterrupted run at equal tokens, over seeds.

    make bench-parity            (three seeds; about ten minutes on two cores)
    .venv/bin/python benchmarks/parity.py --seeds 1 --tokens 200000

The elastic run is the demo's configuration with its real policy, loop, ledger, leases, cuts and merging, and real
trainers; messages go through memory instead of Flower, so that three seeds take minutes. The uninterrupted run is
the same trainer stepping through the same blocks in order, with nothing around it. Compared is the last value of
the validation loss in nats per byte.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from windfall import clock
from windfall.cli.demo import bundled
from windfall.clock import ManualClock
from windfall.config.load import loads
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
from windfall.train.trainer import LocalTrainer
from windfall.units import parse_utc
from windfall.wire.transport import MemoryTransport

LIMIT_NATS_PER_BYTE = 0.10


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

    def last_loss(self) -> float:
        """Run to the end; nats per byte of the last version."""
        assert serve(self.loop, self.config.run.tick_s, self) == "done"
        self.telemetry.flush()
        value = self.telemetry.rows("SELECT value FROM metrics WHERE name = 'val_nats_per_byte' ORDER BY version DESC LIMIT 1")
        assert self.ledger.complete()
        return float(value[0][0])

    def share_federated(self) -> float:
        """Share of the tokens in versions of federated rounds."""
        found = self.ledger.versions()
        return sum(v.tokens for v in found if v.mode == "federated") / found[-1].tokens_total


def uninterrupted(config: Config, run: RunDir) -> float:
    """The same trainer over the same blocks, in order, alone; nats per byte at the end."""
    trainer = LocalTrainer(trainer_spec(config, data_dir(config, run)))
    for step in range(config.budget_blocks // trainer.blocks_per_step):
        first = step * trainer.blocks_per_step
        trainer.step(list(range(first, first + trainer.blocks_per_step)), step * trainer.tokens_per_step)
    return trainer.evaluate().nats_per_byte


def main() -> None:
    """Print one line per seed and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=0, help="budget (default: the demo's)")
    given = parser.parse_args()
    torch.set_num_threads(2)
    base = loads(bundled("demo.toml"), "demo.toml", Path.cwd())
    tokens = given.tokens or base.run.budget_tokens
    scale = tokens / base.run.budget_tokens
    gaps, ratios = [], []
    for seed in range(given.seeds):
        config = base.model_copy(update={
            "run": base.run.model_copy(update={"seed": seed, "budget_tokens": tokens}),
            "site": [s.model_copy(update={"tokens_per_s": s.tokens_per_s * scale}) for s in base.site],
        })  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            begun = clock.monotonic()
            elastic_run = InProcess(config, Path(folder) / "run")
            elastic = elastic_run.last_loss()
            plain = uninterrupted(config, elastic_run.run)
            gaps.append(elastic - plain)
            ratios.append(elastic / plain)
            print(
                f"seed {seed}: elastic {elastic:.4f} nats/byte over {elastic_run.ledger.head().version} versions "
                f"({elastic_run.share_federated():.0%} of the tokens federated), uninterrupted {plain:.4f}, "
                f"difference {gaps[-1]:+.4f}, ratio {ratios[-1]:.4f} ({clock.monotonic() - begun:.0f} s)",
                flush=True,
            )
    print(
        f"{tokens:,} tokens, {given.seeds} seeds: difference {statistics.mean(gaps):+.4f} nats/byte "
        f"({min(gaps):+.4f} to {max(gaps):+.4f}), ratio {statistics.mean(ratios):.4f}; limit {LIMIT_NATS_PER_BYTE}"
    )
    raise SystemExit(max(gaps) > LIMIT_NATS_PER_BYTE)


if __name__ == "__main__":
    main()
