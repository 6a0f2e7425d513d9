"""A whole run in one process: real ledger, real trainers, real loop; messages and bus in memory, time by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from federation.sizes import BATCH, BLOCK, SEQ, TOKENS_PER_STEP
from windfall import clock
from windfall.clock import ManualClock
from windfall.config.load import fingerprint, to_toml
from windfall.config.schema import Config
from windfall.federation.checkpoints import Checkpoints
from windfall.federation.merge import Outer
from windfall.fleet.driver import MemoryDriver, Owned
from windfall.fleet.loop import NoHolds, OperatorHolds
from windfall.fleet.machine import Observed, Site, State
from windfall.fleet.serve import serve
from windfall.grid.build import build_grid
from windfall.run.compose import compose
from windfall.run.prepare import begin_run
from windfall.run.recorder import TelemetryRecorder
from windfall.run.resume import keep_config
from windfall.run.training_inputs import trainer_spec
from windfall.site.power_cap import PowerCap
from windfall.site.worker import SiteWorker
from windfall.store.bus import MemoryBus
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.train.prepare import prepare
from windfall.train.spec import TrainerSpec
from windfall.train.trainer import LocalTrainer
from windfall.units import iso_utc
from windfall.wire.transport import MemoryTransport

#: By site: stretches of minutes from the start.
Windows = dict[str, list[tuple[float, float]]]
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
        #: By site: what holds its GPUs to the power of its level.
        self.power: dict[str, PowerCap] = {}

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
            power=self.power.get(site),
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

    It is put together by the product's own composition, from a configuration. ``windows``: by site, the stretches (minutes from
    the start) in which its signal is under 100. ``earlier``: an earlier life that was crashed (``crash``): its sites live on.
    """

    def __init__(
        self, root: Path, data: Path, windows: Windows, *, snapshot_s: float = 1e9, calendar: bool = False,
        trainer: MakeTrainer | None = None, holds: OperatorHolds | None = None, earlier: Run | None = None, **options: Any,
    ) -> None:  # fmt: skip
        """``options``: as ``configured`` has them."""
        torch.set_num_threads(1)
        self.dir = RunDir(root)
        config = self.config = configured(self.dir, data, windows, calendar=calendar, **options)
        self.spec = trainer_spec(config, data)
        make_trainer = trainer or (lambda spec, _: LocalTrainer(spec))
        if not self.dir.exists():
            self.dir.make()
            first = make_trainer(self.spec, "")
            begin_run(config, self.dir, first.weights(), manifest=first.manifest, folder=data, start=T0)
        self.ledger = Ledger.open(self.dir.ledger)
        if self.ledger.configurations()[-1].text != to_toml(config):  # as `run.resume` makes changes
            self.ledger.configure(to_toml(config), fingerprint(config), budget_blocks=config.budget_blocks, t_wall=0)
            keep_config(config, self.dir)
        self.telemetry = Telemetry.open(self.dir.telemetry)
        self.fence = self.ledger.new_fence()
        self.world = earlier.world if earlier else World(root, self.spec, make_trainer, snapshot_s)
        self.world.only_the_living()
        self.transport, self.bus, self.workers = self.world.transport, self.world.bus, self.world.workers
        #: Reads what the coordinator has written.
        self.checkpoints = Checkpoints(
            self.dir, self.ledger, keep=config.federation.keep_versions, keep_every=config.federation.keep_every
        )
        self.stop = ""
        self.idles = 0
        latest = self.telemetry.rows("SELECT MAX(t_run) FROM decisions")[0][0]
        now = float(latest) if latest is not None else T0
        if not (earlier and calendar):
            self.world.clock = Calendar(now) if calendar else ManualClock(now)
        self.clock = self.world.clock
        self.telemetry.event(self.clock.now(), "started" if latest is None else "resumed", version=self.ledger.head().version)
        self.telemetry.flush()
        self.recorder = TelemetryRecorder(self.telemetry, self.ledger.configurations()[-1].number)
        self.loop, self.federation = compose(
            config, self.dir, ledger=self.ledger, telemetry=self.telemetry, grid=build_grid(config), clock=self.clock,
            driver=self.world, bus=self.bus, transport=self.transport, recorder=self.recorder, fence=self.fence,
            observer=self._moved, holds=holds or NoHolds(), calendar=self.world.calendar,
        )  # fmt: skip
        self.loop.controller.adopt(self.clock.now(), clock.monotonic(), self.world.list_owned("test"), self.ledger.last_asked())

    # the host of fleet.serve

    def granted(self, t: float) -> None:
        for name in self.loop.controller.sites:
            told = self.loop.levels.told(name)
            self.bus.set(name, "clock", {"granted": t, "beat": self.idles, "fence": self.fence, **told})

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


