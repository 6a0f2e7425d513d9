"""`windfall report`."""

from __future__ import annotations

from pathlib import Path

from windfall.cli.output import print_json
from windfall.store.rundir import RunDir
from windfall.ui.report import write_report
from windfall.ui.summary import summarise


def report(root: Path, as_json: bool) -> None:
    """Write the report of the run in ``root``."""
    run = RunDir(root).open_existing()
    page = write_report(run)
    if as_json:
        print_json({"report": str(page), **summarise(run)})
    else:
        print(page)
