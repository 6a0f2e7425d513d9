"""A whole run in one process: real ledger, real trainers, real loop; messages and bus in memory, time by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from federation.sizes import BATCH, BLOCK, SEQ, TOKENS_PER_STEP
from windfall import clock
from windfall.clock import ManualClock
from windfall.energy.account import Account, PowerModel, Tariff
from windfall.federation.checkpoints import Checkpoints
from windfall.federation.departed import departed, take_leave
from windfall.federation.engine import Federation
from windfall.federation.intake import Intake
from windfall.federation.members import Settings
from windfall.federation.merge import Outer
from windfall.federation.recovery import recover
from windfall.fleet.controller import Controller
from windfall.fleet.driver import MemoryDriver, Owned
from windfall.fleet.loop import Loop, OperatorHolds, SiteProfile
from windfall.fleet.machine import Observed, Patience, Site, State
from windfall.fleet.serve import serve
from windfall.grid.signal import StepSignal
from windfall.policy.base import PerSite
from windfall.policy.criterion import under
from windfall.policy.threshold import Threshold
from windfall.run.recorder import LedgerJournal, TelemetryRecorder, restore
from windfall.site.worker import SiteWorker
from windfall.store.bus import MemoryBus
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.train.prepare import prepare
from windfall.train.spec import TrainerSpec
from windfall.train.trainer import LocalTrainer
from windfall.wire.transport import MemoryTransport

TICK = 60.0
T0 = 1_000_000.0


def corpus(folder: Path) -> Path:
    """A prepared corpus of generated text."""
    source = folder / "corpus.txt"
    rng = np.random.default_rng(0)
    words = ["the", "wind", "turns", "and", "power", "flows", "where", "none", "is", "wanted"]
    source.write_text("\n".join(" ".join(rng.choice(words, 12)) for _ in range(600)), encoding="utf-8")
    prepare(source, folder / "data", sequence_length=SEQ)
    return folder / "data"


class Calendar:
    """A calendar that a test turns by hand: it waits for nothing, as the real one does."""

    gated = False

    def __init__(self, start: float) -> None:
        self.wall = self._t = start

    def now(self) -> float:
        return self._t

    def reached(self, t: float) -> bool:
        return self.wall >= t

    def move_to(self, t: float) -> None:
        self._t = max(t, self.wall)


#: Run time that passes on a ``Calendar`` while each site does one unit of work.
PUMP_S = 20.0

#: Makes the trainer of a site ("" for the one whose first weights are version 0).
MakeTrainer = Callable[[TrainerSpec, str], Any]


class World(MemoryDriver):
    """What lives on when a coordinator dies: sites and the ways to them. It is the driver as well."""

    def __init__(self, root: Path, spec: TrainerSpec, make_trainer: MakeTrainer, snapshot_s: float) -> None:
        super().__init__()
        self.root, self.spec, self.make_trainer, self.snapshot_s = root, spec, make_trainer, snapshot_s
        self.transport = MemoryTransport()
        self.bus = MemoryBus()
        self.workers: dict[str, SiteWorker] = {}
        self.nodes: dict[str, str] = {}
        self.clock: Calendar | ManualClock = ManualClock(T0)

    def calendar(self) -> float:
        return self.clock.wall if isinstance(self.clock, Calendar) else self.clock.now()

    def ensure_up(self, site: str, generation: int) -> None:
        if site in self.workers:
            return
        super().ensure_up(site, generation)
        self.override.pop(site, None)
        self.nodes[site] = f"{site}#{generation}"
        self.workers[site] = SiteWorker(
            site=site, generation=generation, trainer=self.make_trainer(self.spec, site),
            mailbox=self.transport.connect(self.nodes[site]), bus=self.bus.site(site, generation),
            folder=self.root / "sites" / site, snapshot_s=self.snapshot_s, dead_man_s=1e9, calendar=self.calendar,
        )  # fmt: skip

    def ensure_down(self, site: str, grace_s: float, reason: str) -> None:
        super().ensure_down(site, grace_s, reason)
        self.kill(site, observed=False)

    def list_owned(self, run_id: str) -> list[Owned]:
        return [Owned(s, w.generation, s) for s, w in self.workers.items()]

    def only_the_living(self) -> None:
        """A driver's new life finds what lives, and knows nothing of the dead."""
        for site in self.up.keys() - self.workers.keys():
            del self.up[site]
            self.override.pop(site, None)

    def kill(self, site: str, *, observed: bool = True, node_too: bool = True) -> None:
        """A site's processes are gone, with everything that was under way; its SuperNode may linger."""
        self.workers.pop(site, None)
        if node_too and site in self.nodes:
            self.transport.disconnect(self.nodes.pop(site))
        if observed and site in self.up:
            self.override[site] = Observed.FAILED


