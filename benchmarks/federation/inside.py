"""Whole runs in this process: bytes as really sent, and what rounds cost the coordinator. Time by hand, messages in memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.federation.processes import Plan, make
from benchmarks.federation.trainers import StandIn, parameters, study

from windfall.clock import ManualClock
from windfall.config.load import load
from windfall.fleet.driver import MemoryDriver
from windfall.fleet.machine import Site, State
from windfall.fleet.serve import serve
from windfall.grid.build import build_grid
from windfall.run.compose import compose
from windfall.run.operator import Operator
from windfall.run.recorder import TelemetryRecorder
from windfall.site.worker import SiteWorker
from windfall.store.bus import MemoryBus
from windfall.store.files import Envelope
from windfall.store.ledger import Ledger
from windfall.store.telemetry import Telemetry
from windfall.units import parse_utc
from windfall.wire.transport import MemoryTransport, Reply

_START = "2026-01-01T00:00Z"
_MOST_IDLE = 1_000_000


class _Weighing(MemoryTransport):
    """Notes the bytes of blobs, as they are sent."""

    def __init__(self) -> None:
        super().__init__()
        self.down: list[dict[str, int]] = []
        self.up: list[int] = []

    def push(self, node: str, envelope: Envelope) -> str:
        if envelope.header.get("kind") == "round":
            self.down.append({name: blob.size for name, blob in envelope.all_blobs().items()})
        return super().push(node, envelope)

    def poll(self) -> list[Reply]:
        found = super().poll()
        for reply in found:
            sizes = {name: blob.size for name, blob in reply.envelope.all_blobs().items()} if reply.envelope else {}
            if "delta" in sizes:
                self.up.append(sum(sizes.values()))
        return found


class InProcess(MemoryDriver):
    """A run and its sites. It is the driver, and what drives the loop."""

    def __init__(self, root: Path, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.dir = make(root, plan, clock_table=f'clock = "scaled"\nspeed = 1e9\nstart = "{_START}"')
        config = load(root / "measured.toml")
        self.ledger, self.telemetry = Ledger.open(self.dir.ledger), Telemetry.open(self.dir.telemetry)
        self.transport, self.bus = _Weighing(), MemoryBus()
        self.workers: dict[str, SiteWorker] = {}
        self._grid = build_grid(config)
        self.fence = self.ledger.new_fence()
        self._stop, self._idles = "", 0
        #: Of this thread, while sites worked.
        self.at_sites_s = 0.0
        recorder = TelemetryRecorder(self.telemetry)
        self.loop, self.work = compose(
            config, self.dir, ledger=self.ledger, telemetry=self.telemetry, grid=self._grid, clock=ManualClock(parse_utc(_START)),
            driver=self, bus=self.bus, transport=self.transport, recorder=recorder, fence=self.fence, observer=self._moved,
            holds=Operator(self.dir, self.ledger, self.telemetry, sites=set(plan.block_s)),
        )  # fmt: skip
        self._recorder = recorder
        self._tick_s = config.run.tick_s

    def ensure_up(self, site: str, generation: int) -> None:
        if site in self.workers:
            return
        super().ensure_up(site, generation)
        trainer = StandIn(
            study(self.plan.depth, self.plan.vocabulary), block_s=0.0, eval_s=0.0, blocks_per_step=self.plan.blocks_per_step,
            tokens_per_step=self.plan.tokens_per_step,
        )  # fmt: skip
        self.workers[site] = SiteWorker(
            site=site, generation=generation, trainer=trainer, mailbox=self.transport.connect(f"{site}#{generation}"),
            bus=self.bus.site(site, generation), folder=self.dir.sites / site, snapshot_s=1e9, dead_man_s=1e9,
        )  # fmt: skip

    def ensure_down(self, site: str, grace_s: float, reason: str) -> None:
        super().ensure_down(site, grace_s, reason)
        if site in self.workers:
            self.transport.disconnect(f"{site}#{self.workers.pop(site).generation}")

    # the host of fleet.serve

    def granted(self, t: float) -> None:
        for name in self.plan.block_s:
            self.bus.set(name, "clock", {"granted": t, "beat": self._idles, "fence": self.fence})

    def idle(self) -> None:
        self._idles += 1
        if self._idles > _MOST_IDLE:
            raise RuntimeError("the run makes no progress")
        begun = time.thread_time()
        for worker in list(self.workers.values()):
            worker.pump()
        self.at_sites_s += time.thread_time() - begun

    def stop_asked(self) -> str:
        return self._stop

    def noted(self, t: float) -> None:
        self._recorder.mode(t, self.loop.controller.mode())

    def moved(self, t: float) -> None:
        self.telemetry.flush()

    def _moved(self, t: float, site: Site, old: State, new: State) -> None:
        self._recorder.moved(t, site, old, new)

    def until(self, version: int) -> None:
        """Serve until this version has been committed."""
        t = self.loop.clock.now()
        while self.ledger.head().version < version:
            t += self._tick_s
            serve(self.loop, self._tick_s, self, until=t)

    def close(self) -> None:
        self._grid.close()
        self.telemetry.close()
        self.ledger.close()


def bytes_of(root: Path, codec: str, depth: int = 3, rounds: int = 3) -> dict[str, Any]:
    """What a site sends and is sent in a joint round, as shares of the parameters in float32; the largest of all seen."""
    run = InProcess(root, Plan({"a": 1.0, "b": 1.0}, depth=depth, round_s=30, codec=codec))
    run.until(2)  # what a site is sent at its start is a whole model
    run.transport.up.clear()
    run.transport.down.clear()
    run.until(2 + rounds)
    run.close()
    whole = 4 * parameters(study(depth))
    down = [sum(sizes.values()) for sizes in run.transport.down]
    return {
        "up": round(max(run.transport.up) / whole, 4), "down": round(max(down) / whole, 4), "contributions": len(run.transport.up),
        "orders": len(down), "parameters": whole // 4,
    }  # fmt: skip


def coordinator_cpu(root: Path, sites: int, rounds: int = 4) -> dict[str, Any]:
    """Processor seconds of the coordinator for a joint round (loop, intake, merge, orders), sites apart; a model of 0.9M."""
    names = [f"s{n:02}" for n in range(sites)]
    run = InProcess(root, Plan(dict.fromkeys(names, 1.0), depth=2, vocabulary=2048, round_s=30, blocks_per_step=sites))
    run.until(2)
    begun, at_sites = time.thread_time(), run.at_sites_s
    first = run.ledger.head().version
    run.until(first + rounds)
    used = time.thread_time() - begun - (run.at_sites_s - at_sites)
    joint = [e for _, e in run.telemetry.events() if e.kind == "round" and len(e.detail["sites"]) == sites]
    run.close()
    return {"sites": sites, "cpu_s_a_round": round(used / rounds, 3), "joint_rounds": len(joint)}
