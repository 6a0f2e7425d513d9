"""`windfall status`."""

from __future__ import annotations

from pathlib import Path

from windfall.cli.output import print_json
from windfall.store.rundir import RunDir
from windfall.ui.summary import summarise


def status(root: Path, as_json: bool) -> None:
    """Print where the run in ``root`` stands."""
    summary = summarise(RunDir(root).open_existing())
    if as_json:
        print_json(summary)
        return
    from windfall.ui.console import output
    from windfall.ui.tables import print_status

    print_status(summary, output())
