"""The live view: what the process that supervises a run shows while the coordinator works.

On a terminal it redraws one screen in place (`ui.terminal.screen`). In a pipe it prints a line per transition, and now and then
what is waited for. It only reads, events by their id and the run's state at most once a second, so it costs the run almost nothing.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.text import Text

from windfall import clock
from windfall.config.schema import Config
from windfall.errors import StoreError
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Event, Telemetry
from windfall.store.telemetry_metrics import LOSS
from windfall.ui.terminal.screen import Picture, draw
from windfall.ui.terminal.tables import waiting_text
from windfall.units import duration_text
from windfall.view.events import TRANSITIONS, format_event
from windfall.view.moment import open_telemetry
from windfall.view.state import RunState, run_state

if TYPE_CHECKING:
    from rich.console import Console

    from windfall.grid.build import Grid

_SUMMARY_EVERY_S = 1.0
#: Wall time over which the run's speed is measured.
_SPEED_WINDOW_S = 20.0
_SPARK = 24
#: In a pipe: how long nothing is said while the run starts, and between two words about what is waited for.
_STARTING_S = 1.5
_WAITING_S = 10.0


class LiveView:
    """Call ``update()`` about four times a second, ``finish()`` once.

    What a run directory already holds when the view is made is history and is not printed again: make the view
    before starting the coordinator.
    """

    def __init__(self, run: RunDir, config: Config, console: Console, *, joined: bool = False) -> None:
        """``joined``: the run has been going on, or is over; nobody waits for its coordinator to start."""
        self._run = run
        self._config = config
        self._console = console
        self._telemetry: Telemetry | None = None
        self._last_id = 0
        self._state: RunState | None = None
        self._summary_at = float("-inf")
        self._pace: deque[tuple[float, float]] = deque()
        self._sparks: dict[str, deque[float]] = {s.name: deque(maxlen=_SPARK) for s in config.site}
        self._last_reading = 0
        self._rates: dict[str, float] = {}
        self._cut_at: float | None = None
        self._emitted = ""
        self._begun = self._told_at = clock.monotonic()
        #: Whether this life of the coordinator has said anything yet.
        self._heard = joined
        self._grid: Grid | None = None
        self._grid_tried = False
        self._live: Live | None = None
        self._finished = self._finished_soon = False
        telemetry = self._connect()
        if telemetry is not None:
            self._last_id = telemetry.last_event_id()
        if console.is_terminal:
            self._live = Live(console=console, auto_refresh=False, transient=False)

    def update(self) -> None:
        """Look at the run once more, and show it."""
        if self._finished:
            return
        events = self._events()
        self._heard = self._heard or bool(events)
        now = clock.monotonic()
        if now - self._summary_at >= _SUMMARY_EVERY_S:
            self._summary_at = now
            self._look()
        if self._live is not None:
            if not self._live.is_started:  # until there is something to show, others use the terminal
                self._live.start()
            self._live.update(Group(*self.lines()), refresh=True)
            return
        for event in events:
            if event.kind in TRANSITIONS:
                self._print(format_event(event))
                self._told_at = now
        if self._finished_soon or now - self._told_at < (_WAITING_S if self._heard else _STARTING_S):
            return
        waits = waiting_text(self._state) if self._state is not None and self._heard else None
        if not self._heard:
            self._print(f"windfall: the coordinator is starting, {duration_text(now - self._begun)}")
        elif waits is not None:
            self._print(f"windfall: waiting for {waits}")
        self._told_at = now

    def finish(self) -> None:
        """Show the last state and let go of terminal and files."""
        if self._finished:
            return
        self._summary_at = float("-inf")
        self._finished_soon = True
        self.update()
        self._finished = True
        if self._live is not None:
            self._live.stop()
        if self._telemetry is not None:
            self._telemetry.close()
            self._telemetry = None

    @property
    def on_screen(self) -> bool:
        """Whether a picture is on the terminal, which must not be written into."""
        return self._live is not None and self._live.is_started

    def say(self, text: str) -> None:
        """Print a line that stays, above the screen or among the other lines."""
        if self._live is not None and self._live.is_started:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self._print(text)

    # -- reading ---------------------------------------------------------------------------------------------

    def _connect(self) -> Telemetry | None:
        if self._telemetry is None:
            try:
                self._telemetry = open_telemetry(self._run)
            except StoreError:
                return None  # being made just now; the next update looks again
        return self._telemetry

    def _events(self) -> list[Event]:
        telemetry = self._connect()
        found: list[Event] = []
        try:
            for number, event in telemetry.events(self._last_id) if telemetry else ():
                self._last_id = number
                found.append(event)
                if event.kind == "round":
                    self._cut_at = float(event.detail.get("cut_at", 0.0)) or None
        except StoreError:
            # If the view cannot read for a moment, that must not end the process that supervises the run.
            return found
        return found

    def _look(self) -> None:
        """The summary and what is not in it; nothing changes if it cannot be read at this moment."""
        try:
            self._state = run_state(self._run)
        except StoreError:
            return
        if self._live is None:
            return
        self._emitted = self._emissions(self._state)
        t_run, t_wall = self._state.t_run, self._state.t_wall
        if t_run is not None and t_wall is not None and (not self._pace or t_wall > self._pace[-1][0]):
            self._pace.append((t_wall, t_run))
            while self._pace[-1][0] - self._pace[0][0] > _SPEED_WINDOW_S:
                self._pace.popleft()
        if self._telemetry is not None:
            try:
                self._read_sites(self._telemetry, self._state)
            except StoreError:
                return

    def _read_sites(self, telemetry: Telemetry, state: RunState) -> None:
        """New readings for the sparklines, and how fast each training site was at its last step."""
        rows, self._last_reading = telemetry.readings_after(self._last_reading)
        for site, value in rows:
            self._sparks.setdefault(site, deque(maxlen=_SPARK)).append(value)
        self._rates = {}
        for name, x in state.sites.items():
            if x.state != "training":
                continue
            for newest in telemetry.newest_metrics(LOSS, 1, name):
                self._rates[name] = float(newest.more.get("tokens_per_s_wall") or 0.0)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._console.file.flush()

    # -- drawing ---------------------------------------------------------------------------------------------

    def lines(self) -> list[Text]:
        """The screen as it is now."""
        width, height = self._console.size
        if self._state is None:
            return [Text(f"starting, {duration_text(clock.monotonic() - self._begun)}", style="dim", no_wrap=True)]
        picture = Picture(self._config, self._state, self._emitted, self._speed(), self._rates, self._sparks, self._cut_at)
        found = draw(picture, width, height)
        if not self._heard:
            found[0] = Text(f"the coordinator is starting, {duration_text(clock.monotonic() - self._begun)}", style="yellow")
        for line in found:
            line.no_wrap, line.overflow = True, "ellipsis"
        return found

    def _speed(self) -> float | None:
        if len(self._pace) < 2:
            return None
        (w0, r0), (w1, r1) = self._pace[0], self._pace[-1]
        return (r1 - r0) / (w1 - w0)

    def _emissions(self, s: RunState) -> str:
        text = f"{s.energy_kwh:.2f} kWh" if s.kg_co2 is None else f"{s.kg_co2:.3f} kg CO2, {s.energy_kwh:.2f} kWh"
        # numpy and the traces are loaded with the first training to compare, not at start.
        if s.training_hours > 0:
            from windfall.view.baselines import baselines, headline
            from windfall.view.recorded import load_grid

            if not self._grid_tried:
                self._grid_tried = True
                self._grid = load_grid(self._config, self._run).grid
            best = headline(baselines(self._config, s, self._grid))
            if best is not None and best.share is not None:
                text += f"; {best.share * 100:.1f} % of {best.region} always on"
        return text
