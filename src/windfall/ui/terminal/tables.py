"""Tables for the terminal: a backtest, a run's status. rich is imported when something is printed, not before."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from windfall.run.requests import words
from windfall.store.configurations import change_text
from windfall.store.records import Hold
from windfall.ui.backtest_late import beside
from windfall.ui.backtest_rows import by_average, columns, explained, fitting, footnotes, shares
from windfall.units import clock_text, counted, duration_text, iso_utc
from windfall.view.state import RunState, SiteState
from windfall.view.text import safe

if TYPE_CHECKING:
    from rich.console import Console

    from windfall.simulate.backtest import Backtest

#: Changes of the configuration that a status shows.
_CHANGES = 5


#: From so many columns on reasons stand beside what they are about.
WIDE = 110
#: What is waited for is shown only after so long (s).
_WORTH_A_WORD_S = 2.0


def print_backtest(result: Backtest, console: Console, *, details: bool = False) -> None:
    """Policies and figures from elsewhere side by side, then each as a share of every region always on.

    Where the console is narrow the least important columns are left out, and named.
    """
    from rich.table import Table
    from rich.text import Text

    kept, left_out, gap = fitting(columns(result, details=details), console.width)
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    for column in kept:
        table.add_column(column.head, justify="left" if column.left else "right", no_wrap=True, vertical="bottom")
    for i in range(len(result.rows) + len(result.references)):
        table.add_row(*(Text(c.cells[i]) for c in kept), style="" if i < len(result.rows) else "dim")
    console.print(_title(result), style="italic", markup=False, highlight=False)
    console.print(table)
    if about := explained(result, kept):
        _quietly(console, about)
    for i, note in enumerate(footnotes(result)):
        _quietly(console, f"({i + 1}) {note}")
    if by_average(result):
        _quietly(console, "kg CO2 are by average intensity: no site has a marginal one")
    if left_out:
        _quietly(console, f"no room for {', '.join(left_out)}: widen the terminal, send it into a pipe or file, or see --json")
    _print_shares(result, console)
    _print_late(result, console)
    for warning in result.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)
    _quietly(console, f"simulated in {result.elapsed_s:.2f} s")


def _title(result: Backtest) -> str:
    start = iso_utc(result.start)
    if result.target == "none":
        return f"Backtest from {start} to {iso_utc(result.end)}, without a budget"
    return f"Backtest from {start}" + ("" if result.site_hours is None else f", {result.site_hours:.4g} site-hours")


def _print_shares(result: Backtest, console: Console) -> None:
    """Emissions against each region always on, as many regions beside each other as fit."""
    from rich.table import Table
    from rich.text import Text

    regions, rows = shares(result)
    if not regions:
        return
    always = "always on, kg"
    first = max(len(always), *(len(name) for name, _, _ in rows))
    widths = [max(len(region), 8) + 2 for region in regions]
    title = f"kg CO2 as % of one site always on for {result.baseline_site_hours:,.4g} h"
    at = 0
    while at < len(regions):
        upto, room = at, console.width - first
        while upto < len(regions) and (upto == at or widths[upto] <= room):
            room -= widths[upto]
            upto += 1
        console.print()
        console.print(title, style="italic", markup=False, highlight=False)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("policy", no_wrap=True)
        for region in regions[at:upto]:
            table.add_column(Text(region), justify="right", no_wrap=True)
        for name, cells, reference in rows:
            table.add_row(Text(name), *cells[at:upto], style="dim" if reference else "")
        kilograms = list(result.baselines.values())[at:upto]
        table.add_row(always, *("-" if kg is None else f"{kg:,.2f}" for kg in kilograms), style="bold")
        console.print(table)
        at = upto
    for region, part in result.partly.items():
        kg = "nothing" if part.kg is None else f"{part.kg:,.2f} kg in the others"
        of = f"{part.unknown_h:,.1f} of these {result.baseline_site_hours:,.4g} h have no reading ({kg})"
        _quietly(console, f"- {region}: {of}")
    if any(kg is None and region not in result.partly for region, kg in result.baselines.items()):
        _quietly(console, "-: the region's signal is no emission intensity")


def _print_late(result: Backtest, console: Console) -> None:
    """What late readings cost, as far as it fits: the figures that matter most come first."""
    from rich.table import Table
    from rich.text import Text

    titles, rows = beside(result)
    if not titles:
        return
    console.print()
    console.print("The same with late readings", style="italic", markup=False, highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, title in enumerate(titles):
        table.add_column(title.replace(", ", "\n"), justify="right" if i else "left", no_wrap=True, vertical="bottom")
    for cells in rows:
        table.add_row(*(Text(c) for c in cells))
    console.print(table)


def _quietly(console: Console, text: str) -> None:
    console.print(text, style="dim", markup=False, highlight=False)


def print_status(s: RunState, console: Console) -> None:
    """A run on one screen."""
    from rich.table import Table

    share = s.tokens_committed / (s.tokens_budget or 1) * 100
    bpb = "not evaluated yet" if s.val_bpb is None else f"{s.val_bpb:.4f} bits per byte (from {s.val_bpb_start:.4f})"
    inside = "" if s.share_inside is None else f", {s.share_inside * 100:.1f} % inside windows"
    kg = "emissions unknown" if s.kg_co2 is None else f"{s.kg_co2:.3f} kg CO2"
    partly = s.kg_co2 is not None and s.unpriced_kwh > 0
    unknown = f" ({s.unpriced_kwh:.3f} of them without a reading)" if partly else ""
    measured = f", {s.measured_share * 100:.1f} % of it measured" if s.measured_share else ""
    lines = (
        ("run", f"{s.run_id}: {s.state}" + (f" ({safe(s.message)})" if s.message else "")),
        (
            "run time",
            f"{clock_text(s.t_run)} UTC, {s.run_hours:.2f} h in" if s.t_run is not None else "not started",
        ),
        ("wall time", duration_text(s.wall_seconds)),
        ("mode", s.mode),
        ("tokens", f"{s.tokens_committed:,} of {s.tokens_budget:,} ({share:.1f} %), version {s.version}"),
        ("validation", bpb),
        ("energy", f"{s.energy_kwh:.3f} kWh{unknown}{measured}, {kg}{inside}"),
        ("blocks", ", ".join(f"{n} {k}" for k, n in s.blocks.items() if n)),
        *([("lost", lost)] if (lost := lost_text(s)) is not None else []),
    )
    waits = waiting_text(s)
    waiting = [("waiting", f"for {waits}")] if waits is not None else []
    files = [("files", text) for text in transfer_texts(s)]
    doing = [("at work", text) for text in doing_texts(s)]
    platforms = [("platform", text) for text in platform_texts(s)]
    for name, value in (*lines, *waiting, *files, *doing, *platforms, *_hands(s)):
        _hanging(console, f"{name:<11}", value)
    console.print()
    # Where there is little room the reasons stand below the figures, whole, and not in a column of a few letters.
    wide = console.width >= WIDE
    table = Table(box=None, pad_edge=False)
    for column in ("site", "state", "tokens", "kWh", "kg CO2", "starts", "signal", *(["last decision"] if wide else [])):
        table.add_column(
            column,
            justify="left" if column in ("site", "state", "last decision") else "right",
            no_wrap=column not in ("site", "last decision"),
            overflow="fold",
        )
    for name, x in s.sites.items():
        table.add_row(
            name,
            x.state,
            f"{x.tokens:,}",
            f"{x.energy_kwh:.2f}",
            "-" if x.kg_co2 is None else f"{x.kg_co2:.3f}",
            str(x.starts),
            "-" if x.value is None else f"{x.value:.0f}",
            *([_plain(last_word(x))] if wide else []),
        )
    console.print(table)
    if not wide:
        console.print()
        for name, x in s.sites.items():
            if said := safe(last_word(x)):
                _hanging(console, f"{name}: ", said, indent=2)


def _hanging(console: Console, label: str, value: str, indent: int | None = None) -> None:
    """A label and what is said of it; further lines begin below the latter (or ``indent`` in)."""
    room = max(console.width - 1, 20)
    hang = " " * (len(label) if indent is None else indent)
    for line in textwrap.wrap(label + value, room, subsequent_indent=hang) if len(label + value) > room else [label + value]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def waiting_text(s: RunState) -> str | None:
    """``texas: its processes are starting, 12 s``: what a gated clock stands for, where it does for a while."""
    waiting = s.waiting
    if waiting is None or waiting["seconds"] < _WORTH_A_WORD_S:
        return None
    return f"{safe(waiting['for'])}, {duration_text(waiting['seconds'])}"


def transfer_texts(s: RunState) -> list[str]:
    """``texas sends delta, 120 of 561 MB, 12 s``: each large file that is on its way, and what hinders it."""
    found = []
    for x in s.transfers:
        what = f"{x['site']} {'sends' if x['direction'] == 'up' else 'fetches'} {safe(x['name'])}"
        trouble = f" ({safe(x['trouble'])})" if x["trouble"] else ""
        found.append(f"{what}, {x['done'] / 1e6:,.0f} of {x['of'] / 1e6:,.0f} MB, {duration_text(x['seconds'])}{trouble}")
    return found


def platform_texts(s: RunState) -> list[str]:
    """What sites' platforms say while they start or stop, a line each."""
    return [f"{site}: {safe(words)}" for site, words in s.platforms.items()]


