"""`windfall backtest`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from windfall.cli.output import print_json, say
from windfall.config.load import load
from windfall.errors import ConfigError
from windfall.simulate.backtest import backtest, require_finished
from windfall.ui.tables import print_backtest

POLICIES = ("paper", "breakeven", "threshold", "always")


def backtest_verb(file: Path, policies: list[str], as_json: bool) -> None:
    """Compare policies on the signals of ``file``."""
    unknown = [p for p in policies if p not in POLICIES]
    if unknown:
        raise ConfigError(f"--policy {unknown[0]}: no such policy; there are {', '.join(POLICIES)}")
    result = backtest(load(file), policies or None)
    if as_json:
        print_json(result.as_json())
    else:
        for w in result.warnings:
            say(w)
        print_backtest(result, Console())
    require_finished(result)
