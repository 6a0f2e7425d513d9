"""The coordinator: one process that owns loop, fleet and ledger of one run."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from windfall import clock
from windfall.clock import Clock, RealClock, ScaledClock
from windfall.config.load import load
from windfall.config.schema import Config
from windfall.energy.books import Books
from windfall.errors import FederationError, HandOver, RunError, TakenOver, Transient, WindfallError
from windfall.fleet.driver import Owned
from windfall.fleet.drivers.build import AGENT, Start, Starts, build_driver
from windfall.fleet.machine import Action, Site, State
from windfall.fleet.serve import serve
from windfall.grid.build import Grid, build_grid
from windfall.run.alerts import AlertWatch, sender_of
from windfall.run.compose import compose, redis_users, take_lease
from windfall.run.endpoint import endpoint_port, endpoint_url
from windfall.run.life import BEAT_S, begin, signs_of_life
from windfall.run.links import Links
from windfall.run.merge_watch import MergeWatch
from windfall.run.network import CertificateWatch
from windfall.run.openadr import desk_of
from windfall.run.operator import Operator
from windfall.run.present import Present, microgrids_of
from windfall.run.recorder import TelemetryRecorder, position
from windfall.run.run_meters import RunMeters
from windfall.run.settings import LiveSettings, in_force
from windfall.run.sites import DataFiles, describe_elsewhere, describe_site, nursery_for
from windfall.run.supervisor import DISK_STATUS
from windfall.run.watch import MicrogridWatch, SignalWatch
from windfall.store.bus_factory import open_bus
from windfall.store.files import telling_of_the_disk, write_json
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir, RunLock
from windfall.store.telemetry import Telemetry
from windfall.units import iso_utc
from windfall.wire.bulk import Shelf
from windfall.wire.bulk_transport import BulkTransport, clear_orphans, sent_bytes_per_s
from windfall.wire.certificates import Certificates
from windfall.wire.fleet_proxy import Registrations
from windfall.wire.flower_environment import flower_environment
from windfall.wire.probe import free_port
from windfall.wire.transport import Transport

_POLL_S = 0.01
_CALENDAR_POLL_S = 0.05
_QUIET_POLL_S = 1.0
_FLUSH_S = 1.0
#: A run without a living site waits this long at most until starts are cheap.
_PREPARE_S = 5.0
log = logging.getLogger("windfall")


#: From a SuperLink's address to the transport that reaches the sites through it.
Connect = Callable[[str], Transport]


def over_flower(address: str) -> Transport:
    """The transport over the SuperLink at ``host:port``, which may still be starting.

    Raises FederationError if it is not reached.
    """
    from windfall.federation.flower_attach import Attachment  # flwr takes a while to import
    from windfall.federation.flower_transport import FlowerTransport

    return FlowerTransport(Attachment(address))


class Coordinator:
    """A run's coordinator, from its start to its end. A run may have many, one after the other; each holds the run's lock."""

    def __init__(
        self, config: Config, run: RunDir, port: int, *, connect: Connect = over_flower, agent: Sequence[str] = AGENT
    ) -> None:
        """``port`` is the SuperLink's on this machine; ``agent`` the command that runs a site, besides its folder.

        Raises:
            WindfallError: another coordinator has taken the run over, or something of it cannot be read.
        """
        self.config = config
        self.run = run
        self.interrupted = ""
        self.leaving = False
        #: A thread of this process hangs, for which its end must not wait.
        self.stuck = False
        self._merge_watch = MergeWatch(config.fleet.coordinator_timeout_s)
        self._beat = 0
        self._beat_at = self._flushed_at = float("-inf")
        #: Whether large blobs travel as files.
        self._files = endpoint_port(run) is not None
        self._trouble_with_files: dict[str, str] = {}
        self.ledger = Ledger.open(run.ledger)
        self.telemetry, mended = Telemetry.open_or_begin(run.telemetry)
        self.grid: Grid = build_grid(config)
        self.run_id = self.ledger.meta("run_id") or ""
        self.fence = self.ledger.new_fence()
        self._lease = take_lease(config, run, self.ledger, self.run_id, self.fence)
        self.gated = config.run.clock == "scaled"
        self._users = redis_users(config, run, self.ledger, self.run_id)
        self._warned = ""
        self._certificates = CertificateWatch(config)
        self._data = DataFiles(config, run)
        self.driver = build_driver(
            config, run, self.run_id, lambda s: describe_site(config, run, s, f"127.0.0.1:{port}", free_port()),
            Starts(self._start_elsewhere),
            environment=flower_environment(str(run.root / "flower")), agent=agent, token_for=self._new_token,
            nursery=nursery_for(config, run, self.run_id) if agent == AGENT else None,
        )  # fmt: skip
        kept = self.ledger.configurations()
        self.recorder = TelemetryRecorder(self.telemetry, kept[-1].number if kept else 1)
        booked_to = position(self.telemetry)
        now = begin(config, self.ledger, self.telemetry, self.fence)
        # Up to here an earlier coordinator granted run time. With less, a site that is to cut at this very instant could not.
        self._granted = now
        self.clock: Clock = ScaledClock(now, config.run.speed) if self.gated else RealClock()
        self.grid.start()
        self._watch = SignalWatch(self.grid, self.telemetry)
        for w in [*self.grid.warnings, *([mended] if mended else [])]:
            self.telemetry.event(now, "warning", reason=w)
        self.transport = self._with_files(connect(f"127.0.0.1:{port}"), now)
        self.bus = open_bus(config.run.bus, run.sites, self.run_id, gated=self.gated, users=self._users)
        settings = LiveSettings(config, run, self.ledger, self.recorder)
        self.operator = Operator(
            run, self.ledger, self.telemetry, sites={s.name for s in config.site}, stands=self._stands, settings=settings
        )
        self.loop, self.work = compose(
            config, run, ledger=self.ledger, telemetry=self.telemetry, grid=self.grid, clock=self.clock, driver=self.driver,
            bus=self.bus, transport=self.transport, recorder=self.recorder, fence=self.fence, observer=self._moved,
            holds=self.operator, executor=ThreadPoolExecutor(1, "merge"), registrations=Registrations(run.registrations),
        )  # fmt: skip
        settings.of(self.loop)
        self._meters: RunMeters | None = None
        if isinstance(self.loop.account, Books):
            lag_s = config.account.meter_lag_s
            # Between two ticks run time is the calendar's.
            self._meters = RunMeters(
                self.loop.account, self.recorder, self.telemetry, lambda: max(self.clock.now(), clock.wall()), lag_s
            )
            self.work.hear_meters(self._meters.heard)
        self._microgrids = MicrogridWatch(microgrids_of(self.loop), self.telemetry)
        self._sender = sender_of(config)
        self._alerts = AlertWatch(
            lambda: settings.config, self.telemetry, self.loop, self.grid, run_id=self.run_id, sender=self._sender
        )
        self._alerted_at = float("-inf")
        self._vtn = desk_of(lambda: settings.config, run, self.telemetry, self.operator, begun=self.loop.begun)
        self._links = Links(config, self.telemetry)
        self._present = Present(self.telemetry, self.bus, self.loop, self.work, files=self._files)
        self._adopt(now, booked_to)

    def _stands(self) -> dict[str, str]:
        """The sites' states, and under "" the mode: what who asks for something may have seen."""
        c = self.loop.controller
        return {"": c.mode(), **{name: site.state.value for name, site in c.sites.items()}}

    def _adopt(self, now: float, booked_to: float | None) -> None:
        """Go on with sites that an earlier coordinator started, and book the time since it last did."""
        controller = self.loop.controller
        try:
            owned = self.driver.list_owned(self.run_id)
        except Transient as e:
            raise HandOver(f"{e}; what is there of this run cannot be seen for now") from None
        asked = self.ledger.last_asked()
        for site, why in self.driver.unseen.items():
            generation, action, _ = asked.get(site, (0, "", now))
            self.telemetry.event(now, "driver_trouble", site=site, reason=f"it cannot be seen for now: {why}")
            if action == Action.UP.value:  # it may run: it says so itself, or it is given up like one that does not come
                owned.append(Owned(site, generation, "as the journal has it"))
        taken = controller.adopt(now, clock.monotonic(), owned, asked)
        if not owned:  # all sites that are wanted start now, and a second or two of waiting saves each of them several
            self.driver.prepare(_PREPARE_S)
        for o in owned:
            kind = "adopted" if o in taken else "swept"
            self.telemetry.event(now, kind, site=o.site, generation=o.generation, reason="was found running")
        if booked_to is not None and now > booked_to:
            self.loop.book(booked_to, now)

    def _start_elsewhere(self, site: str, generation: int) -> Start:
        """What the machine of a site is given for a new life, after what it will ask for has been put in its place."""
        told = describe_elsewhere(self.config, self.run, self.run_id, site, generation, self._data)
        folder = self.run.sites / site
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "site.json", told)
        certificates = self.config.network.certificates
        ca = Certificates(Path(certificates)).ca.read_text(encoding="ascii") if certificates else ""
        url = endpoint_url(self.config, self.run, site)
        assert url is not None, "a run with sites on other machines has an endpoint"
        return Start(self.run_id, site, generation, url, self._new_token(site, generation), ca)

    def _new_token(self, site: str, generation: int) -> str:
        """What a site's requests for files will bear. Nobody but the site has it: here only its hash is kept."""
        token = secrets.token_hex(32)
        self.ledger.keep_token(site, generation, hashlib.sha256(token.encode()).hexdigest())
        if self._users is not None:
            self._users.admit(site, generation, token)
        return token

    def _with_files(self, transport: Transport, now: float) -> Transport:
        """A way to the sites on which large blobs travel as files, where the run has a server for them."""
        if not self._files:
            return transport
        shelf = Shelf(self.run.bulk)
        gone = clear_orphans(shelf, {o.site for o in self.driver.list_owned(self.run_id)})
        if gone:
            self.telemetry.event(now, "tidied", files=[p.name for p in gone[:20]], count=len(gone))
        return BulkTransport(
            transport, shelf, inline_limit_bytes=self.config.federation.inline_limit_bytes,
            sites={s.name for s in self.config.site}, tell=self._tell_of_files,
        )  # fmt: skip

    def _tell_of_files(self, site: str, trouble: str) -> None:
        if trouble != self._trouble_with_files.get(site, ""):
            self._trouble_with_files[site] = trouble
            self.telemetry.event(self.clock.now(), "site_note", site=site, note=trouble or "its files can be written again")

    def _moved(self, t: float, site: Site, old: State, new: State) -> None:
        self.recorder.moved(t, site, old, new)
        log.info("%s %s: %s -> %s (%s)", iso_utc(t), site.name, old.value, new.value, site.reason)

    # -- running ---------------------------------------------------------------------------------------------

    def serve(self) -> str:
        """Run until the run is done or stopped; `done` or `interrupted`.

        Raises:
            RunError: the run cannot go on; what is committed is safe.
        """
        result = serve(self.loop, self.config.run.tick_s, self)
        if self._meters is not None:
            self._meters.close(self.loop.poll)
        now, said = self.clock.now(), ""
        if result == "done":
            self.operator.over(now)
        elif self.operator.pausing:
            said = self.operator.go_on_with_budget(now)
        self._flush(now)
        if said and not (self.interrupted or self.operator.stopped):
            raise HandOver(said)
        return result

    # The next methods make the coordinator the `Host` of `fleet.serve`.

    def granted(self, t: float) -> None:
        self._granted = t
        self._publish()

    def idle(self) -> None:
        now = clock.monotonic()
        if now - self._beat_at >= BEAT_S:
            self._beat, self._beat_at = self._beat + 1, now
            self._publish()
            self._alive()
        self._present.look()
        if now - self._flushed_at >= _FLUSH_S and (self.gated or (self._files and not self._quiet())):
            self._flush(self.clock.now())  # so that views show what is waited for, on its way, and has happened
        self._check()
        clock.pause(self._pause_s())

    def _pause_s(self) -> float:
        if self.gated:
            return _POLL_S
        return _QUIET_POLL_S if self._quiet() else _CALENDAR_POLL_S

    def _quiet(self) -> bool:
        """No site is on and nothing is due before the next tick. Days may pass like this."""
        return all(s.state is State.OFF for s in self.loop.controller.sites.values())

    def _alive(self) -> None:
        write_json(self.run.beat, {"pid": os.getpid(), "fence": self.fence, "beat": self._beat, "serves": True})

    def stop_asked(self) -> str:
        return self.interrupted or self.operator.stopped or self.operator.pausing

    def noted(self, t: float) -> None:
        mode = self.loop.controller.mode()
        if self.recorder.mode(t, mode):
            log.info("%s mode: %s", iso_utc(t), mode)
        now = clock.monotonic()
        if self.gated or now - self._alerted_at >= _FLUSH_S:
            self._alerted_at = now
            self._alerts.look(t)
        if now - self._flushed_at >= _FLUSH_S:
            self._watch.look(t)
            self._flush(t)

    def moved(self, t: float) -> None:
        if self.gated or clock.monotonic() - self._flushed_at >= _FLUSH_S:
            self._flush(t)
        self._check()  # while nothing is waited for, ``idle`` is not called

    def _publish(self) -> None:
        for name, site in self.loop.controller.sites.items():
            if site.state is not State.OFF:
                said = {"granted": self._granted, "beat": self._beat, "fence": self.fence, **self.loop.levels.told(name)}
                self.bus.set(name, "clock", said)

    def _flush(self, t: float) -> None:
        self._flushed_at = clock.monotonic()
        if self._meters is not None:
            self._meters.settle()
        self._microgrids.look(t)
        self._present.write(t)
        self._look_at_links(t)
        if said := self._certificates.look(clock.wall()):
            self.telemetry.event(t, "warning", reason=said)
        if self._users is not None and self._users.warning != self._warned:
            self._warned = self._users.warning
            if self._warned:
                self.telemetry.event(t, "warning", reason=f"Redis: {self._warned}")
        self.telemetry.flush()

    def _look_at_links(self, t: float) -> None:
        """Tell of what sites have measured while they sent large files."""
        for name, site in self.loop.controller.sites.items():
            if self._files and site.state is not State.OFF:
                rate = sent_bytes_per_s(self.bus.get(name, "transfers"), site.generation)
                if rate is not None:
                    self._links.measured(t, name, rate, self._sizes)

    def _sizes(self) -> tuple[int, int | None]:
        """Bytes of the newest version, and of the largest inner state that has left a site, if one has."""
        files = [self.run.checkpoints / s.file for s in self.ledger.inner_states().values()]
        inner = max((f.stat().st_size for f in files if f.is_file()), default=None)
        file = self.run.checkpoints / self.ledger.head().file
        return file.stat().st_size if file.is_file() else 0, inner

    def _merged_on(self) -> tuple[int, int] | None:
        """The version that is being merged on, and the bytes of its file; None while nothing is merged."""
        if not self.work.merging():
            return None
        head = self.ledger.head()
        file = self.run.checkpoints / head.file
        return head.version, file.stat().st_size if file.is_file() else 0

    def _check(self) -> None:
        """Raise if this coordinator has to end, or the run cannot go on."""
        if self.leaving:
            raise HandOver("asked to end; the next coordinator goes on with the sites")
        hangs = self._merge_watch.look(clock.monotonic(), self._merged_on())
        if hangs:
            self.stuck = True
            raise HandOver(hangs)
        if self.transport.failure:
            raise HandOver(f"{self.transport.failure}; see {self.run.logs / 'superlink.log'}")
        lost = self._lease.lost() if self._lease else ""
        if lost:
            raise TakenOver(f"{self.run.root}: {lost}")
        sites = self.loop.controller.sites.values()
        if given_up := self.loop.controller.given_up(self.config.fleet.max_failures):
            raise RunError(given_up)
        t = self.clock.now()
        if all(s.ends_at() <= t for s in self.grid.by_site.values()) and all(s.state is State.OFF for s in sites):
            raise RunError(
                f"every trace has ended by {iso_utc(t)} and no site can go on again; the run is at version "
                f"{self.ledger.head().version}. Give longer traces (or a later `until`) and run again to resume"
            )

    def close(self, *, end_sites: bool) -> None:
        """Close everything. ``end_sites``: end the sites too; else the next coordinator goes on with them."""
        if end_sites:
            self.driver.kill_all()
        self.driver.close()
        self.transport.close()
        self.bus.close()
        self.grid.close()
        if self._lease:
            self._lease.release()
        self._present.write(self.clock.now())  # what is booked and how far is written together, also when something went wrong
        self.telemetry.close()
        self.ledger.close()
        if self._sender is not None:
            self._sender.close()
        if self._vtn is not None:
            self._vtn.close()


