"""The report's figures: lanes, validation loss and emissions, drawn with matplotlib as small SVG with real text.

A figure is drawn for a width, so that a phone gets a figure of its own and not a shrunken one. Colours are fixed in the
files; inside the page they become the page's variables, so that figures follow light and dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FormatStrFormatter, MaxNLocator, NullFormatter, NullLocator

from windfall.view.baselines import Counterfactual
from windfall.view.counterfactuals import Counterfactuals
from windfall.view.series import RunSeries, thin
from windfall.view.state import SiteState

INK, MUTED, GRID, PAPER = "#1b2733", "#667380", "#dde3e8", "#ffffff"
#: Okabe and Ito's colours, which stay apart for colour-blind readers.
COLOURS = {
    "local": "#0072b2",
    "federated": "#009e73",
    "paused": "#b9c2ca",
    "provisioning": "#cc79a7",
    "idle": "#e69f00",
    "draining": "#d55e00",
    "failed": "#3b0a0a",
}
_NAMES = {
    "local": "training alone",
    "federated": "training together",
    "provisioning": "provisioning",
    "idle": "on and idle",
    "draining": "draining",
    "failed": "failed",
}
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    PAPER: "--card",
    **{c: f"--c-{n}" for n, c in COLOURS.items()},
}
_BASELINE_COLOURS = ("#56606b", "#8a6d3b", "#7b5ea7", "#a3473f", "#4f7a5b", "#2f6f8f")
_VARIABLES |= {c: f"--b-{i}" for i, c in enumerate(_BASELINE_COLOURS)}
_BAR_COLOURS = {"oracle": COLOURS["idle"], "threshold": COLOURS["local"], "paper": COLOURS["local"]}
_SHORT = {"all_on": "all always on", "random": "random times", "threshold": "plain threshold", "paper": "study's rule"}
_RC = {
    "svg.fonttype": "none",
    "font.size": 9.0,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.family": "DejaVu Sans",
    "axes.linewidth": 0.8,
    "pdf.fonttype": 42,  # whole fonts: journals refuse those of type 3
}

#: Where a logarithmic axis of bits per byte is labelled.
_STEPS = (0.5, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0)

Draw = Callable[[float], Figure]


def svg(draw: Draw, width: float) -> str:
    """A figure as an SVG document, ``width`` in pixels."""
    with matplotlib.rc_context(_RC):
        figure = draw(width / 96.0)
        FigureCanvasSVG(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def png(draw: Draw, width: float) -> bytes:
    """The same as a PNG on white."""
    with matplotlib.rc_context(_RC):
        figure = draw(width / 96.0)
        FigureCanvasAgg(figure)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=192, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def pdf(draw: Draw, width: float) -> bytes:
    """The same as a PDF, for papers."""
    with matplotlib.rc_context(_RC):
        figure = draw(width / 96.0)
        FigureCanvasPdf(figure)
        out = io.BytesIO()
        figure.savefig(out, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return out.getvalue()


def inline(document: str, name: str, kind: str, label: str) -> str:
    """An SVG document as an element of the page: no prolog or metadata, the page's colours and font,
    ids of its own (they begin with ``name``). ``kind`` becomes its class.
    """
    body = document[document.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", body)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m.group(1)}"' if m.group(1) in used else "", body)
    body = re.sub(r"(url\(#|href=\"#)([^)\"]+)", rf"\g<1>{name}-\g<2>", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    body = re.sub(r"font: (\S+) 'DejaVu Sans'[^;\"]*", r"font-size: \1", body)
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    return body.replace("<svg", f'<svg class="{kind}" role="img" aria-label="{label}"', 1)


def lanes(s: RunSeries, sites: Mapping[str, SiteState], criterion: float) -> Draw:
    """A strip of the run's mode, then a lane per site: its signal, the criterion, and what the site did."""

    def draw(inches: float) -> Figure:
        count = max(1, len(sites))
        figure = Figure(figsize=(inches, 0.95 + 1.25 * count + (0.25 if inches < 7 else 0)), layout="constrained")
        axes = figure.subplots(1 + count, 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": [0.22] + [1.0] * count})[
            :, 0
        ]
        _mode_strip(axes[0], s)
        for ax, (name, site) in zip(axes[1:], sites.items(), strict=False):
            _lane(ax, s, name, site, criterion)
        _time_axis(axes[-1], s, inches)
        seen = {b.what for lane in s.lanes.values() for b in lane}
        handles = [Patch(color=COLOURS[k], label=_NAMES[k]) for k in _NAMES if k in seen or k in ("local", "federated")]
        figure.legend(
            handles=handles,
            loc="outside lower left",
            ncols=len(handles) if inches >= 7 else 2,
            frameon=False,
            fontsize=8.5,
            handlelength=1.0,
            handleheight=1.0,
            borderaxespad=0.1,
            labelcolor=MUTED,
        )
        return figure

    return draw


