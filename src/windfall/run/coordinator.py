"""The coordinator: one process that owns loop, fleet and ledger of one run, and a SuperLink beside it."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from windfall import clock
from windfall.clock import Clock, RealClock, ScaledClock
from windfall.config.load import load
from windfall.config.schema import Config
from windfall.errors import ConfigError, RunError, WindfallError
from windfall.federation.flower_attach import Attachment, flower_environment
from windfall.federation.flower_transport import FlowerTransport
from windfall.fleet.drivers.local import LocalDriver
from windfall.fleet.machine import Site, State
from windfall.fleet.processes import spawn
from windfall.fleet.serve import serve
from windfall.grid.build import Grid, build_grid
from windfall.run.compose import compose
from windfall.run.recorder import TelemetryRecorder, position
from windfall.run.sites import describe_site
from windfall.store.bus import FileBus
from windfall.store.files import write_json
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir, RunLock
from windfall.store.telemetry import Telemetry
from windfall.units import iso_utc, parse_utc

_POLL_S = 0.01
_CALENDAR_POLL_S = 0.05
_BEAT_S = 2.0
_FLUSH_S = 1.0
log = logging.getLogger("windfall")


class Coordinator:
    """One life of a run's coordinator."""

    def __init__(self, config: Config, run: RunDir) -> None:
        self.config = config
        self.run = run
        self.interrupted = ""
        self._granted = float("-inf")
        self._beat = 0
        self._beat_at = self._flushed_at = float("-inf")
        self._lock = RunLock(run)
        self._lock.acquire()
        self.ledger = Ledger.open(run.ledger)
        self.telemetry = Telemetry.open(run.telemetry)
        self.grid: Grid = build_grid(config)
        self.run_id = self.ledger.meta("run_id") or ""
        self.fence = self.ledger.new_fence()
        self.gated = config.run.clock == "scaled"
        self.port = config.federation.port or free_port()
        check_port(self.port, config.federation.port)
        self.driver = LocalDriver(
            run.sites, self.run_id, lambda s: describe_site(config, run, s, f"127.0.0.1:{self.port}", free_port()),
            environment=flower_environment(str(run.root / "flower")),
        )  # fmt: skip
        swept = self.driver.sweep(self.run_id)
        self._superlink = self._start_superlink()
        self.recorder = TelemetryRecorder(self.telemetry)
        now = self._begin()
        self.clock: Clock = ScaledClock(now, config.run.speed) if self.gated else RealClock()
        for o in swept:
            self.telemetry.event(now, "swept", site=o.site, generation=o.generation, reason="left over from an earlier start")
        for w in self.grid.warnings:
            self.telemetry.event(now, "warning", reason=w)
        self.transport = FlowerTransport(Attachment(f"127.0.0.1:{self.port}"))
        self.bus = FileBus(run.sites)
        self.loop, self.work = compose(
            config, run, ledger=self.ledger, telemetry=self.telemetry, grid=self.grid, clock=self.clock, driver=self.driver,
            bus=self.bus, transport=self.transport, recorder=self.recorder, fence=self.fence, observer=self._moved,
        )  # fmt: skip

    # -- building --------------------------------------------------------------------------------------------

    def _begin(self) -> float:
        """Where run time goes on."""
        stored = float(self.ledger.meta("t_run") or 0)
        latest = position(self.telemetry)
        resumed = latest is not None or self.ledger.head().version > 0
        if not self.gated:
            now = clock.wall()
        elif resumed:
            now = max(stored, latest or 0.0, self.ledger.head().t_run)
        else:
            now = parse_utc(self.config.run.start or "")
        head = self.ledger.head()
        self.telemetry.event(
            now, "resumed" if resumed else "started", version=head.version, fence=self.fence,
            tokens_total=head.tokens_total, run_id=self.run_id, pid=os.getpid(),
        )  # fmt: skip
        return now

    def _start_superlink(self) -> subprocess.Popen[bytes]:
        env = {**os.environ, **flower_environment(str(self.run.root / "flower"))}
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
        (self.run.root / "flower").mkdir(exist_ok=True)
        return spawn(
            [str(Path(sys.executable).parent / "flower-superlink"), "--insecure", "--isolation", "process",
             "--disable-runtime-dependency-installation", "--host", "127.0.0.1", "--port", str(self.port),
             "--database", str(self.run.root / "flower" / f"superlink-{self.fence}.db")],
            log=self.run.logs / "superlink.log", env=env, with_parent=True,
        )  # fmt: skip

    def _moved(self, t: float, site: Site, old: State, new: State) -> None:
        self.recorder.moved(t, site, old, new)
        log.info("%s %s: %s -> %s (%s)", iso_utc(t), site.name, old.value, new.value, site.reason)

    # -- running ---------------------------------------------------------------------------------------------

    def serve(self) -> str:
        """Run until done or stopped: `done` or `interrupted`.

        Raises:
            RunError: the run cannot go on; what is committed is safe.
        """
        result = serve(self.loop, self.config.run.tick_s, self)
        self._flush(self.clock.now())
        return result

    # These five make the coordinator the host of `fleet.serve`.

    def granted(self, t: float) -> None:
        self._granted = t
        self._publish()

    def idle(self) -> None:
        now = clock.monotonic()
        if now - self._beat_at >= _BEAT_S:
            self._beat, self._beat_at = self._beat + 1, now
            self._publish()
        self._check()
        clock.pause(_POLL_S if self.gated else _CALENDAR_POLL_S)

    def stop_asked(self) -> str:
        return self.interrupted

    def noted(self, t: float) -> None:
        mode = self.loop.controller.mode()
        if self.recorder.mode(t, mode):
            log.info("%s mode: %s", iso_utc(t), mode)
        now = clock.monotonic()
        if now - self._flushed_at >= _FLUSH_S:
            self._flush(t)

    def moved(self, t: float) -> None:
        if self.gated or clock.monotonic() - self._flushed_at >= _FLUSH_S:
            self._flush(t)

    def _publish(self) -> None:
        for name, site in self.loop.controller.sites.items():
            if site.state is not State.OFF:
                self.bus.set(name, "clock", {"granted": self._granted, "beat": self._beat})

    def _flush(self, t: float) -> None:
        self._flushed_at = clock.monotonic()
        c = self.loop.controller
        self.telemetry.put(
            "INSERT OR REPLACE INTO meta VALUES ('now', ?)",
            _now_text(t, {n: (s.state.value, s.starts, s.reason) for n, s in c.sites.items()}, c.mode()),
        )
        if self.telemetry.dropped:
            self.telemetry.put("INSERT OR REPLACE INTO meta VALUES ('dropped', ?)", str(self.telemetry.dropped))
        self.telemetry.flush()

    def _check(self) -> None:
        """What ends a run for good."""
        if self.transport.failure:
            raise RunError(f"{self.transport.failure}; see {self.run.logs / 'superlink.log'}, then run again to resume")
        if self._superlink.poll() is not None:
            raise RunError(
                f"the SuperLink ended with status {self._superlink.returncode}; see {self.run.logs / 'superlink.log'}, "
                "then run again to resume"
            )
        sites = self.loop.controller.sites.values()
        limit = self.config.fleet.max_failures
        if all(s.failures >= limit for s in sites):
            worst = next(iter(sites))
            raise RunError(f"every site has failed {limit} times in a row; the last reason at {worst.name}: {worst.failure}")
        t = self.clock.now()
        if all(s.ends_at() <= t for s in self.grid.by_site.values()) and all(s.state is State.OFF for s in sites):
            raise RunError(
                f"every trace has ended by {iso_utc(t)} and no site can go on again; the run is at version "
                f"{self.ledger.head().version}. Give longer traces (or a later `until`) and run again to resume"
            )

    def close(self) -> None:
        """End what this process started."""
        self.driver.kill_all()
        self.transport.close()
        if self._superlink.poll() is None:
            self._superlink.terminate()
            try:
                self._superlink.wait(timeout=3)
            except subprocess.TimeoutExpired:
                self._superlink.kill()
                self._superlink.wait()
        self.telemetry.close()
        self.ledger.close()


