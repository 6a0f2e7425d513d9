"""Processes that `windfall run` keeps alive beside the coordinator: started again when they end or fall silent.

Each keeps its port from start to start, so that sites find it again.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from windfall import clock
from windfall.errors import ConfigError, RunError, StoreError
from windfall.processes import mark, spawn
from windfall.store.files import read_json, write_json
from windfall.store.rundir import RunDir
from windfall.wire.probe import answers, free_port, port_is_free

#: One that ends sooner than this (s) counts as not having worked.
_YOUNG_S = 5.0
#: How often it is asked for a sign of life (s), and how long it may take to answer. If it runs and stays silent longer it is ended.
_PROBE_S, _PROBE_TIMEOUT_S, _SILENT_S = 5.0, 1.0, 45.0
#: So long (s) it may take to answer for the first time: it loads much, and on a busy machine that takes its time. One that is ended
#: while it makes its database leaves half of one.
_STARTING_S = 300.0
#: After so many failures in a row what it may have damaged is set aside; after twice as many the run gives up.
_FAILS = 3


class KeptProcess:
    """Starts it, starts it again if it ends, and stops it."""

    #: In messages.
    called = "the process"
    #: Of its folder in the run directory, and of the file in there that holds its port.
    folder_name, port_name = "", "port.json"
    #: Of its log.
    log_name = ""
    #: Of the configuration, where its port can be chosen.
    port_key = ""
    #: Variables of this process's environment that it does not get.
    withheld: Collection[str] = ()

    def __init__(self, run: RunDir, run_id: str, configured_port: int) -> None:
        """Choose the port.

        Raises:
            ConfigError: the configured port is taken.
        """
        self._run = run
        self._run_id = run_id
        self._folder = run.root / self.folder_name
        self._folder.mkdir(exist_ok=True)
        self._child: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._fails = 0
        self._probed = self._heard = float("-inf")
        last = (read_json(self._folder / self.port_name) or {}).get("port")
        if configured_port:
            if not port_is_free(configured_port):
                raise ConfigError(
                    f"{self.port_key} = {configured_port}: port {configured_port} is taken on this machine; choose another, "
                    "or 0 for any free one"
                )
            self.port = configured_port
        elif isinstance(last, int) and port_is_free(last):
            self.port = last  # sites of an earlier start may still look for it there
        else:
            self.port = free_port()
        write_json(self._folder / self.port_name, {"port": self.port})

    def command(self) -> list[str]:
        """What runs it."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """What is added to its environment."""
        return {}

    def tls(self) -> ssl.SSLContext | None:
        """How it is asked for a sign of life, where it speaks TLS."""
        return None

    def set_aside(self) -> None:
        """Take out of its way what may keep it from working."""

    def start(self) -> None:
        """Start it. Raises StoreError if its log cannot be written."""
        kept = {k: v for k, v in os.environ.items() if k not in self.withheld}
        env = {**kept, **self.environment(), **mark(self._run_id, self._run.root)}
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
        try:
            self._child = spawn(
                self.command(), log=(self._run.logs / self.log_name).resolve(), env=env, with_parent=True, folder=self._folder
            )
        except OSError as e:
            raise StoreError(f"{self._run.logs}: {self.called} cannot be started: {e.strerror}") from None
        self._started = clock.monotonic()

    def keep(self) -> str:
        """Start it again if it has ended: what happened, or an empty string.

        Raises:
            RunError: it ends every time.
        """
        if self._child is None:
            return ""
        if self._child.poll() is None:
            return self._mind_its_silence(self._child)
        status = self._child.returncode
        # That somebody has killed it says nothing about its health.
        worked = status < 0 or (self._answered() and clock.monotonic() - self._started >= _YOUNG_S)
        self._fails = 0 if worked else self._fails + 1
        if self._fails >= 2 * _FAILS:
            log = self._run.logs / self.log_name
            raise RunError(f"{self.called} ends as soon as it is started (status {status}); see {log}")
        if self._fails == _FAILS:
            self.set_aside()
        self.start()
        return f"{self.called} ended with status {status}; started again"

    def _answered(self) -> bool:
        """Whether it has given a sign of life since its start."""
        return self._heard >= self._started

    def _mind_its_silence(self, child: subprocess.Popen[bytes]) -> str:
        now = clock.monotonic()
        if now - self._probed < _PROBE_S:
            return ""
        self._probed = now
        if answers("127.0.0.1", self.port, _PROBE_TIMEOUT_S, self.tls()):
            self._heard = clock.monotonic()
        elif now - max(self._heard, self._started) > (allowed_s := _SILENT_S if self._answered() else _STARTING_S):
            child.kill()
            return f"{self.called} has not answered for {allowed_s:.0f} s; ending it"
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
