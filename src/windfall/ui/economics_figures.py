"""The figures of `windfall economics`: what a million tokens cost and at which duty owning pays; and what moves that most."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from windfall.simulate.economics import Economics
from windfall.ui.page.figures import COLOURS, INK, MUTED, Draw
from windfall.ui.terminal.tables_economics import long_time, money, parts_of

_PARTS = {
    "hardware": COLOURS["local"], "energy": COLOURS["idle"], "link": COLOURS["federated"], "traffic": COLOURS["paused"],
    "people": COLOURS["provisioning"], "later model": COLOURS["draining"],
}  # fmt: skip


def figures(e: Economics) -> dict[str, Draw]:
    """All figures by name: `cost` and, where something moves it, `tornado`."""
    return {"cost": cost(e), **({"tornado": tornado(e)} if e.sensitivity else {})}


def cost(e: Economics) -> Draw:
    """Left: what a million tokens cost, by part, for each way to train. Right: the same over the duty, beside the rent."""

    def draw(inches: float) -> Figure:
        wide = inches >= 7
        figure = Figure(figsize=(inches, 3.4 if wide else 6.4), layout="constrained")
        left, right = figure.subplots(1, 2, squeeze=False)[0] if wide else figure.subplots(2, 1, squeeze=False)[:, 0]
        _bars(left, e)
        _duty(right, e)
        return figure

    return draw


def _bars(ax: Any, e: Economics) -> None:
    shown: set[str] = set()
    for i, bill in enumerate(e.bills):
        rented, at = bill.name.startswith("rented"), 0.0
        for name, value in parts_of(bill):
            label = "rent" if rented and name == "hardware" else name
            width = value / (bill.tokens / 1e6)
            colour = MUTED if label == "rent" else _PARTS[name]
            ax.barh(i, width, left=at, color=colour, height=0.62, label=None if label in shown else label)
            shown.add(label)
            at += width
        kg = "" if bill.kg is None else f", {bill.kg:,.3g} kg CO2"
        ax.annotate(
            f"{money(bill.outlay.per_unit)} · {long_time(bill.days)}{kg}", (0, i - 0.42), xytext=(2, 1), textcoords="offset points",
            fontsize=8, color=MUTED, va="bottom",
        )  # fmt: skip
    ax.set_yticks(range(len(e.bills)), [b.name for b in e.bills])
    ax.set_ylim(len(e.bills) - 0.45, -0.75)
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")
    ax.set_xlabel(f"{e.currency} a million tokens")
    ax.set_title("What it costs", loc="left", fontsize=9.5, pad=6)
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.45, -0.17), ncols=3, frameon=False, fontsize=8, handlelength=1.0, labelcolor=MUTED
    )


def _duty(ax: Any, e: Economics) -> None:
    low = max(0.01, min(0.05, e.own.duty / 2))
    duties = np.geomspace(low, 1.0, 120)
    ax.plot(duties * 100, [e.at_duty(float(d)) for d in duties], color=COLOURS["local"], linewidth=2.0)
    ax.annotate("own sites", (duties[6] * 100, e.at_duty(float(duties[6]))), xytext=(8, 0), textcoords="offset points",
                fontsize=8.5, color=COLOURS["local"])  # fmt: skip
    rent = next((b for b in e.bills if b.name == "rented, in windows"), None)
    if rent is not None:
        per_unit = rent.hardware / (rent.tokens / 1e6)
        ax.axhline(per_unit, color=MUTED, linewidth=1.3, linestyle=(0, (4, 2)))
        ax.annotate("rented for the same hours", (low * 100, per_unit), xytext=(2, 4), textcoords="offset points",
                    fontsize=8.5, color=MUTED)  # fmt: skip
    here = e.at_duty(e.own.duty)
    ax.plot([e.own.duty * 100], [here], marker="o", color=INK, markersize=6)
    ax.annotate(f"here: {e.own.duty * 100:.1f} %, {money(here)}", (e.own.duty * 100, here), xytext=(8, 2),
                textcoords="offset points", fontsize=8.5, color=INK)  # fmt: skip
    b = e.break_even.duty
    if b is not None and e.used_share is None and low <= b <= 1:
        ax.axvline(b * 100, color=COLOURS["draining"], linewidth=0.9, linestyle=(0, (4, 3)))
        side = -1 if b > 0.2 else 1
        ax.annotate(
            f"break-even {b * 100:.1f} %", (b * 100, ax.get_ylim()[1]), xytext=(4 * side, -10), ha="left" if side > 0 else "right",
            textcoords="offset points", fontsize=8.5, color=COLOURS["draining"],
        )  # fmt: skip
    ax.set_xscale("log")
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100) if t >= low * 100 * 0.99]
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.set_xticks([], minor=True)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("duty: % of the owned hours in training")
    people = ", people apart" if e.own.people or e.own.later_model else ""
    ax.set_title(f"Own or rent: {e.currency} a million tokens{people}", loc="left", fontsize=9.5, pad=6)


def tornado(e: Economics) -> Draw:
    """What a million tokens would cost in windows if one figure were smaller or larger, the one that moves most on top."""

    def draw(inches: float) -> Figure:
        figure = Figure(figsize=(inches, 0.95 + 0.36 * len(e.sensitivity)), layout="constrained")
        ax = figure.subplots()
        middle = e.own.outlay.per_unit
        for i, s in enumerate(e.sensitivity):
            for value, colour, label in ((s.smaller, COLOURS["idle"], "smaller"), (s.larger, COLOURS["local"], "larger")):
                ax.barh(i, value - middle, left=middle, color=colour, height=0.6, label=label if i == 0 else None)
                right = value >= middle
                ax.annotate(
                    money(value), (value, i), xytext=(3 if right else -3, 0), textcoords="offset points", fontsize=8, va="center",
                    ha="left" if right else "right", color=MUTED,
                )  # fmt: skip
        ax.axvline(middle, color=INK, linewidth=0.9)
        ax.set_yticks(range(len(e.sensitivity)), [s.figure for s in e.sensitivity])
        ax.invert_yaxis()
        ax.margins(x=0.14)
        ax.tick_params(axis="y", length=0)
        ax.grid(False, axis="y")
        ax.set_xlabel(f"{e.currency} a million tokens; {money(middle)} as configured, each figure {e.vary_share * 100:g} % off")
        ax.legend(loc="lower right", frameon=False, fontsize=8, handlelength=1.0, labelcolor=MUTED)
        return figure

    return draw
