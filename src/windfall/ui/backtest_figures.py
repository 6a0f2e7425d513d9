"""A backtest's figures: what each policy did at each site, and what it emitted by when.

DrawnRows like the report's (``ui.figures``), in its colours, so that the page's variables take their place in the dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from windfall.config.schema import Config, SiteTable
from windfall.energy.tariff import inside_of, level_of
from windfall.grid.build import Grid
from windfall.simulate.backtest import Backtest
from windfall.simulate.curves import Activity, Array, Curve, activities, emissions, seconds_training
from windfall.ui.backtest_rows import labels
from windfall.ui.page.figures import COLOURS, GRID, INK, MUTED, Draw

#: Beyond this many days single on-periods are hairlines: the share of each day is drawn instead.
DAILY_FROM_DAYS = 10.0
#: Bars of days that a strip holds at most, wide and narrow; longer bins beyond.
_MOST_BINS = (400, 130)
_DAY_S = 86400.0
#: Policies that emitted more than this many times the middle one are off the curves' scale.
_OFF_SCALE = 4.0
#: Points of a curve beyond which it is sampled.
_POINTS = 1500

#: By policy, in every figure.
POLICY_COLOURS = {
    "breakeven": COLOURS["federated"], "threshold": COLOURS["local"], "paper": COLOURS["draining"], "oracle": INK,
    "budgeted": "#8a6d3b", "lookahead": "#7b5ea7", "percentile": COLOURS["provisioning"], "learned": "#2f6f8f",
    "always": "#56606b", "random_duty": "#a3473f",
}  # fmt: skip
_STYLES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))
_DOING = {
    "local": "local",
    "federated": "federated",
    "provisioning": "provisioning",
    "idle": "on and idle",
    "draining": "draining",
}


@dataclass(frozen=True)
class DrawnRows:
    """A backtest's rows with what the figures need of each; computed once for all sizes."""

    names: list[str]
    doing: list[dict[str, list[Activity]]]
    curves: list[Curve | None]
    end: float


def prepare(result: Backtest, config: Config, grid: Grid) -> DrawnRows:
    """Work out the rows' phases and emissions."""
    rows = result.rows
    end = max((result.start + r.span_h * 3600 for r in rows), default=result.end)
    return DrawnRows(labels(rows), [activities(r, config) for r in rows], [emissions(r, config, grid) for r in rows], end)


def lanes(result: Backtest, config: Config, grid: Grid, drawn: DrawnRows) -> Draw:
    """By site: its first signal with the windows shaded, and under it a strip for each policy."""
    daily = drawn.end - result.start > DAILY_FROM_DAYS * _DAY_S

    def draw(inches: float) -> Figure:
        sites, rows = config.site, max(1, len(result.rows))
        height = 0.5 + len(sites) * (0.85 + (0.26 if daily else 0.17) * rows) + (0.25 if inches < 7 else 0)
        figure = Figure(figsize=(inches, height), layout="constrained")
        axes = figure.subplots(len(sites), 1, sharex=True, squeeze=False)[:, 0]
        for ax, site in zip(axes, sites, strict=True):
            if daily:
                _daily_panel(ax, result, config, grid, drawn, site, _MOST_BINS[inches < 7])
            else:
                _panel(ax, result, config, grid, drawn, site)
        _time_axis(axes[-1], result.start, drawn.end, inches)
        if daily:
            handles = [Patch(color=MUTED, label="share of the day inside a window")]
            handles.append(Patch(color=COLOURS["local"], label="share of the day in training"))
        else:
            handles = [Patch(color=GRID, label="region inside a window")]
            seen = {s.what for row in drawn.doing for own in row.values() for s in own}
            handles += [Patch(color=COLOURS[k], label=v) for k, v in _DOING.items() if k in seen]
        figure.legend(
            handles=handles, loc="outside lower left", ncols=len(handles) if inches >= 7 else 2, frameon=False, fontsize=8.5,
            handlelength=1.0, handleheight=1.0, borderaxespad=0.1, labelcolor=MUTED,
        )  # fmt: skip
        return figure

    return draw


