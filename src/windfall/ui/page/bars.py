"""The figure of bars: what a run has emitted beside what every alternative would have."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from windfall.ui.page.figures import COLOURS, INK, MUTED, Draw
from windfall.view.baselines import Counterfactual
from windfall.view.counterfactuals import Counterfactuals

_COLOURS = {"oracle": COLOURS["idle"], "threshold": COLOURS["local"], "paper": COLOURS["local"]}
_SHORT = {"all_on": "all, always on", "random": "random times", "threshold": "plain threshold", "paper": "study's rule"}
_OWN = "this run"


@dataclass(frozen=True, slots=True)
class _Bar:
    name: str
    short: str
    value: float
    low: float | None
    high: float | None
    colour: str


def counterfactuals(found: Counterfactuals) -> Draw:
    """The run and every alternative, dearest at the bottom: kg, or cost where nothing says what was emitted.

    Of what is drawn at random a line spans the 10th to the 90th percentile.
    """
    bars, unit = _bars(found)

    def draw(inches: float) -> Figure:
        wide = inches >= 7
        figure = Figure(figsize=(inches, 0.75 + 0.31 * max(2, len(bars))), layout="constrained")
        ax = figure.subplots()
        if not bars:
            ax.set_yticks([])
            ax.set_xticks([])
            ax.text(0.5, 0.5, "nothing to compare yet", ha="center", va="center", transform=ax.transAxes, color=MUTED)
            return figure
        least, most = min(0.0, *(b.value for b in bars)), max(0.0, *(max(b.value, b.high or 0.0) for b in bars))
        for i, b in enumerate(bars):
            # Paler, so that the line across a bar is seen in it.
            ax.barh(i, b.value, height=0.62, color=b.colour, linewidth=0, alpha=0.55 if b.colour == MUTED else 1.0)
            if b.low is not None and b.high is not None:
                ax.plot([b.low, b.high], [i, i], color=INK, linewidth=1.1, solid_capstyle="butt")
            at = max(b.value, b.high or 0.0, 0.0)
            ax.annotate(_figure(b.value), (at, i), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5, color=INK)
        ax.set_yticks(range(len(bars)), [b.name if wide else b.short for b in bars])
        ax.tick_params(axis="y", length=0, labelsize=8.5)
        for label, b in zip(ax.get_yticklabels(), bars, strict=True):
            label.set_color(INK if b.name == _OWN else MUTED)
        ax.grid(axis="y", visible=False)
        ax.xaxis.set_major_locator(MaxNLocator(6 if wide else 4))
        span = (most - least) or 1.0
        ax.set_xlim(least - 0.02 * span * (least < 0), most + span * (0.08 if wide else 0.22))
        ax.set_ylim(len(bars) - 0.4, -0.6)
        ax.set_xlabel(unit)
        return figure

    return draw


def _bars(found: Counterfactuals) -> tuple[list[_Bar], str]:
    """In order of their values, and their unit."""
    if found.kg is None and len(found.money) == 1:
        (currency,) = found.money
        bars = [_bar(r, r.money[currency], None, None) for r in found.rows if currency in r.money]
        own, unit = found.money[currency], currency
    else:
        bars = [_bar(r, r.kg, r.kg_low, r.kg_high) for r in found.rows if r.kg is not None]
        own, unit = found.kg or 0.0, "kg CO2"
    if not bars:
        return [], unit
    return sorted([*bars, _Bar(_OWN, _OWN, own, None, None, COLOURS["federated"])], key=lambda b: b.value), unit


def _bar(r: Counterfactual, value: float, low: float | None, high: float | None) -> _Bar:
    name = f"{r.region}, always on" if r.kind == "region" else r.name
    short = f"{r.region}, always" if r.kind == "region" else _SHORT.get(r.kind, r.name)
    return _Bar(name, short, value, low, high, _COLOURS.get(r.kind, MUTED))


def _figure(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
