"""`windfall run`: start or resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from windfall.cli import streams
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


def run(file: Path, run_dir: Path | None, speed: float | None, quiet: bool, as_json: bool) -> int:
    """Run ``file``; the exit code."""
    config = with_speed(load(file), speed)
    streams.be_patient()  # a run goes on whoever still looks at it
    code = serve(config, run_dir or Path("runs") / config.run.name, quiet=quiet or as_json, say_to_user=not as_json)
    if as_json:
        streams.be_strict()
        print_json(summarise(RunDir(run_dir or Path("runs") / config.run.name)))
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


def serve(config: Config, root: Path, *, quiet: bool, say_to_user: bool = True, meanwhile: Callable[[], None] | None = None) -> int:
    """Run to the end, then write the report; the exit code."""
    run = RunDir(root)
    build_policy(config)
    grid = build_grid(config)  # bad traces, and credentials that are missing, are said before anything is made
    for signal in grid.live():
        signal.require()
    if not run.exists():
        grid.require_from(run_start(config))
    view: View = NoView() if quiet else LiveView(run, config, Console())
    supervisor = Supervisor(config, run, view, say if say_to_user else lambda _: None, meanwhile)
    supervisor.prepare()
    code = supervisor.serve()
    page = write_report(run)
    if say_to_user:
        what = "interrupted; run again to resume" if code else "done"
        say(f"{what}. Report: {page}")
    return code
