"""Process groups: starts them, recognises them after a restart, and ends them with everything that belongs to them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from windfall import proxies

_PR_SET_PDEATHSIG = 1
#: States of a process that has ended (proc(5)): nobody has asked how yet, or somebody is being told just now.
_ENDED = "ZXx"
#: Environment variable that marks a run's processes: run id, site, generation, run directory.
MARK = "WINDFALL_PROCESS"
#: Makes logs UTF-8 whatever the locale, with an error handler that never raises, so that no text can end the process that logs it.
_TEXT = {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}


class Process(Protocol):
    """A child of this process, however it was made: what `subprocess.Popen` has."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def die_with_parent() -> None:
    """For ``preexec_fn``: this process is killed when its parent dies (Linux; elsewhere it is not)."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return


def start_time(pid: int) -> int | None:
    """When a process started (clock ticks since boot), which together with its number identifies it. None if it does not exist."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in _ENDED else int(fields[19])


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
        if fields[0] not in _ENDED and int(fields[2]) == pgid:
            found.append(int(entry))
    return found


@dataclass
class SiteProcess:
    """A process that leads one life of a site, and that may outlive whoever started it.

    ``child``: this process has started it; else it was found. ``pid`` and ``born``, its start time, tell it from a later process of
    the same number.
    """

    pid: int
    generation: int
    born: int | None
    child: subprocess.Popen[bytes] | None = None

    def lives(self) -> bool:
        """Whether it has not ended."""
        if self.child is not None:
            return self.child.poll() is None
        return self.born is not None and start_time(self.pid) == self.born


@dataclass(frozen=True, slots=True)
class Marked:
    """A living process that carries a run's mark. ``site`` is empty for the run's own processes."""

    pid: int
    pgid: int
    site: str
    generation: int


def mark(run_id: str, root: Path, site: str = "", generation: int = 0) -> dict[str, str]:
    """The environment by which a process is known as one of the run ``run_id`` in the folder ``root``."""
    return {MARK: f"{run_id} {site or '-'} {generation} {root.resolve()}"}


def marked(run_id: str, root: Path) -> list[Marked]:
    """Living processes of a run, found by their mark alone.

    The mark contains the folder, so a copied run directory does not claim the processes of the original.
    """
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            environ = Path(f"/proc/{entry}/environ").read_bytes()
            stat = Path(f"/proc/{entry}/stat").read_text(encoding="utf-8")
        except OSError:
            continue
        value = next((v for v in environ.split(b"\0") if v.startswith(MARK.encode() + b"=")), b"")
        parts = os.fsdecode(value).partition("=")[2].split(" ", 3)
        fields = stat.rpartition(")")[2].split()
        if fields[0] in _ENDED or len(parts) != 4 or parts[0] != run_id or parts[3] != str(root.resolve()):
            continue
        found.append(Marked(int(entry), int(fields[2]), "" if parts[1] == "-" else parts[1], int(parts[2])))
    return found


def signal_group(pgid: int, number: signal.Signals) -> bool:
    """Signal a whole process group; False if it is gone."""
    try:
        os.killpg(pgid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def settled(env: Mapping[str, str]) -> dict[str, str]:
    """The environment of one of our processes: nothing on this machine is asked through a proxy, and logs are UTF-8."""
    return {**proxies.settled(env), **_TEXT}


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    env: dict[str, str],
    own_session: bool = True,
    with_parent: bool = False,
    folder: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a process whose output goes to ``log``, and which uses no proxy for addresses of this machine.

    ``folder``: where it runs (default: where this process does). ``pass_fds``: open files of this process that it gets.
    ``own_session``: it leads a session and process group of its own. ``with_parent``: it dies with this process.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as out:
        return subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            env=settled(env), cwd=folder, start_new_session=own_session, pass_fds=pass_fds,
            preexec_fn=die_with_parent if with_parent else None,
        )  # fmt: skip
