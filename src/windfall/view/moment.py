"""Opens a run for views: read only, at one moment of each database. What is not there yet is no error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windfall.errors import StoreError
from windfall.processes import start_time
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry

#: A note (the telemetry's `now`, the lock) and its writer's start may differ by this much and still belong together.
_SLACK_S = 2.0


def open_telemetry(run: RunDir) -> Telemetry | None:
    """The run's telemetry, read only; None while it has not been written yet.

    Raises:
        StoreError: it is there and cannot be read, or is of a newer schema.
    """
    if not run.telemetry.is_file() or run.telemetry.stat().st_size == 0:
        return None
    try:
        return Telemetry.open(run.telemetry, read_only=True)
    except StoreError as e:
        # The file has just been created and has no tables yet. That is no error.
        if "no such table" in str(e):
            return None
        raise


@dataclass(frozen=True)
class Moment:
    """One moment of a run: its ledger and its telemetry (None while there is none), opened once."""

    run: RunDir
    ledger: Ledger
    telemetry: Telemetry | None


@contextmanager
def one_moment(run: RunDir, within: Moment | None = None) -> Iterator[Moment]:
    """Look at a run: whatever is read inside, of ledger and telemetry, is of the same moment, that of the beginning.

    ``within``: a moment that is open already and goes on; None opens one.

    Raises:
        StoreError: there is no run, or its databases cannot be read.
    """
    if within is not None:
        yield within
        return
    with ExitStack() as stack:
        # Telemetry is opened first: then the ledger is as new or newer, and has every version that telemetry mentions.
        ledger = stack.enter_context(closing(Ledger.open(run.open_existing().ledger, read_only=True)))
        telemetry = open_telemetry(run)
        if telemetry is not None:
            stack.enter_context(closing(telemetry))
            stack.enter_context(telemetry.one_moment())
        stack.enter_context(ledger.one_moment())
        yield Moment(run, ledger, telemetry)


def coordinator_alive(run: RunDir, now: dict[str, Any]) -> bool:
    """Whether the process that wrote the telemetry's `now` row, or holds the lock, is still there.

    A process number alone is no proof, as numbers are used again: the process must have started before it wrote.
    """
    notes: list[tuple[int, float]] = []
    if isinstance(now.get("pid"), int):
        notes.append((now["pid"], float(now.get("t_wall", 0.0))))
    lock = run.root / "lock"
    try:
        text = lock.read_text(encoding="utf-8").strip()
        if text.isdigit():
            notes.append((int(text), lock.stat().st_mtime))
    except OSError:
        pass
    return any(_started_before(pid, at) for pid, at in notes)


def _started_before(pid: int, at: float) -> bool:
    ticks = start_time(pid)
    if ticks is None:
        return False
    try:
        stat = Path("/proc/stat").read_text(encoding="utf-8")
        booted = next(float(line.split()[1]) for line in stat.splitlines() if line.startswith("btime "))
    except (OSError, StopIteration):
        return True
    return booted + ticks / os.sysconf("SC_CLK_TCK") <= at + _SLACK_S
