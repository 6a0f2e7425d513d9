"""The report's figures: lanes, validation loss and emissions, drawn with matplotlib as small SVG with real text.

A figure is drawn for a width, so that a phone gets a figure of its own and not a shrunken one. Colours are fixed in the
files; inside the page they become the page's variables, so that figures follow light and dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, NullFormatter, NullLocator

from windfall.view.baselines import Counterfactual
from windfall.view.series import RunSeries, thin

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
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    PAPER: "--card",
    **{c: f"--c-{n}" for n, c in COLOURS.items()},
}
_BASELINE_COLOURS = ("#56606b", "#8a6d3b", "#7b5ea7", "#a3473f", "#4f7a5b", "#2f6f8f")
_VARIABLES |= {c: f"--b-{i}" for i, c in enumerate(_BASELINE_COLOURS)}
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


#: By format: what draws it, and how it is saved: for papers, and on white where colours cannot be the page's.
_FORMATS: dict[str, tuple[Callable[[Figure], object], dict[str, Any]]] = {
    "svg": (FigureCanvasSVG, {"metadata": {"Date": None, "Creator": None}}),
    "pdf": (FigureCanvasPdf, {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}}),
    "png": (FigureCanvasAgg, {"dpi": 192, "facecolor": "white", "metadata": {"Software": None}}),
}


def drawn(draw: Draw, width: float, *formats: str) -> list[bytes]:
    """A figure, ``width`` in pixels, in several formats: made and laid out once, which is most of what it costs."""
    found = []
    with matplotlib.rc_context(_RC):
        figure = draw(width / 96.0)
        for name in formats:
            canvas, how = _FORMATS[name]
            canvas(figure)
            out = io.BytesIO()
            figure.savefig(out, format=name, **how)
            figure.set_layout_engine("none")  # it stays where the first one has put it
            found.append(out.getvalue())
    return found


def svg(draw: Draw, width: float) -> str:
    """A figure as an SVG document, ``width`` in pixels."""
    return drawn(draw, width, "svg")[0].decode()


def pdf(draw: Draw, width: float) -> bytes:
    """The same as a PDF, for papers."""
    return drawn(draw, width, "pdf")[0]


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
    """kg of the run, against each region always on and the oracle, over run time."""

    def draw(inches: float) -> Figure:
        figure = Figure(figsize=(inches, 3.4), layout="constrained")
        ax = figure.subplots()
        ends: list[tuple[float, float, str, str]] = []
        for b, colour in zip((b for b in baselines if b.curve), _BASELINE_COLOURS * 9, strict=False):
            curve = thin(list(b.curve))
            xs = [(t - s.start) / 3600 for t, _ in curve]
            oracle = b.kind == "oracle"
            colour, style = (INK, (0, (1, 1.5))) if oracle else (colour, "-" if b.own else (0, (4, 2)))
            ax.plot(xs, [k for _, k in curve], color=colour, linewidth=1.3, linestyle=style, zorder=3 if oracle else 2)
            ends.append((xs[-1], curve[-1][1], f"{b.region or b.name}  {curve[-1][1]:{'.2f' if oracle else '.1f'}}", colour))
        if len(s.emissions) > 1:
            xs = [(t - s.start) / 3600 for t, _ in s.emissions]
            ys = [k for _, k in s.emissions]
            ax.plot(xs, ys, color=COLOURS["federated"], linewidth=2.6, solid_capstyle="round")
            ends.append((xs[-1], ys[-1], f"this run  {ys[-1]:.2f}", COLOURS["federated"]))
        _label_ends(ax, ends)
        ax.set_ylabel("kg CO2 since the start")
        ax.set_xlabel("hours of run time")
        drawn = [k for b in baselines for _, k in b.curve] + [k for _, k in s.emissions]
        least = min(drawn, default=0.0)
        ax.set_ylim(bottom=least * 1.05 if least < 0 else 0)  # under a negative intensity using power takes emissions away
        right = max((e[0] for e in ends), default=1.0) or 1.0
        ax.set_xlim(0, right * (1.22 if inches >= 7 else 1.5))
        return figure

    return draw


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
    values = [y for _, y, _, _ in ends]
    gap = (max(*values, 0.0) - min(*values, 0.0)) * 0.075
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
