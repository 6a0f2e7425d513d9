"""How outcomes spread over start dates, and how far policies differ from one of them: a row a policy each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from windfall.simulate.backtest import Row
from windfall.simulate.paired import PairedDifference
from windfall.simulate.quantiles import quantiles
from windfall.simulate.spread import SpreadPoint
from windfall.ui.backtest_figures import POLICY_COLOURS
from windfall.ui.backtest_rows import labels
from windfall.ui.page.figures import MUTED, Draw
from windfall.view.pairs import PAIRED, pair_name, shown_pairs

#: Start dates beyond which no single points are drawn.
_MOST_DOTS = 80
#: Figure of a row, title, and what it is multiplied with.
_PANELS = (("kg_co2", "kg CO2", 1.0), ("finish_h", "hours to the end", 1.0))
_BY_KG, _BY_VALUE = ("kg_over_oracle", "kg / oracle", 1.0), ("share_of_oracle", "% of oracle", 100.0)


def spread(points: Sequence[SpreadPoint]) -> Draw | None:
    """Each policy's outcomes over start dates: points, 10th to 90th percentile, median; None without points."""
    if not points:
        return None
    budget = any(p.row.finish_h is not None for p in points)
    groups: dict[str, list[Row]] = {}
    for start in dict.fromkeys(p.start for p in points):
        here = [p for p in points if p.start == start]
        for p, label in zip(here, labels([p.row for p in here]), strict=True):
            # A point's own name may say more than the policy; what tells its rows apart comes after it.
            groups.setdefault(p.policy + label.removeprefix(p.row.policy), []).append(p.row)
    policies = list(groups)
    judged = _BY_KG if any(p.row.kg_over_oracle is not None for p in points) else _BY_VALUE
    panels = [p for p in (*_PANELS, judged) if any(getattr(x.row, p[0]) is not None for x in points)]
    used = {n: [r for r in rows if r.finish_h is not None or not budget] for n, rows in groups.items()}

    def name(n: str) -> str:
        return n if len(used[n]) == len(groups[n]) else f"{n} ({len(used[n])} of {len(groups[n])} done)"

    def draw(inches: float) -> Figure:
        wide, tall = inches >= 7, 0.55 + 0.27 * len(policies)
        columns = len(panels) if wide else 1
        lines = 1 if wide else len(panels)
        figure = Figure(figsize=(inches, (tall + 0.25) * lines), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
        for ax, (key, title, factor) in zip(axes, panels, strict=True):
            _spread_panel(ax, [[factor * v for r in used[n] if (v := getattr(r, key)) is not None] for n in policies], policies)
            ax.set_title(title, loc="left", fontsize=9, color=MUTED, pad=4)
            ax.set_yticks(range(len(policies)), [name(n) for n in policies])
            ax.tick_params(axis="y", length=0)
        return figure

    return draw


def _spread_panel(ax: Any, values: Sequence[Sequence[float]], policies: Sequence[str]) -> None:
    every = sorted(v for own in values for v in own)
    logarithmic = bool(every) and every[0] > 0 and every[-1] > 15 * every[0]
    # Far below zero a share says only "worse than nothing": such values are told in words, at the edge.
    floor = min((v for v in every if v >= -every[-1]), default=-math.inf)
    for i, (own, policy) in enumerate(zip(values, policies, strict=True)):
        if not own:
            continue
        colour = POLICY_COLOURS.get(policy.partition(",")[0], MUTED)
        p10, p50, p90 = quantiles(own)
        if p50 < floor:
            place = ("axes fraction", "data")
            ax.annotate(f"◂ {p50:,.0f}", (0.02, i), xycoords=place, fontsize=8.5, va="center", color=colour)
            continue
        ax.plot([max(p10, floor), p90], [i, i], color=colour, linewidth=7, alpha=0.3, solid_capstyle="butt")
        if len(own) <= _MOST_DOTS:
            # Side by side rather than on top of each other, the same in every drawing.
            y = i + 0.22 * np.sin(2.4 * np.arange(len(own)))
            ax.plot(np.maximum(own, floor), y, marker="o", markersize=2.6, linestyle="", color=colour, markeredgewidth=0, alpha=0.8)
        ax.plot([p50, p50], [i - 0.34, i + 0.34], color=colour, linewidth=2.2)
    if logarithmic:
        ax.set_xscale("log")
        low, high = every[0] / 1.25, every[-1] * 1.25
        steps = [m * 10.0**k for k in range(-4, 6) for m in (1, 2, 5) if low <= m * 10.0**k <= high]
        ax.set_xlim(low, high)
        ax.set_xticks(steps, [f"{x:g}" for x in steps])
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.set_minor_locator(NullLocator())
    ax.set_ylim(len(policies) - 0.4, -0.6)
    ax.grid(True, axis="x")
    ax.grid(False, axis="y")


def differences(pairs: Sequence[PairedDifference]) -> Draw | None:
    """Each policy's difference from one of them, with its interval; None without pairs."""
    against, shown = shown_pairs(pairs)
    if not shown:
        return None
    names = list(dict.fromkeys(pair_name(d) for d in shown))
    figures = list(dict.fromkeys(d.figure for d in shown))

    def draw(inches: float) -> Figure:
        wide, tall = inches >= 7, 0.75 + 0.27 * len(names)
        lines, columns = (1, len(figures)) if wide else (len(figures), 1)
        figure = Figure(figsize=(inches, (tall + 0.2) * lines), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
        for ax, key in zip(axes, figures, strict=True):
            title, factor = PAIRED[key]
            for d in (d for d in shown if d.figure == key):
                i, colour = names.index(pair_name(d)), POLICY_COLOURS.get(d.policy, MUTED)
                if d.low is not None and d.high is not None:
                    ax.plot([factor * d.low, factor * d.high], [i, i], color=colour, linewidth=2.2, solid_capstyle="butt")
                ax.plot([factor * d.mean], [i], marker="o", markersize=5, color=colour, linestyle="")
            ax.axvline(0.0, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
            ax.set_title(f"{title}, less {against}'s", loc="left", fontsize=9, color=MUTED, pad=4)
            ax.set_yticks(range(len(names)), names)
            ax.set_ylim(len(names) - 0.4, -0.6)
            ax.tick_params(axis="y", length=0)
            ax.grid(True, axis="x")
            ax.grid(False, axis="y")
        return figure

    return draw
