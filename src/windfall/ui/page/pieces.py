"""Pieces of the report's page: headline, banner and tables. Every text that is not ours passes ``text``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import PurePath

from windfall.config.schema import Config
from windfall.config.signals import SignalTable
from windfall.energy.phases import PHASES
from windfall.store.configurations import change_text
from windfall.store.telemetry_energy import EnergySums
from windfall.units import J_PER_KWH, clock_text, duration_text, iso_utc
from windfall.view.counterfactuals import Counterfactuals
from windfall.view.events import what_happened
from windfall.view.series import RunSeries
from windfall.view.state import LostWork, RunState
from windfall.view.text import safe

#: Rows of a table beyond which it is folded away.
_LONG = 12
#: Rows that a table shows at most; the databases keep the rest.
_MOST = 400


def text(value: object) -> str:
    """A text of the run as HTML."""
    return escape(safe(str(value)))


def percent(share: float | None) -> str:
    """``9.1 %``; a dash for nothing."""
    return "–" if share is None else f"{share * 100:.1f} %"


def number(value: float | None, digits: int, unit: str = "") -> str:
    """``1,234.5 kWh``; a dash for nothing."""
    return "–" if value is None else f"{value:,.{digits}f}" + (f" {unit}" if unit else "")


def carbon(kg: float | None) -> str:
    """kg with the digits that it deserves."""
    return number(kg, 3 if kg is not None and kg < 10 else 1)


def table(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table. A column named ``>kg`` is right-aligned, ``@time`` is quiet; a row is (class, cells of HTML)."""
    kinds = [{">": "n", "@": "t"}.get(c[:1], "") for c in columns]
    head = "".join(f'<th class="{k}">{escape(c.lstrip(">@"))}</th>' for c, k in zip(columns, kinds, strict=True))
    body = "".join(
        f'<tr class="{css}">' + "".join(f'<td class="{k}">{c}</td>' for c, k in zip(cells, kinds, strict=True)) + "</tr>"
        for css, cells in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def folded(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], what: str) -> str:
    """A table, behind a click where it is long."""
    cut = f"<p>The first {_MOST} of {len(rows)} are shown.</p>" if len(rows) > _MOST else ""
    inner = table(columns, rows[:_MOST]) + cut
    if len(rows) <= _LONG:
        return inner
    return f"<details><summary>Show all {len(rows)} {what}</summary>{inner}</details>"


def dot(mode: str) -> str:
    """A mark in a mode's colour."""
    known = mode if mode in ("local", "federated") else "paused"
    return f'<span class="dot" style="background:var(--c-{known})"></span>'


def lead(summary: RunState, found: Counterfactuals) -> str:
    """The first thing on the page: emissions, and what they are compared with."""
    best = found.headline
    kg = summary.kg_co2
    first = f'<p class="big">{carbon(kg)} <small>kg CO2</small></p>'
    unknown = summary.unpriced_kwh
    if kg is None:
        first = f'<p class="big">{number(summary.energy_kwh, 2)} <small>kWh; no signal says what was emitted</small></p>'
    elif unknown > 0:
        first += f'<p class="fine">{number(unknown, 2, "kWh")} were used in hours without a reading, and are in no kg.</p>'
    if best is None:
        why = next((b.why for b in found.regions if b.why), "no region of this run can be computed")
        why = f"The comparison with a site that is always on is not computable: {text(why)}."
        return f'<div class="lead">{first}<p>{why}</p></div>'
    return (
        f'<div class="lead">{first}<p><b>{percent(best.share)}</b> of what the same training would have emitted in '
        f"{text(best.region)}, always on, at equal tokens ({carbon(best.kg)} kg).</p>"
        f'<p class="fine">{text(best.region)} is the cleanest of this run’s own regions; all are in '
        f"the table below. {percent(summary.share_inside)} of all energy was used inside "
        "curtailment windows.</p></div>"
    )


def facts(summary: RunState) -> str:
    """The four figures beside it."""
    start, end = summary.val_bpb_start, summary.val_bpb
    bpb = "–" if end is None else f"{start:.2f} → {end:.3f}"
    cells = (
        ("validation bits per byte", bpb),
        ("energy, all phases", number(summary.energy_kwh, 2, "kWh")),
        ("run time", number(summary.run_hours, 2, "h")),
        ("wall time", duration_text(summary.wall_seconds)),
    )
    return '<div class="facts">' + "".join(f"<div><span>{a}</span><strong>{b}</strong></div>" for a, b in cells) + "</div>"


def banner(config: Config, summary: RunState) -> str:
    """What is real and what is modelled, from the configuration."""
    watts = {s.train_power_w for s in config.site}
    each = f"{max(watts):,.0f} W per site"
    if len(watts) > 1:
        each = ", ".join(f"{s.name} {s.train_power_w:,.0f} W" for s in config.site)
    sources = dict.fromkeys(_source(s.signal) for s in config.site)
    scaled = config.run.clock == "scaled"
    where = "processes on one machine" if all(s.driver == "local" for s in config.site) else "clusters"
    lines = [
        f"<b>Training is real</b>: a {config.model.depth}-layer model, every step took place; its sites are {where}.",
        _power(summary.measured_share, f"{text(each)} while training, by configuration"),
        f"<b>Signals</b>: {text(', '.join(sources))} ({'replayed time' if scaled else 'calendar time'}).",
    ]
    if scaled:
        lines.append(
            f"<b>Time is replayed</b>, at most {config.run.speed:,.0f} seconds of run time per second; "
            "site speeds and spin-up times in run time are those of the configuration."
        )
    return '<div class="banner"><ul>' + "".join(f"<li>{line}</li>" for line in lines) + "</ul></div>"


