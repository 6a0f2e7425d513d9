"""What sends a run's figures to experiment trackers: a process beside the coordinator, which nothing waits for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from windfall import clock
from windfall.config.schema import Config
from windfall.config.trackers import SECRETS, TrackerTable
from windfall.grid.credentials import variables
from windfall.processes import mark, spawn
from windfall.store.rundir import RunDir

#: After it has ended by itself, so long (s) until it is started again; twice as long each time, up to the second.
_BACKOFF_S, _BACKOFF_MAX_S = 10.0, 600.0
#: How long it may take for the last figures when the run ends (s).
_LAST_S = 20.0


def unnamed(tables: Sequence[TrackerTable]) -> list[str]:
    """What trackers need and nobody has named, a sentence each."""
    lacks = any(t.kind == "mlflow" and t.url is None for t in tables) and not os.environ.get("MLFLOW_TRACKING_URI")
    what = "mlflow: no server is named, so nothing is sent; give url, as http://HOST:5000 or sqlite:///mlflow.db, or set "
    return [f"{what}MLFLOW_TRACKING_URI"] if lacks else []


class TrackingProcess:
    """``windfall track RUN --follow``, started again when it ends; that it fails is said once."""

    command = (sys.executable, "-m", "windfall", "track")

    def __init__(self, run: RunDir, run_id: str, config: Config) -> None:
        self._run, self._run_id, self._config = run, run_id, config
        self._child: subprocess.Popen[bytes] | None = None
        self._fails = 0
        self._again_at = float("-inf")
        self._log = run.logs / "track.log"

    def start(self) -> str:
        """Start it: what went wrong, or an empty string."""
        mine = {name for t in self._config.tracker for name in SECRETS[t.kind]}
        kept = {k: v for k, v in os.environ.items() if k not in variables(self._config) - mine}
        try:
            self._child = spawn(
                [*self.command, str(self._run.root.resolve()), "--follow"], log=self._log.resolve(),
                env={**kept, **mark(self._run_id, self._run.root)}, with_parent=True,
            )  # fmt: skip
        except OSError as e:
            self._again_at = float("inf")
            return f"nothing is sent to trackers: {self._log.parent}: {e.strerror}; windfall track {self._run.root} sends it later"
        return ""

    def keep(self) -> str:
        """Start it again when it is time: what happened, or an empty string."""
        if self._child is not None and self._child.poll() is not None:
            status, self._child = self._child.returncode, None
            self._again_at = clock.monotonic() + min(_BACKOFF_S * 2.0**self._fails, _BACKOFF_MAX_S)
            self._fails += 1
            if self._fails == 1:
                return f"what sends figures to trackers ended with status {status}; see {self._log}. The run goes on"
        elif self._child is None and clock.monotonic() >= self._again_at:
            return self.start()
        return ""

    def stop(self) -> str:
        """Let it send the last figures, within bounds: what was left over, or an empty string."""
        if self._child is None or self._child.poll() is not None:
            return ""
        self._child.terminate()
        try:
            self._child.wait(timeout=_LAST_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
            return f"a tracker has not taken the last figures in {_LAST_S:.0f} s; windfall track {self._run.root} sends them"
        return ""
