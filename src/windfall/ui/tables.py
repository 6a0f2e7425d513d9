"""Tables for the terminal: a backtest, a run's status. rich is imported when something is printed, not before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from windfall.run.operator import words
from windfall.store.records import Hold
from windfall.ui.events import format_event as format_event
from windfall.ui.reading import safe
from windfall.units import clock_text, duration_text, iso_utc

if TYPE_CHECKING:
    from rich.console import Console

    from windfall.simulate.backtest import Backtest

#: The study's measured run (FACTS 1): its day, budget and figures.
_STUDY_START = "2026-01-11T17:00:00Z"
_STUDY_REGIONS = {"CAISO_NORTH", "SPP_TX", "NEM_SA"}
_STUDY_ROW = ("the study", "prototype", "14.60", "17.86", "37.72", "1.379", "", "", "97.0")
_STUDY_SHARES = {"CAISO_NORTH": "12.1", "SPP_TX": "9.5", "NEM_SA": "11.2", "DE": "5.1"}


def is_study_day(result: Backtest) -> bool:
    """Whether a backtest is of the study's day and budget, so that its measured run may stand beside it."""
    same_grid = iso_utc(result.start) == _STUDY_START and set(result.baselines) >= _STUDY_REGIONS
    return same_grid and result.site_hours is not None and abs(result.site_hours - 17.86) < 0.01


def print_backtest(result: Backtest, console: Console, study: bool = True) -> None:
    """Policies side by side, then each as a share of every region always on. ``study``: with its run, on its day."""
    from rich.table import Table

    with_study = study and is_study_day(result)
    title = f"Backtest from {iso_utc(result.start)}, {result.site_hours:g} site-hours"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("policy", "preset", "hours", "site-h", "kWh", "kg CO2", "starts", "idle h", "inside %"):
        table.add_column(column, justify="left" if column in ("policy", "preset") else "right", no_wrap=True)
    for r in result.rows:
        table.add_row(
            r.policy,
            r.preset,
            "not done" if r.finish_h is None else f"{r.finish_h:.2f}",
            f"{r.site_hours:.2f}",
            f"{r.energy_kwh:.2f}",
            f"{r.kg_co2:.3f}",
            str(r.starts),
            f"{r.idle_h:.2f}",
            _percent(r.share_inside),
        )
    if with_study:
        table.add_row(*_STUDY_ROW, style="dim")
    console.print(table)
    regions = list(result.baselines)
    console.print()
    title = f"kg CO2 as % of one site always on for {result.baseline_site_hours:g} h"
    shares = Table(title=title, title_justify="left", box=None, pad_edge=False)
    shares.add_column("policy", no_wrap=True)
    for region in regions:
        shares.add_column(region, justify="right", no_wrap=True)
    for r in result.rows:
        shares.add_row(
            r.policy, *(_percent(r.kg_co2 / kg if kg and r.kg_co2 is not None else None) for kg in result.baselines.values())
        )
    if with_study:
        shares.add_row("the study", *(_STUDY_SHARES.get(region, "-") for region in regions), style="dim")
    shares.add_row("always on, kg", *("too short" if kg is None else f"{kg:.2f}" for kg in result.baselines.values()), style="bold")
    console.print(shares)
    if any(kg is None for kg in result.baselines.values()):
        console.print("too short: the trace ends before the always-on site would be done", style="dim")
    for warning in result.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)
    console.print(f"simulated in {result.elapsed_s:.2f} s", style="dim", highlight=False)


def print_status(summary: Mapping[str, Any], console: Console) -> None:
    """A run on one screen."""
    from rich.table import Table

    s = summary
    share = s["tokens_committed"] / (s["tokens_budget"] or 1) * 100
    bpb = "not evaluated yet" if s["val_bpb"] is None else f"{s['val_bpb']:.4f} bits per byte (from {s['val_bpb_start']:.4f})"
    inside = "" if s["share_inside"] is None else f", {s['share_inside'] * 100:.1f} % inside windows"
    lines = (
        ("run", f"{s['run_id']}: {s['state']}" + (f" ({safe(s['message'])})" if s["message"] else "")),
        (
            "run time",
            f"{clock_text(s['t_run'])} UTC, {s['run_hours']:.2f} h in" if s["t_run"] is not None else "not started",
        ),
        ("wall time", duration_text(s["wall_seconds"])),
        ("mode", s["mode"]),
        ("tokens", f"{s['tokens_committed']:,} of {s['tokens_budget']:,} ({share:.1f} %), version {s['version']}"),
        ("validation", bpb),
        ("energy", f"{s['energy_kwh']:.3f} kWh, {s['kg_co2']:.3f} kg CO2{inside}"),
        ("blocks", ", ".join(f"{n} {k}" for k, n in s["blocks"].items() if n)),
    )
    for name, value in (*lines, *_hands(s)):
        console.print(f"{name:<11}{value}", markup=False, highlight=False)
    console.print()
    table = Table(box=None, pad_edge=False)
    for column in ("site", "state", "tokens", "kWh", "kg CO2", "starts", "g/kWh", "last decision"):
        table.add_column(
            column,
            justify="left" if column in ("site", "state", "last decision") else "right",
            no_wrap=column != "last decision",
        )
    for name, x in s["sites"].items():
        table.add_row(
            name,
            x["state"],
            f"{x['tokens']:,}",
            f"{x['energy_kwh']:.2f}",
            f"{x['kg_co2']:.3f}",
            str(x["starts"]),
            "-" if x["value"] is None else f"{x['value']:.0f}",
            _plain(last_word(x)),
        )
    console.print(table)


def last_word(site: Mapping[str, Any]) -> str:
    """Why a site of a summary is as it is: the operator's hand, which is over every policy, and then the policy's reason."""
    if not site["held"]:
        return str(site["reason"])
    return f"{site['held']}; the policy: {site['reason']}" if site["reason"] else str(site["held"])


def _hands(s: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What operators keep off, and what they have asked for."""
    found = []
    for h in s["holds"]:
        hold = Hold(h["site"], h["kind"], h["since"], h["until"], h["who"], h["why"])
        found.append(("held", f"{h['site']}: {safe(words(hold))}, since {clock_text(h['since'])} UTC"))
    for a in s["asked"]:
        what = f"{a['kind']} of {a['site']} by {a['who']}"
        what += f" for {duration_text(a['for_s'])}" if a["for_s"] is not None else ""
        found.append(("asked", safe(what + (f": {a['why']}" if a["why"] else "")) + " (asked, not yet noted)"))
    return found


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share * 100:.1f}"


def _plain(reason: str) -> str:
    # Reasons may hold brackets, which rich would take for its markup.
    return safe(reason).replace("[", "\\[")