class Run:
    """One life of a coordinator over a run directory, with sites that live in this process.

    ``windows``: by site, the stretches (minutes from the start) in which its signal is under 100. ``earlier``: an
    earlier life that was crashed (``crash``): its sites live on.
    """

    def __init__(
        self, root: Path, data: Path, windows: dict[str, list[tuple[float, float]]], *, steps: int = 120,
        steps_per_min: float | dict[str, float] = 1.0, round_min: float = 10, solo_min: float = 20, spin_up_s: float = 120.0,
        outer: Outer | None = None, codec: str = "fp32", snapshot_s: float = 1e9, round_steps: int | None = None,
        inner_max_age: float = 0.02, batch: str = "site", overlap: bool = False, transfer_s: float | None = None,
        calendar: bool = False, grace_s: float = 5.0, round_min_s: float = 60.0, inline_bytes: int = 64 * 2**20,
        average_inner_every: int = 0, base_max_age: float = 0.005, trainer: MakeTrainer | None = None,
        holds: OperatorHolds | None = None, earlier: Run | None = None,
    ) -> None:  # fmt: skip
        torch.set_num_threads(1)
        self.dir = RunDir(root)
        names = list(windows)
        blocks = steps * BATCH // BLOCK
        self.spec = TrainerSpec(
            data_dir=str(data), depth=1, width=32, head_dim=None, sequence_length=SEQ, seed=0, batch_sequences=BATCH,
            block_sequences=BLOCK, budget_tokens=steps * TOKENS_PER_STEP, optimizer="normuon", lr_scale=0.3,
            warmdown_fraction=0.4, lr_floor=0.0, reset_warmup_fraction=0.005, precision="fp32", eval_sequences=4,
        )  # fmt: skip
        make_trainer = trainer or (lambda spec, _: LocalTrainer(spec))
        first = make_trainer(self.spec, "")
        if not self.dir.exists():
            self.dir.make()
            ledger = Ledger.create(
                self.dir.ledger, run_id="test", fingerprint="f", budget_blocks=blocks, tokens_per_block=SEQ * BLOCK
            )
            file, digest = Checkpoints(self.dir, ledger, keep=3, keep_every=5).write(0, first.weights())
            ledger.commit(t_run=T0, t_wall=0, file=file, sha256=digest, mode="initial", contributions=[])
            ledger.close()
        self.ledger = Ledger.open(self.dir.ledger)
        if blocks > self.ledger.budget_blocks:
            self.ledger.configure("", "f", budget_blocks=blocks, t_wall=0)
        self.telemetry = Telemetry.open(self.dir.telemetry)
        self.fence = self.ledger.new_fence()
        self.world = earlier.world if earlier else World(root, self.spec, make_trainer, snapshot_s)
        self.world.only_the_living()
        self.transport, self.bus, self.workers = self.world.transport, self.world.bus, self.world.workers
        self.signals = {n: _signal(w) for n, w in windows.items()}
        self.checkpoints = Checkpoints(self.dir, self.ledger, keep=3, keep_every=5)
        self.stop = ""
        self.idles = 0
        latest = self.telemetry.rows("SELECT MAX(t_run) FROM decisions")[0][0]
        now = float(latest) if latest is not None else T0
        if not (earlier and calendar):
            self.world.clock = Calendar(now) if calendar else ManualClock(now)
        self.clock = self.world.clock
        now = self.clock.now()
        rates = steps_per_min if isinstance(steps_per_min, dict) else dict.fromkeys(names, steps_per_min)
        settings = Settings(
            round_s=round_min * 60, solo_cut_s=solo_min * 60, quorum=0.5, grace_s=grace_s, heartbeat_timeout_s=60, tick_s=TICK,
            gated=not calendar, codec=codec, blocks_per_step=BATCH // BLOCK, tokens_per_block=SEQ * BLOCK, batch=batch,
            overlap=overlap, round_min_s=round_min_s, inline_bytes=inline_bytes,
            transfer_s={} if transfer_s is None else dict.fromkeys(names, transfer_s),
            budget_tokens=steps * TOKENS_PER_STEP, manifest=first.manifest,
            tokens_per_s={n: rates[n] * TOKENS_PER_STEP / 60 for n in names},
            round_blocks=round_steps * BATCH // BLOCK if round_steps else None,
            inner_max_age=inner_max_age, average_inner_every=average_inner_every,
        )  # fmt: skip
        gone = departed(self.ledger, self.dir.sites, names)
        intake = Intake(
            self.ledger,
            self.checkpoints,
            outer or Outer(),
            self.telemetry,
            sites={*names, *gone},
            base_max_age_tokens=base_max_age * steps * TOKENS_PER_STEP,
            work_kwh=lambda site, tokens, train_s: tokens / 1000,
            codec=codec,
            average_inner_every=average_inner_every,
        )
        recover(now, self.ledger, self.checkpoints, intake, self.telemetry)
        take_leave(now, gone, self.ledger, intake, self.telemetry, self.dir.sites)
        self.federation = Federation(
            ledger=self.ledger, checkpoints=self.checkpoints, intake=intake, bus=self.bus, transport=self.transport,
            events=self.telemetry, settings=settings, fence=self.fence, now=now, sites=names,
            generations=self.ledger.generations(), calendar=self.world.calendar,
        )  # fmt: skip
        self.recorder = TelemetryRecorder(self.telemetry)
        controller = Controller(
            {n: Patience(spin_up_s, 1e9, 1e9, 120, 3600) for n in names}, self.world, LedgerJournal(self.ledger),
            gated=not calendar, observer=self._moved,
        )  # fmt: skip
        for name, generation in self.ledger.generations().items():
            if name in controller.sites:
                controller.sites[name].generation = generation
        self.loop = Loop(
            clock=self.clock, signals={n: {"marginal_co2": s} for n, s in self.signals.items()},
            profiles={n: SiteProfile(spin_up_s, 0.0, 1.0, 2000.0) for n in names},
            policy=PerSite(Threshold(100.0), dict.fromkeys(names, under(100.0))), controller=controller, work=self.federation,
            account=Account(
                {n: PowerModel(2000, 400, 0) for n in names}, {n: Tariff.plain(s, 100.0) for n, s in self.signals.items()}
            ),
            recorder=self.recorder, holds=holds,
        )  # fmt: skip
        restore(self.telemetry, self.loop.account, self.loop)
        controller.adopt(now, clock.monotonic(), self.world.list_owned("test"), self.ledger.last_asked())

    # the host of fleet.serve

    def granted(self, t: float) -> None:
        for name in self.signals:
            self.bus.set(name, "clock", {"granted": t, "beat": self.idles, "fence": self.fence})

    def idle(self) -> None:
        self.idles += 1
        if isinstance(self.clock, Calendar):
            self.clock.wall += PUMP_S
        assert self.idles < 200_000, "the run makes no progress"
        for name, worker in list(self.workers.items()):
            self.pump(name, worker)

    def pump(self, name: str, worker: SiteWorker) -> None:
        """One unit of work at a site; a test may put something else here."""
        worker.pump()

    def stop_asked(self) -> str:
        return self.stop

    def noted(self, t: float) -> None:
        self.recorder.mode(t, self.loop.controller.mode())

    def moved(self, t: float) -> None:
        self.telemetry.flush()

    def _moved(self, t: float, site: Site, old: State, new: State) -> None:
        self.recorder.moved(t, site, old, new)

    # what befalls it

    def kill(self, site: str) -> None:
        """A site's processes are gone, with everything that was under way."""
        self.world.kill(site)

    def crash(self) -> None:
        """The coordinator is gone; its sites go on."""
        self.telemetry.close()
        self.ledger.close()

    # what tests look at

    def serve(self, until_min: float | None = None) -> str:
        """Run to the end, or to a minute of run time."""
        return serve(self.loop, TICK, self, until=None if until_min is None else T0 + until_min * 60)

    def events(self, *kinds: str) -> list[tuple[float, str, str | None, dict[str, Any]]]:
        """Minutes from the start, kind, site, detail."""
        self.telemetry.flush()
        return [((e.t_run - T0) / 60, e.kind, e.site, e.detail) for _, e in self.telemetry.events() if not kinds or e.kind in kinds]

    def modes(self) -> list[str]:
        """The modes in their order."""
        return [d["now"] for _, _, _, d in self.events("mode")]

    def weights(self) -> dict[str, np.ndarray]:
        """Those of the newest version, from its file."""
        from windfall.store.tensors import load_file

        head = self.ledger.head()
        return load_file(self.dir.checkpoints / head.file, head.sha256)

    def close(self) -> None:
        """The coordinator ends; its sites go with it."""
        for site in list(self.workers):
            self.world.ensure_down(site, 0, "the test is over")
        self.crash()


def _signal(windows: Iterable[tuple[float, float]]) -> StepSignal:
    times, values = [T0 - 3600.0], [500.0]
    for a, b in windows:
        times += [T0 + a * 60, T0 + b * 60]
        values += [10.0, 500.0]
    return StepSignal(np.array(times), np.array(values), unit="gCO2/kWh", source="test", period_s=0)