def loss(s: RunSeries) -> Draw:
    """Validation bits per byte over tokens and over run time; training loss faint behind."""

    def draw(inches: float) -> Figure:
        wide = inches >= 7
        figure = Figure(figsize=(inches, 3.3 if wide else 5.6), layout="constrained")
        axes = figure.subplots(1, 2, squeeze=False)[0] if wide else figure.subplots(2, 1, squeeze=False)[:, 0]
        scale, unit = (1e9, "billion") if s.versions and s.versions[-1].tokens_total >= 2e9 else (1e6, "million")
        rows = [v for v in s.versions if v.val_bpb is not None]
        over = (
            ("tokens, " + unit, [v.tokens_total / scale for v in rows], [p.tokens / scale for p in s.steps]),
            (
                "hours of run time",
                [(v.t_run - s.start) / 3600 for v in rows],
                [(p.t_run - s.start) / 3600 for p in s.steps],
            ),
        )
        for i, (ax, (label, xs, faint)) in enumerate(zip(axes, over, strict=True)):
            _loss_panel(ax, s, xs, [v.val_bpb or 0.0 for v in rows], [v.mode for v in rows], faint)
            ax.set_xlabel(label)
            if i == 0 or not wide:
                ax.set_ylabel("validation bits per byte")
        if not rows:
            axes[0].text(0.5, 0.5, "no evaluation yet", ha="center", va="center", transform=axes[0].transAxes, color=MUTED)
        return figure

    return draw


def emissions(s: RunSeries, baselines: Sequence[Counterfactual]) -> Draw:
    """kg of the run, against each region always on, over run time."""

    def draw(inches: float) -> Figure:
        figure = Figure(figsize=(inches, 3.4), layout="constrained")
        ax = figure.subplots()
        ends: list[tuple[float, float, str, str]] = []
        for b, colour in zip((b for b in baselines if b.curve), _BASELINE_COLOURS * 9, strict=False):
            curve = thin(list(b.curve))
            xs = [(t - s.start) / 3600 for t, _ in curve]
            ax.plot(xs, [k for _, k in curve], color=colour, linewidth=1.3, linestyle="-" if b.own else (0, (4, 2)))
            ends.append((xs[-1], curve[-1][1], f"{b.region}  {curve[-1][1]:.1f}", colour))
        if len(s.emissions) > 1:
            xs = [(t - s.start) / 3600 for t, _ in s.emissions]
            ys = [k for _, k in s.emissions]
            ax.plot(xs, ys, color=COLOURS["federated"], linewidth=2.6, solid_capstyle="round")
            ends.append((xs[-1], ys[-1], f"this run  {ys[-1]:.2f}", COLOURS["federated"]))
        _label_ends(ax, ends)
        ax.set_ylabel("kg CO2 since the start")
        ax.set_xlabel("hours of run time")
        ax.set_ylim(bottom=0)
        right = max((e[0] for e in ends), default=1.0) or 1.0
        ax.set_xlim(0, right * (1.22 if inches >= 7 else 1.5))
        return figure

    return draw


