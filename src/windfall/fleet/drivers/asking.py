"""Asks a program of the platform, or of the user: for so long at most, and with a bounded answer."""

from __future__ import annotations

import errno
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from windfall.errors import Permanent, Transient
from windfall.processes import signal_group

#: Of what a program prints no more than this is read (bytes).
_MOST = 1_000_000
#: Errors of the machine that last until somebody changes something: a program or folder is missing, or may not be used.
FOR_A_PERSON = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ENOTDIR, errno.EROFS}


@dataclass(frozen=True)
class Answer:
    """How a program ended, and what it printed."""

    status: int
    out: str
    err: str


def ask(command: Sequence[str], *, timeout_s: float, env: Mapping[str, str], given: str = "", folder: str | None = None) -> Answer:
    """Run ``command`` in a process group of its own, with ``given`` on its standard input.

    What it has started in the background may live on, unless it is late: then the whole group is ended.

    Raises:
        Permanent: it is not there, or may not be run.
        Transient: it has not ended after ``timeout_s`` (wall time), or this machine cannot start it now.
    """
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        # Files rather than pipes: what runs on in the background keeps a pipe open, and nothing here would see the end of it.
        told.write(given.encode())
        told.seek(0)
        try:
            child = subprocess.Popen(
                list(command), stdin=told, stdout=out, stderr=err, env=dict(env), cwd=folder, start_new_session=True
            )
        except OSError as e:
            kind = Permanent if e.errno in FOR_A_PERSON else Transient
            raise kind(f"{command[0]} cannot be run here: {e.strerror or e}") from None
        try:
            status = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            signal_group(child.pid, signal.SIGKILL)
            child.wait()
            last = last_line(_read(err))
            raise Transient(f"{command[0]} has not ended within {timeout_s:g} s{f': {last}' if last else ''}") from None
        return Answer(status, _read(out), _read(err))


def last_line(text: str, most: int = 300) -> str:
    """The last line that says something, without control characters, and cut to ``most`` characters."""
    lines = [clean for line in text.splitlines() if (clean := "".join(c if c.isprintable() else " " for c in line).strip())]
    line = lines[-1] if lines else ""
    return line if len(line) <= most else line[: most - 1] + "…"


def _read(file: IO[bytes]) -> str:
    """The end of a file, as that is where errors stand."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _MOST))
    return file.read(_MOST).decode("utf-8", "replace")
