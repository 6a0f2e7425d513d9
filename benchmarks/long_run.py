"""Long runs: what a coordinator costs that has seen 1,000 rounds, and one whose sites have all been off for days.

    make bench-long-run          (about four minutes)
    .venv/bin/python benchmarks/long_run.py --rounds 250 --idle-s 20

Memory: a run of two sites in one process, whose trainers do nothing, so that what grows is the coordinator's side
(ledger, federation, loop, telemetry). Resident memory is read in one run and Python's own allocations in a second one,
as tracing them takes memory. The baseline is the same run's round 100.

Idle: a real `windfall run` on the calendar whose signal never opens, with supervisor, coordinator and SuperLink. The
baseline is a process that imports the same modules and sleeps in steps of a second.

Exits 1 if memory grows by more than 5 % from round 100 to the last, or the coordinator takes 1 % of a core or more.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import numpy.typing as npt

from windfall import clock
from windfall.clock import ManualClock
from windfall.config.load import loads
from windfall.config.schema import Config
from windfall.fleet.driver import MemoryDriver
from windfall.fleet.loop import NoHolds
from windfall.fleet.serve import serve
from windfall.grid.build import build_grid
from windfall.processes import marked
from windfall.run.compose import compose
from windfall.run.prepare import prepare_run
from windfall.run.recorder import TelemetryRecorder
from windfall.site.worker import SiteWorker
from windfall.store.blobs import Blob
from windfall.store.bus import MemoryBus
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.store.tensors import Tensors, to_bytes
from windfall.train.evaluate import EvalResult
from windfall.units import iso_utc, parse_utc
from windfall.wire.transport import MemoryTransport

MARKS = (100, 250, 500, 1000)
MOST_GROWTH = 1.05
MOST_IDLE_PERCENT = 1.0
START = "2026-01-01T00:00Z"
#: Between the start of an idle run and the first look: imports, data, the SuperLink's own start.
_SETTLE_S = 25.0

CONFIG = """
[run]
name = "long"
budget_tokens = {budget}
clock = "{clock}"
{more}
[policy]
name = "threshold"
[model]
depth = 1
width = 32
sequence_length = 32
[data]
source = "corpus.txt"
eval_sequences = 8
[train]
batch_sequences = 4
block_sequences = 2
[federation]
round_s = 120
solo_cut_s = 120
"""
SITE = """
[[site]]
name = "{name}"
region = "{name}"
spin_up_s = 60
train_power_w = 2000
idle_power_w = 400
tokens_per_s = {rate}
[site.signal]
path = "signal.csv"
column = "g"
period_s = 0
until = "{until}"
"""
STEP_TOKENS = 128
STEPS_PER_ROUND = 2


def write_config(folder: Path, *, rounds: int, real: bool) -> Path:
    """Two sites in a window for good, or (``real``) never."""
    rng = random.Random(0)
    words = ["the", "wind", "turns", "and", "power", "flows", "where", "none", "is", "wanted"]
    (folder / "corpus.txt").write_text("\n".join(" ".join(rng.choices(words, k=12)) for _ in range(600)), encoding="utf-8")
    now = clock.wall() if real else parse_utc(START)
    (folder / "signal.csv").write_text(f"time_utc,g\n{iso_utc(now - 86400)},{500 if real else 10}\n", encoding="utf-8")
    text = CONFIG.format(
        budget=2 * STEPS_PER_ROUND * STEP_TOKENS * (rounds + 50), clock="real" if real else "scaled",
        more="tick_s = 10" if real else f'tick_s = 60\nspeed = 1e9\nstart = "{START}"',
    )  # fmt: skip
    for name in ("a", "b"):
        text += SITE.format(name=name, rate=STEPS_PER_ROUND * STEP_TOKENS / 120, until=iso_utc(now + 30 * 86400))
    (folder / "long.toml").write_text(text, encoding="utf-8")
    return folder / "long.toml"


# -- memory --------------------------------------------------------------------------------------------------


class NoTrainer:
    """Takes no step and remembers the parameters that it was given: what a site costs, less the training."""

    tokens_per_step = STEP_TOKENS
    blocks_per_step = 2
    skipped = ""

    def __init__(self, manifest: str) -> None:
        self.manifest = manifest
        self.alive: Callable[[str], None] = lambda part: None
        self._weights: Tensors = {}

    def step(self, first_blocks: list[int], progress_tokens: float) -> float:
        return 1.0

    def weights(self) -> Tensors:
        return {n: np.array(w) for n, w in self._weights.items()}

    def rebase(self, old: Any, new: Any, moves: Any = ()) -> None:
        return None

    def load(self, weights: Mapping[str, npt.NDArray[np.float32]]) -> None:
        self._weights = dict(weights)

    def evaluate(self) -> EvalResult:
        return EvalResult(1.0, 1.0, 1, 1)

    def sample(self) -> str:
        return ""

    def inner(self, *, exact: bool = False) -> bytes:
        return to_bytes({"none": np.zeros(1, np.float32)})

    def snapshot(self) -> Callable[[], tuple[Tensors, bytes]]:
        now = self.weights(), self.inner(exact=True)
        return lambda: now

    def load_inner(self, data: bytes | Blob) -> None:
        return None

    def shift_inner(self, mean: bytes | Blob, mine: bytes | Blob, steps: int) -> None:
        return None

    def reset_inner(self) -> None:
        return None

    def close(self) -> None:
        return None


class InProcess(MemoryDriver):
    """The coordinator's side with its real parts, and two sites in the same process. Host of ``fleet.serve``."""

    def __init__(self, config: Config, root: Path, rounds: int) -> None:
        super().__init__()
        self.config, self.run, self.rounds = config, RunDir(root), rounds
        prepare_run(config, self.run, lambda _: None)
        self.ledger, self.telemetry = Ledger.open(self.run.ledger), Telemetry.open(self.run.telemetry)
        self.bus, self.transport = MemoryBus(), MemoryTransport()
        self.workers: dict[str, SiteWorker] = {}
        self.recorder = TelemetryRecorder(self.telemetry)
        self.version = 0
        self.seen: list[dict[str, float]] = []
        self._began = clock.monotonic()
        self.loop, _ = compose(
            config, self.run, ledger=self.ledger, telemetry=self.telemetry, grid=build_grid(config),
            clock=ManualClock(parse_utc(START)), driver=self, bus=self.bus, transport=self.transport,
            recorder=self.recorder, fence=self.ledger.new_fence(), observer=self.recorder.moved, holds=NoHolds(),
        )  # fmt: skip

    def ensure_up(self, site: str, generation: int) -> None:
        super().ensure_up(site, generation)
        self.workers[site] = SiteWorker(
            site=site, generation=generation, trainer=NoTrainer(self.ledger.meta("manifest") or ""),
            mailbox=self.transport.connect(f"{site}#{generation}"), bus=self.bus.site(site, generation),
            folder=self.run.sites / site, snapshot_s=math.inf, dead_man_s=math.inf,
        )  # fmt: skip

    def ensure_down(self, site: str, grace_s: float, reason: str) -> None:
        super().ensure_down(site, grace_s, reason)
        worker = self.workers.pop(site)
        self.transport.disconnect(f"{site}#{worker.generation}")

    def granted(self, t: float) -> None:
        for site in self.config.site:
            self.bus.set(site.name, "clock", {"granted": t, "beat": 0})

    def idle(self) -> None:
        for worker in list(self.workers.values()):
            worker.pump()

    def stop_asked(self) -> str:
        return "that was the last round" if self.version >= self.rounds else ""

    def noted(self, t: float) -> None:
        self.recorder.mode(t, self.loop.controller.mode())

    def moved(self, t: float) -> None:
        self.telemetry.flush()
        version = self.ledger.head().version
        if version == self.version:
            return
        self.version = version
        if version in MARKS or version == self.rounds:
            self._look()

    def _look(self) -> None:
        traced = tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else 0
        self.seen.append({
            "round": self.version, "rss": resident(os.getpid()), "traced": traced,
            "ledger": size(self.run.ledger), "telemetry": size(self.run.telemetry), "seconds": clock.monotonic() - self._began,
        })  # fmt: skip