def _now_text(t: float, sites: dict[str, tuple[str, int, str]], mode: str) -> str:
    return json.dumps({"t_run": t, "t_wall": clock.wall(), "mode": mode, "sites": sites, "pid": os.getpid()})


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def check_port(port: int, configured: int) -> None:
    """Raise ConfigError if somebody listens on ``port`` already."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            raise ConfigError(
                f"federation.port = {configured}: port {port} is taken on this machine; choose another, or 0 for any free one"
            ) from None


def main(argv: list[str] | None = None) -> int:
    """``python -m windfall.run.coordinator RUN_DIR``: serve, and leave an outcome in ``logs/outcome.json``."""
    root = Path((argv or sys.argv[1:])[0])
    run = RunDir(root)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    outcome: dict[str, object] = {"outcome": "failed", "message": "the coordinator ended without a word; see logs/coordinator.log"}
    coordinator: Coordinator | None = None
    try:
        coordinator = Coordinator(load(run.config), run)
        held = coordinator

        def ask(number: int, frame: object) -> None:
            held.interrupted = "stopped by the operator"

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, ask)
        result = coordinator.serve()
        coordinator.telemetry.event(coordinator.clock.now(), result, version=coordinator.ledger.head().version)
        outcome = {"outcome": result, "message": ""}
    except WindfallError as e:
        log.error("%s", e)
        outcome = {"outcome": "failed", "message": str(e), "exit_code": e.exit_code}
        if coordinator:
            coordinator.telemetry.event(coordinator.clock.now(), "error", reason=str(e))
    finally:
        if coordinator:
            coordinator.close()
        write_json(run.logs / "outcome.json", outcome)
    return {"done": 0, "interrupted": 130}.get(str(outcome["outcome"]), 1)


if __name__ == "__main__":
    sys.exit(main())
