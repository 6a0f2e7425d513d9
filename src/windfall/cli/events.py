"""`windfall events`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from windfall.cli.output import print_json
from windfall.store.rundir import RunDir
from windfall.store.telemetry import Telemetry
from windfall.view.events import format_event


def events(root: Path, as_json: bool, kinds: list[str]) -> None:
    """Print a run's events, oldest first."""
    telemetry = Telemetry.open(RunDir(root).open_existing().telemetry, read_only=True)
    for _, event in telemetry.events():
        if kinds and event.kind not in kinds:
            continue
        if as_json:
            print_json(asdict(event), line=True)
        else:
            print(format_event(event))