def resident(pid: int) -> int:
    """Resident memory in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def size(database: Path) -> int:
    """Bytes of a database, without what its journal holds besides."""
    return database.stat().st_size


def rounds_in_process(rounds: int, *, traced: bool) -> list[dict[str, float]]:
    """Play a run of so many rounds in this process; what was seen on the way."""
    with tempfile.TemporaryDirectory() as folder:
        config = loads(write_config(Path(folder), rounds=rounds, real=False).read_text("utf-8"), "long.toml", Path(folder))
        run = InProcess(config, Path(folder) / "run", rounds)
        if traced:
            tracemalloc.start()  # after what is imported: what a run gathers stands out
        assert serve(run.loop, config.run.tick_s, run) == "interrupted"
        assert run.version >= rounds
        run.telemetry.close()
        run.ledger.close()
        return run.seen


def in_a_process_of_its_own(rounds: int, *, traced: bool) -> list[dict[str, float]]:
    """As ``rounds_in_process``, in a process that has done nothing else."""
    command = [sys.executable, __file__, "--rounds", str(rounds), "--child", "traced" if traced else "rss"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


def memory(rounds: int) -> bool:
    """Print memory by rounds; whether it is flat."""
    plain, traced = in_a_process_of_its_own(rounds, traced=False), in_a_process_of_its_own(rounds, traced=True)
    before: dict[str, float] = {"round": 0, "seconds": 0, "ledger": 0, "telemetry": 0}
    for p, q in zip(plain, traced, strict=True):
        n = p["round"] - before["round"]
        print(
            f"round {p['round']:5.0f}: resident {p['rss'] / 2**20:7.2f} MiB, traced {q['traced'] / 2**20:6.3f} MiB; since the line "
            f"before, by round: ledger {(p['ledger'] - before['ledger']) / n:6.0f} bytes, telemetry "
            f"{(p['telemetry'] - before['telemetry']) / n:6.0f} bytes, {1000 * (p['seconds'] - before['seconds']) / n:5.1f} ms",
            flush=True,
        )
        before = p
    first, last, first_traced, last_traced = plain[0], plain[-1], traced[0], traced[-1]
    ratio, ratio_traced = last["rss"] / first["rss"], last_traced["traced"] / first_traced["traced"]
    each = (last_traced["traced"] - first_traced["traced"]) / max(1, last["round"] - first["round"])
    print(
        f"memory, round {last['round']:.0f} over round {first['round']:.0f} (baseline): resident {ratio:.3f}, "
        f"traced {ratio_traced:.3f} ({each:+.0f} bytes a round); limit {MOST_GROWTH}"
    )
    return ratio <= MOST_GROWTH


# -- idle ----------------------------------------------------------------------------------------------------


def used(pid: int) -> float:
    """Processor seconds that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def threads(pid: int) -> dict[str, float]:
    """Processor seconds of each thread, by name and number."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        stat = (task / "stat").read_text(encoding="utf-8")
        fields = stat.rpartition(")")[2].split()
        name = stat.partition("(")[2].rpartition(")")[0]
        found[f"{name} {task.name}"] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


@contextmanager
def started(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block: asked first."""
    with open(log, "wb") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGINT)
        try:
            child.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def idle(for_s: float, *, detail: bool) -> bool:
    """Print the processor's share of an idle run's processes; whether the coordinator's is small enough."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, root = write_config(folder, rounds=100, real=True), folder / "run"
        run_command = [sys.executable, "-m", "windfall.cli.main", "run", str(config), "--run-dir", str(root), "--quiet"]
        sleeper = "import time, windfall.run.coordinator\nwhile True:\n    time.sleep(1)"
        base_command = [sys.executable, "-c", sleeper]
        with started(run_command, folder / "run.log") as run, started(base_command, folder / "sleeper.log") as base:
            pids = {"supervisor": run.pid, "sleeping process": base.pid, **_children(root, run)}
            clock.pause(_SETTLE_S)
            before, before_threads, begun = {n: used(p) for n, p in pids.items()}, threads(pids["coordinator"]), clock.monotonic()
            clock.pause(for_s)
            took = clock.monotonic() - begun
            share = {n: 100 * (used(p) - before[n]) / took for n, p in pids.items()}
            if detail:
                for thread, seconds in sorted(threads(pids["coordinator"]).items()):
                    print(f"  coordinator, thread {thread}: {100 * (seconds - before_threads.get(thread, 0)) / took:.2f} %")
            assert run.poll() is None, (folder / "run.log").read_text(errors="replace")[-2000:]
    floor = share["sleeping process"]
    for who in ("coordinator", "superlink", "supervisor"):
        over = f"{share[who] / floor:.1f} times a sleeping process" if floor else "a sleeping process takes 0.00 %"
        print(f"idle for {took:.0f} s: {who} {share[who]:.2f} % of a core ({over})", flush=True)
    print(f"coordinator, over the limit of {MOST_IDLE_PERCENT} % (baseline): {share['coordinator'] / MOST_IDLE_PERCENT:.2f}")
    return share["coordinator"] < MOST_IDLE_PERCENT


def _children(root: Path, run: subprocess.Popen[bytes]) -> dict[str, int]:
    """Coordinator and SuperLink of a run that is starting."""
    patience = clock.monotonic() + 120
    found: dict[str, int] = {}
    while len(found) < 2 and clock.monotonic() < patience and run.poll() is None:
        clock.pause(0.5)
        if not (root / "logs" / "coordinator.json").is_file():
            continue  # it does not serve yet
        ledger = Ledger.open(root / "ledger.db", read_only=True)
        run_id = ledger.meta("run_id") or ""
        ledger.close()
        for p in marked(run_id, root):
            line = Path(f"/proc/{p.pid}/cmdline").read_bytes().decode(errors="replace")
            for who, part in (("coordinator", "windfall.run.coordinator"), ("superlink", "flower-superlink")):
                if part in line and who not in found:
                    found[who] = p.pid
    assert len(found) == 2, "the run did not come up"
    return found


def main() -> None:
    """Print both parts and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--idle-s", type=float, default=60.0, help="0: not this part")
    parser.add_argument("--detail", action="store_true", help="the coordinator's threads one by one")
    parser.add_argument("--child", choices=("rss", "traced"), help=argparse.SUPPRESS)
    given: Any = parser.parse_args()
    if given.child:
        print(json.dumps(rounds_in_process(given.rounds, traced=given.child == "traced")))
        return
    flat = memory(given.rounds) if given.rounds else True
    quiet = idle(given.idle_s, detail=given.detail) if given.idle_s else True
    raise SystemExit(not (flat and quiet))


if __name__ == "__main__":
    main()
