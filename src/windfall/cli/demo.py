"""`windfall demo`: the study's day on three local sites."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

from windfall.cli import streams
from windfall.cli.output import say
from windfall.cli.run import serve, with_speed
from windfall.config.load import loads
from windfall.config.schema import Config
from windfall.errors import ConfigError
from windfall.simulate.backtest import backtest
from windfall.store.rundir import SUPERVISOR_LOCK, RunDir, RunLock
from windfall.ui.terminal.console import output
from windfall.ui.terminal.progress import Progress
from windfall.ui.terminal.tables import print_backtest


def demo(run_dir: Path, speed: float | None, quiet: bool) -> int:
    """Run the demo; the exit code."""
    config = with_speed(loads(bundled("demo.toml"), "demo.toml", Path.cwd()), speed)
    study = loads(bundled("paper_day.toml"), "paper_day.toml", Path.cwd())
    streams.be_patient()
    _clear(run_dir)
    console = output()
    say(f"a small model, three sites, the study's day; run directory {run_dir}")
    say(f"how long it takes: {_how_long(config)}")

    def meanwhile() -> None:
        print_backtest(backtest(study), console)
        say("that was the day on paper; now for real, as sites come and go")

    return serve(config, run_dir, quiet=quiet, meanwhile=meanwhile)


def _how_long(config: Config) -> str:
    """In words, from a few optimizer steps on the machine as it is now."""
    with Progress("measuring") as progress:
        from windfall.run.expect import expect, measure
        from windfall.run.preflight import vocabulary
        from windfall.run.speeds import cache_file

        measure(config, progress.done, cache_file())
        return expect(config, vocabulary(config), cache_file(), now=True).text


def bundled(name: str) -> str:
    """A configuration that comes with Windfall."""
    return (resources.files("windfall.cli") / "examples" / name).read_text(encoding="utf-8")


def _clear(root: Path) -> None:
    run = RunDir(root)
    if not root.exists():
        return
    if not root.is_dir():
        raise ConfigError(f"{root}: is no folder; name another --run-dir")
    if not run.exists() and any(root.iterdir()):
        raise ConfigError(f"{root}: not empty and not a run; name another --run-dir")
    if run.exists():
        for lock in (RunLock(run, SUPERVISOR_LOCK), RunLock(run)):
            lock.acquire()
            lock.release()
    shutil.rmtree(root)
