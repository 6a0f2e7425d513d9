"""A site that watches its own signal: it stops by it where the coordinator is out of touch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def own_window(given: dict[str, Any]) -> Callable[[float], bool]:
    """From that: whether the region is known to be in a window at a run time. Stale or missing readings are no window."""
    from windfall.config.signals import SignalTable
    from windfall.grid.build import make_signal
    from windfall.grid.signal import StepSignal
    from windfall.units import parse_utc

    start = parse_utc(given["start"]) if given["start"] else 0.0
    signal, _ = make_signal(SignalTable(**given["table"]), str(given["region"]), start)
    if not isinstance(signal, StepSignal):
        from windfall.grid.live import LiveSignal
        from windfall.grid.poller import Poller

        assert isinstance(signal, LiveSignal)
        Poller([signal]).start()  # for as long as the trainer lives
    level, under = float(given["level"]), bool(given["under"])

    def open_at(t: float) -> bool:
        reading = signal.at(t)
        if reading is None or t >= reading.stale_at:
            return False
        return reading.value < level if under else reading.value >= level

    return open_at
