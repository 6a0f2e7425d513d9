"""Runs with real processes: a small configuration, the command line, and a look for what was left behind."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from patience import PATIENCE_S
from proxy import dead_proxy
from windfall import clock
from windfall.cli import events as cli_events
from windfall.cli import status as cli_status
from windfall.config.load import load
from windfall.errors import StoreError
from windfall.federation.merge import Outer
from windfall.federation.replay import Replay
from windfall.processes import marked, start_time
from windfall.run.training_inputs import data_dir, trainer_spec
from windfall.site.outbox import TrainedTokens
from windfall.store.configurations import extents
from windfall.store.files import read_json
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Event, Telemetry
from windfall.store.tensors import load_file
from windfall.train.trainer import LocalTrainer
from windfall.units import iso_utc

SECRET = "correct-horse-battery-staple"
T0 = 1_767_225_600.0  # 2026-01-01T00:00Z

CONFIG = """
[run]
name = "small"
budget_tokens = {budget}
clock = "scaled"
speed = {speed}
start = "2026-01-01T00:00Z"
tick_s = {tick_s}
bus = "{bus}"
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
lr_scale = {lr_scale}
[federation]
round_s = {round_s}
solo_cut_s = {solo_cut_s}
snapshot_s = {snapshot_s}
port = {port}
[fleet]
start_timeout_s = {start_timeout_s}
backoff_s = 60
max_failures = {max_failures}
heartbeat_timeout_s = {heartbeat_timeout_s}
dead_man_s = {dead_man_s}
drain_timeout_s = 300
coordinator_timeout_s = 300
step_timeout_s = {step_timeout_s}
"""

SITE = """
[[site]]
name = "{name}"
region = "{name}"
spin_up_s = 120
train_power_w = 2000
idle_power_w = 400
tokens_per_s = 4.2666666667
[site.signal]
path = "{name}.csv"
column = "g"
period_s = 0
until = "{until}"
"""


def write_config(
    folder: Path, windows: dict[str, list[tuple[float, float]]], *, budget: int = 128 * 60, until_min: float = 600,
    lr_scale: float = 0.3, port: int = 0, start_timeout_s: float = 600, speed: float = 100_000, tick_s: float = 60,
    bus: str = "embedded", solo_cut_s: float = 1200, max_failures: int = 2, heartbeat_timeout_s: float = 300,
    dead_man_s: float = 300, snapshot_s: float = 2, round_s: float = 900, step_timeout_s: float = 1800,
) -> Path:  # fmt: skip
    """A configuration whose sites are in a window over the given minutes. Nobody is given up because the machine is slow."""
    rng = np.random.default_rng(0)
    words = ["the", "wind", "turns", "and", "power", "flows", "where", "none", "is", "wanted"]
    (folder / "corpus.txt").write_text("\n".join(" ".join(rng.choice(words, 12)) for _ in range(600)), encoding="utf-8")
    text = CONFIG.format(
        budget=budget, lr_scale=lr_scale, port=port, start_timeout_s=start_timeout_s, speed=speed, tick_s=tick_s, bus=bus,
        solo_cut_s=solo_cut_s, max_failures=max_failures, heartbeat_timeout_s=heartbeat_timeout_s, dead_man_s=dead_man_s,
        snapshot_s=snapshot_s, round_s=round_s, step_timeout_s=step_timeout_s,
    )  # fmt: skip
    for name, spans in windows.items():
        rows = ["time_utc,g", f"{iso_utc(T0 - 3600)},500"]
        for a, b in spans:
            rows += [f"{iso_utc(T0 + a * 60)},10", f"{iso_utc(T0 + b * 60)},500"]
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        text += SITE.format(name=name, until=iso_utc(T0 + until_min * 60))
    (folder / "small.toml").write_text(text, encoding="utf-8")
    return folder / "small.toml"


#: Nothing of a run goes through a proxy: where every process has one in its environment that is dead, nobody may notice.
DEAD_PROXY = {**dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"), dead_proxy()), "no_proxy": ""}


def windfall(
    *args: object, timeout: float = PATIENCE_S, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "windfall.cli.main", *map(str, args)], capture_output=True, text=True, timeout=timeout, check=False,
        env={**os.environ, "WINDFALL_TOKEN": SECRET, **(DEAD_PROXY if environment is None else environment)},
    )  # fmt: skip


def start(*args: object) -> subprocess.Popen[str]:
    """Start the command line, as the leader of a process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "windfall.cli.main", *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        text=True, start_new_session=True,
    )  # fmt: skip


