"""Short configurations over traces that a test writes itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from windfall.config.load import loads
from windfall.config.schema import Config
from windfall.units import iso_utc

START = 1_768_150_800.0  # 2026-01-11T17:00Z
STEP = 300.0


def write_trace(path: Path, columns: Mapping[str, Sequence[float | None]]) -> None:
    """A CSV with a row every five minutes from ``START``; a row is left out where its first column is None."""
    names = list(columns)
    lines = ["time_utc," + ",".join(names)]
    for i, row in enumerate(zip(*columns.values(), strict=True)):
        if row[0] is not None:
            lines.append(f"{iso_utc(START + i * STEP)}," + ",".join("" if v is None else f"{v}" for v in row))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def config(
    folder: Path, sites: Mapping[str, Sequence[float | None]], *, spin_up_s: float = 600.0, run: str = "", policy: str = "",
    more: str = "", backtest: str = 'target = "none"', signal: str = "", forecasts: str = "", idle_w: float = 1000.0,
) -> Config:  # fmt: skip
    """A configuration of 1 kW sites, one per column; ``run``, ``policy``, ``backtest``, ``signal`` are lines of their tables."""
    write_trace(folder / "trace.csv", sites)
    text = f"""
[run]
name = "days"
budget_tokens = 7_200_000
clock = "scaled"
start = "{iso_utc(START)}"
tick_s = {STEP}
{run}
[policy]
{policy}
[model]
depth = 1
sequence_length = 16
[backtest]
{backtest}
[backtest.trainer]
provision_s = 0
load_s = {spin_up_s}
{more}
"""
    for name in sites:
        text += f"""
[[site]]
name = "{name}"
region = "{name.upper()}"
spin_up_s = {spin_up_s}
load_s = {spin_up_s}
train_power_w = 1000
idle_power_w = {idle_w}
tokens_per_s = 1000
[site.signal]
path = "trace.csv"
column = "{name}"
{signal}
{forecasts}
"""
    return loads(text, "days.toml", folder)