def configured(
    run: RunDir, data: Path, windows: Windows, *, calendar: bool, steps: int = 120, steps_per_min: float | dict[str, float] = 1.0,
    round_min: float = 10, solo_min: float = 20, spin_up_s: float = 120.0, outer: Outer | None = None, codec: str = "fp32",
    round_steps: int | None = None, batch: str = "site", overlap: bool = False,
    transfer_s: float | None = None, grace_s: float = 5.0, round_min_s: float = 60.0, inline_limit_mb: float = 64.0,
    base_max_age: float = 0.005, inner_max_age: float = 0.02, average_inner_every: int = 0, optimizer: str = "adamw",
    clip_delta_norm: float | None = None, more: dict[str, dict[str, Any]] | None = None,
) -> Config:  # fmt: skip
    """The configuration of a run of tiny steps, whose sites' signals lie beside it as traces.

    ``optimizer``: the cheapest one, except where its state is what a test is about. ``more``: by site, more keys of its table.
    """
    outer = outer or Outer()
    signals = run.root.with_name(f"{run.root.name}-signals")
    signals.mkdir(parents=True, exist_ok=True)
    rates = steps_per_min if isinstance(steps_per_min, dict) else dict.fromkeys(windows, steps_per_min)
    sites = []
    for name, stretches in windows.items():
        trace = signals / f"{name}.csv"
        trace.write_text(_trace(stretches), encoding="utf-8")
        sites.append(
            {
                "name": name, "region": name, "spin_up_s": spin_up_s, "train_power_w": 2000.0, "idle_power_w": 400.0,
                "tokens_per_s": rates[name] * TOKENS_PER_STEP / 60, "transfer_s": transfer_s,
                "signal": {"path": str(trace), "column": "g_per_kwh", "period_s": 0.0}, **(more or {}).get(name, {}),
            }
        )  # fmt: skip
    return Config.model_validate(
        {
            "run": {"name": "test", "budget_tokens": steps * TOKENS_PER_STEP, "tick_s": TICK, "start": iso_utc(T0),
                    "clock": "real" if calendar else "scaled"},
            "policy": {"name": "threshold", "start_g_per_kwh": 100.0},
            "model": {"depth": 1, "width": 32, "sequence_length": SEQ},
            "data": {"source": str(data), "eval_sequences": 4, "eval_every_tokens": 0, "sample_tokens": 0},
            "train": {"batch_sequences": BATCH, "block_sequences": BLOCK, "batch": batch, "lr_scale": 0.3, "precision": "fp32",
                      "optimizer": optimizer},
            "federation": {
                "round_s": round_min * 60, "round_min_s": round_min_s, "solo_cut_s": solo_min * 60, "grace_s": grace_s,
                "round_tokens": round_steps * TOKENS_PER_STEP if round_steps else None, "codec": codec, "overlap": overlap,
                "outer": outer.kind, "outer_lr": outer.lr, "outer_momentum": outer.momentum, "base_max_age": base_max_age,
                "inner_max_age": inner_max_age, "average_inner_every": average_inner_every,
                "clip_delta_norm": clip_delta_norm,
                "inline_limit_mb": inline_limit_mb, "keep_versions": 3, "keep_every": 5,
            },
            "fleet": {"start_timeout_s": 1e9, "drain_timeout_s": 1e9, "backoff_s": 120.0, "backoff_max_s": 3600.0},
            "site": sites,
        }
    )  # fmt: skip


def _trace(windows: Iterable[tuple[float, float]]) -> str:
    rows = [(T0 - 3600.0, 500)]
    for a, b in windows:
        rows += [(T0 + a * 60, 10), (T0 + b * 60, 500)]
    return "time_utc,g_per_kwh\n" + "".join(f"{datetime.fromtimestamp(t, UTC).isoformat()},{value}\n" for t, value in rows)