def printed(verb: Callable[[], None]) -> str:
    """What a verb that only reads prints: in this process, as tests ask again and again and a process takes a second to begin."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        verb()
    return out.getvalue()


def status(run: Path) -> dict[str, Any]:
    """`windfall status --json`."""
    return dict(json.loads(printed(lambda: cli_status.status(run, as_json=True))))


def events(run: Path, *kinds: str) -> list[dict[str, Any]]:
    """`windfall events --json`."""
    return [json.loads(line) for line in printed(lambda: cli_events.events(run, as_json=True, kinds=[*kinds])).splitlines()]


def command_line(pid: int) -> str:
    """With NUL between its words; empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def processes(folder: Path) -> list[str]:
    """Command lines of living processes that name ``folder``."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            line = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0]
            home = Path(f"/proc/{entry}/environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if state not in "ZXx" and (str(folder) in line or f"FLWR_HOME={folder}" in home):
            found.append(f"{entry} {line}")
    return found


def wait_for(what: str, ready: Callable[[], object], timeout: float = PATIENCE_S) -> None:
    """Look again and again until ``ready`` says something true."""
    deadline = clock.monotonic() + timeout
    while not ready():
        assert clock.monotonic() < deadline, f"timed out waiting for {what}"
        clock.pause(0.1)


def versions(run: Path) -> int:
    """Newest version, or -1."""
    try:
        ledger = Ledger.open(run / "ledger.db", read_only=True)
    except StoreError:  # the run directory is being made
        return -1
    try:
        return ledger.head().version
    finally:
        ledger.close()


def assert_replays(run: Path) -> None:
    """Training the run again from its record gives its weights, bit for bit."""
    torch.set_num_threads(1)  # as the sites had
    at = RunDir(run)
    config = load(at.config)
    ledger = Ledger.open(at.ledger, read_only=True)
    kept, had = [v for v in ledger.retained() if v.version], ledger.configurations()

    def trainer(site: str, generation: int) -> LocalTrainer:
        """That of a life of a site: under the budgets that the run had when it was begun."""
        return LocalTrainer(trainer_spec(config, data_dir(config, at).resolve(), extents(had, site, generation)))

    weights = {v.version: w for v, w in Replay(ledger, trainer("", 0).weights(), trainer, Outer()).versions()}
    ledger.close()
    assert kept
    for v in kept:
        for name, value in load_file(at.checkpoints / v.file, v.sha256).items():
            np.testing.assert_array_equal(value, weights[v.version][name], err_msg=f"version {v.version}: {name}")


def assert_whole(run: Path) -> None:
    """Every block of the budget was committed once, and nothing was left running."""
    ledger = Ledger.open(run / "ledger.db", read_only=True)
    assert ledger.counts().committed == ledger.budget_blocks
    assert ledger.head().tokens_total == ledger.budget_blocks * ledger.tokens_per_block
    # The same without the table of spans: by what each committed contribution says that it was trained on.
    used = [c for v in ledger.versions() for r in ledger.contributions(v.version) for c in r.header["consumed"]]
    assert sorted(block for c in used for block in range(c["start"], c["end"])) == list(range(ledger.budget_blocks))
    ledger.close()
    wait_for("processes to end", lambda: not processes(run))


#: What a run consists of, by a part of the command line.
PARTS = {
    "coordinator": "windfall.run.coordinator",
    "superlink": "flower-superlink",
    "agent": "windfall.site.agent",
    "trainer": "windfall.site.trainer_process",
    "supernode": "flower-supernode",
}


class Living:
    """A `windfall run` whose parts can be named, killed and frozen. Nothing of it survives the end of its context."""

    def __init__(self, config: Path, run: Path, *args: object, within: str = "") -> None:
        """``within``: a network namespace in which it runs."""
        self.run = run
        self._within = ["ip", "netns", "exec", within] if within else []
        self._args = ["run", str(config), "--run-dir", str(run), "--quiet", *map(str, args)]
        self._said = config.parent / "said.txt"
        self._run_id = ""

    def __enter__(self) -> Living:
        with open(self._said, "ab") as said:
            self._child = subprocess.Popen(
                [*self._within, sys.executable, "-m", "windfall.cli.main", *self._args], stdin=subprocess.DEVNULL, stdout=said,
                stderr=said, start_new_session=True, env={**os.environ, **DEAD_PROXY},
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        # The supervisor first, so that it starts nothing again; coordinator and SuperLink go with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        deadline = clock.monotonic() + PATIENCE_S
        while (left := processes(self.run)) and clock.monotonic() < deadline:
            for line in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(line.split()[0]), signal.SIGKILL)
            clock.pause(0.05)

    @property
    def said(self) -> str:
        """What `windfall run` has written so far, over all its starts."""
        return self._said.read_text(encoding="utf-8")

    def send(self, number: signal.Signals) -> None:
        """A signal to `windfall run` itself."""
        self._child.send_signal(number)

    def end(self, timeout: float = PATIENCE_S) -> int:
        """Wait for the end of `windfall run`; its exit code."""
        try:
            return self._child.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            log = (self.run / "logs" / "coordinator.log").read_text(encoding="utf-8")
            raise AssertionError(f"the run does not end; it said:\n{self.said}\n{log[-3000:]}") from None

    # -- its parts -------------------------------------------------------------------------------------------

    def find(self, part: str, site: str = "") -> int:
        """Process id of a part of the run, or 0."""
        found = []
        for p in marked(self.run_id, self.run):
            if p.site == site and PARTS[part] in command_line(p.pid) and (born := start_time(p.pid)) is not None:
                found.append((born, p.pid))
        # A process that has just been forked has its parent's command line for a moment: the older one is meant.
        return min(found)[1] if found else 0

    def hit(self, part: str, site: str = "", number: signal.Signals = signal.SIGKILL) -> int:
        """Send a part of the run a signal; the process id that it had."""
        pid = self.find(part, site)
        assert pid, f"the run has no {part} {site}; it said:\n{self.said}"
        os.kill(pid, number)
        return pid

    def generation(self, site: str) -> int:
        """The life of a site that has a trainer now, or 0."""
        pid = self.find("trainer", site)
        return next((p.generation for p in marked(self.run_id, self.run) if p.pid == pid), 0)

    # -- what it has come to ---------------------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        if not self._run_id:
            ledger = Ledger.open(self.run / "ledger.db", read_only=True)
            self._run_id = ledger.meta("run_id") or ""
            ledger.close()
        return self._run_id

    def trains(self, site: str, generation: int = 0) -> None:
        """Wait until a site (of this generation at least) has trained on."""
        wait_for("the run directory", lambda: versions(self.run) >= 0)
        wait_for(f"a trainer of {site}", lambda: self._lives(site, generation))
        folder = self.run / "sites" / site / "trained"
        before = TrainedTokens.total(folder)
        wait_for(f"{site} to train", lambda: TrainedTokens.total(folder) > before or self.over())

    def _lives(self, site: str, generation: int) -> bool:
        return self.over() or (self.find("trainer", site) > 0 and self.generation(site) >= generation)

    def over(self) -> bool:
        """False; an error if `windfall run` has ended, so that nobody waits for what cannot come any more."""
        assert self._child.poll() is None, f"the run has ended with status {self._child.returncode}; it said:\n{self.said}"
        return False

    def commits(self) -> None:
        """Wait for a version newer than the present one."""
        at = max(0, versions(self.run))
        wait_for(f"a version after {at}", lambda: versions(self.run) > at or self.over())

    def events(self, *kinds: str) -> list[Event]:
        """Events of these kinds so far; without starting a process for it."""
        try:
            telemetry = Telemetry.open(RunDir(self.run).telemetry, read_only=True)
        except StoreError:  # it is being made
            return []
        try:
            return [e for _, e in telemetry.events() if e.kind in kinds]
        finally:
            telemetry.close()

    def now(self) -> dict[str, Any]:
        """Where the run stands by its own word: run time, mode, sites."""
        telemetry = Telemetry.open(RunDir(self.run).telemetry, read_only=True)
        try:
            rows = telemetry.rows("SELECT value FROM meta WHERE key = 'now'")
        finally:
            telemetry.close()
        return dict(json.loads(rows[0][0])) if rows else {}

    def beat(self) -> dict[str, Any]:
        """The coordinator's last sign of life."""
        return dict(read_json(RunDir(self.run).beat) or {})


def events_of(folder: Path) -> Any:
    """What TensorBoard reads in a folder: its `EventAccumulator`, loaded."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
