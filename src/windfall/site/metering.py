"""A site's meter: read in the agent, from a thread, and told to the coordinator by the trainer, which has the site's bus.

Each line of the file between the two is what the bus carries: cumulative joules, at an instant of this machine's uptime and under
the identity of this life of the meter. The calendar of the machine is no part of it.
"""

from __future__ import annotations

import contextlib
import secrets
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from windfall import clock
from windfall.energy.meters.base import PowerMeter, Uptime
from windfall.energy.meters.build import build_meter
from windfall.errors import MeterError
from windfall.store.bus import SiteBus, read_stream
from windfall.store.files import to_json

#: In the site's folder.
METER_NAME = "meter.jsonl"
#: At most between two tries of a meter that is not there, and between two looks of the trainer into the file.
_RETRY_S, _RELAY_S = 15.0, 1.0
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """What is another one after each start of this machine; another one for each process where the system has none."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return secrets.token_hex(8)


class Metering:
    """Reads the meter every ``interval_s`` until ``stop``. A meter that fails is told once, and tried again."""

    def __init__(
        self, folder: Path, told: Mapping[str, Any], *, uptime: Uptime = clock.uptime,
        make: Callable[[Mapping[str, Any], Uptime], PowerMeter] = build_meter,
    ) -> None:  # fmt: skip
        self._path = folder / METER_NAME
        self._path.unlink(missing_ok=True)
        self._told, self._uptime, self._make = told, uptime, make
        self._boot = f"{boot_id()}/{secrets.token_hex(4)}"
        self._meter: PowerMeter | None = None
        self._trouble = ""
        self._lives = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Read once more, and no more after that."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)

    def sample(self) -> bool:
        """Read once and write down what there is to tell; False if the meter could not be read."""
        try:
            if self._meter is None:
                self._meter = self._make(self._told, self._uptime)
                self._lives += 1
            found = self._meter.read()
        except MeterError as e:
            if str(e) != self._trouble:
                self._trouble = str(e)
                self._write({"kind": "meter_trouble", "reason": self._trouble})
            return False
        self._trouble = ""
        for note in self._meter.notes():
            self._write({"kind": "note", "note": f"meter: {note}"})
        self._write(
            {
                "kind": "meter", "boot": f"{self._boot}/{self._lives}/{found.epoch}", "at": found.at, "watts": found.watts,
                "joules": found.joules, "measured_joules": found.measured_joules, "what": self._meter.what,
            }
        )  # fmt: skip
        return True

    def _run(self) -> None:
        interval_s = wait_s = float(self._told["interval_s"])
        while True:
            # What fails once answers the next time, most often; what goes on failing is asked more seldom.
            wait_s = interval_s if self.sample() else min(2.0 * wait_s, max(interval_s, _RETRY_S))
            if self._ended.is_set():
                break
            self._ended.wait(wait_s)
        if self._meter is not None:
            self._meter.close()

    def _write(self, entry: dict[str, Any]) -> None:
        try:
            with open(self._path, "ab") as f:
                f.write(to_json(entry).encode() + b"\n")
        except OSError as e:
            print(f"meter: a reading is lost: {e}", file=sys.stderr, flush=True)


class MeterRelay:
    """Passes on what the agent's meter has written, from a thread of the trainer."""

    def __init__(self, folder: Path, bus: SiteBus) -> None:
        self._path, self._bus = folder / METER_NAME, bus
        self._at = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter relay", daemon=True)

    def start(self) -> None:
        """Begin to pass on."""
        self._thread.start()

    def stop(self) -> None:
        """Pass on what is there, and no more after that."""
        self._ended.set()
        self._thread.join(timeout=2.0)

    def look(self) -> None:
        """Pass on what is new."""
        found, self._at = read_stream(self._path, self._at)
        for entry in found:
            self._bus.emit(entry)

    def _run(self) -> None:
        while True:
            ended = self._ended.wait(_RELAY_S)
            with contextlib.suppress(OSError):  # a full disk is told where work is lost by it
                self.look()
            if ended:
                return
