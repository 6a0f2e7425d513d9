"""A run's real processes (supervisor, coordinator, agents, trainers) without Flower and without torch, so that they live
short: messages travel as files, and the trainer counts. Each part is a module of its own (``python -m faults.PART ...``), so that
none imports what only others need: that is most of what such a run costs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from federation.fake import CountingTrainer
from federation.sizes import BATCH, BLOCK, SEQ, TOKENS_PER_STEP
from windfall.cli import streams
from windfall.config.load import load
from windfall.errors import WindfallError
from windfall.run.asking import ask
from windfall.run.prepare import begin_run
from windfall.run.requests import Request
from windfall.run.superlink import SuperLink
from windfall.run.supervisor import NoView, Supervisor
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.units import iso_utc, parse_utc

T0 = parse_utc("2026-01-01T00:00Z")
STEPS = 60
#: What is asked of every tree: it changes nothing there, and must be done once.
ASKED = "asked-once"
#: By site, the minute from which it is in a window.
WINDOWS = {"a": 0, "b": 4}

CONFIG = f"""
[run]
name = "tree"
budget_tokens = {STEPS * TOKENS_PER_STEP}
clock = "scaled"
speed = 1e9
start = "2026-01-01T00:00Z"
tick_s = 60
[policy]
name = "threshold"
[model]
sequence_length = {SEQ}
[train]
batch_sequences = {BATCH}
block_sequences = {BLOCK}
[federation]
round_s = 480
solo_cut_s = 480
snapshot_s = 0.001
keep_versions = 3
[fleet]
start_timeout_s = 60
drain_timeout_s = 10
stop_grace_s = 0.3
heartbeat_timeout_s = 4
coordinator_timeout_s = 12
dead_man_s = 60
backoff_s = 60
max_failures = 10
"""
SITE = f"""
[[site]]
name = "{{name}}"
region = "{{name}}"
spin_up_s = 60
train_power_w = 2000
idle_power_w = 400
tokens_per_s = {TOKENS_PER_STEP / 60}
[site.signal]
path = "{{name}}.csv"
column = "g"
period_s = 0
until = "{iso_utc(T0 + 1e6)}"
"""


def make(root: Path, **settings: float) -> RunDir:
    """A run directory with version 0, beside its configuration; no corpus, since nobody reads it. ``settings``: other values."""
    root.mkdir(parents=True)
    text = CONFIG
    for key, value in settings.items():
        text, found = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
        assert found == 1, key
    for name, minute in WINDOWS.items():
        text += SITE.format(name=name)
        (root / f"{name}.csv").write_text(f"time_utc,g\n{iso_utc(T0 - 3600)},500\n{iso_utc(T0 + 60 * minute)},10\n")
    (root / "tree.toml").write_text(text)
    config = load(root / "tree.toml")
    run = RunDir(root / "run")
    run.make()
    weights = {"count": np.zeros(config.budget_blocks, np.float32)}
    begin_run(config, run, weights, manifest=CountingTrainer.manifest, folder=root, start=T0)
    ask(run, Request("release", "a", "ann@desk", id=ASKED))
    return run


def run_id(root: Path) -> str:
    """Of a run that was made there."""
    ledger = Ledger.open(root / "run" / "ledger.db", read_only=True)
    try:
        return ledger.meta("run_id") or ""
    finally:
        ledger.close()


def command(part: str) -> tuple[str, ...]:
    """`tree` (the supervisor), `coordinator`, `agent` or `trainer`."""
    return (sys.executable, "-m", f"faults.{part}")


class NoSuperLink(SuperLink):
    """Files need none."""

    def start(self) -> None:
        return None


class TreeSupervisor(Supervisor):
    """Starts coordinators of this tree."""

    coordinator = command("coordinator")

    def make_superlink(self, run_id: str) -> SuperLink:
        return NoSuperLink(self._run, run_id, 0)


def run(root: Path) -> int:
    """Make a run in ``root`` if there is none, and see it to its end."""
    streams.take_over()
    streams.be_patient()  # as `windfall run` is
    config = load(root / "tree.toml")
    supervisor = TreeSupervisor(config, RunDir(root / "run"), NoView(), lambda text: print(text, flush=True))
    try:
        supervisor.prepare()
        return supervisor.serve()
    except WindfallError as e:
        print(e, flush=True)
        return e.exit_code


def start(root: Path, **environment: str) -> subprocess.Popen[str]:
    """The same in a process of its own."""
    return subprocess.Popen(
        [*command("tree"), str(root)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]), **environment},
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
