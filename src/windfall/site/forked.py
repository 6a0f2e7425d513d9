"""A process made by forking one that has imported already, and that looks to everybody else as if it had been started.

Linux only. What others read in ``/proc`` of a forked process is its parent's command line and environment, in the memory that it
has a copy of: both are written over there, which takes room that the parent was started with. So such a process is found by its
mark and named by its command like any other. Only a process with a single thread may fork.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from windfall import clock
from windfall.processes import MARK, die_with_parent

_POLL_S = 0.01
#: In the environment these are what a process is found by; they come first, in case there is not room for all.
_FIRST = (MARK, "FLWR_HOME")
_ARGUMENTS, _ENVIRONMENT = (45, 46), (47, 48)  # in /proc/self/stat behind the name: where each begins and ends


class Forked:
    """A child of this process. As far as it goes, `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code if it has ended; minus the signal's number if one has ended it."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self.returncode = 1  # somebody else has asked how it ended
            else:
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired."""
        until = float("inf") if timeout is None else clock.monotonic() + timeout
        while (code := self.poll()) is None:
            if clock.monotonic() >= until:
                raise subprocess.TimeoutExpired("a forked process", timeout or 0.0)
            clock.pause(_POLL_S)
        return code

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def may_fork() -> bool:
    """Whether this process has one thread and no more."""
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


def fork(
    command: Sequence[str], main: Callable[[], int], *, log: Path, env: Mapping[str, str], own_session: bool, with_parent: bool,
    close: Sequence[int] = (),
) -> Forked:  # fmt: skip
    """A child that runs ``main`` and ends with what that returns, as if it had been started with ``command``.

    ``env``, ``log``, ``own_session`` and ``with_parent`` as in `processes.spawn`; ``close``: open files that it does not get. When
    this returns, the child can be found by its mark. Where the child cannot be made to look as it should, it executes ``command``.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    told, tell = os.pipe()
    try:
        out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            pid = os.fork()
            if pid:
                os.close(tell)
                tell = -1
                os.read(told, 1)  # nothing, if it has executed its command or has ended
                return Forked(pid)
            try:
                _settle_in(command, log=out, env=env, own_session=own_session, parent=parent if with_parent else 0, close=close)
            except BaseException as e:  # noqa: BLE001 - whatever it is, it ends this process
                _end(e)
        finally:
            os.close(out)
        os.write(tell, b".")
    finally:
        for fd in (told, tell):
            if fd >= 0:
                os.close(fd)
    try:
        code = main()
    except SystemExit:
        raise
    except BaseException as e:  # noqa: BLE001 - as above
        _end(e)
    sys.exit(code)


def _end(e: BaseException) -> NoReturn:
    """In the child: nothing of what its parent does with an error is done here."""
    traceback.print_exception(e)
    raise SystemExit(1) from e


def _settle_in(
    command: Sequence[str], *, log: int, env: Mapping[str, str], own_session: bool, parent: int, close: Sequence[int]
) -> None:
    """In the child: everything that `subprocess` would have done to it."""
    if own_session:
        os.setsid()
    if parent:
        die_with_parent()
        if os.getppid() != parent:
            os._exit(1)  # it has died before that could be asked for
    for fd in close:
        os.close(fd)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # No library keeps a pointer into the memory that is written over: every variable is taken out of it here.
    os.environ.clear()
    os.environ.update(env)
    if not _look_like(command, env):
        os.execvpe(command[0], list(command), dict(env))


def _look_like(command: Sequence[str], env: Mapping[str, str]) -> bool:
    """Write this process's command line and environment over those of its parent; whether others now read them."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        words = b"".join(os.fsencode(word) + b"\0" for word in command)
        begin, end = (int(fields[i]) for i in _ARGUMENTS)
        if len(words) >= end - begin:
            return False
        _write(begin, end, words)
        names = [*(n for n in _FIRST if n in env), *(n for n in env if n not in _FIRST)]
        begin, end = (int(fields[i]) for i in _ENVIRONMENT)
        variables = b""
        for name in names:
            variable = os.fsencode(f"{name}={env[name]}") + b"\0"
            if len(variables) + len(variable) < end - begin:
                variables += variable
        _write(begin, end, variables)
        read = Path("/proc/self/environ").read_bytes()
        found = all(os.fsencode(f"{name}={env[name]}") in read.split(b"\0") for name in _FIRST if name in env)
        return found and Path("/proc/self/cmdline").read_bytes().rstrip(b"\0") == words.rstrip(b"\0")
    except (OSError, ValueError, IndexError):
        return False


def _write(begin: int, end: int, content: bytes) -> None:
    if not 0 < begin < end or len(content) > end - begin:
        raise ValueError("there is no such room")
    ctypes.memset(begin, 0, end - begin)
    ctypes.memmove(begin, content, len(content))
