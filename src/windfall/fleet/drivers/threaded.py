"""Asks a driver that may take its time, for one site, from a thread of that site's own.

The loop asks for a start and goes on; the thread passes it on, looks at what comes of it, and the loop reads what was seen last.
So a cluster that is slow, away or wrong delays its own site and no other (invariant 6).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from windfall import clock
from windfall.errors import DriverError, Transient
from windfall.fleet.controller import fault_of
from windfall.fleet.driver import Driver, Owned
from windfall.fleet.machine import Observation, Observed


@dataclass(frozen=True)
class LookIntervals:
    """How often a site is looked at, and after how long without an answer it counts as unknown (wall time)."""

    moving_s: float = 1.0
    steady_s: float = 10.0
    silent_s: float = 60.0


@dataclass(frozen=True)
class _Errand:
    what: str
    do: Callable[[], None]


class ThreadedDriver:
    """Implements ``fleet.driver.Driver`` for ``site``. Whatever ``driver`` does, no method here but ``list_owned`` waits for it."""

    def __init__(self, driver: Driver, site: str, pace: LookIntervals | None = None) -> None:
        self._driver = driver
        self._site = site
        self._pace = pace or LookIntervals()
        self._wake = threading.Condition()
        self._request: _Errand | None = None
        self._seen = Observation(Observed.UNKNOWN)
        self._seen_at: float | None = None
        self._begun = clock.monotonic()
        #: The last look failed with this.
        self._blind: DriverError | None = None
        #: The last request to stop failed with this, and nobody has been told.
        self._unstopped: DriverError | None = None
        self._look_at = float("-inf")
        self._closed = False
        self._thread: threading.Thread | None = None

    # -- the loop's side -------------------------------------------------------------------------------------

    def ensure_up(self, site: str, generation: int) -> None:
        self._ask(_Errand("up", lambda: self._driver.ensure_up(site, generation)), Observed.STARTING)

    def ensure_down(self, site: str, grace_s: float, reason: str) -> None:
        """Raises what the request before this one has failed with."""
        self._ask(_Errand("down", lambda: self._driver.ensure_down(site, grace_s, reason)), Observed.STOPPING)
        with self._wake:
            failed, self._unstopped = self._unstopped, None
        if failed is not None:
            raise failed

    def observe(self, sites: Iterable[str]) -> dict[str, Observation]:
        self._start()
        with self._wake:
            if self._blind is not None:
                raise self._blind
            silent_s = clock.monotonic() - (self._begun if self._seen_at is None else self._seen_at)
            if silent_s > self._pace.silent_s:
                raise Transient(f"{self._site}: its platform has not answered for {silent_s:.0f} s")
            return dict.fromkeys(sites, self._seen)

    def list_owned(self, run_id: str) -> list[Owned]:
        return self._driver.list_owned(run_id)

    def close(self) -> None:
        """Let the thread end, once what it is at is done. The site stays as it is."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()

    def _ask(self, request: _Errand, meanwhile: Observed) -> None:
        self._start()
        with self._wake:
            # The newest request counts: who is to be off need not be started first.
            self._request = request
            # What was seen before says nothing of what has just been asked for. What cannot be seen is not seen to stop either.
            self._seen, self._seen_at = Observation(meanwhile), clock.monotonic()
            if request.what == "up":
                self._blind = None
            self._wake.notify_all()

    def _start(self) -> None:
        if self._thread is None:
            self._begun = clock.monotonic()
            self._thread = threading.Thread(target=self._run, name=f"driver of {self._site}", daemon=True)
            self._thread.start()

    # -- the thread's side -----------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._closed and self._request is None and (left := self._look_at - clock.monotonic()) > 0:
                    self._wake.wait(left)
                if self._closed and self._request is None:
                    return
                request, self._request = self._request, None
            if request is not None:
                self._carry_out(request)
            self._look()

    def _carry_out(self, request: _Errand) -> None:
        try:
            request.do()
        except DriverError as e:
            with self._wake:
                if self._request is not None:
                    return  # something else has been asked for meanwhile
                if request.what == "up":
                    self._seen = Observation(Observed.FAILED, str(e), fault_of(e))
                    self._seen_at = clock.monotonic()
                    # Until the loop has asked for what a failed start leaves behind to be stopped, nothing else is told.
                    while self._request is None and not self._closed:
                        self._wake.wait()
                else:
                    self._unstopped = e

    def _look(self) -> None:
        try:
            seen = self._driver.observe([self._site]).get(self._site, Observation(Observed.UNKNOWN))
            blind = None
        except DriverError as e:
            seen, blind = Observation(Observed.UNKNOWN), e
        with self._wake:
            steady = (seen.state in (Observed.UP, Observed.ABSENT) or seen.queued) and blind is None
            self._look_at = clock.monotonic() + (self._pace.steady_s if steady else self._pace.moving_s)
            if self._request is None:  # else it was seen before what has been asked for
                self._seen, self._seen_at, self._blind = seen, clock.monotonic(), blind
