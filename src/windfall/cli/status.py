"""`windfall status`."""

from __future__ import annotations

from pathlib import Path

from windfall.cli.output import print_json
from windfall.store.rundir import RunDir
from windfall.view.state import run_state


def status(root: Path, as_json: bool) -> None:
    """Print where the run in ``root`` stands."""
    state = run_state(RunDir(root).open_existing())
    if as_json:
        print_json(state.as_json())
        return
    from windfall.ui.terminal.console import output
    from windfall.ui.terminal.tables import print_status

    print_status(state, output())
