"""Process groups: start one, know it again after a restart, end it without leaving anything behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """For ``preexec_fn``: this process is killed when its parent dies (Linux; elsewhere it is not)."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: with its number, an identity. None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def group_members(pgid: int) -> list[int]:
    """Living processes of a process group."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path(f"/proc/{entry}/stat").read_text(encoding="utf-8")
        except OSError:
            continue
        fields = stat.rpartition(")")[2].split()
        if fields[0] != "Z" and int(fields[2]) == pgid:
            found.append(int(entry))
    return found


def signal_group(pgid: int, number: signal.Signals) -> bool:
    """Signal a whole process group; False if it is gone."""
    try:
        os.killpg(pgid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def spawn(
    command: Sequence[str], *, log: Path, env: dict[str, str], own_session: bool = True, with_parent: bool = False
) -> subprocess.Popen[bytes]:
    """Start a process that writes to ``log``.

    ``own_session``: it leads a session and process group of its own. ``with_parent``: it dies with this process.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as out:
        return subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env,
            start_new_session=own_session, preexec_fn=die_with_parent if with_parent else None,
        )  # fmt: skip
