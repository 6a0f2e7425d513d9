"""`windfall backtest`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from windfall import clock
from windfall.cli.output import print_json, require_writable, say
from windfall.config.load import load
from windfall.config.policy import PolicyName
from windfall.config.schema import Config
from windfall.errors import ConfigError, RunError
from windfall.simulate.backtest import Backtest, backtest, require_finished
from windfall.simulate.many import MOST_STARTS, Compared, compare_many, prepare
from windfall.simulate.regions import rank_regions
from windfall.simulate.replay import replay
from windfall.simulate.sweep import parse_setting
from windfall.store.rundir import RunDir
from windfall.ui.terminal.console import output
from windfall.ui.terminal.progress import Progress
from windfall.ui.terminal.tables import print_backtest
from windfall.ui.terminal.tables_sweep import print_paired, print_ranking, print_replay, print_sweep
from windfall.units import parse_utc

POLICIES: tuple[str, ...] = get_args(PolicyName)


@dataclass(frozen=True)
class BacktestRequest:
    """The command line's options, besides the file."""

    policies: Sequence[str] = ()
    begin: str | None = None
    until: str | None = None
    starts: int = 1
    span_days: float | None = None
    sweeps: Sequence[str] = ()
    html: Path | None = None
    csv: Path | None = None
    jobs: int | None = None
    details: bool = False
    figures: Path | None = None
    #: What was typed, for the record.
    command: Sequence[str] = ()


def backtest_verb(file: Path, asked: BacktestRequest, as_json: bool) -> None:
    """Compare policies on the signals of ``file``."""
    config, start, until = _prepare(file, asked)
    if asked.starts > 1 or asked.sweeps or asked.span_days is not None:
        _many(config, asked, start, until, as_json)
        return
    with Progress("backtest") as progress:
        result = backtest(config, list(asked.policies) or None, start=start, until=until, tell=progress.done, command=asked.command)
    _write(asked, config, result)
    if as_json:
        print_json(result.as_json())
    else:
        print_backtest(result, output(), details=asked.details)
    require_finished(result)


def rank_verb(file: Path, asked: BacktestRequest, as_json: bool) -> None:
    """Which region to train in."""
    config, start, until = _prepare(file, asked)
    if start is not None or until is not None:
        config = _between(config, asked)
    policy = asked.policies[0] if asked.policies else config.policy.name
    if policy in ("oracle",) or len(asked.policies) > 1:
        raise ConfigError("--rank-regions: regions are ranked under one policy that could run; give one --policy")
    if asked.html or asked.csv or asked.figures or asked.sweeps:
        raise ConfigError(
            "--rank-regions prints a table or --json; --html, --csv, --figures and --sweep are for comparing policies"
        )
    before = clock.monotonic()
    count = asked.starts if asked.starts > 1 else 12
    with Progress("ranking", thread=_alone(asked, count)) as progress:
        ranked = rank_regions(config, policy, count=count, span_days=asked.span_days, workers=asked.jobs, tell=progress.done)
    elapsed = clock.monotonic() - before
    if as_json:
        print_json({"policy": policy, "regions": [r.as_json() for r in ranked], "elapsed_s": round(elapsed, 4)})
    else:
        print_ranking(ranked, config, output())


def replay_verb(path: Path, as_json: bool) -> None:
    """A run's recorded readings through its policy again. Raises RunError if a decision comes out otherwise."""
    with Progress("replay"):
        found = replay(RunDir(path))
    if as_json:
        print_json(found.as_json())
    else:
        print_replay(found, output())
    if found.differences:
        raise RunError(f"{path}: {len(found.differences)} of {found.decisions} decisions came out otherwise than recorded")


def _prepare(file: Path, asked: BacktestRequest) -> tuple[Config, float | None, float | None]:
    unknown = [p for p in asked.policies if p not in POLICIES]
    if unknown:
        raise ConfigError(f"--policy {unknown[0]}: no such policy; there are {', '.join(POLICIES)}")
    start, until = _instant("--from", asked.begin), _instant("--to", asked.until)
    if start is not None and until is not None and until <= start:
        raise ConfigError(f"--to {asked.until}: is not after --from {asked.begin}")
    if asked.starts < 1 or (asked.jobs is not None and asked.jobs < 1):
        raise ConfigError("--starts and --jobs must be at least 1")
    if asked.starts > MOST_STARTS:
        raise ConfigError(f"--starts {asked.starts}: at most {MOST_STARTS}")
    if asked.span_days is not None and not 0 < asked.span_days < float("inf"):
        raise ConfigError(f"--span-days {asked.span_days:g}: give a number of days above 0")
    require_writable(files=[asked.html], folders=[asked.csv, asked.figures])
    return load(file), start, until


def _between(config: Config, asked: BacktestRequest) -> Config:
    table = config.backtest.model_copy(
        update={"start": asked.begin or config.backtest.start, "until": asked.until or config.backtest.until}
    )
    return config.model_copy(update={"backtest": table})


def _many(config: Config, asked: BacktestRequest, start: float | None, until: float | None, as_json: bool) -> None:
    policies = list(asked.policies) or list(config.backtest.policies)
    sweeps: dict[str, list[float]] = {}
    for text in asked.sweeps:
        key, values = parse_setting(text)
        sweeps[key] = list(dict.fromkeys([*sweeps.get(key, []), *values]))
    with Progress("backtest") as progress:
        progress.done(-1.0, "reading the signals")
        made = prepare(
            config, policies, start=start, until=until, starts=asked.starts, span_days=asked.span_days, sweeps=sweeps,
            command=asked.command,
        )  # fmt: skip
    with Progress("sweep", thread=_alone(asked, len(made.jobs))) as progress:
        found = compare_many(made, workers=asked.jobs, tell=progress.done)
    if asked.html:
        from windfall.ui.sweep_page import write_sweep_page

        write_sweep_page(asked.html, found, config)
        say(f"wrote {asked.html}")
    _write_files(asked, config, found)
    if as_json:
        print_json(found.as_json())
    else:
        console = output()
        print_sweep(found.summaries, found.simulations, found.elapsed_s, config, console)
        print_paired(found.pairs, console)
        for warning in found.warnings:
            console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)
    found.require_finished()


def _alone(asked: BacktestRequest, simulations: int) -> bool:
    """Whether this process simulates itself: where others do it is forked, and must have no other threads."""
    return min(asked.jobs or os.cpu_count() or 1, simulations) <= 1


def _write(asked: BacktestRequest, config: Config, result: Backtest) -> None:
    """The page, the tables and the figures of one backtest, as far as they were asked for."""
    if asked.html:
        from windfall.ui.backtest_page import write_backtest_page  # matplotlib takes a while to import

        write_backtest_page(asked.html, result, config)
        say(f"wrote {asked.html}")
    _write_files(asked, config, result)


def _write_files(asked: BacktestRequest, config: Config, found: Backtest | Compared) -> None:
    if asked.csv is None and asked.figures is None:
        return
    from windfall.ui.comparison import PolicyComparison

    made = PolicyComparison(config, found)
    for folder, write in ((asked.csv, made.write_tables), (asked.figures, made.write_figures)):
        if folder is not None:
            say(f"wrote {', '.join(p.name for p in write(folder))} to {folder}")


def _instant(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parse_utc(text)
    except ValueError:
        raise ConfigError(f"{option} {text}: not an instant; write 2021-04-01 or 2021-04-01T12:00Z") from None
