"""Runs with real processes: a small configuration, the command line, and a look for what was left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from windfall.units import iso_utc

SECRET = "correct-horse-battery-staple"
T0 = 1_767_225_600.0  # 2026-01-01T00:00Z

CONFIG = """
[run]
name = "small"
budget_tokens = {budget}
clock = "scaled"
speed = 100000
start = "2026-01-01T00:00Z"
tick_s = 60
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
round_s = 900
solo_cut_s = 1200
snapshot_s = 2
port = {port}
[fleet]
start_timeout_s = {start_timeout_s}
backoff_s = 60
max_failures = 2
dead_man_s = 6
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
    lr_scale: float = 0.3, port: int = 0, start_timeout_s: float = 120,
) -> Path:  # fmt: skip
    """A configuration whose sites are in a window over the given minutes."""
    rng = np.random.default_rng(0)
    words = ["the", "wind", "turns", "and", "power", "flows", "where", "none", "is", "wanted"]
    (folder / "corpus.txt").write_text("\n".join(" ".join(rng.choice(words, 12)) for _ in range(600)), encoding="utf-8")
    text = CONFIG.format(budget=budget, lr_scale=lr_scale, port=port, start_timeout_s=start_timeout_s)
    for name, spans in windows.items():
        rows = ["time_utc,g", f"{iso_utc(T0 - 3600)},500"]
        for a, b in spans:
            rows += [f"{iso_utc(T0 + a * 60)},10", f"{iso_utc(T0 + b * 60)},500"]
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        text += SITE.format(name=name, until=iso_utc(T0 + until_min * 60))
    (folder / "small.toml").write_text(text, encoding="utf-8")
    return folder / "small.toml"


def windfall(*args: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "windfall.cli.main", *map(str, args)], capture_output=True, text=True, timeout=timeout, check=False,
        env={**os.environ, "WINDFALL_TOKEN": SECRET},
    )  # fmt: skip


def start(*args: object) -> subprocess.Popen[str]:
    """Start the command line, as the leader of a process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "windfall.cli.main", *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        text=True, start_new_session=True,
    )  # fmt: skip


def status(run: Path) -> dict[str, Any]:
    """`windfall status --json`."""
    done = windfall("status", run, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def events(run: Path, *kinds: str) -> list[dict[str, Any]]:
    """`windfall events --json`."""
    done = windfall("events", run, "--json")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [e for e in found if not kinds or e["kind"] in kinds]


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
        if state != "Z" and (str(folder) in line or f"FLWR_HOME={folder}" in home):
            found.append(f"{entry} {line}")
    return found
