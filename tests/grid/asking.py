"""A clock that only tests move, and live signals that ask local servers."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from windfall.config.signals import SignalTable
from windfall.grid.http import RateLimits
from windfall.grid.live import LiveSignal, live_signal
from windfall.grid.source import News, Point
from windfall.units import parse_utc

#: 2026-05-03 10:02 UTC: summer time in California and Germany, none in the NEM.
T = parse_utc("2026-05-03T10:02:00Z")
CREDENTIALS = {
    "WATTTIME_USERNAME": "wind", "WATTTIME_PASSWORD": "p4ss-w0rd", "ELECTRICITY_MAPS_API_KEY": "em-s3cret",
    "OPENELECTRICITY_API_KEY": "oe_s3cret", "MY_TOKEN": "t0p-s3cret",
}  # fmt: skip
SECRETS = ("p4ss-w0rd", "s3cret")


class Clock:
    """Stands still unless moved; pausing moves it."""

    def __init__(self, t: float = T) -> None:
        self.t = t
        self.paused: list[float] = []

    def now(self) -> float:
        return self.t

    def pause(self, seconds: float) -> None:
        self.paused.append(seconds)
        self.t += seconds


class Asking:
    """Makes live signals that share a clock, a cache folder and credentials, and closes them."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.folder = folder
        self.environ = dict(CREDENTIALS)
        self.limits = RateLimits()
        self._made: list[LiveSignal] = []

    def signal(self, kind: str, region: str = "R", **keys: Any) -> LiveSignal:
        table = SignalTable.model_validate({"kind": kind, "timeout_s": 2.0, **keys})
        made = live_signal(
            table, region, now=self.clock.now, pause=self.clock.pause, environ=self.environ, folder=self.folder,
            rng=random.Random(1), limits=self.limits,
        )  # fmt: skip
        self._made.append(made)
        return made

    def later(self, seconds: float) -> float:
        self.clock.t += seconds
        return self.clock.t

    def close(self) -> None:
        for signal in self._made:
            signal.close()


def ask(signal: LiveSignal, t: float) -> str:
    """Ask once, if it is time to; what went wrong, or nothing."""
    signal.step(t)
    return signal.status().last_error or ""


def value(signal: LiveSignal, t: float) -> float | None:
    reading = signal.at(t)
    return None if reading is None else round(reading.value, 6)


@contextmanager
def nobody() -> Iterator[str]:
    """An address at which nobody listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{s.getsockname()[1]}"


TABLE = {"kind": "http", "url": "http://x", "value_path": "v"}


class Script:
    """A source that does as told: news, or an exception, one a question; the last for ever."""

    def __init__(self, *steps: News | Exception) -> None:
        self.steps = list(steps)
        self.who = "script:R"
        self.requests = 0
        self.patience_s = 0.0
        self.closed = 0
        self.old: News | Exception | None = None

    def identity(self) -> dict[str, str]:
        return {"kind": "script"}

    def require(self) -> None:
        pass

    def fetch(self, now: float) -> News:
        self.requests += 1
        return self._say(self.steps.pop(0) if len(self.steps) > 1 else self.steps[0])  # type: ignore[return-value]

    def past(self, now: float, span_s: float) -> News | None:
        return self._say(self.old)

    def close(self) -> None:
        self.closed += 1

    @staticmethod
    def _say(step: News | Exception | None) -> News | None:
        if isinstance(step, Exception):
            raise step
        return step


def news(*points: tuple[float, float]) -> News:
    return News([Point(t, v) for t, v in points])


def live(source: Script, clock: Clock | None = None, folder: Path | None = None, **keys: Any) -> LiveSignal:
    table = SignalTable.model_validate({**TABLE, **keys})
    return LiveSignal(table, source, now=(clock or Clock()).now, rng=random.Random(1), folder=folder)