def main(argv: list[str] | None = None, *, connect: Connect = over_flower, agent: Sequence[str] = AGENT) -> int:
    """``python -m windfall.run.coordinator RUN_DIR PORT``: serve, and leave an outcome in ``logs/outcome.json``."""
    root, port = (argv or sys.argv[1:])[:2]
    run = RunDir(Path(root))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    coordinator: Coordinator | None = None
    lock = RunLock(run)
    asked: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        """Ctrl-C drains and ends the run; SIGTERM ends only this process, and the sites go on."""
        asked.append(number)
        if coordinator is not None:
            coordinator.leaving = coordinator.leaving or number == signal.SIGTERM
            coordinator.interrupted = coordinator.interrupted or ("" if number == signal.SIGTERM else "stopped by the operator")

    clock.leave_out_stops()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    outcome: dict[str, object] = {"outcome": "crashed"}
    try:
        with telling_of_the_disk(run.root):
            config = load(run.config)
            lock.acquire()
            config = in_force(config, run)
            with signs_of_life(run, config.fleet.step_timeout_s):
                coordinator = Coordinator(config, run, int(port), connect=connect, agent=agent)
            for earlier in list(asked):
                on_signal(earlier, None)
            result = coordinator.serve()
            coordinator.telemetry.event(coordinator.clock.now(), result, version=coordinator.ledger.head().version)
            outcome = {"outcome": result, "message": ""}
    except WindfallError as e:
        log.error("%s", e)
        again = isinstance(e, HandOver | FederationError)
        outcome = {"outcome": "failed", "message": str(e), "exit_code": e.exit_code, "again": again}
        if coordinator:
            coordinator.telemetry.event(coordinator.clock.now(), "leaving" if again else "error", reason=str(e))
        outcome["theirs"] = isinstance(e, TakenOver)
    finally:
        if coordinator:
            theirs = bool(outcome.get("again") or outcome.get("theirs")) or outcome["outcome"] == "crashed"
            coordinator.close(end_sites=not theirs)
        written = _say_outcome(run, outcome)
        if coordinator and coordinator.stuck:
            logging.shutdown()
            os._exit(1)
        lock.release()
    if outcome.get("message") and not written:
        return DISK_STATUS
    return {"done": 0, "interrupted": 130}.get(str(outcome["outcome"]), 1)


def _say_outcome(run: RunDir, outcome: dict[str, object]) -> bool:
    try:
        write_json(run.logs / "outcome.json", outcome)
    except OSError as e:
        log.error("the outcome cannot be written: %s", e)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