def emitted(result: Backtest, drawn: DrawnRows) -> Draw | None:
    """kg over time by policy, and beside it every policy, reference and region always on by its sum; None without emissions."""
    known = [(i, c) for i, c in enumerate(drawn.curves) if c is not None and len(c.values)]
    if not known:
        return None
    final = {i: float(c.values[-1]) for i, c in known}
    middle = sorted(final.values())[(len(final) - 1) // 2]
    scale = [i for i, v in final.items() if v <= _OFF_SCALE * middle] or list(final)

    def draw(inches: float) -> Figure:
        wide = inches >= 7
        marks = _marks(result, drawn, final)
        tall = 0.75 + 0.21 * len(marks)
        # Two figures in one: the names beside each take their room from their own half only.
        if wide:
            figure = Figure(figsize=(inches, max(3.5, tall)), layout="constrained")
            halves = figure.subfigures(1, 2, squeeze=False, width_ratios=[1.35, 1.0], wspace=0.03)
        else:
            figure = Figure(figsize=(inches, 3.2 + tall), layout="constrained")
            halves = figure.subfigures(2, 1, squeeze=False, height_ratios=[3.2, tall], hspace=0.03)
        left, right = (half.subplots() for half in halves.ravel())
        ends = []
        for i, curve in known:
            if i not in scale:
                continue
            colour, style = _look(result, i)
            times, values = _sampled(curve)
            left.plot((times - result.start) / _unit(result, drawn)[0], values, color=colour, linestyle=style, linewidth=1.9)
            ends.append((final[i], drawn.names[i] + (f"  {_kg(final[i])}" if wide else ""), colour))
        for r in result.references:
            if r.get("kg_co2") is not None and r.get("finish_h") is not None and r["kg_co2"] <= 1.3 * max(final[i] for i in scale):
                x = r["finish_h"] * 3600 / _unit(result, drawn)[0]
                left.plot([x], [r["kg_co2"]], marker="D", markersize=5, color=INK, linestyle="", clip_on=False)
                ends.append((float(r["kg_co2"]), str(r["name"]) + (f"  {_kg(r['kg_co2'])}" if wide else ""), INK))
        left.set_ylim(bottom=0.0)
        left.set_xlim(left=0.0)
        left.set_ylabel("kg CO2 since the start")
        left.set_xlabel(f"{_unit(result, drawn)[1]} of run time")
        _label_ends(left, ends)
        _mark_panel(right, marks)
        return figure

    return draw


def _panel(ax: Any, result: Backtest, config: Config, grid: Grid, drawn: DrawnRows, site: SiteTable) -> None:
    """A site's signal over run time, windows shaded through all strips, a strip a policy."""
    rows = len(result.rows)
    columns = grid.by_site[site.name].between(result.start, drawn.end)
    low, high = rows + 0.55, rows + 3.4
    inside = inside_of(site, config.run)(columns.values)
    ax.broken_barh(_bars(columns.starts[inside], columns.ends[inside]), (-0.1, high + 0.2), facecolors=GRID, linewidth=0)
    level = level_of(site, config.run)[0]
    known = columns.values[np.isfinite(columns.values)]
    if len(known):
        base = min(0.0, float(known.min()))
        top = max(float(known.max()), 1.3 * level, base + 1e-9)
        at = low + (columns.values - base) / (top - base) * (high - low)
        ax.stairs(at, _when(np.append(columns.starts, columns.ends[-1])), baseline=None, color=INK, linewidth=1.1)
        y = low + (level - base) / (top - base) * (high - low)
        ax.axhline(y, color=COLOURS["draining"], linewidth=0.9, linestyle=(0, (4, 3)))
        peak = _quantity(site, float(known.max()))
        apart = abs(high - y) > 0.9 and float(known.max()) > level
        ticks = [(y, _quantity(site, level))] + (
            [(low + (known.max() - base) / (top - base) * (high - low), peak)] if apart else []
        )
    else:
        ticks = []
    for i, row in enumerate(result.rows):
        floor = rows - 1 - i
        own = drawn.doing[i].get(site.name, [])
        for what in dict.fromkeys(s.what for s in own):
            at_work = [s for s in own if s.what == what]
            bars = _bars(np.array([s.t0 for s in at_work]), np.array([s.t1 for s in at_work]))
            ax.broken_barh(bars, (floor + 0.14, 0.72), facecolors=COLOURS[what], linewidth=0)
        if row.finish_h is not None:
            end = float(_when(result.start + row.finish_h * 3600))
            ax.plot([end, end], [floor + 0.02, floor + 0.98], color=INK, linewidth=1.0)
    _frame(ax, result, drawn, site, ticks, high)


def _daily_panel(
    ax: Any, result: Backtest, config: Config, grid: Grid, drawn: DrawnRows, site: SiteTable, most: int
) -> None:  # fmt: skip
    """A site's days: how much of each the region was inside a window, and how much each policy trained."""
    rows = len(result.rows)
    days = (drawn.end - result.start) / _DAY_S
    step = _DAY_S * max(1, math.ceil(days / most))
    edges = np.append(np.arange(result.start, drawn.end - 1e-6, step), drawn.end)
    columns = grid.by_site[site.name].between(result.start, drawn.end)
    inside = inside_of(site, config.run)(columns.values)
    open_s = Curve(np.append(columns.starts, columns.ends[-1]), np.append(0.0, np.cumsum(inside * (columns.ends - columns.starts))))
    strips = [(rows + 0.3, 1.5, open_s, MUTED)]
    strips += [
        (rows - 1 - i + 0.14, 0.72, seconds_training(drawn.doing[i].get(site.name, [])), COLOURS["local"]) for i in range(rows)
    ]
    for floor, height, curve, colour in strips:
        duty = np.diff(curve.at(edges)) / np.diff(edges)
        ax.stairs(floor + height * duty, _when(edges), baseline=floor, fill=True, color=colour, linewidth=0)
        ax.axhline(floor, color=MUTED, linewidth=0.35)
    for i, row in enumerate(result.rows):
        if row.finish_h is not None:
            end = float(_when(result.start + row.finish_h * 3600))
            ax.plot([end, end], [rows - 1 - i + 0.02, rows - i - 0.02], color=INK, linewidth=1.0)
    _frame(ax, result, drawn, site, [(rows + 1.0, "inside")], rows + 1.9)


def _frame(ax: Any, result: Backtest, drawn: DrawnRows, site: SiteTable, ticks: list[tuple[float, str]], top: float) -> None:
    rows = len(result.rows)
    ax.set_ylim(-0.1, top + 0.15)
    at = [*(y for y, _ in ticks), *(rows - 0.5 - i for i in range(rows))]
    ax.set_yticks(at, [*(text for _, text in ticks), *drawn.names])
    ax.tick_params(axis="y", labelsize=8, length=0)
    ax.grid(False)
    for i, row in enumerate(result.rows):
        text = f"{row.site_hours_by_site.get(site.name, 0.0):,.1f} h"
        ax.annotate(
            text, (1.0, rows - 0.5 - i), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            fontsize=8, color=MUTED, va="center", annotation_clip=False,
        )  # fmt: skip
    same = "" if site.region == site.name else f" · {site.region}"
    ax.set_title(site.name + same, loc="left", fontsize=9.5, pad=4)


def _marks(result: Backtest, drawn: DrawnRows, final: Mapping[int, float]) -> list[tuple[str, float, str, str]]:
    """Name, kg, marker and colour of everything that has a sum, least first."""
    budget = result.target == "budget"
    found = []
    for i, kg in final.items():
        unfinished = " (not done)" if budget and result.rows[i].finish_h is None else ""
        found.append((drawn.names[i] + unfinished, kg, "o", _look(result, i)[0]))
    found += [(str(r["name"]), float(r["kg_co2"]), "D", INK) for r in result.references if r.get("kg_co2") is not None]
    found += [(f"{region}, always on", kg, "|", MUTED) for region, kg in result.baselines.items() if kg is not None]
    return sorted(found, key=lambda m: m[1])


def _mark_panel(ax: Any, marks: Sequence[tuple[str, float, str, str]]) -> None:
    for i, (_, kg, marker, colour) in enumerate(marks):
        ax.plot([0.0, kg], [i, i], color=colour, linewidth=1.0 if marker == "|" else 2.4, alpha=0.45, solid_capstyle="butt")
        size = 8 if marker == "|" else 5.5
        ax.plot([kg], [i], marker=marker, ms=size, mew=1.6, color=colour, linestyle="", clip_on=False, zorder=4)
        ax.annotate(
            _kg(kg), (kg, i), xytext=(7, 0), textcoords="offset points", fontsize=8.5, va="center", color=INK, annotation_clip=False
        )
    ax.set_yticks(range(len(marks)), [m[0] for m in marks])
    ax.tick_params(axis="y", length=0, labelsize=8.5)
    ax.grid(False)
    ax.set_ylim(len(marks) - 0.4, -0.6)
    ax.set_xlim(0.0, 1.12 * max(m[1] for m in marks))
    ax.set_xlabel("kg CO2 in all")


def _label_ends(ax: Any, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names at the right edge, at the height where their lines end, moved apart where they would cover each other."""
    if not ends:
        return
    top = 1.06 * max(y for y, _, _ in ends)
    ax.set_ylim(0.0, top)
    gap, last = 0.068 * top, -math.inf
    ordered = sorted(ends)
    heights = []
    for y, _, _ in ordered:
        last = max(y, last + gap)
        heights.append(last)
    ceiling = top
    for i in reversed(range(len(heights))):  # push back down from the top, as far as needed
        heights[i] = min(heights[i], ceiling)
        ceiling = heights[i] - gap
    for y, (_, text, colour) in zip(heights, ordered, strict=True):
        ax.annotate(
            text, (1.0, y), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points", fontsize=8.5,
            color=colour, va="center", annotation_clip=False,
        )  # fmt: skip


def _time_axis(ax: Any, start: float, end: float, inches: float) -> None:
    locator = AutoDateLocator(minticks=3, maxticks=10 if inches >= 7 else 6)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    ax.set_xlim(float(_when(start)), float(_when(end)))
    ax.set_xlabel("run time, UTC")


def _look(result: Backtest, i: int) -> tuple[str, Any]:
    """Colour by policy; a policy's further rows (deadlines, delays) are told apart by their strokes."""
    policy = result.rows[i].policy
    nth = sum(r.policy == policy for r in result.rows[:i])
    return POLICY_COLOURS.get(policy, MUTED), _STYLES[nth % len(_STYLES)]


def _sampled(curve: Curve) -> tuple[Array, Array]:
    if len(curve.times) <= _POINTS:
        return curve.times, curve.values
    times = np.linspace(curve.times[0], curve.times[-1], _POINTS)
    return times, curve.at(times)


def _unit(result: Backtest, drawn: DrawnRows) -> tuple[float, str]:
    return (_DAY_S, "days") if drawn.end - result.start > 4 * _DAY_S else (3600.0, "hours")


def _quantity(site: SiteTable, value: float) -> str:
    match site.signal.type:
        case "price":
            return f"{value:,.0f} {site.signal.currency}"
        case "curtailed_power":
            return f"{value:.3g} MW"
        case "surplus_power":
            return f"{value:,.0f} W"
        case _:
            return f"{value:,.0f} g"


def _kg(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def _bars(starts: Array, ends: Array) -> list[tuple[float, float]]:
    return list(zip(_when(starts).tolist(), (_when(ends) - _when(starts)).tolist(), strict=True))


def _when(t: Array | float) -> Array:
    """Unix seconds as matplotlib counts them: in days."""
    return np.asarray(t, dtype=np.float64) / _DAY_S
