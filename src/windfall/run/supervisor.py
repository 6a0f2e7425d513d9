"""`windfall run`: prepares the run directory, keeps the coordinator alive, shows the run, passes on Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Protocol

from windfall import clock
from windfall.config.schema import Config
from windfall.errors import ConfigError, RunError, StoreError
from windfall.fleet.drivers.local import LocalDriver
from windfall.fleet.processes import spawn
from windfall.run.prepare import Say, prepare_run
from windfall.store.files import read_json
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir, RunLock

_POLL_S = 0.25
#: A coordinator that dies of something that is no error of ours is started again, this often in a row.
_RESTARTS = 3


class View(Protocol):
    """What shows a run while it goes on."""

    def update(self) -> None: ...

    def finish(self) -> None: ...


class NoView:
    """Shows nothing."""

    def update(self) -> None:
        return None

    def finish(self) -> None:
        return None


class Supervisor:
    """One `windfall run`."""

    def __init__(self, config: Config, run: RunDir, view: View, say: Say, meanwhile: Callable[[], None] | None = None) -> None:
        """``meanwhile`` is called once, while the coordinator and the first sites start."""
        self._meanwhile = meanwhile
        self._config = config
        self._run = run
        self._view = view
        self._say = say
        self._asked = 0
        self._child: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Make or check the run directory, so that what is wrong is said before anything starts."""
        prepare_run(self._config, self._run, self._say)
        lock = RunLock(self._run)
        lock.acquire()
        lock.release()

    def serve(self) -> int:
        """Run to the end; the exit code of DESIGN 6.

        Raises:
            RunError: the run failed; the message says why.
        """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        restarts = 0
        while True:
            code = self._once()
            outcome = read_json(self._run.logs / "outcome.json") or {}
            if code in (0, 130):
                self._view.finish()
                return code
            if outcome.get("message") or self._asked:
                break
            restarts += 1
            if restarts > _RESTARTS:
                break
            self._say(f"the coordinator ended with status {code}; starting it again ({restarts} of {_RESTARTS})")
        self._view.finish()
        if self._asked > 1:
            return 130
        message = str(
            outcome.get("message") or f"the coordinator ended with status {code}; see {self._run.logs / 'coordinator.log'}"
        )
        raise ConfigError(message) if outcome.get("exit_code") == ConfigError.exit_code else RunError(message)

    def _once(self) -> int:
        (self._run.logs / "outcome.json").unlink(missing_ok=True)
        try:
            child = spawn(
                [sys.executable, "-m", "windfall.run.coordinator", str(self._run.root)],
                log=self._run.logs / "coordinator.log", env=dict(os.environ), with_parent=True,
            )  # fmt: skip
        except OSError as e:
            raise StoreError(f"{self._run.logs}: the coordinator cannot be started: {e.strerror}") from None
        self._child = child
        if self._meanwhile:
            self._meanwhile()
            self._meanwhile = None
        while child.poll() is None:
            self._view.update()
            clock.pause(_POLL_S)
        self._view.update()
        self._child = None
        return child.returncode

    def _on_signal(self, number: int, frame: object) -> None:
        self._asked += 1
        child = self._child
        if child is None or child.poll() is not None:
            return
        if self._asked == 1:
            self._say("stopping: sites hand in their work (again to stop at once)")
            child.send_signal(signal.SIGTERM)
        else:
            child.kill()
            ledger = Ledger.open(self._run.ledger, read_only=True)
            run_id = ledger.meta("run_id") or ""
            ledger.close()
            LocalDriver(self._run.sites, run_id, lambda _: {}).sweep(run_id)
