"""The live view: what the process that supervises a run shows while the coordinator works.

On a terminal a panel of fixed rows is redrawn in place; into a pipe one line is printed per transition. It only reads:
events by their id, the summary at most once a second, so that it costs the run next to nothing.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from windfall import clock
from windfall.config.schema import Config
from windfall.errors import StoreError
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Event, Telemetry
from windfall.ui.events import TRANSITIONS, format_event
from windfall.ui.reading import open_telemetry, safe
from windfall.ui.summary import summarise
from windfall.ui.tables import last_word
from windfall.units import clock_text, duration_text

if TYPE_CHECKING:
    from rich.console import Console

    from windfall.grid.build import Grid

_SUMMARY_EVERY_S = 1.0
#: Wall time over which the run's speed is measured.
_SPEED_WINDOW_S = 20.0
_SPARK = 24
_LEVELS = "▁▂▃▄▅▆▇█"
_STATE_STYLES = {
    "training": "bold green",
    "provisioning": "magenta",
    "ready": "yellow",
    "draining": "yellow",
    "failed": "bold red",
    "off": "dim",
}

_MODE_STYLES = {"federated": "bold green", "local": "bold blue"}


class LiveView:
    """Call ``update()`` about four times a second, ``finish()`` once.

    What a run directory already holds when the view is made is history and is not printed again: make the view
    before starting the coordinator.
    """

    def __init__(self, run: RunDir, config: Config, console: Console) -> None:
        self._run = run
        self._config = config
        self._console = console
        self._telemetry: Telemetry | None = None
        self._last_id = 0
        self._summary: dict[str, Any] | None = None
        self._summary_at = float("-inf")
        self._pace: deque[tuple[float, float]] = deque()
        self._sparks: dict[str, deque[float]] = {s.name: deque(maxlen=_SPARK) for s in config.site}
        self._last_reading = 0
        self._rates: dict[str, float] = {}
        self._cut_at: float | None = None
        self._emitted = ""
        self._grid: Grid | None = None
        self._grid_tried = False
        self._live: Live | None = None
        self._finished = False
        telemetry = self._connect()
        if telemetry is not None:
            self._last_id = int(telemetry.rows("SELECT COALESCE(MAX(id), 0) FROM events")[0][0])
        if console.is_terminal:
            self._live = Live(console=console, auto_refresh=False, transient=False)
            self._live.start()

    def update(self) -> None:
        """Look at the run once more, and show it."""
        if self._finished:
            return
        events = self._events()
        if self._live is None:
            for event in events:
                if event.kind in TRANSITIONS:
                    self._print(format_event(event))
            return
        now = clock.monotonic()
        if now - self._summary_at >= _SUMMARY_EVERY_S:
            self._summary_at = now
            self._look()
        self._live.update(self._render(), refresh=True)

    def finish(self) -> None:
        """Show the last state and let go of terminal and files."""
        if self._finished:
            return
        self._summary_at = float("-inf")
        self.update()
        self._finished = True
        if self._live is not None:
            self._live.stop()
        if self._telemetry is not None:
            self._telemetry.close()
            self._telemetry = None

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
            # A view that cannot read for a moment is no reason to end the process that supervises the run.
            return found
        return found

    def _look(self) -> None:
        """The summary and what is not in it; nothing changes if it cannot be read at this moment."""
        try:
            self._summary = summarise(self._run)
        except StoreError:
            return
        self._emitted = self._emissions(self._summary)
        t_run, t_wall = self._summary["t_run"], self._summary["t_wall"]
        if t_run is not None and t_wall is not None and (not self._pace or t_wall > self._pace[-1][0]):
            self._pace.append((t_wall, t_run))
            while self._pace[-1][0] - self._pace[0][0] > _SPEED_WINDOW_S:
                self._pace.popleft()
        if self._telemetry is not None:
            try:
                self._read_sites(self._telemetry, self._summary)
            except StoreError:
                return

    def _read_sites(self, telemetry: Telemetry, summary: Mapping[str, Any]) -> None:
        """New readings for the sparklines, and how fast each training site was at its last step."""
        rows = telemetry.rows("SELECT rowid, site, value FROM readings WHERE rowid > ? ORDER BY rowid", self._last_reading)
        for number, site, value in rows:
            self._last_reading = int(number)
            self._sparks.setdefault(str(site), deque(maxlen=_SPARK)).append(float(value))
        self._rates = {}
        for name, x in summary["sites"].items():
            if x["state"] != "training":
                continue
            newest = telemetry.rows("SELECT detail FROM metrics WHERE name = 'loss' AND site = ? ORDER BY id DESC LIMIT 1", name)
            if newest and newest[0][0]:
                self._rates[name] = float(json.loads(newest[0][0]).get("tokens_per_s_wall") or 0.0)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._console.file.flush()

    # -- drawing ---------------------------------------------------------------------------------------------

    def _render(self) -> RenderableType:
        s = self._summary
        if s is None:
            return Text("starting", style="dim")
        done = int(s["tokens_committed"])
        budget = max(1, int(s["tokens_budget"]))
        facts = Table.grid(padding=(0, 2), expand=True)
        facts.add_column(width=10, style="dim")
        facts.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        facts.add_row("run time", self._clock(s))
        facts.add_row("mode", Text(s["mode"], style=_MODE_STYLES.get(s["mode"], "dim")))
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            ProgressBar(total=budget, completed=done, width=28, complete_style="green"),
            f"{done / budget * 100:5.1f} %  {done:,} of {budget:,}  version {s['version']}",
        )
        facts.add_row("tokens", bar)
        facts.add_row("learning", self._learning(s))
        facts.add_row("emissions", self._emitted)
        facts.add_row("time left", self._left(s, done, budget))
        return Group(facts, Text(""), self._sites(s))

    def _clock(self, s: Mapping[str, Any]) -> str:
        if s["t_run"] is None:
            return "starting"
        speed = ""
        if len(self._pace) > 1:
            (w0, r0), (w1, r1) = self._pace[0], self._pace[-1]
            speed = f", {(r1 - r0) / (w1 - w0):,.0f} times real time"
        return f"{clock_text(s['t_run'])} UTC, {s['run_hours']:.2f} h in{speed}"

    def _learning(self, s: Mapping[str, Any]) -> str:
        bpb = "–" if s["val_bpb"] is None else f"{s['val_bpb']:.4f} (version {s['val_bpb_version']})"
        loss = "–" if s["train_loss"] is None else f"{s['train_loss']:.3f}"
        return f"val bits per byte {bpb}   train loss {loss}   {sum(self._rates.values()):,.0f} tokens/s"

    def _emissions(self, s: Mapping[str, Any]) -> str:
        text = f"{s['kg_co2']:.3f} kg CO2, {s['energy_kwh']:.2f} kWh"
        # numpy and the traces are loaded with the first training to compare, not at start.
        if s["training_hours"] > 0:
            from windfall.ui.baselines import baselines, headline, load_grid

            if not self._grid_tried:
                self._grid_tried = True
                self._grid, _ = load_grid(self._config, self._run)
            best = headline(baselines(self._config, s, self._grid))
            if best is not None and best.share is not None:
                text += f"; {best.share * 100:.1f} % of {best.region} always on"
        return text

    def _left(self, s: Mapping[str, Any], done: int, budget: int) -> str:
        if s["state"] == "done":
            return "done"
        if not done or not s["wall_seconds"]:
            return "–"
        return f"about {duration_text(float(s['wall_seconds']) * (budget - done) / done)}, by tokens"

    def _sites(self, s: Mapping[str, Any]) -> Table:
        table = Table(box=None, pad_edge=False, expand=True, header_style="dim")
        table.add_column("site", no_wrap=True)
        table.add_column("state", no_wrap=True, width=12)
        table.add_column("signal", no_wrap=True, width=_SPARK)
        table.add_column("g/worth", no_wrap=True, justify="right", width=9)
        table.add_column("waits for", no_wrap=True, overflow="ellipsis", width=15)
        table.add_column("last decision", no_wrap=True, overflow="ellipsis", ratio=1)
        held = {h["site"]: h["until"] for h in s["holds"]}
        for name, x in s["sites"].items():
            value = "–" if x["value"] is None else f"{x['value']:.0f}"
            worth = "" if x["worth"] is None else f"/{x['worth']:.0f}"
            table.add_row(
                Text(name),
                Text(x["state"], style=_STATE_STYLES.get(x["state"], "")),
                sparkline(self._sparks.get(name, ())),
                value + worth,
                Text(self._waits(name, x, held)),
                Text(safe(last_word(x))),
            )
        return table

    def _waits(self, name: str, x: Mapping[str, Any], held: Mapping[str, float | None]) -> str:
        match x["state"]:
            case "provisioning":
                spin_up = next((c.spin_up_s for c in self._config.site if c.name == name), 0.0)
                return f"ready, {clock_text(x['since'] + spin_up)[-5:]}" if x["since"] is not None else "ready"
            case "training":
                return f"cut, {clock_text(self._cut_at)[-5:]}" if self._cut_at else "its cut"
            case "ready":
                return "a lease"
            case "draining":
                return "its last work"
            case "failed":
                return "its next try"
        if name in held:
            until = held[name]
            return "its release" if until is None else f"release, {clock_text(until)[-5:]}"
        return f"start, {clock_text(x['until'])[-5:]}" if x["until"] is not None else "a window"


def sparkline(values: Any) -> str:
    """The newest values as bars between their least and their greatest."""
    found = list(values)[-_SPARK:]
    if not found:
        return ""
    low, high = min(found), max(found)
    span = (high - low) or 1.0
    return "".join(_LEVELS[min(7, int((v - low) / span * 8))] for v in found)
