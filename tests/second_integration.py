"""A second integration of what a run emitted, from its raw trace files and its exported tables alone.

Nothing of Windfall computes here: files are read with the standard library. Of the exported account only power over time is taken
(site, phase, watts, from, to); neighbours of equal power are joined first, so that the trace alone says where readings change.
"""

from __future__ import annotations

import bisect
import csv
import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

J_PER_KWH = 3_600_000.0


@dataclass
class Integrated:
    """Of one site: grams, joules, and joules of which the trace says nothing."""

    grams: float
    joules: float
    unknown_joules: float


def integrate(export: Path, config: Path, traces: Path) -> dict[str, Integrated]:
    """By site, from the CSV files in ``export``; ``config`` names the traces, whose relative paths begin at ``traces``."""
    sites = tomllib.loads(config.read_text(encoding="utf-8"))["site"]
    with (export / "energy.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {}
    for site in sites:
        own = [r for r in rows if r["site"] == site["name"]]
        power = _joined((r["phase"], float(r["t0"]), float(r["t1"]), float(r["watts"])) for r in own if r["t0"] != r["t1"])
        # What was used beside what the site did, as by the network, takes no time.
        at_once = [(float(r["t0"]), float(r["joules"])) for r in own if r["t0"] == r["t1"]]
        table = next(s for s in [site["signal"], *site.get("signals", [])] if s.get("type", "marginal_co2") == "marginal_co2")
        found[site["name"]] = _integral(power, at_once, *_trace(table, site["region"], traces))
    return found


def _joined(rows: Iterable[tuple[str, float, float, float]]) -> list[tuple[float, float, float]]:
    """(from, to, watts): neighbours of one phase and equal power are one."""
    found: list[list[Any]] = []
    for phase, t0, t1, watts in sorted(rows, key=lambda r: (r[1], r[0], r[3])):
        last = next((f for f in reversed(found[-4:]) if f[0] == phase and f[2] == t0 and f[3] == watts), None)
        if last is not None:
            last[2] = t1
        else:
            found.append([phase, t0, t1, watts])
    return [(t0, t1, watts) for _, t0, t1, watts in found]


def _trace(table: dict[str, Any], region: str, folder: Path) -> tuple[list[float], list[float | None]]:
    """Instants, and the value that holds from each on; None where nothing is known."""
    path = table["path"]
    file = Path(__file__).parents[1] / "src/windfall/grid/traces" / f"{path.partition(':')[2]}.csv"
    with (file if path.startswith("bundled:") else folder / path).open(encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    time, column = table.get("time_column", next(iter(rows[0]))), table["column"]
    if "region_column" in table:
        rows = [r for r in rows if r[table["region_column"]] == region]
    points = sorted((_instant(r[time]), float(r[column])) for r in rows if r[column])
    holds = table.get("stale_periods", 3.0) * table.get("period_s", 300.0) or math.inf
    until = _instant(table["until"]) if "until" in table else math.inf
    instants: list[float] = []
    values: list[float | None] = []
    for i, (t, value) in enumerate(points):
        following = points[i + 1][0] if i + 1 < len(points) else math.inf
        instants.append(t)
        values.append(value)
        if min(t + holds, until) < following:
            instants.append(min(t + holds, until))
            values.append(None)
    return instants, values


def _instant(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).replace(tzinfo=UTC).timestamp()


def _integral(
    power: list[tuple[float, float, float]], at_once: list[tuple[float, float]], instants: list[float], values: list[float | None]
) -> Integrated:  # fmt: skip
    grams, joules, dark = [], [], []
    for t0, t1, watts in power:
        at, i = t0, bisect.bisect_right(instants, t0)
        while at < t1:
            end = min(t1, instants[i]) if i < len(instants) else t1
            value = values[i - 1] if i > 0 else None
            joules.append(watts * (end - at))
            if value is None:
                dark.append(watts * (end - at))
            else:
                grams.append(watts * (end - at) / J_PER_KWH * value)
            at, i = end, i + 1
    for t, used in at_once:
        i = bisect.bisect_right(instants, t)
        value = values[i - 1] if i > 0 else None
        joules.append(used)
        if value is None:
            dark.append(used)
        else:
            grams.append(used / J_PER_KWH * value)
    return Integrated(math.fsum(grams), math.fsum(joules), math.fsum(dark))