def counterfactuals(found: Counterfactuals) -> Draw:
    """kg of the run and of every alternative, as bars; of what is drawn at random the 10th to the 90th percentile."""
    rows = sorted((r for r in found.rows if r.kg is not None), key=lambda r: r.kg or 0.0)

    def draw(inches: float) -> Figure:
        wide = inches >= 7
        bars = [(_bar_name(r, wide), r.kg or 0.0, r.kg_low, r.kg_high, _BAR_COLOURS.get(r.kind, MUTED)) for r in rows]
        if found.kg is not None:
            bars.append(("this run", found.kg, None, None, COLOURS["federated"]))
        bars.sort(key=lambda b: -b[1])
        figure = Figure(figsize=(inches, 0.75 + 0.33 * max(2, len(bars))), layout="constrained")
        ax = figure.subplots()
        top = max([abs(v) for _, kg, low, high, _ in bars for v in (kg, low or 0.0, high or 0.0)], default=1.0) or 1.0
        for i, (_, kg, low, high, colour) in enumerate(bars):
            ax.barh(i, kg, height=0.62, color=colour, linewidth=0)
            if low is not None and high is not None:
                ax.plot([low, high], [i, i], color=INK, linewidth=1.1, solid_capstyle="butt")
            at = max(kg, high or kg, 0.0)
            ax.annotate(_kg(kg), (at, i), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5, color=INK)
        ax.set_yticks(range(len(bars)), [b[0] for b in bars])
        ax.tick_params(axis="y", length=0, labelsize=8.5)
        for label, bar in zip(ax.get_yticklabels(), bars, strict=True):
            label.set_color(INK if bar[0] == "this run" else MUTED)
        ax.grid(axis="y", visible=False)
        ax.xaxis.set_major_locator(MaxNLocator(6 if wide else 4))
        ax.set_xlim(min([0.0, *(b[1] for b in bars)]) * 1.1, top * (1.1 if wide else 1.25))
        ax.set_xlabel("kg CO2")
        if not rows:
            ax.set_yticks([])
            ax.text(0.5, 0.5, "nothing to compare yet", ha="center", va="center", transform=ax.transAxes, color=MUTED)
        return figure

    return draw


def _bar_name(r: Counterfactual, wide: bool) -> str:
    if r.kind == "region":
        return f"{r.region}, always on" if wide else f"{r.region}, always"
    return r.name if wide else _SHORT.get(r.kind, r.name)


def _kg(kg: float) -> str:
    return f"{kg:.3f}" if abs(kg) < 1 else f"{kg:.2f}" if abs(kg) < 100 else f"{kg:,.0f}"


def _mode_strip(ax: Any, s: RunSeries) -> None:
    for t0, t1, mode in s.modes:
        ax.axvspan(_when(t0), _when(t1), color=COLOURS[mode], linewidth=0)
    ax.set_yticks([])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.tick_params(length=0)
    ax.set_title("run: paused (grey), local (blue), federated (green)", loc="left", fontsize=9, color=MUTED, pad=3)


def _lane(ax: Any, s: RunSeries, name: str, site: SiteState, criterion: float) -> None:
    points = [p for p in s.readings.get(name, []) if p[0] < s.end]
    times = [_when(max(t, s.start)) for t, _ in points] + ([_when(s.end)] if points else [])
    values = [v for _, v in points] + ([points[-1][1]] if points else [])
    top = max([*values, criterion * 1.3, 1.0]) * 1.12
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
    ax.axhline(criterion, color=COLOURS["draining"], linewidth=0.9, linestyle=(0, (4, 3)))
    if points:
        ax.plot(times, values, drawstyle="steps-post", color=INK, linewidth=1.1)
    ax.set_ylim(floor, top)
    ticks = [criterion] if criterion < 0.25 * top else [0.0, criterion]
    ax.set_yticks(ticks + ([round(max(values), -1)] if values and max(values) > 2.5 * criterion else []))
    ax.tick_params(axis="y", labelsize=8)
    ax.grid(False)
    ax.set_title(name + (f" · {site.region}" if site.region else ""), loc="left", fontsize=9.5, pad=4)
    kg = site.kg_co2
    ax.set_title(
        f"{site.training_hours:.1f} h, {site.energy_kwh:.1f} kWh" + ("" if kg is None else f", {kg:.2f} kg"),
        loc="right",
        fontsize=8.5,
        color=MUTED,
        pad=4,
    )


