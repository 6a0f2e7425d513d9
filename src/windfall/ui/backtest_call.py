"""``windfall.backtest``: its arguments, each wrong one told by its name, and the call as figures' provenance keeps it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any, TypeGuard, get_args

import numpy as np

from windfall.config.load import load, with_settings
from windfall.config.policy import PolicyName
from windfall.config.schema import Config
from windfall.errors import ConfigError
from windfall.simulate.backtest import backtest
from windfall.simulate.many import MOST_STARTS, compare_many, prepare
from windfall.ui.comparison import PolicyComparison
from windfall.units import parse_utc

#: Unix seconds beyond this are a mistake, such as milliseconds.
_FAR_S = 1e11


def compare(
    config: Config | PathLike[str] | str, policies: Sequence[str] | None = None, *, start: str | float | datetime | None = None,
    until: str | float | datetime | None = None, starts: int = 1, span_days: float | None = None,
    settings: Mapping[str, float] | None = None, sweeps: Mapping[str, Sequence[float]] | None = None, jobs: int = 1,
) -> PolicyComparison:  # fmt: skip
    """``windfall.backtest``, whose documentation this has."""
    if isinstance(config, Config):
        made = config
    elif isinstance(config, str | PathLike):
        made = load(Path(config))
    else:
        raise ConfigError(f"config: give a file, or what windfall.load gives, not {type(config).__name__}")
    begin, end = _instant("start", start), _instant("until", until)
    chosen = _policies(policies)
    _require_count("starts", starts, MOST_STARTS)
    _require_count("jobs", jobs, None)
    if span_days is not None and not (_number(span_days) and span_days > 0):
        raise ConfigError(f"span_days={span_days!r}: give a number of days above 0")
    set_so, lists = _settings(settings), _sweeps(sweeps)
    asked = {
        "policies": chosen, "start": _told(start), "until": _told(until), "starts": int(starts) if starts != 1 else None,
        "span_days": span_days, "settings": set_so, "sweeps": lists,
    }  # fmt: skip
    first = "config" if isinstance(config, Config) else repr(str(config))
    call = f"windfall.backtest({', '.join([first, *(f'{k}={v!r}' for k, v in asked.items() if v)])})"
    if set_so:
        made = with_settings(made, set_so)
    if starts == 1 and span_days is None and not lists:
        return PolicyComparison(made, backtest(made, chosen, start=begin, until=end, command=call))
    ready = prepare(
        made, chosen or list(made.backtest.policies), start=begin, until=end, starts=starts, span_days=span_days, sweeps=lists,
        command=call,
    )  # fmt: skip
    return PolicyComparison(made, compare_many(ready, workers=jobs))


def _settings(given: Any) -> dict[str, float]:
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f'settings={given!r}: give a dictionary, {{"spin_up_s": 600}}')
    for key, value in (given or {}).items():
        if not _number(value):
            raise ConfigError(f"settings: {key}={value!r}: give a number")
    return {str(k): float(v) for k, v in (given or {}).items()}


def _sweeps(given: Any) -> dict[str, list[float]]:
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f'sweeps={given!r}: give a dictionary, {{"spin_up_s": [300, 600]}}')
    found = {}
    for key, values in (given or {}).items():
        numbers = list(values) if isinstance(values, Iterable) and not isinstance(values, str) else []
        if not numbers or not all(map(_number, numbers)):
            raise ConfigError(f"sweeps: {key}={values!r}: give a list of numbers, [80, 100]")
        found[str(key)] = [float(v) for v in numbers]
    return found


def _policies(given: Any) -> list[str] | None:
    """The policies by name; None where none are named.

    Raises:
        ConfigError: one is none.
    """
    if isinstance(given, str):
        raise ConfigError(f'policies: give a list, ["{given}"]')
    if given is None:
        return None
    if not isinstance(given, Iterable):
        raise ConfigError(f"policies={given!r}: give a list of names")
    known = get_args(PolicyName)
    names = list(given)
    wrong = [p for p in names if p not in known]
    if wrong:
        raise ConfigError(f"policies: {wrong[0]!r} is none; there are {', '.join(known)}")
    return names or None


def _require_count(name: str, given: Any, most: int | None) -> None:
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 1 or (most is not None and given > most):
        raise ConfigError(f"{name}={given!r}: give a whole number, at least 1{'' if most is None else f' and at most {most:,}'}")


def _number(given: Any) -> TypeGuard[float]:
    return isinstance(given, int | float | np.integer | np.floating) and not isinstance(given, bool) and math.isfinite(given)


def _told(given: Any) -> Any:
    return given.isoformat() if isinstance(given, datetime) else given


def _instant(name: str, given: Any) -> float | None:
    """Unix seconds; a text or a date and time without an offset is of UTC."""
    try:
        if given is None:
            return None
        if _number(given) and 0 <= given < _FAR_S:
            return float(given)
        if isinstance(given, str | datetime):
            return parse_utc(given if isinstance(given, str) else given.isoformat())
    except ValueError:
        pass
    raise ConfigError(f"{name}={given!r}: not an instant; write 2021-04-01 or 2021-04-01T12:00Z, or Unix seconds")
