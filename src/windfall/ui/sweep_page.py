"""Many simulations as one self-contained page: what each policy brought over start dates and settings, and how far it spread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from windfall.config.schema import Config
from windfall.simulate.many import Compared
from windfall.simulate.paired import FEW_BLOCKS, PairedDifference
from windfall.simulate.spread import SpreadPoint
from windfall.simulate.sweep import SweepPoint
from windfall.ui import backtest_spread
from windfall.ui.backtest_page import document, figure, section, write_page
from windfall.ui.page import pieces
from windfall.ui.page.computed_with import computed_with
from windfall.ui.terminal.tables_sweep import paired_table, sweep_table
from windfall.units import iso_utc
from windfall.view.pairs import shown_pairs

_SPREAD = (
    "A dot is one start date, the bar reaches from the 10th to the 90th percentile, the mark in it is the median. Start dates from "
    "which a policy did not finish before the signals ended are not in it, and are counted beside its name. An arrow stands for "
    "values too far below zero to draw."
)
_MEDIAN = "Median over start dates, and the 10th to the 90th percentile in brackets."


def write_sweep_page(path: Path, made: Compared, config: Config) -> None:
    """Write the page of a sweep, or of one backtest from many start dates, to ``path``.

    Raises:
        StoreError: the page cannot be written.
    """
    points, found = made.points, made.summaries
    titles, rows = sweep_table(found, config)
    heads = [t if i == 0 else f">{t}" for i, t in enumerate(titles)]
    table = pieces.table(heads, [("", [pieces.text(c) for c in row]) for row in rows])
    about = _MEDIAN + (" Figures are of finished runs." if config.backtest.target == "budget" else "")
    drawn = backtest_spread.spread([SpreadPoint(named(p), p.start, p.row) for p in points])
    title = f"{pieces.text(config.run.name)}: {len(points)} outcomes compared"
    dates = sorted({p.start for p in points})
    subtitle = f"{len(dates)} start dates, {iso_utc(dates[0])} to {iso_utc(dates[-1])}" if dates else "nothing was simulated"
    body = [
        f'<header class="top"><h1>{title}</h1><span class="badge">backtest</span></header>',
        f'<p class="sub">{pieces.text(subtitle)}</p>',
        section("What came out", about, table),
        section("Spread", "", figure("spread", drawn, "Outcomes over start dates", _SPREAD)) if drawn is not None else "",
        section("Differences from the same start dates", *_paired(made.pairs)) if made.pairs else "",
        section("What this was computed with", "", _warnings(made) + computed_with(made.provenance)),
        f"<footer>Simulated in {made.elapsed_s:.2f} s. windfall backtest --json prints the same figures.</footer>",
    ]
    write_page(path, document(title, body))


def _paired(pairs: Sequence[PairedDifference]) -> tuple[str, str]:
    """What the part on differences says, and what is in it."""
    against, shown = shown_pairs(pairs)
    draw = backtest_spread.differences(pairs)
    blocks = min((d.blocks for d in shown), default=0.0)
    about = (
        f"Mean over start dates of each policy’s figure less that of {pieces.text(against)} from the same date, with its 95 % "
        "interval. Start dates whose simulations overlap are taken as blocks."
    )
    if blocks < FEW_BLOCKS:
        about += f" There are {blocks:.1f} such blocks: take the intervals as rough, or start from more dates, farther apart."
    titles, rows = paired_table(pairs)
    heads = [t if i == 0 else f">{t}" for i, t in enumerate(titles)]
    table = pieces.table(heads, [("", [pieces.text(c) for c in row]) for row in rows])
    caption = f"A point is the mean, the bar its interval; at the dashed line a policy is like {pieces.text(against)}."
    return about, (figure("paired", draw, f"Differences from {against}", caption) if draw is not None else "") + table


def _warnings(made: Compared) -> str:
    return "".join(f"<p><b>Note</b>: {pieces.text(w)}</p>" for w in made.warnings)


def named(point: SweepPoint) -> str:
    """The policy of a point, and what was set for it."""
    return ", ".join([point.row.policy, *(f"{k}={v:g}" for k, v in point.settings)])
