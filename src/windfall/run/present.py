"""What views are told of the present, besides what has happened: the row `now` of the telemetry's table `meta`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from windfall import clock
from windfall.energy.account import Account
from windfall.energy.books import Books
from windfall.energy.microgrid import Microgrid
from windfall.federation.engine import Federation
from windfall.fleet.loop import Loop
from windfall.fleet.machine import State
from windfall.store.bus import Bus
from windfall.store.telemetry import Telemetry
from windfall.wire.bulk_transport import transfers

#: What a site is at for longer than this is shown.
_MOMENT_S = 3.0


def microgrids_of(loop: Loop) -> Mapping[str, Microgrid]:
    """The microgrids of a loop's sites, by site."""
    booking = loop.account
    account = booking.account if isinstance(booking, Books) else booking
    return account.microgrids if isinstance(account, Account) else {}


class Present:
    """Writes that row again and again."""

    def __init__(self, telemetry: Telemetry, bus: Bus, loop: Loop, work: Federation, *, files: bool) -> None:
        """``files``: whether large blobs travel as files, of which sites then say how far they are."""
        self._telemetry = telemetry
        self._bus = bus
        self._loop = loop
        self._work = work
        self._files = files
        self._waits, self._waits_since = "", 0.0

    def look(self) -> None:
        """Note since when what a gated clock waits for has been waited for. Call it often."""
        if self._loop.waiting != self._waits:
            self._waits, self._waits_since = self._loop.waiting, clock.wall()

    def write(self, t: float) -> None:
        """Write the row, at run time ``t``."""
        c = self._loop.controller
        said: dict[str, Any] = {
            "t_run": t, "t_wall": clock.wall(), "mode": c.mode(), "pid": os.getpid(),
            "sites": {n: (s.state.value, s.starts, s.reason) for n, s in c.sites.items()},
            "transfers": self._transfers(), "doing": self._doing(), "platforms": c.platforms(),
        }  # fmt: skip
        if isinstance(self._loop.account, Books):
            said["books"] = self._loop.account.as_json()
        if behind := microgrids_of(self._loop):
            said["microgrids"] = {name: m.as_json() for name, m in behind.items()}
        if levels := self._loop.levels.as_json():
            said["levels"] = levels
        if self._loop.waiting and self._waits:
            said["waiting"] = {"for": self._waits, "since_wall": self._waits_since}
        self._telemetry.present(said)

    def _transfers(self) -> dict[str, Any]:
        """By site: its large files on their way, by its own word."""
        on = {n: s.generation for n, s in self._loop.controller.sites.items() if self._files and s.state is not State.OFF}
        found = {name: transfers(self._bus.get(name, "transfers"), generation) for name, generation in on.items()}
        return {name: said for name, said in found.items() if said}

    def _doing(self) -> dict[str, Any]:
        """By site: what it has been at for longer than a moment, by its own word."""
        now, found = clock.monotonic(), {}
        for name in self._loop.controller.sites:
            said = self._work.doing(name)
            if said is not None and said.since is not None and now - said.since > _MOMENT_S:
                found[name] = {"what": said.what, "since_wall": clock.wall() - (now - said.since)}
        return found
