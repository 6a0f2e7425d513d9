"""`windfall run`: start or resume."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

from windfall.cli import streams
from windfall.cli.output import print_json, print_line, say, typed
from windfall.config.load import load
from windfall.config.schema import Config
from windfall.errors import ConfigError, StoreError, WindfallError
from windfall.run.requests import running
from windfall.store.rundir import SUPERVISOR_LOCK, RunDir
from windfall.ui.terminal.lines import JsonLines
from windfall.ui.terminal.progress import Progress
from windfall.units import clock_text, iso_utc
from windfall.view.state import run_state

# Whatever takes long to import is imported where it is used, after the first word to the user.


def run(
    file: Path, run_dir: Path | None, speed: float | None, quiet: bool, as_json: bool, extend: str | None = None,
    as_lines: bool = False,
) -> int:  # fmt: skip
    """Run ``file``; the exit code. ``as_lines``: what happens goes to standard output as JSON, an object a line."""
    if as_json and as_lines:
        raise ConfigError("--json and --jsonl: the first prints the last state alone, the second all that happens; give one")
    if file.is_dir() and RunDir(file).exists():  # resumed as it is
        if run_dir is not None and run_dir.resolve() != file.resolve():
            raise ConfigError(
                f"{file}: is a run directory, and --run-dir {run_dir} names another; give its configuration for a new run"
            )
        file, run_dir = RunDir(file).open_existing().config, file
    config = with_speed(load(file), speed)
    root = run_dir or Path("runs") / config.run.name
    streams.be_patient()  # a run goes on whoever still looks at it
    lines = JsonLines(RunDir(root), print_line) if as_lines else None
    try:
        code = serve(config, root, quiet=quiet or as_json, say_to_user=not (as_json or as_lines), extend=extend, lines=lines)
    except WindfallError as e:
        if lines is not None:
            lines.say(str(e))
            lines.end(e.exit_code)
        raise
    if lines is not None:
        streams.be_strict()
        lines.end(code)
    if as_json:
        streams.be_strict()
        print_json(run_state(RunDir(root)).as_json())
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
    extend: str | None = None, lines: JsonLines | None = None,
) -> int:  # fmt: skip
    """Run to the end, then write the report; the exit code. ``lines`` tells of it in place of the live view."""
    run = RunDir(root)
    as_written = config
    if say_to_user:
        say(_first_word(config, run))
    with Progress("starting", silent=quiet or not say_to_user) as progress:
        from windfall.grid.build import build_grid, run_start, with_start
        from windfall.policy.build import build_policy
        from windfall.run.supervisor import NoView, Supervisor, View
        from windfall.ui.terminal.console import SafeConsole
        from windfall.ui.terminal.live import LiveView

        progress.done(-1.0, "reading the signals")
        build_policy(config)
        grid = build_grid(config)  # bad traces, and credentials that are missing, are said before anything is made
        for signal in grid.live():
            signal.require()
        if run.exists():
            config = _started(config, run)
        config = with_start(config, grid)
        if not run.exists():
            grid.require_from(run_start(config))
        live = None if quiet or lines is not None else LiveView(run, config, SafeConsole())
        view: View = live or lines or NoView()

        def tell(text: str) -> None:
            """To the user: above whatever is being shown."""
            if lines is not None:
                lines.say(text)
            if not say_to_user:
                return
            if progress.open:
                progress.say(f"windfall: {text}")
            elif live is not None and live.on_screen:
                live.say(f"windfall: {text}")
            else:
                say(text)

        supervisor = Supervisor(config, run, view, tell, meanwhile, extend)
        progress.done(-1.0, "checking data and model")
        supervisor.prepare()
    code = supervisor.serve()
    return _finish(as_written, run, code, quiet=quiet, say_to_user=say_to_user)


def _finish(config: Config, run: RunDir, code: int, *, quiet: bool, say_to_user: bool) -> int:
    """What is left to do when a run has ended well: the report, and what it has shown of this machine."""
    with Progress("writing the report", silent=quiet or not say_to_user):
        from windfall.run.expect import note
        from windfall.run.speeds import cache_file
        from windfall.ui.page.report import write_report

        page = write_report(run, typed())
        note(config, run, done=code == 0, file=cache_file())
    if say_to_user:
        what = "interrupted; run again to resume" if code else "done"
        say(f"{what}. Report: {page}")
    return code


def _first_word(config: Config, run: RunDir) -> str:
    """What is begun, or gone on with: from which version, how much of it is done, and when it stopped."""
    if not run.exists():
        return f"starting {config.run.name} in {run.root}"
    try:
        s = run_state(run)
    except StoreError as e:  # what it can mend is mended when it begins, the rest is said there
        return f"resuming {config.run.name} in {run.root}; it cannot say where it stands: {e}"
    share = s.tokens_committed / max(1, s.tokens_budget) * 100
    if running(run) or running(run, SUPERVISOR_LOCK):  # another `windfall run` does that; this one will be refused
        return f"{s.run_id} in {run.root} is being run now, and is at {share:.1f} % of its tokens"
    stopped = [f"{clock_text(s.t_run)} UTC of run time"] if s.t_run is not None else []
    stopped += [iso_utc(s.t_wall)] if s.t_wall is not None and config.run.clock == "scaled" else []
    where = f"from version {s.version}, at {share:.1f} % of its tokens" if s.version is not None else "from its beginning"
    when = f"; it stopped at {' ('.join(stopped)}{')' if len(stopped) > 1 else ''}" if stopped else ""
    return f"resuming {s.run_id} in {run.root} {where}{when}"


def _started(config: Config, run: RunDir) -> Config:
    """A run that goes on keeps the start that it took from its traces."""
    if config.run.start is not None or config.run.clock != "scaled":
        return config
    try:
        start = tomllib.loads(run.config.read_text(encoding="utf-8"))["run"]["start"]
    except (OSError, ValueError, KeyError, TypeError):
        return config
    return config.model_copy(update={"run": config.run.model_copy(update={"start": str(start)})})
