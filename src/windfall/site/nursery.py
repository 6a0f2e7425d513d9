"""A process that has imported what a site's processes import, and makes agents by forking.

A coordinator on this machine has one; it ends with its coordinator, and the agents that it has made live on. Importing PyTorch and
Flower is most of what a start costs. It runs nothing of either, so that it has a single thread and no state of a run. An agent made
like this makes its trainer and its first SuperNode the same way, before it has threads; what it starts later is started as ever.

Requests and answers are datagrams of JSON on a socket pair: ``{folder, env, log}``; ``{pid}`` or ``{error}``.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import select
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from windfall.processes import Process, settled, spawn
from windfall.site.forked import fork, may_fork

#: Room for command lines and environments of those that are made here.
_ROOM = "-" * 16384
_MOST = 1 << 20
#: A fork takes some hundredths of a second. On a busy machine it may take longer; nobody waits for it for longer than this.
_ANSWER_S = 5.0
#: What may be forked, by its module.
_AGENT, _TRAINER, _SUPERNODE = "windfall.site.agent", "windfall.site.trainer_process", "windfall.site.supernode"
#: A thread pool that a library makes when it is loaded would be gone in whoever is forked. A trainer sets its number of threads.
_ONE_THREAD = {**dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"), "OMP_WAIT_POLICY": "PASSIVE"}

#: In a process that was made here.
_born_here = False


class Lost(Exception):
    """It did not answer, and was ended: it may have made what it was asked for, or not."""


class Nursery:
    """The coordinator's side."""

    def __init__(self, log: Path, env: Mapping[str, str]) -> None:
        """Start it; it takes some seconds until it is of use. Raises OSError."""
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = mine
        self._ready = False
        self._process: Process | None = None
        with theirs:
            self._process = spawn(
                [sys.executable, "-m", "windfall.site.nursery", str(theirs.fileno()), _ROOM],
                log=log, env={**env, **_ONE_THREAD, "WINDFALL_ROOM": _ROOM}, with_parent=True, pass_fds=[theirs.fileno()],
            )  # fmt: skip

    def start(self, folder: Path, env: Mapping[str, str], log: Path) -> int:
        """The process id of a new agent for the site in ``folder``; 0 if it cannot be had here (yet).

        Raises:
            Lost: nothing was heard of it.
        """
        if not self.ready():
            return 0
        try:
            self._socket.send(json.dumps({"folder": str(folder), "env": settled(env), "log": str(log)}).encode())
            answer = self._hear(_ANSWER_S)
        except OSError:
            answer = {}
        if "error" in answer:
            return 0
        pid = answer.get("pid")
        if not isinstance(pid, int):
            self.close()
            raise Lost
        return pid

    def ready(self, within_s: float = 0.0) -> bool:
        """Whether it has imported what it must, and lives."""
        if self._process is None or self._process.poll() is not None:
            return False
        if not self._ready:
            try:
                self._ready = bool(self._hear(within_s).get("ready"))
            except TimeoutError:
                return False
            except OSError:
                self._ready = False
            if not self._ready:
                self.close()  # it has ended, and its log says why
        return self._ready

    def _hear(self, for_s: float) -> dict[str, object]:
        """What it says; nothing if it has ended. Raises TimeoutError, OSError."""
        if not select.select([self._socket], [], [], for_s)[0]:
            raise TimeoutError
        said = self._socket.recv(_MOST)
        found = json.loads(said) if said else {}
        return found if isinstance(found, dict) else {}

    def close(self) -> None:
        """End it. What it has made lives on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._socket.close()


def begin(command: Sequence[str], *, log: Path, env: Mapping[str, str]) -> Process:
    """A process of an agent's, which dies with it: forked if the agent was made here and has no threads yet, else started."""
    if _born_here and may_fork() and command[1:2] == ["-m"] and command[2] in (_TRAINER, _SUPERNODE):
        module = importlib.import_module(command[2])

        def main() -> int:
            sys.argv = [module.__file__ or "", *command[3:]]
            return int(module.main())

        return fork(command, main, log=log, env=settled(env), own_session=False, with_parent=True)
    return spawn(command, log=log, env=dict(env), own_session=False, with_parent=True)


def import_ahead() -> None:
    """What agents, trainers and SuperNodes import."""
    from windfall.site.flower_executor import import_ahead as import_flower

    import_flower()
    for name in (_AGENT, _TRAINER, _SUPERNODE, "windfall.site.client_app", "windfall.train.ranked", "windfall.train.manifest",
                 "windfall.train.spec", "windfall.train.trainer"):  # fmt: skip
        importlib.import_module(name)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve on the socket of the given number until its other end is closed."""
    global _born_here
    connection = socket.socket(fileno=int((argv or sys.argv[1:])[0]))
    import_ahead()
    if not may_fork():
        print("the nursery has threads after importing, and makes nothing", file=sys.stderr, flush=True)
        return 1
    gc.collect()
    gc.freeze()  # so that those who are forked leave these pages as they are, and share them
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks here how they end
    _born_here = True  # whoever is forked from here
    agent = importlib.import_module(_AGENT)
    connection.send(b'{"ready": true}')
    while said := connection.recv(_MOST):
        asked = json.loads(said)
        command = [sys.executable, "-m", _AGENT, asked["folder"]]

        def run(folder: str = asked["folder"]) -> int:
            return int(agent.main([folder]))

        try:
            child = fork(
                command, run, log=Path(asked["log"]), env=asked["env"], own_session=True, with_parent=False,
                close=[connection.fileno()],
            )  # fmt: skip
        except OSError as e:
            connection.send(json.dumps({"error": str(e)}).encode())
            continue
        with contextlib.suppress(BrokenPipeError):
            connection.send(json.dumps({"pid": child.pid}).encode())
    return 0


if __name__ == "__main__":
    # As the module that others import: what they ask it is about this process.
    sys.exit(importlib.import_module("windfall.site.nursery").main())
