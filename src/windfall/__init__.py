"""Windfall: pretraining language models on renewable electricity that would otherwise be curtailed."""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` takes a while to import, and type checkers know this name
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from os import PathLike

    from windfall.config.schema import Config
    from windfall.ui.comparison import PolicyComparison
    from windfall.view.frames import RunFrames

__version__ = "0.1.0"


def open_run(path: str | PathLike[str]) -> RunFrames:
    """The series of the run in ``path`` as tables, for notebooks: ``open_run("runs/demo").energy().to_pandas()``.

    Raises:
        StoreError: there is no run.
    """
    from pathlib import Path

    from windfall.view.frames import RunFrames

    return RunFrames(Path(path))


def backtest(
    config: Config | PathLike[str] | str, policies: Sequence[str] | None = None, *, start: str | float | datetime | None = None,
    until: str | float | datetime | None = None, starts: int = 1, span_days: float | None = None,
    settings: Mapping[str, float] | None = None, sweeps: Mapping[str, Sequence[float]] | None = None, jobs: int = 1,
) -> PolicyComparison:  # fmt: skip
    """What policies would have brought on the signals of ``config``, as `windfall backtest` simulates it: tables and figures.

    ``config``: a file, or what ``load`` gives. ``policies``: default, those of ``[backtest]``. ``start`` and ``until``: ISO 8601,
    Unix seconds, or a datetime (without an offset: UTC). ``starts``: from so many start dates spread over the time, each of
    ``span_days`` where there is no budget; then there are points, summary and paired differences. ``settings``: numbers of
    ``[policy]`` or ``[backtest.trainer]``, or ``spin_up_s``, set otherwise; ``sweeps``: the same with several values each, in every
    combination. ``jobs``: processes.

    >>> found = windfall.backtest("examples/paper_day.toml", policies=["breakeven", "oracle"])
    >>> found.rows.to_pandas(); found.figures["emitted"]; found.write_tables("tables/")

    Raises:
        ConfigError: the configuration or an argument is wrong.
        SignalError: a trace cannot be used.
        RunError: nothing can be simulated, or no start date has its deadline within the signals.
    """
    from windfall.ui.backtest_call import compare

    return compare(
        config, policies, start=start, until=until, starts=starts, span_days=span_days, settings=settings, sweeps=sweeps, jobs=jobs
    )


def load(path: PathLike[str] | str) -> Config:
    """The configuration in a file, for ``backtest``.

    Raises:
        ConfigError: it is wrong; the message has every mistake.
    """
    from pathlib import Path

    from windfall.config.load import load as read

    return read(Path(path))
