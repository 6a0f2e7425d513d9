"""Many simulations as one self-contained page: what each policy brought over start dates and settings, and how far it spread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from windfall.config.schema import Config
from windfall.simulate.spread import SpreadPoint
from windfall.simulate.sweep import SweepPoint, SweepSummary
from windfall.ui import backtest_spread
from windfall.ui.backtest_page import document, figure, section, write_page
from windfall.ui.page import pieces
from windfall.ui.terminal.tables_sweep import sweep_table
from windfall.units import iso_utc

_SPREAD = (
    "A dot is one start date, the bar reaches from the 10th to the 90th percentile, the mark in it is the median. Start dates from "
    "which a policy did not finish before the signals ended are not in it, and are counted beside its name. An arrow stands for "
    "values too far below zero to draw."
)
_MEDIAN = "Median over start dates, and the 10th to the 90th percentile in brackets."


def write_sweep_page(
    path: Path, points: Sequence[SweepPoint], found: Sequence[SweepSummary], config: Config, elapsed_s: float
) -> None:
    """Write the page of a sweep, or of one backtest from many start dates, to ``path``.

    Raises:
        StoreError: the page cannot be written.
    """
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
        f"<footer>Simulated in {elapsed_s:.2f} s. windfall backtest --json prints the same figures.</footer>",
    ]
    write_page(path, document(title, body))


def named(point: SweepPoint) -> str:
    """The policy of a point, and what was set for it."""
    return ", ".join([point.row.policy, *(f"{k}={v:g}" for k, v in point.settings)])
