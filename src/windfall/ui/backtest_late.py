"""What late readings cost: the same policies with readings known at once and later, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from windfall.ui.backtest_rows import figure, labels, late, share

if TYPE_CHECKING:
    from windfall.simulate.backtest import Backtest, Row


def beside(result: Backtest) -> tuple[list[str], list[list[str]]]:
    """Column titles and cells; empty where everything was simulated with one delay."""
    if not result.late:
        return [], []
    delays = list(dict.fromkeys(r.publication_delay_s for r in result.late))
    first = result.rows[0].publication_delay_s if result.rows else None
    known = [late(d) if d else "at once" for d in (first, *delays)]
    budget = result.target == "budget"
    judged = budget and any(r.kg_over_oracle is not None for r in result.rows)
    last = ("kg / oracle", _ratio) if judged else ("% of oracle", _share)
    figures = [("hours" if budget else "site-h", _hours if budget else _trained), ("kg CO2", _kg), last]
    titles = ["policy", *(f"{what}, {when}" for what, _ in figures for when in known)]
    later = {(_key(r), r.publication_delay_s): r for r in result.late}
    cells = []
    for name, row in zip(labels(result.rows), result.rows, strict=True):
        found = [later.get((_key(row), d)) for d in delays]
        if any(found):
            cells.append([name, *(form(r) if r else "-" for _, form in figures for r in (row, *found))])
    return titles, cells


def _key(r: Row) -> tuple[str, str, float | None]:
    return r.policy, r.preset, r.deadline_h if r.policy in ("budgeted", "oracle") else None


def _hours(r: Row) -> str:
    return "not done" if r.finish_h is None else figure(r.finish_h, 2)


def _trained(r: Row) -> str:
    return figure(r.site_hours, 1)


def _kg(r: Row) -> str:
    return figure(r.kg_co2, 3)


def _ratio(r: Row) -> str:
    return figure(r.kg_over_oracle, 3)


def _share(r: Row) -> str:
    return share(r.share_of_oracle)