def doing_texts(s: RunState) -> list[str]:
    """``texas: a step: polar factors, 84 s``: what sites are at that takes them a while."""
    return [f"{x['site']}: {safe(x['what'])}, {duration_text(x['seconds'])}" for x in s.doing]


def lost_text(s: RunState) -> str | None:
    """``8,192 tokens and an estimated 0.5 kWh came too late: texas 8,192 tokens, 0.5 kWh``; None where nothing is lost."""
    total = s.work_lost
    if not total.tokens:
        return None
    kwh = f" and an estimated {total.kwh:.3g} kWh" if total.kwh else ""
    return f"{total.tokens:,} tokens{kwh} came too late: " + "; ".join(
        f"{name} {of.tokens:,} tokens" + (f", {of.kwh:.3g} kWh" if of.kwh else "")
        for name, of in ((name, x.work_lost) for name, x in s.sites.items())
        if of.tokens
    )


def last_word(site: SiteState) -> str:
    """Why a site of a summary is as it is: an operator's hold, which overrides every policy, and then the policy's reason."""
    if not site.held:
        return site.reason
    return f"{site.held}; the policy: {site.reason}" if site.reason else site.held


def _hands(s: RunState) -> list[tuple[str, str]]:
    """What operators keep off, what they have asked for, and the signals that are not heard."""
    found = []
    for h in s.holds:
        hold = Hold(h["site"], h["kind"], h["since"], h["until"], h["who"], h["why"])
        found.append(("held", f"{h['site']}: {safe(words(hold))}, since {clock_text(h['since'])} UTC"))
    for a in s.asked:
        what = f"{a['what']} by {a['who']}"
        what += f" for {duration_text(a['for_s'])}" if a["for_s"] is not None else ""
        found.append(("asked", safe(what + (f": {a['why']}" if a["why"] else "")) + " (asked, not yet noted)"))
    for lost in s.signals_lost:
        found.append(("not heard", f"{safe(str(lost['reason']))}, since {clock_text(lost['since'])} UTC"))
    changed = s.changes
    for c in changed[-_CHANGES:]:
        since = "at the next start" if c["t_run"] is None else f"since {clock_text(c['t_run'])} UTC"
        found.append(("changed", f"{safe(change_text(c['key'], c['old'], c['new']))}, {since}"))
    if len(changed) > _CHANGES:
        found.append(("", f"and {counted(len(changed) - _CHANGES, 'change')} before (`windfall events`)"))
    return found


def _plain(reason: str) -> str:
    # Reasons may hold brackets, which rich would take for its markup.
    return safe(reason).replace("[", "\\[")
