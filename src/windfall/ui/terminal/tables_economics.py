"""Economics for the terminal: one table of bills, and what follows from it in sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from windfall.simulate.fleet_size import sites_needed
from windfall.units import counted, iso_utc

if TYPE_CHECKING:
    from rich.console import Console

    from windfall.simulate.economics import Bill, Economics
    from windfall.simulate.siting import SitedRegion

#: How many figures of the sensitivity are told; `--figures` and `--json` have all.
_MOST_MOVING = 3
_YEAR_DAYS = 365.2425
#: A bill's parts, named as everywhere: here, in figures, in `--json` and in `--csv`.
PARTS = ("hardware", "energy", "link", "traffic", "people", "later_model")
_ALWAYS_SHOWN = ("hardware", "energy", "people")
_IN_RENT = ("energy", "link", "traffic")


def money(value: float) -> str:
    """An amount with the digits that it deserves."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:,.2f}" if size >= 1 else f"{value:.4f}" if size >= 0.001 else f"{value:.3g}"


def long_time(days: float) -> str:
    """Hours, days or years."""
    if days < 3:
        return f"{days * 24:,.1f} h"
    return f"{days:,.1f} days" if days < _YEAR_DAYS else f"{days / _YEAR_DAYS:,.1f} years"


def bills_table(e: Economics) -> tuple[list[str], list[list[str]]]:
    """Column titles, and a row for each way to train the budget."""
    names = [n for n in PARTS if n in _ALWAYS_SHOWN or any(getattr(b, n) for b in e.bills)]
    titles = [
        f"{e.currency} a million tokens", f"{e.currency} in all", *(n.replace("_", " ") for n in names), "duty %", "takes",
        "kg CO2",
    ]  # fmt: skip
    rows = []
    for b in e.bills:
        rented = b.name.startswith("rented")
        parts = ["in rent" if rented and n in _IN_RENT else money(getattr(b, n)) for n in names]
        kg = "-" if b.kg is None else f"{b.kg:,.3g}"
        duty = "-" if rented else f"{b.duty * 100:.1f}"
        rows.append([b.name, money(b.outlay.per_unit), money(b.total), *parts, duty, long_time(b.days), kg])
    return ["", *titles], rows


def print_economics(e: Economics, console: Console) -> None:
    """The table, then break-even, waiting, sensitivity, fleet and battery."""
    from rich.table import Table

    title = f"{e.budget_tokens:,} tokens under {e.policy} at {counted(e.sites, 'site')}, {iso_utc(e.begin)} to {iso_utc(e.end)}"
    titles, rows = bills_table(e)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, head in enumerate(titles):
        table.add_column(head, justify="right" if i else "left", overflow="fold", vertical="bottom")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print()
    for text in sentences(e):
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    for note in e.notes:
        console.print(f"note: {note}", style="dim", markup=False, highlight=False, soft_wrap=True)


def sentences(e: Economics) -> list[str]:
    """What follows from the bills, a line each."""
    found = []
    if e.finished > 1:
        low, _, high = e.per_million_tokens_over_dates
        days = e.days_over_dates
        found.append(
            f"start dates  {e.finished} of {e.start_dates} finished: {money(low)} to {money(high)} {e.currency} a million tokens "
            f"(10th to 90th percentile), {long_time(days[0])} to {long_time(days[2])}"
        )
    elif e.start_dates > 1:
        found.append(f"start dates  {e.finished} of {e.start_dates} finished; the bills are of this one")
    found.append(f"break-even   {_break_even(e)}")
    if e.waiting is not None:
        found.append(f"waiting      {_waiting(e)}")
    moving = e.sensitivity[:_MOST_MOVING]
    if moving:
        told = "; ".join(f"{s.figure} {money(min(s.smaller, s.larger))} to {money(max(s.smaller, s.larger))}" for s in moving)
        found.append(f"moves most   {told} {e.currency} a million tokens")
    if e.own.embodied_kg is not None and e.own.kg is not None:
        always = f", always on {e.bills[1].embodied_kg:,.3g} kg" if e.waiting is not None else ""
        found.append(
            f"embodied     making the hardware: {e.own.embodied_kg:,.3g} kg CO2 of the owned time{always}; never in kg CO2"
        )
    found.append(f"fleet        {_fleet(e)}")
    if e.battery:
        found.append(f"battery      {_battery(e)}")
    return found


