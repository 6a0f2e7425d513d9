"""Tables of the report about what a run cost: beside its alternatives, by site and phase, and in all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from windfall.energy.phases import PHASES
from windfall.store.telemetry_energy import EnergySums
from windfall.ui.page.pieces import carbon, folded, number, percent, table, text
from windfall.units import J_PER_KWH, clock_text
from windfall.view.account import RunAccount
from windfall.view.counterfactuals import Counterfactuals
from windfall.view.series import RunSeries
from windfall.view.state import LostWork, RunState
from windfall.view.windows import HeldSpan, SiteWindows


def comparison(summary: RunState, found: Counterfactuals) -> str:
    """The run and every alternative, at the same tokens."""
    dark = found.unknown_h > 0 or any(r.unknown_h > 0 for r in found.rows)
    paid = list(dict.fromkeys(c for money in (found.money, *(r.money for r in found.rows)) for c in money))
    starts = sum(x.starts for x in summary.sites.values())

    def more(unknown_h: float, money: Mapping[str, float]) -> list[str]:
        return [*([number(unknown_h, 1)] if dark else []), *(number(money.get(c), 2) for c in paid)]

    own = [
        "this run", carbon(found.kg), "", number(found.kwh, 2), number(found.site_hours, 1), number(found.hours, 1), str(starts),
        *more(found.unknown_h, found.money),
    ]  # fmt: skip
    rows: list[tuple[str, Sequence[str]]] = [("sum", own)]
    for r in found.rows:
        name = f"{text(r.name)}, always on" if r.kind == "region" else text(r.name)
        if r.kind == "region" and not r.own:
            name += " (no site there)"
        kg = carbon(r.kg)
        if r.kg_low is not None and r.kg_high is not None:
            kg += f'<br><span class="why">{carbon(r.kg_low)} to {carbon(r.kg_high)}</span>'
        share = percent(r.share) if r.kg is not None else "–"
        if r.kg is None and r.why:
            name += f'<br><span class="why">not computable: {text(r.why)}</span>'
        cells = [
            name, kg, share, number(r.kwh, 2), number(r.site_hours, 1), number(r.finish_h, 1),
            "–" if r.starts is None else str(r.starts), *more(r.unknown_h, r.money),
        ]  # fmt: skip
        rows.append(("", cells))
    heads = [
        "the same tokens by", ">kg CO2", ">this run, of it", ">kWh", ">site-hours", ">done after, h", ">starts",
        *([">hours without a reading"] if dark else []), *(f">{c}" for c in paid),
    ]  # fmt: skip
    return table(heads, rows)


def accounts(summary: RunState, s: RunSeries) -> str:
    """Energy, emissions, tokens and starts by site, and below each by phase; work that came too late where there was any."""
    rows: list[tuple[str, Sequence[str]]] = []
    total = {"seconds": 0.0, "inside": 0.0}
    late = bool(summary.work_lost.tokens)
    behind = any(c.own_joules or c.stored_joules for c in s.costs)

    def origins(parts: Sequence[EnergySums]) -> tuple[str, ...]:
        """kWh from own plants and out of batteries, where a site has any."""
        sums = (sum(c.own_joules for c in parts), sum(c.stored_joules for c in parts))
        return tuple(number(j / J_PER_KWH, 2) for j in sums) if behind else ()

    for name, site in summary.sites.items():
        parts = sorted((c for c in s.costs if c.site == name), key=lambda c: PHASES.index(c.phase) if c.phase in PHASES else 9)
        judged = sum(c.joules - c.unjudged_joules for c in parts)
        inside = sum(c.inside_joules for c in parts)
        total["seconds"] += sum(c.seconds for c in parts)
        total["inside"] += inside
        cells = [
            f"<b>{text(name)}</b>", text(site.region or ""), number(sum(c.seconds for c in parts) / 3600, 2),
            number(site.energy_kwh, 2), *origins(parts), carbon(site.kg_co2), percent(inside / judged if judged > 0 else None),
            f"{site.tokens:,}", str(site.starts), *(_lost(site.work_lost) if late else ()),
        ]  # fmt: skip
        rows.append(("", cells))
        for c in parts:
            known = c.joules - c.unjudged_joules
            cells = [
                c.phase, "", number(c.seconds / 3600, 2), number(c.joules / J_PER_KWH, 2), *origins([c]), carbon(c.grams / 1000),
                percent(c.inside_joules / known if known > 0 else None), "", "", *(("", "") if late else ()),
            ]  # fmt: skip
            rows.append(("phase", cells))
    cells = [
        "all", "", number(total["seconds"] / 3600, 2), number(summary.energy_kwh, 2), *origins(s.costs), carbon(summary.kg_co2),
        percent(summary.share_inside), f"{summary.tokens_committed:,}", str(sum(x.starts for x in summary.sites.values())),
        *(_lost(summary.work_lost) if late else ()),
    ]  # fmt: skip
    rows.append(("sum", cells))
    heads = [
        "site and phase", "region", ">hours drawing power", ">kWh", *((">of them own", ">stored") if behind else ()), ">kg CO2",
        ">inside windows", ">tokens", ">starts", *((">tokens too late", ">kWh for them") if late else ()),
    ]  # fmt: skip
    return table(heads, rows)


def in_all(a: RunAccount) -> str:
    """The whole run: methods side by side, embodied emissions by both conventions, intensity of the software, tokens."""
    t, s = a.tokens, a.sci
    lines: list[tuple[str, str]] = []
    grams = carbon(a.total.kg)
    if a.method == "marginal":
        lines.append(("kg CO2 by marginal intensity: what the run has caused", grams))
        if a.total.average_grams:
            average = carbon(a.total.average_grams / 1000)
            lines.append(("kg CO2 by average intensity: its share of the grid’s; the two never add", average))
    elif a.method == "average":
        lines.append(("kg CO2 by average intensity: its share of the grid’s", grams))
    made = [m for m in a.embodied.values() if m is not None]
    if made:
        lines.append(("kg CO2 of making the hardware, by reserved time", carbon(sum(m.reserved_g for m in made) / 1000)))
        lines.append(("the same, by useful life", carbon(sum(m.useful_g for m in made) / 1000)))
    else:
        lines.append(("kg CO2 of making the hardware", "not configured"))
    lines += [(f"g CO2 per {text(name)}, everything in it", _digits(g)) for name, g in s.per.items() if g is not None]
    lines += [(f"cost of the energy, {text(c)}", number(m, 2)) for c, m in sorted(a.total.money.items())]
    if t.paid == t.committed:
        lines.append(("tokens trained, all of them committed", f"{t.paid:,}"))
    else:
        each = {"committed": t.committed, **({"in hand": t.in_hand} if t.in_hand else {}), "lost": t.lost, "repeated": t.repeated}
        lines.append((f"tokens trained = {' + '.join(each)}", f"{t.paid:,} = {' + '.join(f'{n:,}' for n in each.values())}"))
    lines.append(("share of joules measured", percent(a.measured_share)))
    if a.total.corrected_joules:
        lines.append(("kWh by which late measurements have corrected it", f"{a.total.corrected_joules / J_PER_KWH:+,.3f}"))
    return f'<div class="pairs">{table(("the whole run", ">"), [("", line) for line in lines])}</div>'


def _digits(value: float) -> str:
    """Four significant digits, never as a power of ten."""
    return f"{float(f'{value:.4g}'):,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _lost(work: LostWork) -> tuple[str, str]:
    return (f"{work.tokens:,}", f"{work.kwh:,.3g}") if work.tokens else ("", "")


def windows(found: Sequence[SiteWindows], holds: Sequence[HeldSpan]) -> str:
    """What sites made of their regions' windows, what they missed and why, and when they were held."""
    if not found:
        return ""

    def hours(seconds: float) -> str:
        return number(seconds / 3600, 2)

    rows = [
        ("", (f"<b>{text(w.site)}</b>", str(w.windows), hours(w.inside_s), hours(w.trained_s), hours(w.on_s), hours(w.missed_s)))
        for w in found
    ]
    head = table(("site", ">windows", ">hours in them", ">trained", ">starting or idle", ">missed"), rows)
    parts = sorted(((m, w.site) for w in found for m in w.missed), key=lambda x: (x[0].t0, x[1]))
    missed = [
        ("", (clock_text(m.t0), number((m.t1 - m.t0) / 60, 0, "min"), text(site), text(m.why))) for m, site in parts
    ]  # fmt: skip
    held = [("", (clock_text(h.t0), number((h.t1 - h.t0) / 60, 0, "min"), text(h.site), text(h.words))) for h in holds]
    body = folded(("@missed from, UTC", ">for", "site", "why"), missed, "missed parts of windows") if missed else ""
    return head + body + (folded(("@held from, UTC", ">for", "site", "by whom, and why"), held, "holds") if held else "")
