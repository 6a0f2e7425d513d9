"""`windfall run`: start or resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from windfall.cli.output import print_json, say
from windfall.config.load import load
from windfall.config.schema import Config
from windfall.errors import ConfigError
from windfall.grid.build import build_grid, run_start
from windfall.policy.build import build_policy
from windfall.run.supervisor import NoView, Supervisor, View
from windfall.store.rundir import RunDir
from windfall.ui.live import LiveView
from windfall.ui.report import write_report
from windfall.ui.summary import summarise


def run(file: Path, run_dir: Path | None, speed: float | None, quiet: bool, as_json: bool, extend: str | None = None) -> int:
    """Run ``file``; the exit code."""
    if file.is_dir() and RunDir(file).exists():  # resumed as it is
        if run_dir is not None and run_dir.resolve() != file.resolve():
            raise ConfigError(
                f"{file}: is a run directory, and --run-dir {run_dir} names another; give its configuration for a new run"
            )
        file, run_dir = RunDir(file).open_existing().config, file
    config = with_speed(load(file), speed)
    root = run_dir or Path("runs") / config.run.name
    code = serve(config, root, quiet=quiet or as_json, say_to_user=not as_json, extend=extend)
    if as_json:
        print_json(summarise(RunDir(root)))
    return code


def with_speed(config: Config, speed: float | None) -> Config:
    """The configuration with another speed of its scaled clock."""
    if speed is None:
        return config
    if config.run.clock != "scaled":
        raise ConfigError('--speed needs run.clock = "scaled": the calendar cannot be hurried')
    if speed <= 0:
        raise ConfigError(f"--speed {speed:g}: give a number above 0")
    return config.model_copy(update={"run": config.run.model_copy(update={"speed": speed})})


def serve(
    config: Config, root: Path, *, quiet: bool, say_to_user: bool = True, meanwhile: Callable[[], None] | None = None,
    extend: str | None = None,
) -> int:  # fmt: skip
    """Run to the end, then write the report; the exit code."""
    run = RunDir(root)
    build_policy(config)
    grid = build_grid(config)  # bad traces, and credentials that are missing, are said before anything is made
    for signal in grid.live():
        signal.require()
    if not run.exists():
        grid.require_from(run_start(config))
    view: View = NoView() if quiet else LiveView(run, config, Console())
    supervisor = Supervisor(config, run, view, say if say_to_user else lambda _: None, meanwhile, extend)
    supervisor.prepare()
    code = supervisor.serve()
    page = write_report(run)
    if say_to_user:
        what = "interrupted; run again to resume" if code else "done"
        say(f"{what}. Report: {page}")
    return code
