"""`windfall plan`: what the days to come will probably bring."""

from __future__ import annotations

from pathlib import Path

from windfall import clock
from windfall.cli.output import print_json, say
from windfall.config.load import load
from windfall.errors import ConfigError
from windfall.grid.build import build_grid, run_start, with_start
from windfall.simulate.plan import make_plan
from windfall.ui.terminal.console import output
from windfall.ui.terminal.progress import Progress
from windfall.ui.terminal.tables_sweep import print_plan
from windfall.units import parse_utc


def plan(file: Path, at: str | None, days: int, draws: int, as_json: bool) -> None:
    """Plan the run of ``file`` from ``at`` (default: its start, or now) on."""
    config = load(file)
    try:
        asked = parse_utc(at) if at else None
    except ValueError:
        raise ConfigError(f"--at {at}: not an instant; write 2021-04-01T12:00Z") from None
    with Progress("plan") as progress:
        progress.done(-1.0, "reading the signals")
        grid = build_grid(config)
        config = with_start(config, grid)
        moment = asked if asked is not None else run_start(config)
        try:
            live = grid.live()
            for i, signal in enumerate(live):
                progress.done(-1.0, f"asking source {i + 1} of {len(live)}")
                signal.require()
                signal.load_past(clock.wall(), grid.past_s)
                signal.refresh(clock.wall())
            begin = clock.wall() if live and asked is None else moment
            found = make_plan(config, grid, begin, days=days, draws=draws, tell=progress.done)
        finally:
            grid.close()
    if as_json:
        print_json(found.as_json())
        return
    for w in grid.warnings:
        say(w)
    print_plan(found, output())
