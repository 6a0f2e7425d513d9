"""`windfall report`."""

from __future__ import annotations

from pathlib import Path

from windfall.cli.output import print_json, typed
from windfall.store.files import read_json
from windfall.store.rundir import RunDir
from windfall.ui.page.report import write_report


def report(root: Path, as_json: bool) -> None:
    """Write the report of the run in ``root``."""
    run = RunDir(root).open_existing()
    page = write_report(run, typed())
    if as_json:
        # What the page says, and not what has become of the run since.
        print_json({"report": str(page), **dict(read_json(run.report / "summary.json") or {})})
    else:
        print(page)