def _power(measured: float, model: str) -> str:
    """How much of the energy was measured, and what the rest is."""
    if not measured:
        return f"<b>Power is modelled</b>, not measured: {model}."
    rest = f"; the rest is modelled: {model}" if measured < 1 - 1e-9 else ""
    return f"<b>Power is measured</b> for {percent(measured)} of all joules{rest}."


def _source(signal: SignalTable) -> str:
    if signal.kind == "synthetic":
        return f"synthetic (generated, seed {signal.seed})"
    if signal.live:
        return f"{signal.kind} (live)"
    path = signal.path or ""
    return path if path.startswith("bundled:") else PurePath(path).name


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
            kg += f" ({carbon(r.kg_low)} to {carbon(r.kg_high)})"
        share = percent(r.share) if r.kg is not None else f'<span class="why">not computable: {text(r.why)}</span>'
        cells = [
            name, kg, share, number(r.kwh, 2), number(r.site_hours, 1), number(r.finish_h, 1),
            "–" if r.starts is None else str(r.starts), *more(r.unknown_h, r.money),
        ]  # fmt: skip
        rows.append(("", cells))
    heads = [
        "the same tokens by", ">kg CO2", ">this run, of it", ">kWh", ">site-hours", ">done after, h", ">starts",
        *([">hours without a reading"] if dark else []), *(f">{c}" for c in paid),
    ]  # fmt: skip
    notes = "".join(f"<p>{text(n)}.</p>" for n in found.notes)
    return table(heads, rows) + notes


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
        rows.append(
            (
                "",
                (
                    f"<b>{text(name)}</b>",
                    text(site.region or ""),
                    number(sum(c.seconds for c in parts) / 3600, 2),
                    number(site.energy_kwh, 2),
                    *origins(parts),
                    carbon(site.kg_co2),
                    percent(inside / judged if judged > 0 else None),
                    f"{site.tokens:,}",
                    str(site.starts),
                    *(_lost(site.work_lost) if late else ()),
                ),
            )
        )
        rows += [
            (
                "phase",
                (
                    c.phase,
                    "",
                    number(c.seconds / 3600, 2),
                    number(c.joules / J_PER_KWH, 2),
                    *origins([c]),
                    carbon(c.grams / 1000),
                    percent(c.inside_joules / (c.joules - c.unjudged_joules) if c.joules > c.unjudged_joules else None),
                    "",
                    "",
                    *(("", "") if late else ()),
                ),
            )
            for c in parts
        ]
    rows.append(
        (
            "sum",
            (
                "all",
                "",
                number(total["seconds"] / 3600, 2),
                number(summary.energy_kwh, 2),
                *origins(s.costs),
                carbon(summary.kg_co2),
                percent(summary.share_inside),
                f"{summary.tokens_committed:,}",
                str(sum(x.starts for x in summary.sites.values())),
                *(_lost(summary.work_lost) if late else ()),
            ),
        )
    )
    return table(
        (
            "site and phase",
            "region",
            ">hours drawing power",
            ">kWh",
            *((">of them own", ">stored") if behind else ()),
            ">kg CO2",
            ">inside windows",
            ">tokens",
            ">starts",
            *((">tokens too late", ">kWh for them") if late else ()),
        ),
        rows,
    )


def _lost(work: LostWork) -> tuple[str, str]:
    return (f"{work.tokens:,}", f"{work.kwh:,.3g}") if work.tokens else ("", "")


def versions(s: RunSeries) -> str:
    """Every version."""
    rows = [
        (
            "",
            (
                str(v.version),
                clock_text(v.t_run),
                dot(v.mode) + text(v.mode),
                f"{v.tokens:,}",
                f"{v.tokens_total:,}",
                number(v.val_bpb, 4),
                text(", ".join(f"{n} {k:,}" for n, k in sorted(v.sites.items()))),
            ),
        )
        for v in s.versions
    ]
    if not rows:
        return "<p>None yet.</p>"
    return folded((">version", "@run time, UTC", "mode", ">tokens", ">in all", ">val bits per byte", "from"), rows, "versions")


def decisions(s: RunSeries) -> str:
    """Decisions that turned a site on or off, with their reasons."""
    rows = [("", (clock_text(c.t_run), text(c.site), text(c.wanted), text(c.reason))) for c in s.changes]
    return folded(("@run time, UTC", "site", "", "reason"), rows, "decisions") if rows else "<p>None yet.</p>"


def notable(s: RunSeries) -> str:
    """Failures, refusals and warnings."""
    rows = [
        ("", (clock_text(e.t_run), text(e.site or "run"), text(e.kind.replace("_", " ")), text(what_happened(e))))
        for e in s.notable
    ]
    return folded(("@run time, UTC", "site", "kind", "what"), rows, "events") if rows else "<p>Nothing out of the ordinary.</p>"


def changes(summary: RunState) -> str:
    """What was changed in the configuration while the run went on."""
    rows = [
        ("", (clock_text(c["t_run"]) if c["t_run"] is not None else "next start", text(change_text(c["key"], c["old"], c["new"]))))
        for c in summary.changes
    ]
    return folded(("@run time, UTC", "from then on"), rows, "changes")


def subtitle(summary: RunState, config: Config) -> str:
    """One line under the title."""
    parts: Iterable[str] = (
        f"{summary.tokens_committed:,} of {summary.tokens_budget:,} tokens",
        f"{len(summary.sites)} sites",
        f"policy {config.policy.name}",
        f"criterion {config.run.threshold_g_per_kwh:g} g CO2/kWh",
        f"version {summary.version}" if summary.version is not None else "no version yet",
    )
    when = f", from {iso_utc(summary.started_run)}" if summary.started_run is not None else ""
    return text(" · ".join(parts) + when)
