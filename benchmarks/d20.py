"""A real d20 on this machine, from nothing to exported weights, with default time-outs and a trainer killed in its second step.

    make verify-d20                                   (about 15 minutes on two cores, 12 GB of memory, 25 GB of disk)
    .venv/bin/python benchmarks/d20.py --depth 4 --batch-sequences 64 --snapshot-s 0.1

One site whose signal is always in a window, on the calendar: bytes, 512 tokens to a step, 394M parameters, over Flower and the
server for large files. Two optimizer steps. In the second the trainer is killed (SIGKILL); its next life hands in the first from
its snapshot, takes the second again, cuts, and evaluates what was committed. Then `windfall export-weights`.

Prints what happens as it happens, and at the end one line of JSON: minutes of each phase, the most anonymous memory of each process
(also as a multiple of the model in float32), and the longest that the coordinator's loop stood still. Exits 1 unless all of
it happened, with no failure but the one that was made.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from windfall import clock
from windfall.processes import marked
from windfall.store.files import read_json
from windfall.store.ledger import Ledger
from windfall.units import iso_utc

CONFIG = """
[run]
name = "d20"
budget_tokens = {budget}
clock = "real"
[policy]
name = "threshold"
[model]
depth = {depth}
sequence_length = {sequence_length}
[data]
source = "corpus.txt"
eval_sequences = 2
[train]
batch_sequences = {batch}
block_sequences = {batch}
[federation]
inline_limit_mb = {inline_mb}
{snapshot}
[[site]]
name = "texas"
region = "texas"
spin_up_s = 60
train_power_w = 2000
idle_power_w = 400
tokens_per_s = {rate}
threads = {threads}
[site.signal]
path = "signal.csv"
column = "g"
period_s = 0
until = "{until}"
"""
SITE = "texas"
STEPS = 2
#: The coordinator says every two seconds that its loop turns.
_BEAT_S = 2.0
_LOOK_S = 0.1
_ROLES = {
    "windfall.run.coordinator": "coordinator", "windfall.site.trainer_process": "trainer", "windfall.site.supernode": "supernode",
    "windfall.site.agent": "agent", "flower-superlink": "superlink", "endpoint_process": "files",
}  # fmt: skip


def write_config(folder: Path, given: argparse.Namespace) -> Path:
    """A configuration with defaults for all that has to do with time."""
    rng = random.Random(0)
    words = ["the", "wind", "turns", "and", "power", "flows", "where", "none", "is", "wanted"]
    (folder / "corpus.txt").write_text("\n".join(" ".join(rng.choices(words, k=12)) for _ in range(20_000)), encoding="utf-8")
    now = clock.wall()
    (folder / "signal.csv").write_text(f"time_utc,g\n{iso_utc(now - 86400)},10\n", encoding="utf-8")
    tokens = given.batch_sequences * given.sequence_length
    text = CONFIG.format(
        budget=STEPS * tokens, depth=given.depth, sequence_length=given.sequence_length, batch=given.batch_sequences,
        inline_mb=given.inline_mb, rate=tokens / given.step_s, threads=given.threads, until=iso_utc(now + 30 * 86400),
        snapshot=f"snapshot_s = {given.snapshot_s}" if given.snapshot_s else "",
    )  # fmt: skip
    (folder / "d20.toml").write_text(text, encoding="utf-8")
    return folder / "d20.toml"


class Watch:
    """Looks at a run from outside: its files, its processes' memory."""

    def __init__(self, root: Path, run: subprocess.Popen[bytes]) -> None:
        self.root, self.run = root, run
        self.begun = clock.monotonic()
        self.phases: dict[str, float] = {}
        self.anonymous: dict[str, int] = {}
        #: The most that the trainer has while it takes its first step, and nothing else.
        self.in_first_step = 0
        self.stood_still_s = 0.0
        self._phase = self.begun
        self._beat: tuple[Any, float] = (None, self.begun)
        self._sampled = 0.0
        self._said = ""
        self._run_id = ""

    @property
    def site(self) -> Path:
        return self.root / "sites" / SITE

    def look(self) -> None:
        """Take everything in. Raises SystemExit if the run has ended."""
        now = clock.monotonic()
        beat = read_json(self.root / "logs" / "coordinator.json")
        if beat != self._beat[0]:
            if self._beat[0] and beat and beat.get("serves") and self._beat[0].get("serves"):
                self.stood_still_s = max(self.stood_still_s, now - self._beat[1] - _BEAT_S)
            self._beat = (beat, now)
        if now - self._sampled > 1.0:
            self._sampled = now
            for pid, role in self.processes().items():
                used = anonymous(pid)
                self.anonymous[role] = max(self.anonymous.get(role, 0), used)
                if role == "trainer" and "first step" not in self.phases and self.doing().startswith("a step"):
                    self.in_first_step = max(self.in_first_step, used)
        doing = self.doing()
        if doing.partition(",")[0] != self._said.partition(",")[0]:
            self._said = doing
            print(f"  {now - self.begun:7.1f} s  {doing or 'waits'}", flush=True)

    def processes(self) -> dict[int, str]:
        """The run's processes, by number: what they are."""
        if not self._run_id:
            if not (self.root / "ledger.db").is_file():
                return {self.run.pid: "supervisor"}
            ledger = Ledger.open(self.root / "ledger.db", read_only=True)
            self._run_id = ledger.meta("run_id") or ""
            ledger.close()
        found = {self.run.pid: "supervisor"}
        for p in marked(self._run_id, self.root):
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{p.pid}/cmdline").read_bytes().decode(errors="replace")
                found[p.pid] = next((role for part, role in _ROLES.items() if part in line), "other")
        return found

    def heartbeat(self) -> dict[str, Any]:
        return read_json(self.site / "bus" / "site-heartbeat.json") or {}

    def doing(self) -> str:
        """What the site is at, by its own word."""
        return str(self.heartbeat().get("doing", ""))

    def trained(self) -> list[int]:
        """Tokens that each life of the site has trained."""
        return [int(f.read_bytes()[:20] or b"0") for f in sorted((self.site / "trained").glob("*"))]

    def kept(self) -> bool:
        """Whether the site's work is on its disk, or committed."""
        return (self.site / "snapshot.env").is_file() or any((self.site / "outbox").glob("*.env")) or self.version() > 0

    def version(self) -> int:
        if not (self.root / "ledger.db").is_file():
            return -1
        ledger = Ledger.open(self.root / "ledger.db", read_only=True)
        try:
            return ledger.head().version
        finally:
            ledger.close()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Of the run's telemetry."""
        try:
            with contextlib.closing(sqlite3.connect(f"file:{self.root / 'telemetry.db'}?mode=ro", uri=True)) as db:
                return db.execute(sql).fetchall()
        except sqlite3.OperationalError:
            return []

    def events(self, kind: str) -> list[tuple[Any, ...]]:
        return self.rows(f"SELECT t_run, site, detail FROM events WHERE kind = '{kind}'")

    def until(self, phase: str, reached: Any) -> None:
        """Look until ``reached()``; the time since the phase before is this phase's."""
        while not reached():
            if self.run.poll() is not None:
                raise SystemExit(f"the run ended with {self.run.returncode} before: {phase}")
            self.look()
            clock.pause(_LOOK_S)
        now = clock.monotonic()
        self.phases[phase], self._phase = now - self._phase, now
        print(f"{now - self.begun:9.1f} s  {phase}: {self.phases[phase]:.1f} s", flush=True)


