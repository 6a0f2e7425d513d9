"""Tables for the terminal: a sweep, a ranking of regions, a plan, a replay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from windfall.simulate.paired import FEW_BLOCKS
from windfall.simulate.regions import ranked_by
from windfall.units import clock_text, iso_utc
from windfall.view.pairs import pair_name, shown_pairs

if TYPE_CHECKING:
    from rich.console import Console

    from windfall.config.schema import Config
    from windfall.simulate.paired import PairedDifference
    from windfall.simulate.plan import Plan
    from windfall.simulate.regions import RankedRegion
    from windfall.simulate.replay import ReplayReport
    from windfall.simulate.sweep import SweepSummary

Triple = tuple[float, ...] | None
#: Figure, title and form. Of the last two a budget is judged by the second, and what has none by the first.
_COLUMNS = (
    ("finish_h", "hours", "{:.1f}"), ("site_hours", "site-h", "{:.1f}"), ("kg_co2", "kg CO2", "{:.3g}"),
    ("money", "money", "{:.3g}"),
    ("share_of_oracle", "of oracle %", "{:.1f}"), ("kg_over_oracle", "kg / oracle", "{:.2f}"),
    ("unknown_kwh", "kWh unknown", "{:.2f}"),
)  # fmt: skip
_MEDIAN = "median over start dates, and the 10th to the 90th percentile in brackets"
#: From so many columns on heads stand on one line.
_WIDE = 110


def sweep_table(found: Sequence[SweepSummary], config: Config) -> tuple[list[str], list[list[str]]]:
    """Column titles, and a row for every policy and choice of settings: median, the 10th to the 90th percentile behind it."""
    keys = list(dict.fromkeys(k for s in found for k, _ in s.settings))
    budget = config.backtest.target == "budget"
    delays = {s.publication_delay_s for s in found}
    shown = [w for w in _COLUMNS if any(w[0] in s.figures for s in found) and (budget or w[0] != "finish_h")]
    if all(s.figures.get("unknown_kwh", (0.0,))[-1] == 0 for s in found):
        shown = [w for w in shown if w[0] != "unknown_kwh"]
    if any(w[0] == "kg_over_oracle" for w in shown):
        shown = [w for w in shown if w[0] != "share_of_oracle"]
    titles = ["policy", *keys, *(["late by, s"] if len(delays) > 1 else []), "start dates", *(title for _, title, _ in shown)]
    rows = []
    for s in found:
        settings = dict(s.settings)
        deadline = "" if s.deadline_h is None else f" by {s.deadline_h:g} h"
        late = [f"{s.publication_delay_s or 0:g}"] if len(delays) > 1 else []
        count = f"{s.finished} of {s.start_dates}" if s.finished != s.start_dates else str(s.start_dates)
        figures = [_stacked(s.figures.get(k), form, 100.0 if k == "share_of_oracle" else 1.0) for k, _, form in shown]
        rows.append([s.policy + deadline, *(f"{settings[k]:g}" for k in keys), *late, count, *figures])
    return titles, rows


def paired_table(pairs: Sequence[PairedDifference]) -> tuple[list[str], list[list[str]]]:
    """Column titles, and a row for every policy beside the one that others are compared with: mean and interval by figure."""
    against, shown = shown_pairs(pairs)
    figures = list(dict.fromkeys(d.figure for d in shown))
    titles = {key: (title, form, 100.0 if key == "share_of_oracle" else 1.0) for key, title, form in _COLUMNS}
    rows: dict[str, dict[str, str]] = {}
    counts: dict[str, str] = {}
    for d in shown:
        _, form, factor = titles[d.figure]
        signed = form.replace("{:", "{:+")
        text = signed.format(factor * d.mean)
        if d.low is not None and d.high is not None:
            text += f"\n({signed.format(factor * d.low)} to {signed.format(factor * d.high)})"
        rows.setdefault(pair_name(d), {})[d.figure] = text
        counts.setdefault(pair_name(d), str(d.start_dates))
    heads = [f"less {against}", "start dates", *(titles[f][0] for f in figures)]
    return heads, [[name, counts[name], *(own.get(f, "-") for f in figures)] for name, own in rows.items()]


def print_sweep(found: Sequence[SweepSummary], simulations: int, elapsed_s: float, config: Config, console: Console) -> None:
    """A sweep's table."""
    from rich.table import Table

    titles, rows = sweep_table(found, config)
    table = Table(title=f"{simulations} simulations", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in titles:
        # A head of several words takes several lines, and what still does not fit is wrapped: nothing is cut.
        head = title.replace(" / ", " /\n").replace(", ", ",\n") if console.width < _WIDE else title
        table.add_column(head, justify="left" if title == "policy" else "right", overflow="fold", vertical="bottom")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    budget = config.backtest.target == "budget"
    console.print(_MEDIAN + ("; figures are of finished runs" if budget else ""), style="dim")
    console.print(f"simulated in {elapsed_s:.2f} s", style="dim", highlight=False)


def print_paired(pairs: Sequence[PairedDifference], console: Console) -> None:
    """Differences from one policy; nothing where there are none."""
    from rich.table import Table

    titles, rows = paired_table(pairs)
    if rows:
        table = Table(
            title="Differences from the same start dates", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
        )
        for title in titles:
            table.add_column(title, justify="left" if title == titles[0] else "right", overflow="fold", vertical="bottom")
        for row in rows:
            table.add_row(*row)
        console.print()
        console.print(table)
        blocks = min(d.blocks for d in pairs)
        said = "mean, and its 95 % interval; start dates whose simulations overlap count as one block"
        few = f"; only {blocks:.1f} blocks: take intervals as rough" if blocks < FEW_BLOCKS else ""
        console.print(said + few, style="dim", highlight=False)


def print_ranking(ranked: Sequence[RankedRegion], config: Config, console: Console) -> None:
    """Regions, best first."""
    from rich.table import Table

    budget = config.backtest.target == "budget"
    policy = ranked[0].policy if ranked else config.policy.name
    title = f"One site in each region under {policy}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    money_title = [", ".join(sorted({r.currency for r in ranked if r.money}))] if any(r.money for r in ranked) else []
    table.add_column("region", overflow="fold")
    value = ["net value h"] if not budget and any(r.net_value_h for r in ranked) else []
    for title in ("start dates", *value, "hours" if budget else "h trained", "kg CO2", *money_title, "time used %", "of oracle %"):
        table.add_column(title, justify="right", overflow="fold")
    for r in ranked:
        count = f"{r.finished} of {r.start_dates}" if r.finished != r.start_dates else str(r.start_dates)
        money = _stacked(r.money, "{:.2f}")
        table.add_row(
            r.region, count, *([_stacked(r.net_value_h, "{:.1f}")] if value else []), _stacked(r.hours, "{:.1f}"),
            _stacked(r.kg_co2, "{:.3g}"), *([money] if money_title else []), _stacked(r.utilisation, "{:.1f}", 100.0),
            _stacked(r.share_of_oracle, "{:.1f}", 100.0),
        )  # fmt: skip
    console.print(table)
    begins = {(r.begin, r.end) for r in ranked}
    when = "" if len(begins) != 1 else f", {iso_utc(ranked[0].begin)} to {iso_utc(ranked[0].end)}"
    console.print(f"ranked by {ranked_by(config)}{when}; {_MEDIAN}", style="dim", highlight=False)
    if len(begins) > 1:
        for r in ranked:
            console.print(f"{r.region}: {iso_utc(r.begin)} to {iso_utc(r.end)}", style="dim", markup=False, highlight=False)
    for r in ranked:
        if r.unknown_kwh is not None and r.unknown_kwh[-1] > 0:
            dark = f"{r.region}: {_spread(r.unknown_kwh, '{:.2f}')} kWh were used in hours without a reading, and are in no kg"
            console.print(dark, style="dim", markup=False, highlight=False)
    if value:
        said = "net value h: the schedule is worth as much as so many hours of training on a signal of 0"
        console.print(said, style="dim", highlight=False)
    if budget and any(r.finished < r.start_dates for r in ranked):
        said = "start dates: those from which the budget was trained before the signals ended; figures are of these"
        console.print(said, style="dim")


def print_replay(found: ReplayReport, console: Console) -> None:
    """Whether a recorded run's decisions came out again."""
    if not found.ticks:
        console.print("the run has recorded no decision yet: there is none to make again", highlight=False)
        return
    if not found.differences:
        console.print(
            f"{found.decisions} decisions of {found.policy} in {found.ticks} ticks: every one came out as recorded", highlight=False
        )
        return
    for d in found.differences[:10]:
        console.print(f"{iso_utc(d.t)} {d.site}: recorded {d.recorded}, now {d.now}", markup=False, highlight=False)
    if len(found.differences) > 10:
        console.print(f"and {len(found.differences) - 10} more", highlight=False)


def print_plan(plan: Plan, console: Console) -> None:
    """The days to come, then the whole budget."""
    from rich.table import Table

    title = f"From {iso_utc(plan.at)} under {plan.policy}: what {plan.draws} draws from {plan.history_days} past days bring"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    names = list(plan.likely)
    for title in ("day", "site"):
        table.add_column(title, no_wrap=True)
    for title in ("h in windows", "h training", "tokens, all sites"):
        table.add_column(title, justify="right", no_wrap=True)
    for d in plan.days:
        for i, n in enumerate(names):
            first = (clock_text(d.start), _spread(d.tokens, "{:.2g}")) if i == 0 else ("", "")
            table.add_row(first[0], n, _spread(d.hours_inside[n], "{:.1f}"), _spread(d.hours_training[n], "{:.1f}"), first[1])
    console.print(table)
    console.print()
    for name in names:
        reach = plan.forecast_h[name]
        how = f"forecast for {reach:.0f} h, then past days" if reach else "no forecast: past days"
        console.print(f"{name}: how likely its region is inside a window, hour by hour ({how})", markup=False, highlight=False)
        for day in range(0, len(plan.likely[name]), 24):
            bar = "".join("·▁▂▃▄▅▆▇█"[min(8, round(p * 8))] for p in plan.likely[name][day : day + 24])
            console.print(f"  {clock_text(plan.at + day * 3600)} |{bar}|", markup=False, highlight=False)
    console.print()
    if plan.finish_h is None:
        console.print(f"the budget of {plan.budget_tokens:,} tokens was not trained within 120 days in any draw", highlight=False)
        return
    low, mid, high = (clock_text(plan.at + 3600 * h) for h in plan.finish_h)
    console.print(f"{plan.budget_tokens:,} tokens: done {mid} UTC ({low} to {high})", highlight=False)
    money = "" if plan.money is None else f", money {_spread(plan.money, '{:.2f}')}"
    kg = "" if plan.kg_co2 is None else f", {_spread(plan.kg_co2, '{:.3g}')} kg CO2"
    console.print(f"{_spread(plan.energy_kwh, '{:.3g}')} kWh{kg}{money}", highlight=False)
    if plan.finished < plan.draws:
        console.print(f"in {plan.draws - plan.finished} of {plan.draws} draws it was not done within 120 days", style="yellow")
    console.print("median, and the 10th to the 90th percentile in brackets", style="dim")


def _spread(triple: Triple, form: str, times: float = 1.0) -> str:
    if triple is None:
        return "-"
    low, mid, high = (form.format(x * times) for x in triple)
    return mid if low == high else f"{mid} ({low}–{high})"


def _stacked(triple: Triple, form: str, times: float = 1.0) -> str:
    """The same on two lines, for tables of many columns."""
    return _spread(triple, form, times).replace(" (", "\n(")