def _loss_panel(ax: Any, s: RunSeries, xs: list[float], ys: list[float], modes: list[str], faint: list[float]) -> None:
    behind = None
    if faint:
        # A training loss is nats per token: drawn on an axis of its own, only its shape is compared.
        behind = ax.twinx()
        behind.plot(faint, [p.loss for p in s.steps], color=MUTED, linewidth=0.5, alpha=0.45)
        behind.set_yticks([])
        behind.grid(False)
        behind.spines["right"].set_visible(False)
        behind.set_zorder(ax.get_zorder() - 1)
    for i in range(1, len(xs)):
        ax.plot(
            xs[i - 1 : i + 1],
            ys[i - 1 : i + 1],
            color=COLOURS.get(modes[i], MUTED),
            linewidth=1.8,
            solid_capstyle="round",
        )
    few = len(xs) <= 120
    for mode in dict.fromkeys(modes):
        at = [i for i, m in enumerate(modes) if m == mode]
        ax.plot(
            [xs[i] for i in at],
            [ys[i] for i in at],
            linestyle="",
            marker="o",
            markersize=4 if few else 1.5,
            color=COLOURS.get(mode, MUTED),
            markeredgecolor=PAPER,
            markeredgewidth=0.5 if few else 0,
        )
    if ys:
        ax.annotate(
            f"{ys[-1]:.3f}",
            (xs[-1], ys[-1]),
            textcoords="offset points",
            xytext=(2, -13),
            ha="right",
            fontsize=9.5,
            color=INK,
        )
        ax.margins(x=0.03, y=0.1)
    # The first evaluation is of random weights: on a linear axis it would flatten everything that was learned.
    for one, values in ((ax, ys), (behind, [p.loss for p in s.steps])):
        if one is not None and values and min(values) > 0 and max(values) > 1.8 * min(values):
            one.set_yscale("log")
            one.yaxis.set_minor_formatter(NullFormatter())
            one.yaxis.set_minor_locator(NullLocator())
            low, high = one.get_ylim()
            one.set_yticks([v for v in _STEPS if low <= v <= high] if one is ax else [])
            one.yaxis.set_major_formatter(FormatStrFormatter("%g"))


def _label_ends(ax: Any, ends: list[tuple[float, float, str, str]]) -> None:
    """Names at the ends of lines, moved apart where they would cover each other."""
    if not ends:
        return
    gap = max(y for _, y, _, _ in ends) * 0.065
    last = float("-inf")
    for x, y, text, colour in sorted(ends, key=lambda e: e[1]):
        at = max(y, last + gap)
        last = at
        ax.annotate(
            text,
            (x, at),
            xytext=(6, 0),
            textcoords="offset points",
            fontsize=8.5,
            color=colour,
            va="center",
            annotation_clip=False,
        )


def _time_axis(ax: Any, s: RunSeries, inches: float) -> None:
    if s.end <= s.start:
        ax.set_xticks([])
        ax.set_xlabel("the run has not begun")
        return
    # Seven is the least for which the locator finds an interval for every span (12 h x 6 for just under three days).
    locator = AutoDateLocator(minticks=3, maxticks=10 if inches >= 7 else 7)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    ax.set_xlim(_when(s.start), _when(s.end))
    ax.set_xlabel("run time, UTC")


def _when(t: float) -> float:
    return float(date2num(datetime.fromtimestamp(t, UTC)))
