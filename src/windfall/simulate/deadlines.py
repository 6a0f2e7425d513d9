"""The deadlines of a backtest, and which of them lie within its signals."""

from __future__ import annotations

from windfall.config.schema import Config
from windfall.simulate.simulation import TimeSpan
from windfall.units import iso_utc, parse_utc

#: Two instants that differ by fewer hours are one.
_SAME_H = 1e-6


def deadlines_of(config: Config, span: TimeSpan) -> list[float]:
    """The configured deadlines, in hours from the start."""
    if config.backtest.deadlines_h:
        return list(config.backtest.deadlines_h)
    if config.policy.deadline:
        return [(parse_utc(config.policy.deadline) - span.start) / 3600]
    return [config.policy.deadline_h] if config.policy.deadline_h is not None else []


def fitting_deadlines(config: Config, span: TimeSpan) -> list[float]:
    """The configured deadlines (hours from the start) that are within the span: after them nobody knows what was emitted."""
    return [d for d in deadlines_of(config, span) if 0 < d <= (span.end - span.start) / 3600 + _SAME_H]


def past_the_end(config: Config, span: TimeSpan) -> str:
    """Which deadlines of a backtest have no rows, and why; empty if all have. Without a budget deadlines mean nothing."""
    if config.backtest.target == "none":
        return ""
    fit = fitting_deadlines(config, span)
    wrong = [d for d in deadlines_of(config, span) if d not in fit]
    if not wrong:
        return ""
    when = ", ".join(iso_utc(span.start + d * 3600) for d in wrong)
    known = f"from {iso_utc(span.start)} to {iso_utc(span.end)}"
    which, lies = ("deadline", "it lies") if len(wrong) == 1 else ("deadlines", "they lie")
    return f"no row for the {which} {when}: the signals are known {known}, and {lies} outside"
