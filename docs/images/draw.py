"""Draws the pictures of docs/concepts.md: ``python docs/images/draw.py``. Schematic ones; equal code makes equal files."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

HERE = Path(__file__).parent
INK, SOFT, LINE = "#1f2a30", "#5b6770", "#c3ccd1"
WINDOW, TRAIN, START, WAIT, COMMIT = "#dcefe3", "#2f7d5b", "#d8a23a", "#9fb4c2", "#3d6ea5"
mpl.rcParams.update(
    {"svg.hashsalt": "windfall", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "text.color": INK}
)


def window(axes: Axes) -> None:
    """A reading, the criterion, the window and the on-period."""
    hours = [0, 1, 2, 2.5, 3, 4, 5, 5.2, 5.4, 6, 7, 8, 9, 10]
    grams = [430, 410, 300, 150, 60, 40, 30, 120, 50, 40, 60, 260, 420, 430]
    axes.axvspan(3, 5.2, color=WINDOW)
    axes.axvspan(5.4, 8, color=WINDOW)
    axes.step(hours, grams, where="post", color=INK, lw=1.6)
    axes.axhline(100, color=COMMIT, lw=1, ls=(0, (4, 3)))
    axes.text(0.05, 112, "criterion, 100 g/kWh", color=COMMIT)
    axes.text(0.05, 445, "reading, g CO2/kWh", color=INK)
    for left, right, colour, text in ((3.2, 3.8, START, "start"), (3.8, 8.15, TRAIN, "trains: the on-period")):
        axes.barh(-75, right - left, left=left, height=70, color=colour)
        axes.text((left + right) / 2, -75, text, ha="center", va="center", color="white", fontsize=9)
    axes.annotate(
        "a flicker is forgiven", (5.3, 125), (5.0, 250), ha="center", arrowprops={"arrowstyle": "-", "color": SOFT}, color=SOFT
    )
    axes.annotate("the gain so far\nwould pay half a start", (3.2, -40), (1.5, -85), ha="center", va="center", color=SOFT,
                  arrowprops={"arrowstyle": "-", "color": SOFT})  # fmt: skip
    axes.text(6.6, 150, "window", ha="center", color=TRAIN)
    axes.set(xlim=(0, 10), ylim=(-130, 500))


def modes(axes: Axes) -> None:
    """Three sites over a day and the mode below."""
    sites = {"California": [(0, 6), (18, 24)], "Texas": [(2.5, 9)], "South Australia": [(14, 21)]}
    for row, (name, spans) in enumerate(sites.items()):
        y = 3 - row
        axes.text(-0.4, y, name, ha="right", va="center")
        axes.barh(y, 24, left=0, height=0.62, color="#eef1f3")
        for a, b in spans:
            axes.barh(y, b - a, left=a, height=0.62, color=TRAIN)
    edges = [0, 2.5, 6, 9, 14, 18, 21, 24]
    for a, b in pairwise(edges):
        n = sum(s <= a < e for spans in sites.values() for s, e in spans)
        word, colour = (("paused", WAIT), ("local", "#6fae90"), ("federated", COMMIT))[min(n, 2)]
        axes.barh(0, b - a, left=a, height=0.62, color=colour)
        axes.text((a + b) / 2, 0, word, ha="center", va="center", color="white", fontsize=9)
    axes.text(-0.4, 0, "mode", ha="right", va="center", weight="bold")
    axes.set(xlim=(-5, 24.2), ylim=(-0.6, 3.6))


def round_(axes: Axes) -> None:
    """A joint round with overlap."""
    lanes = {"site A": 2, "coordinator": 1, "site B": 0}
    for name, y in lanes.items():
        axes.text(-0.2, y, name, ha="right", va="center")
        axes.plot([0, 10], [y, y], color=LINE, lw=1, zorder=0)
    for y in (2, 0):
        axes.barh(y, 10, left=0, height=0.3, color=TRAIN)
        axes.plot([4, 4], [y - 0.24, y + 0.24], color="white", lw=3)
        axes.text(2, y, "trains on its lease", ha="center", va="center", color="white", fontsize=9)
        axes.text(5.3, y, "trains on", ha="center", va="center", color="white", fontsize=9)
        axes.text(8.2, y, "next order", ha="center", va="center", color="white", fontsize=9)
        axes.plot([6.6, 6.6], [y - 0.24, y + 0.24], color="white", lw=3)
        inward = y - 0.2 if y == 2 else y + 0.2
        arrow = {"arrowstyle": "->", "color": COMMIT, "lw": 1.3}
        axes.annotate("", (5.0, 1 + (0.16 if y == 2 else -0.16)), (4.05, inward), arrowprops=arrow)
        axes.annotate("", (6.55, inward), (5.7, 1 + (0.16 if y == 2 else -0.16)), arrowprops=arrow)
    axes.barh(1, 0.9, left=4.9, height=0.32, color=COMMIT)
    axes.text(5.35, 1, "commit", ha="center", va="center", color="white", fontsize=9)
    axes.text(4.35, 1.42, "contribution", ha="right", color=COMMIT, fontsize=9)
    axes.text(6.35, 1.42, "new version", color=COMMIT, fontsize=9)
    axes.text(4, 2.4, "cut", ha="center", color=SOFT)
    axes.text(6.6, 2.4, "taken in", ha="center", color=SOFT)
    axes.set(xlim=(-1.6, 10.1), ylim=(-0.5, 2.7))


def shape(axes: Axes) -> None:
    """The loop, and what stands at each side of the wire."""
    boxes = {
        "grid\nreadings": (0, 2), "policy\ndecisions": (2.4, 2), "fleet\nsites up, down": (4.8, 2),
        "federation\nrounds, leases": (7.2, 2), "ledger\nversions, blocks": (9.6, 2), "account\njoules, grams": (9.6, 0.4),
        "drivers": (4.8, 0.4), "sites\ntrainer, outbox": (7.2, 0.4),
    }  # fmt: skip
    for text, (x, y) in boxes.items():
        outside = text.startswith("sites")
        axes.add_patch(FancyBboxPatch((x, y), 1.7, 0.8, boxstyle="round,pad=0.05", fc=WINDOW if outside else "#f4f6f7", ec=LINE))
        axes.text(x + 0.85, y + 0.4, text, ha="center", va="center", fontsize=9)
    arrow = {"arrowstyle": "->", "color": SOFT, "lw": 1.2}
    for x in (1.8, 4.2, 6.6, 9.0):
        axes.annotate("", (x + 0.5, 2.4), (x, 2.4), arrowprops=arrow)
    axes.annotate("", (5.65, 1.3), (5.65, 1.9), arrowprops=arrow)
    axes.annotate("", (7.1, 0.8), (6.6, 0.8), arrowprops=arrow)
    axes.annotate("", (8.05, 1.9), (8.05, 1.3), arrowprops=arrow)
    axes.annotate("", (10.45, 1.3), (10.45, 1.9), arrowprops=arrow)
    axes.text(8.15, 1.55, "outwards only", fontsize=8.5, color=SOFT)
    axes.set(xlim=(-0.2, 11.5), ylim=(0.2, 3.0))


def main() -> None:
    """Write the files."""
    pictures: dict[str, tuple[Callable[[Axes], None], tuple[float, float]]] = {
        "window": (window, (8, 3.6)), "modes": (modes, (8, 2.4)), "round": (round_, (8, 2.7)), "shape": (shape, (8.6, 2.2)),
    }  # fmt: skip
    for name, (draw, size) in pictures.items():
        figure, axes = plt.subplots(figsize=size)
        axes.axis("off")
        draw(axes)
        figure.savefig(HERE / f"{name}.svg", bbox_inches="tight", facecolor="white", metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    main()
