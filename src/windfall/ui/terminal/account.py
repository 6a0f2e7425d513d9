"""A run's account as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from windfall.units import J_PER_KWH
from windfall.view.account import AccountLine, MicrogridAccount, RunAccount

if TYPE_CHECKING:
    from rich.console import Console


def print_account(a: RunAccount, by: str | None, console: Console) -> None:
    """Lines by site and by phase (or as asked), what became of the tokens, embodied emissions, intensity, the range, and notes."""
    state = f"{a.run_id}: {a.state}" + (", and more may be booked" if a.open else "")
    assumed = f", {_share(a.total.assumed_joules, a.total.joules)} assumed (network)" if a.total.assumed_joules else ""
    _say(console, f"{state}. {a.measured_share * 100:.1f} % of all joules measured{assumed}, the rest modelled. {_method(a)}")
    for kind in (by,) if by else ("site", "phase"):
        console.print()
        _lines(a, kind, console)
    console.print()
    t = a.tokens
    hand = f" + {t.in_hand:,} in hand" if t.in_hand else ""
    _say(console, f"tokens     {t.paid:,} trained = {t.committed:,} committed{hand} + {t.lost:,} lost + {t.repeated:,} repeated")
    if t.lost or t.repeated:
        _say(
            console,
            f"           {a.lost_kwh:,.3f} kWh of training went into lost work, {a.repeated_kwh:,.3f} kWh into repeated work",
        )
    for name, behind in a.microgrids.items():
        for line in _microgrid(behind):
            _say(console, f"microgrid  {name}: {line}")
    for name, m in a.embodied.items():
        if m is not None:
            _say(
                console,
                f"embodied   {name}: {m.reserved_g:,.0f} g of its reserved time, or {m.useful_g:,.0f} g of its useful life",
            )
    s = a.sci
    if s.g_per_kwh is not None:
        hardware = "not known" if s.embodied_g is None else f"{s.embodied_g:,.0f} g"
        _say(console, f"SCI        E {s.energy_kwh:,.3f} kWh, I {s.g_per_kwh:,.1f} g/kWh, M {hardware}")
        each = ", ".join(f"{v:,.4g} g per {name}" for name, v in s.per.items() if v is not None)
        if each:
            _say(console, f"           {each}: all energy, that of lost and repeated work too, over what is committed")
    r = a.range
    if r is not None:
        moved = f"; {r.moved_most_by} moves it most" if r.moved_most_by else ""
        made = " with embodied" if any(m is not None for m in a.embodied.values()) else ""
        _say(console, f"range      {r.low / 1000:,.3f} to {r.high / 1000:,.3f} kg CO2{made} ({r.value / 1000:,.3f}){moved}")
    for note in a.notes:
        _say(console, f"note       {note}", quiet=True)


def _microgrid(m: MicrogridAccount) -> Iterator[str]:
    """What became of what the plants delivered, and of what went through the battery; both close."""
    generated, own, charged, exported, curtailed = (
        f"{j / J_PER_KWH:,.3f}" for j in (m.generated, m.own, m.charged, m.exported, m.curtailed)
    )
    yield f"{generated} kWh generated = {own} taken + {charged} into the battery + {exported} exported + {curtailed} curtailed"
    if m.soc is not None and m.soc_before is not None:
        change = f"{(m.stored_after - m.stored_before) / J_PER_KWH:+,.3f}"
        out, lost = f"{m.discharged / J_PER_KWH:,.3f}", f"{m.lost / J_PER_KWH:,.3f}"
        state = f"{m.soc_before * 100:.1f} to {m.soc * 100:.1f} % charged"
        yield f"{charged} kWh into the battery = {out} out of it + {lost} lost in it, and {change} stored ({state})"


def _method(a: RunAccount) -> str:
    match a.method:
        case "marginal":
            return "kg by marginal intensity (consequential); by average intensity (attributional) beside it: they never add."
        case "average":
            return "kg by average intensity (attributional, location-based)."
        case _:
            return "No signal says what was emitted."


def _lines(a: RunAccount, by: str, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    lines = a.lines(by)
    average = a.method == "marginal" and any(x.average_grams for x in lines)
    currencies = sorted({c for x in lines for c in x.money})
    own = bool(a.microgrids) or any(x.own_joules or x.stored_joules for x in lines)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    heads = [
        by,
        "hours",
        "kWh",
        *(["own", "stored", "grid"] if own else []),
        "measured",
        "corrected",
        "kg CO2",
        *(["average kg"] if average else []),
        "inside",
        *(c or "cost" for c in currencies),
    ]
    for i, head in enumerate(heads):
        table.add_column(Text(head), justify="right" if i else "left", no_wrap=True)
    for x in [*lines, a.total]:
        judged = x.joules - x.unjudged_joules
        cells = [
            x.name, f"{x.seconds / 3600:,.2f}", f"{x.kwh:,.3f}",
            *((f"{j / J_PER_KWH:,.3f}" for j in (x.own_joules, x.stored_joules, x.grid_joules)) if own else ()),
            _share(x.measured_joules, x.joules), _corrected(x),
            "-" if x.kg is None else f"{x.kg:,.3f}", *([f"{x.average_grams / 1000:,.3f}"] if average else []),
            _share(x.inside_joules, judged), *(f"{x.money[c]:,.2f}" if c in x.money else "-" for c in currencies),
        ]  # fmt: skip
        table.add_row(*(Text(c) for c in cells), style="bold" if x is a.total else "")
    console.print(table)


def _corrected(x: AccountLine) -> str:
    return f"{x.corrected_joules / J_PER_KWH:+,.3f}" if x.corrected_joules else ""


def _share(part: float, whole: float) -> str:
    return f"{part / whole * 100:.1f} %" if whole > 0 else "-"


def _say(console: Console, text: str, *, quiet: bool = False) -> None:
    console.print(text, style="dim" if quiet else "", markup=False, highlight=False, soft_wrap=True)
