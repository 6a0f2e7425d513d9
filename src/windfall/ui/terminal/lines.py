"""What happens in a run as JSON, an object a line: for programs that follow it.

Every object has ``type``: `event` (what `windfall events --json` prints, and its sentence as ``text``), `state` (the main figures
of `windfall status --json`, when they have changed, at most once a second), `said` (a word to the user) and at last `end` (the exit
code, or null for who only watched, and the whole state). Keys may be added; none changes its meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from windfall import clock
from windfall.errors import StoreError
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.view.events import what_happened
from windfall.view.moment import open_telemetry
from windfall.view.state import run_state
from windfall.view.text import safe

_STATE_EVERY_S = 1.0
#: What of the state is told on the way.
_FIGURES = (
    "run_id", "state", "message", "mode", "version", "tokens_committed", "tokens_budget", "val_bpb", "train_loss", "energy_kwh",
    "kg_co2", "t_run",
)  # fmt: skip


class JsonLines:
    """Prints them with ``tell`` (a `run.supervisor.View`). What a run directory already holds when it is made is not told."""

    def __init__(self, run: RunDir, tell: Callable[[dict[str, Any]], None]) -> None:
        self._run = run
        self._tell = tell
        self._telemetry: Telemetry | None = None
        self._last_id = 0
        self._told: dict[str, Any] = {}
        self._looked_at = float("-inf")
        telemetry = self._connect()
        if telemetry is not None:
            self._last_id = telemetry.last_event_id()

    def update(self) -> None:
        """Tell what is new."""
        try:
            telemetry = self._connect()
            for number, event in telemetry.events(self._last_id) if telemetry else ():
                self._last_id = number
                self._tell({"type": "event", **asdict(event), "text": what_happened(event)})
            now = clock.monotonic()
            if now - self._looked_at >= _STATE_EVERY_S:
                self._looked_at = now
                self._state()
        except StoreError:
            return  # it is being made just now, or cannot be read for a moment: the next update looks again

    def finish(self) -> None:
        """Tell what is left and let go of the file."""
        self._looked_at = float("-inf")
        self.update()
        if self._telemetry is not None:
            self._telemetry.close()
            self._telemetry = None

    def say(self, text: str) -> None:
        """A word to the user."""
        self._tell({"type": "said", "text": safe(text)})

    def end(self, code: int | None) -> None:
        """The last line."""
        try:
            state = run_state(self._run).as_json()
        except StoreError:
            state = None  # there has never been a run, or nobody can read it
        self._tell({"type": "end", "code": code, "state": state})

    def _state(self) -> None:
        whole = run_state(self._run).as_json()
        found = {k: whole[k] for k in _FIGURES}
        found["sites"] = {
            name: {"state": s["state"], "held": s["held"], "reason": s["reason"]} for name, s in whole["sites"].items()
        }
        if {**found, "t_run": None} != {**self._told, "t_run": None}:  # that time passes is no news
            self._told = found
            self._tell({"type": "state", "t_wall": clock.wall(), **found})

    def _connect(self) -> Telemetry | None:
        if self._telemetry is None:
            self._telemetry = open_telemetry(self._run)
        return self._telemetry