def anonymous(pid: int) -> int:
    """Bytes of anonymous memory that a process has in use."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
    return 0


def kill_the_trainer(watch: Watch) -> None:
    """SIGKILL to the trainer, which is in its second step."""
    trainers = [pid for pid, role in watch.processes().items() if role == "trainer"]
    assert len(trainers) == 1, f"trainers: {trainers}"
    os.kill(trainers[0], signal.SIGKILL)


def play(watch: Watch, tokens: int) -> None:
    """Through the whole case."""
    watch.until("prepare", lambda: (watch.root / "logs" / "coordinator.json").is_file())
    watch.until("start", lambda: bool(watch.events("hello")))
    watch.until("version 0 on its way", lambda: watch.doing().startswith("a step"))
    watch.until("first step", lambda: watch.trained() == [tokens])
    watch.until("first step safe", lambda: watch.kept() and watch.doing().startswith("a step"))
    kill_the_trainer(watch)
    watch.until("second life started", lambda: len(watch.events("hello")) == 2)
    watch.until("first step committed", lambda: watch.version() == 1)
    watch.until("second life trains", lambda: watch.doing().startswith("a step"))
    watch.until("second step", lambda: watch.trained() == [tokens, tokens])
    watch.until("second step committed", lambda: watch.version() == STEPS)
    watch.until("evaluated", lambda: bool(watch.rows(f"SELECT 1 FROM metrics WHERE name = 'val_bpb' AND version = {STEPS}")))
    while watch.run.poll() is None:
        watch.look()
        clock.pause(_LOOK_S)
    watch.phases["end"] = clock.monotonic() - watch._phase
    assert watch.run.returncode == 0, f"the run ended with {watch.run.returncode}"
    failed = [e for e in watch.events("state") if '"now": "failed"' in str(e[2])]
    assert len(failed) == 1, f"failures: {failed}"
    assert len(watch.events("hello")) == STEPS, f"lives: {watch.events('hello')}"


def main() -> None:
    """Play it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--sequence-length", type=int, default=512)
    parser.add_argument("--batch-sequences", type=int, default=1)
    parser.add_argument("--step-s", type=float, default=300.0, help="what a step is taken to last")
    parser.add_argument("--snapshot-s", type=float, default=0.0, help="0: the default")
    parser.add_argument("--inline-mb", type=float, default=64.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, default=None, help="where the run is left; default: a folder that is removed")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        config, root = write_config(folder, given), folder / "run"
        windfall = [sys.executable, "-m", "windfall.cli.main"]
        with open(folder / "run.log", "wb") as log:
            run = subprocess.Popen(
                [*windfall, "run", str(config), "--run-dir", str(root), "--quiet"],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        watch = Watch(root, run)
        try:
            play(watch, given.batch_sequences * given.sequence_length)
        except (SystemExit, AssertionError):
            for file in (folder / "run.log", *sorted((watch.site / "logs").glob("*.log"))):
                print(f"--- {file.name}\n{file.read_text(errors='replace')[-3000:]}", flush=True)
            for row in watch.rows("SELECT t_run, kind, site, detail FROM events ORDER BY id DESC LIMIT 40")[::-1]:
                print(row, flush=True)
            raise
        finally:
            if run.poll() is None:
                for _ in range(2):
                    run.send_signal(signal.SIGINT)
                    clock.pause(1)
                run.wait(timeout=120)
        begun = clock.monotonic()
        exported = subprocess.run(
            [*windfall, "export-weights", str(root), "--out", str(folder / "weights"), "--json"], stdout=subprocess.PIPE, check=True
        )
        watch.phases["exported"] = clock.monotonic() - begun
        whole = sum(f.stat().st_size for f in (folder / "weights").rglob("*.safetensors"))
        model = (root / "checkpoints" / f"v{STEPS:06d}.safetensors").stat().st_size
        (bpb,) = watch.rows(f"SELECT value FROM metrics WHERE name = 'val_bpb' AND version = {STEPS}")[-1]
        print(json.dumps({
            "depth": given.depth, "parameters": round(model / 4), "exported_mb": round(whole / 1e6), "val_bpb": round(bpb, 4),
            "minutes": {k: round(v / 60, 2) for k, v in watch.phases.items()},
            "minutes_in_all": round((clock.monotonic() - watch.begun) / 60, 2),
            "anonymous_mb": {k: round(v / 1e6) for k, v in sorted(watch.anonymous.items())},
            "anonymous_models": {k: round(v / model, 2) for k, v in sorted(watch.anonymous.items())},
            "trainer_beyond_its_step_models": round((watch.anonymous["trainer"] - watch.in_first_step) / model, 2),
            "loop_stood_still_s": round(watch.stood_still_s, 2),
            "export": json.loads(exported.stdout or b"{}"),
        }))  # fmt: skip


if __name__ == "__main__":
    main()