def _break_even(e: Economics) -> str:
    b = e.break_even
    price = "" if b.rented_per_gpu_h is None else f"a rented GPU-hour at {money(b.rented_per_gpu_h)} {e.currency}"
    if b.duty is None:
        rented = any(x.name.startswith("rented") for x in e.bills)
        why = "running alone costs what renting does" if rented else "set rented_per_gpu_h to compare with a rent"
        return f"owning costs as much as {price}; {why}"
    if b.duty > 1:
        return f"owning is dearer than the rent at any duty; it costs as much as {price}"
    side = "above" if b.used >= b.duty else "below"
    return (
        f"owning pays from {b.duty * 100:.1f} % of the hardware's life in use on; here it is {b.used * 100:.1f} %, {side} that, "
        f"and costs as much as {price}"
    )


def _waiting(e: Economics) -> str:
    w = e.waiting
    assert w is not None
    if w.days_later <= 0:
        return "training in windows is not slower than always on here"
    more = "cost" if w.extra >= 0 else "save"
    text = f"windows take {long_time(w.days_later)} longer and {more} {money(abs(w.extra))} {e.currency} over always on"
    late = f", {money(w.later_model)} for a later model" if w.later_model else ""
    text += f" ({money(w.owning)} owning, {money(w.energy)} energy{late})"
    text += f": {money(w.per_day or 0.0)} {e.currency} a day"
    if w.kg_avoided is not None and w.kg_avoided > 0:
        text += f"; {w.kg_avoided:,.3g} kg CO2 less" + (
            f", {money(w.per_tonne_avoided)} {e.currency} a tonne" if w.per_tonne_avoided else ""
        )
    return text


def _fleet(e: Economics) -> str:
    if not e.fleet:
        return "the regions' signals have no time in common"
    last = e.fleet[-1]
    reached, in_all = sites_needed(e.fleet, e.open_share)
    wanted = f"{e.open_share * 100:g} % of the time"
    if reached is not None:
        size = e.fleet[reached - 1]
        names = ", ".join(f.region for f in e.fleet[:reached])
        return f"{counted(reached, 'site')} ({names}) for one to be in a window {wanted}: {size.open_share * 100:.1f} %"
    told = (
        f"{counted(last.sites, 'site')} in all regions here: one is in a window {last.open_share * 100:.1f} % of the time, at the "
        f"longest {last.longest_closed_h:,.0f} h none"
    )
    return told + (f"; {wanted} would take {in_all} or more, if others were as open and independent" if in_all is not None else "")


def _battery(e: Economics) -> str:
    none, best = e.battery[0], min(e.battery, key=lambda b: b.per_million_tokens)
    if best.hours == 0:
        dear = e.battery[1]
        would = f"{money(dear.per_million_tokens)} {e.currency} a million tokens"
        return f"none pays: {dear.hours:g} h of training power would make it {would}"
    size = "the largest size looked at" if best is e.battery[-1] else "the best of these sizes"
    return (
        f"{best.kwh_per_site:,.4g} kWh a site ({best.hours:g} h of training power), {size}: "
        f"{money(best.per_million_tokens)} instead of {money(none.per_million_tokens)} {e.currency} a million tokens, duty "
        f"{best.duty * 100:.1f} %"
    )


def print_sited(found: Sequence[SitedRegion], currency: str, policy: str, by: str, console: Console) -> None:
    """Regions, best first."""
    from rich.table import Table

    title = f"One site in each region under {policy}, best first by {by}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("region", overflow="fold")
    heads = (
        "start dates",
        f"{currency} a million tokens",
        "g CO2 a million tokens",
        "years to finish",
        "duty %",
        f"{currency}/MWh paid",
    )
    for head in heads:
        table.add_column(head, justify="right", overflow="fold", vertical="bottom")
    for r in found:
        count = f"{r.finished} of {r.start_dates}" if r.finished != r.start_dates else str(r.start_dates)
        table.add_row(
            r.region, count, _or_dash(r.per_million_tokens, money), _or_dash(r.kg_per_million_tokens, lambda v: f"{v * 1000:.3g}"),
            _or_dash(r.years, lambda v: f"{v:,.3g}"), _or_dash(r.duty, lambda v: f"{v * 100:.1f}"),
            _or_dash(r.power_per_mwh, money),
        )  # fmt: skip
    console.print(table)
    if any(r.finished < r.start_dates for r in found):
        said = "start dates: those from which the budget was trained before the signals ended; figures are of these"
        console.print(said, style="dim")


def _or_dash(value: float | None, form: Callable[[float], str]) -> str:
    return "-" if value is None else form(value)


def parts_of(bill: Bill) -> list[tuple[str, float]]:
    """A bill's parts by name, without those that are nothing."""
    return [(name.replace("_", " "), value) for name in PARTS if (value := getattr(bill, name))]
