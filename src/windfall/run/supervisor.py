"""`windfall run`: prepares the run directory, keeps SuperLink and coordinator running, shows the run, and passes Ctrl-C on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from windfall import clock
from windfall.config.schema import Config
from windfall.errors import ConfigError, RunError, StoreError
from windfall.fleet.drivers.build import driver_of_what_lives
from windfall.grid.credentials import variables
from windfall.grid.openadr import missing as unheard
from windfall.processes import mark, spawn
from windfall.run.endpoint import EndpointProcess, needs_endpoint
from windfall.run.network import require_network
from windfall.run.prepare import Say, prepare_run
from windfall.run.resume import differing
from windfall.run.superlink import SuperLink
from windfall.run.tracking import TrackingProcess, unnamed
from windfall.run.training_inputs import data_dir
from windfall.run.version0 import mend_version0
from windfall.run.webhook import missing
from windfall.store.files import read_json, telling_of_the_disk
from windfall.store.ledger import Ledger
from windfall.store.rundir import SUPERVISOR_LOCK, RunDir, RunLock
from windfall.wire.flower_environment import flower_environment

_POLL_S = 0.25
#: How often in a row a coordinator is started again that dies before it serves.
_STILLBORN = 4
#: How often one is started again that dies later, without a new version in between.
_FRUITLESS = 25
#: A coordinator that has lived so long (s) has done its work, even if no site was in a window.
_LONG_LIFE_S = 600.0
#: Exit status of a coordinator that could not write down why it stopped.
DISK_STATUS = 74


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

    #: What runs a coordinator, besides the run directory and the SuperLink's port.
    coordinator: Sequence[str] = (sys.executable, "-m", "windfall.run.coordinator")

    def __init__(
        self, config: Config, run: RunDir, view: View, say: Say, meanwhile: Callable[[], None] | None = None,
        extend: str | None = None,
    ) -> None:  # fmt: skip
        """``meanwhile`` is called once, while the coordinator and the first sites start; ``extend`` as `run.resume` has it."""
        self._extend = extend
        self._meanwhile = meanwhile
        self._config = config
        self._run = run
        self._view = view
        self._say = say
        self._asked = 0
        self._said = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._superlink: SuperLink | None = None
        self._bulk: EndpointProcess | None = None
        self._tracking: TrackingProcess | None = None
        self._lock = RunLock(run, SUPERVISOR_LOCK)
        self._run_id = ""

    def prepare(self) -> None:
        """Make the run directory, or check the one that is there, so that errors are told before anything starts."""
        # A run goes on when its terminal is closed, with or without nohup. Its processes inherit this.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        clock.leave_out_stops()
        with telling_of_the_disk(self._run.root):
            self._prepare()

    def _prepare(self) -> None:
        if not self._run.exists():
            if self._extend:
                raise ConfigError(f"--extend {self._extend}: there is no run in {self._run.root} to make longer")
            self._run.make()
        # Held to the end. Between two coordinators nobody holds the coordinators' lock, and a second supervisor would start a
        # SuperLink on the same database and end this one's sites.
        self._take_locks()
        resumed = self._run.exists()
        prepare_run(self._config, self._run, self._say, self._extend)
        if resumed:
            mend_version0(self._config, self._run, data_dir(self._config, self._run), self._say)
        ledger = Ledger.open(self._run.ledger, read_only=True)
        self._run_id = ledger.meta("run_id") or ""
        ledger.close()
        self._superlink = self.make_superlink(self._run_id)
        require_network(self._config, self._say)
        for untold in [*missing(self._config.alerts), *unheard(self._config), *unnamed(self._config.tracker)]:
            self._say(untold)
        if needs_endpoint(self._config, self._run):
            self._bulk = EndpointProcess(self._run, self._run_id, self._config, self._superlink.port)
        if self._config.tracker:
            self._tracking = TrackingProcess(self._run, self._run_id, self._config)
        for kept in (self._superlink, self._bulk):
            if kept is not None:
                kept.withheld = variables(self._config)

    def _take_locks(self) -> None:
        """Take the run's locks, before anything of the run is touched. Raises StoreError if the run is running."""
        try:
            self._lock.acquire()
            lock = RunLock(self._run)
            lock.acquire()
            lock.release()
        except StoreError as e:
            self._lock.release()
            changed = differing(self._config, self._run) if self._run.exists() else []
            if changed:
                raise StoreError(f"{e}. Nothing was changed; when it is started again: {'; '.join(changed)}") from None
            raise

    def make_superlink(self, run_id: str) -> SuperLink:
        """The run's SuperLink, to be started."""
        return SuperLink(self._run, run_id, self._config.federation.port)

    def serve(self) -> int:
        """Run to the end; the exit code: 0 done, 130 interrupted.

        Raises:
            RunError: the run failed; the message says why.
        """
        assert self._superlink is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        self._superlink.start()
        if self._bulk is not None:
            self._bulk.start()
        if self._tracking is not None:
            self._tell(self._tracking.start())
        try:
            with telling_of_the_disk(self._run.root):
                code, outcome = self._serve(self._superlink)
        except BaseException:
            self._end_everything()
            raise
        finally:
            self._superlink.stop()
            if self._bulk is not None:
                self._bulk.stop()
            if self._tracking is not None:
                self._tell(self._tracking.stop())
            self._view.finish()
        if code in (0, 130):
            return code
        self._end_everything()
        if self._asked and not outcome.get("message"):
            return 130
        message = str(
            outcome.get("message") or f"the coordinator ended with status {code}; see {self._run.logs / 'coordinator.log'}"
        )
        if code == DISK_STATUS:
            message = f"{self._run.root}: cannot be written (no room, or read-only?); nothing is lost. Make room, then run again"
        raise ConfigError(message) if outcome.get("exit_code") == ConfigError.exit_code else RunError(message)

    def _serve(self, superlink: SuperLink) -> tuple[int, dict[str, Any]]:
        """Run one coordinator after the other until one ends the run."""
        stillborn = fruitless = 0
        version = self._version()
        while True:
            begun = clock.monotonic()
            code, served = self._once(superlink)
            outcome = read_json(self._run.logs / "outcome.json") or {}
            stopped = outcome.get("outcome") == "interrupted"  # an operator has asked for it, by a request
            final = stopped or code in (0, DISK_STATUS) or (bool(outcome.get("message")) and not outcome.get("again"))
            if final or self._asked:
                return code, outcome
            stillborn = 0 if served else stillborn + 1
            fruitless = 0 if self._version() > version or clock.monotonic() - begun > _LONG_LIFE_S else fruitless + 1
            version = max(version, self._version())
            if stillborn > _STILLBORN or fruitless > _FRUITLESS:
                return code, outcome
            why = str(outcome.get("message") or f"the coordinator ended with status {code}")
            self._say(f"{why}; a new coordinator is started, sites go on")

    def _once(self, superlink: SuperLink) -> tuple[int, bool]:
        """Run one coordinator to its end. Returns its exit status, and whether it began to serve."""
        if self._asked:
            return 130, False
        (self._run.logs / "outcome.json").unlink(missing_ok=True)
        self._run.beat.unlink(missing_ok=True)
        env = {**os.environ, **flower_environment(str(self._run.root / "flower")), **mark(self._run_id, self._run.root)}
        try:
            child = spawn(
                [*self.coordinator, str(self._run.root), str(superlink.port)],
                log=self._run.logs / "coordinator.log", env=env, with_parent=True,
            )  # fmt: skip
        except OSError as e:
            raise StoreError(f"{self._run.logs}: the coordinator cannot be started: {e.strerror}") from None
        self._child = child
        if self._meanwhile:
            self._meanwhile()
            self._meanwhile = None
        beat, heard = None, clock.monotonic()
        while child.poll() is None:
            self._mention_the_request()
            self._view.update()
            for kept in (superlink, self._bulk, self._tracking):
                if kept is not None:
                    self._tell(kept.keep())
            now = read_json(self._run.beat)
            if now != beat:
                beat, heard = now, clock.monotonic()
            elif clock.monotonic() - heard > self._config.fleet.coordinator_timeout_s:
                self._say(f"the coordinator has been silent for {self._config.fleet.coordinator_timeout_s:.0f} s; ending it")
                child.kill()
            clock.pause(_POLL_S)
        self._view.update()
        self._child = None
        return child.returncode, bool(beat and beat.get("serves"))

    def _tell(self, happened: str) -> None:
        if happened:
            self._say(happened)

    def _version(self) -> int:
        ledger = Ledger.open(self._run.ledger, read_only=True)
        try:
            return ledger.head().version
        finally:
            ledger.close()

    def _end_everything(self) -> None:
        """End the sites, because no coordinator is left to lead them. Their work is in their outboxes and snapshots."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()
        driver_of_what_lives(self._run, self._run_id).kill_all()

    def _on_signal(self, number: int, frame: object) -> None:
        """Pass the request on. The message to the user comes later: the terminal may be gone, and printing here could fail."""
        self._asked += 1
        child = self._child
        if child is None or child.poll() is not None:
            return
        if self._asked == 1:
            child.send_signal(signal.SIGINT)
        else:
            child.kill()
            driver_of_what_lives(self._run, self._run_id).kill_all()

    def _mention_the_request(self) -> None:
        if self._asked > self._said == 0:
            self._say("stopping: sites hand in their work (again to stop at once)")
        self._said = self._asked
