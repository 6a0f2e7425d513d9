"""The figure of lanes: a strip of the run's mode, and for each site its signal, the criterion, what it did and what it missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from windfall.ui.page.figures import COLOURS, GRID, INK, MUTED, Draw
from windfall.view.series import RunSeries
from windfall.view.state import SiteState
from windfall.view.windows import HeldSpan, SiteWindows

_NAMES = {
    "local": "local",
    "federated": "federated",
    "provisioning": "provisioning",
    "idle": "on and idle",
    "draining": "draining",
    "failed": "failed",
}
#: How wide a letter of the titles is, about (inches).
_LETTER = 0.068


@dataclass(frozen=True, slots=True)
class LaneCriterion:
    """The level that a site's signal is judged by, in the signal's unit; windows are under it, or of a power over it."""

    level: float
    unit: str


def lanes(
    s: RunSeries, sites: Mapping[str, SiteState], criteria: Mapping[str, LaneCriterion], windows: Sequence[SiteWindows],
    holds: Sequence[HeldSpan],
) -> Draw:  # fmt: skip
    """A strip of the run's mode, then a lane per site."""
    missed = {w.site: w for w in windows}

    def draw(inches: float) -> Figure:
        count = max(1, len(sites))
        wide = inches >= 7
        figure = Figure(figsize=(inches, 0.95 + 1.25 * count + (0 if wide else 0.45)), layout="constrained")
        ratios = {"height_ratios": [0.22] + [1.0] * count}
        axes = figure.subplots(1 + count, 1, sharex=True, squeeze=False, gridspec_kw=ratios)[:, 0]
        _mode_strip(axes[0], s)
        for ax, (name, site) in zip(axes[1:], sites.items(), strict=False):
            _lane(ax, s, name, site, criteria.get(name), inches)
            _missed(ax, missed.get(name), [h for h in holds if h.site == name])
        _time_axis(axes[-1], s, inches)
        seen = {b.what for lane in s.lanes.values() for b in lane}
        handles: list[Any] = [Patch(color=COLOURS[k], label=_NAMES[k]) for k in _NAMES if k in seen or k in ("local", "federated")]
        if any(w.missed for w in windows):
            handles.append(
                Patch(facecolor="none", edgecolor=COLOURS["draining"], hatch="/////", linewidth=0, label="window missed")
            )
        if holds:
            handles.append(Line2D([], [], color=INK, linewidth=3.2, label="held by an operator"))
        figure.legend(
            handles=handles, loc="outside lower left", ncols=len(handles) if wide else 2, frameon=False, fontsize=8.5,
            handlelength=1.0, handleheight=1.0, borderaxespad=0.1, labelcolor=MUTED,
        )  # fmt: skip
        return figure

    return draw


def _mode_strip(ax: Any, s: RunSeries) -> None:
    for t0, t1, mode in s.modes:
        ax.axvspan(_when(t0), _when(t1), color=COLOURS[mode], linewidth=0)
    ax.set_yticks([])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.tick_params(length=0)
    ax.set_title("run: paused (grey), local (blue), federated (green)", loc="left", fontsize=9, color=MUTED, pad=3)


def _lane(ax: Any, s: RunSeries, name: str, site: SiteState, criterion: LaneCriterion | None, inches: float) -> None:
    level = criterion.level if criterion is not None else None
    points = [p for p in s.readings.get(name, []) if p[0] < s.end]
    times = [_when(max(t, s.start)) for t, _ in points] + ([_when(s.end)] if points else [])
    values = [v for _, v in points] + ([points[-1][1]] if points else [])
    top = max([*values, (level or 0.0) * 1.3, 1.0]) * 1.12
    base = min([*values, 0.0])
    # Under the signal a gap, then the strip of states: a signal at zero stays visible.
    low = base - 0.06 * (top - base)
    floor = low - 0.16 * (top - base)
    for b in s.lanes.get(name, []):
        x, w = _when(b.t0), _when(b.t1) - _when(b.t0)
        colour = COLOURS.get(b.what, MUTED)
        if b.what in ("local", "federated"):
            ax.broken_barh([(x, w)], (low, top - low), facecolors=colour, alpha=0.16, linewidth=0)
        ax.broken_barh([(x, w)], (floor, low - floor), facecolors=colour, linewidth=0, zorder=2.5 if b.what != "idle" else 2.6)
    if level is not None:
        ax.axhline(level, color=COLOURS["draining"], linewidth=0.9, linestyle=(0, (4, 3)))
    if points:
        ax.plot(times, values, drawstyle="steps-post", color=INK, linewidth=1.1)
    ax.set_ylim(floor, top)
    ax.set_yticks(_ticks(level, values, floor, top))
    ax.tick_params(axis="y", labelsize=8)
    ax.grid(False)
    left = name + (f" · {site.region}" if site.region else "")
    kg = site.kg_co2
    right = f"{site.training_hours:.1f} h, {site.energy_kwh:.1f} kWh" + ("" if kg is None else f", {kg:.2f} kg")
    room = int((inches - 0.6) / _LETTER)
    if len(left) + len(right) + 3 > room:
        right = f"{site.energy_kwh:.1f} kWh" if kg is None else f"{kg:.2f} kg"
    if len(left) + len(right) + 3 > room:
        left = left[: max(8, room - len(right) - 4)] + "…"
    ax.set_title(left, loc="left", fontsize=9.5, pad=4)
    ax.set_title(right, loc="right", fontsize=8.5, color=MUTED, pad=4)


def _ticks(level: float | None, values: Sequence[float], floor: float, top: float) -> list[float]:
    """The criterion, and zero and the largest reading where there is room beside it."""
    found = [] if level is None else [level]
    largest = _rounded(max(values)) if values else None
    for more in (largest, 0.0):
        if more is not None and floor < more <= top and all(abs(more - f) >= 0.2 * (top - floor) for f in found):
            found.append(more)
    return sorted(found)


def _rounded(value: float) -> float:
    return round(value, -1) if abs(value) >= 100 else round(value) if abs(value) >= 10 else round(value, 1)


def _missed(ax: Any, windows: SiteWindows | None, holds: Sequence[HeldSpan]) -> None:
    """Hatching over the parts of windows in which the site was off, and a bar over the time for which it was held."""
    bottom, top = ax.get_ylim()
    for m in windows.missed if windows is not None else ():
        ax.broken_barh(
            [(_when(m.t0), _when(m.t1) - _when(m.t0))], (bottom, top - bottom), facecolors="none", edgecolors=COLOURS["draining"],
            hatch="/////", linewidth=0, zorder=2.7,
        )  # fmt: skip
    for h in holds:
        ax.plot([_when(h.t0), _when(h.t1)], [top, top], color=INK, linewidth=3.2, solid_capstyle="butt", clip_on=False, zorder=3)


def _time_axis(ax: Any, s: RunSeries, inches: float) -> None:
    if s.end <= s.start:
        ax.set_xticks([])
        ax.set_xlabel("the run has not begun")
        return
    # Seven is the least for which the locator finds an interval for every span (12 h x 6 for just under three days).
    locator = AutoDateLocator(minticks=3, maxticks=10 if inches >= 7 else 7)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    if inches < 7:
        ax.tick_params(axis="x", labelsize=7.5)
    ax.set_xlim(_when(s.start), _when(s.end))
    ax.set_xlabel("run time, UTC")
    ax.spines["bottom"].set_color(GRID)


def _when(t: float) -> float:
    return float(date2num(datetime.fromtimestamp(t, UTC)))
