"""`windfall top` and `windfall status --watch`: a run as its own terminal shows it, from any other terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from windfall.cli.output import print_line
from windfall.config.load import stored
from windfall.config.schema import Config
from windfall.errors import ConfigError, StoreError
from windfall.run.requests import running
from windfall.store.rundir import SUPERVISOR_LOCK, RunDir

_LOOK_S = 0.25


class _Watching(Protocol):
    def update(self) -> None: ...
    def finish(self) -> None: ...


def top(root: Path, jsonl: bool) -> int:
    """Show the run in ``root`` for as long as it runs, or until q or Ctrl-C; the exit code. Of one that does not run: how it
    stands, once."""
    run = RunDir(root).open_existing()
    if jsonl:
        from windfall.ui.terminal.lines import JsonLines

        lines = JsonLines(run, print_line)
        code = _follow(run, lines)
        lines.end(None)
        return code
    from windfall.ui.terminal.console import SafeConsole, output
    from windfall.ui.terminal.live import LiveView
    from windfall.ui.terminal.tables import print_status
    from windfall.view.state import run_state

    console = SafeConsole()
    if console.is_terminal:
        return _follow(run, LiveView(run, _config(run), console, joined=True))
    # Into a pipe: how it stands, then a line for each thing that happens, then how it stands.
    print_status(run_state(run), output())
    code = 0
    if _runs(run):
        code = _follow(run, LiveView(run, _config(run), console, joined=True))
        print_status(run_state(run), output())
    return code


def _config(run: RunDir) -> Config:
    """The run's configuration. What its paths name need not be there any more."""
    try:
        return stored(run.config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ConfigError) as e:
        raise StoreError(f"{run.config}: the run's configuration cannot be read ({e}); restore it from a copy") from None


def _follow(run: RunDir, view: _Watching) -> int:
    """Show it until the run is over, or q or Ctrl-C, which end the watching and not the run; the exit code."""
    from windfall.ui.terminal.keys import Keys

    try:
        with Keys() as keys:
            while _runs(run):
                view.update()
                if "q" in keys.pressed(_LOOK_S).lower():
                    break
    except KeyboardInterrupt:
        return 130
    finally:
        view.finish()
    return 0


def _runs(run: RunDir) -> bool:
    return running(run) or running(run, SUPERVISOR_LOCK)
