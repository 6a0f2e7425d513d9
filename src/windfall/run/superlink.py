"""The SuperLink of a run: one process beside the coordinator, with a database that outlives it.

It keeps its port and its database from start to start, so that sites find it again and messages under way survive its end. In
Flower 1.41 nodes, runs and replies come back with the database.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from windfall import clock
from windfall.errors import ConfigError, RunError, StoreError
from windfall.processes import mark, spawn
from windfall.store.files import read_json, write_json
from windfall.store.rundir import RunDir
from windfall.wire.flower_environment import flower_environment
from windfall.wire.probe import answers

#: A SuperLink that ends sooner than this (s) counts as not having worked.
_YOUNG_S = 5.0
#: How often it is asked for a sign of life (s), and how long it may take to answer. If it runs and stays silent longer it is ended.
_PROBE_S, _PROBE_TIMEOUT_S, _SILENT_S = 5.0, 1.0, 45.0
#: After so many failures in a row its database is set aside; after twice as many the run gives up.
_FAILS = 3


class SuperLink:
    """Starts the SuperLink, starts it again if it ends, and stops it."""

    def __init__(self, run: RunDir, run_id: str, configured_port: int) -> None:
        """Choose the port.

        Raises:
            ConfigError: the configured port is taken.
        """
        self._run = run
        self._run_id = run_id
        self._folder = run.root / "flower"
        self._folder.mkdir(exist_ok=True)
        self._child: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._fails = 0
        self._probed = self._heard = float("-inf")
        last = (read_json(self._folder / "superlink.json") or {}).get("port")
        if configured_port:
            if not port_is_free(configured_port):
                raise ConfigError(
                    f"federation.port = {configured_port}: port {configured_port} is taken on this machine; choose another, "
                    "or 0 for any free one"
                )
            self.port = configured_port
        elif isinstance(last, int) and port_is_free(last):
            self.port = last  # sites of an earlier start may still look for it there
        else:
            self.port = free_port()
        write_json(self._folder / "superlink.json", {"port": self.port})

    def start(self) -> None:
        """Start it. Raises StoreError if its log cannot be written."""
        home = str(self._folder.resolve())
        env = {**os.environ, **flower_environment(home), **mark(self._run_id, self._run.root)}
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
        try:
            self._child = spawn(
                [str(Path(sys.executable).parent / "flower-superlink"), "--insecure", "--isolation", "process",
                 "--disable-runtime-dependency-installation", "--host", "127.0.0.1", "--port", str(self.port),
                 # Given as a URL without a path. From a path Flower would make a URL, in which `?` and `%` have a meaning.
                 "--database", "sqlite:///superlink.db"],
                log=(self._run.logs / "superlink.log").resolve(), env=env, with_parent=True, folder=self._folder,
            )  # fmt: skip
        except OSError as e:
            raise StoreError(f"{self._run.logs}: the SuperLink cannot be started: {e.strerror}") from None
        self._started = clock.monotonic()

    def keep(self) -> str:
        """Start it again if it has ended. Returns what happened, or an empty string.

        Raises:
            RunError: it ends every time.
        """
        if self._child is None:
            return ""
        if self._child.poll() is None:
            return self._mind_its_silence(self._child)
        status = self._child.returncode
        if status < 0:
            self._started = 0.0  # it was killed from outside, which says nothing about its health
        self._fails = self._fails + 1 if clock.monotonic() - self._started < _YOUNG_S else 0
        if self._fails >= 2 * _FAILS:
            raise RunError(f"the SuperLink ends as soon as it is started (status {status}); see {self._run.logs / 'superlink.log'}")
        if self._fails == _FAILS:
            for part in self._folder.glob("superlink.db*"):
                part.replace(part.with_name(f"damaged-{part.name}"))
        self.start()
        return f"the SuperLink ended with status {status}; started again"

    def _mind_its_silence(self, child: subprocess.Popen[bytes]) -> str:
        now = clock.monotonic()
        if now - self._probed < _PROBE_S:
            return ""
        self._probed = now
        if answers("127.0.0.1", self.port, _PROBE_TIMEOUT_S):
            self._heard = clock.monotonic()
        elif now - max(self._heard, self._started) > _SILENT_S:
            child.kill()
            return f"the SuperLink has not answered for {_SILENT_S:.0f} s; ending it"
        return ""

    def stop(self) -> None:
        """End it."""
        if self._child is None or self._child.poll() is not None:
            return
        self._child.terminate()
        try:
            self._child.wait(timeout=3)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def free_port() -> int:
    """A free port of this machine."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def port_is_free(port: int) -> bool:
    """Whether nobody listens on ``port`` of this machine."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
