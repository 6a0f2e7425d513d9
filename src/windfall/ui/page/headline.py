"""The head of the report: emissions with their range, what they are compared with, the other figures, and what is real in it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

from windfall.config.schema import Config
from windfall.config.signals import SignalTable
from windfall.energy.levels import powers_text
from windfall.ui.page.pieces import carbon, number, percent, text
from windfall.units import duration_text, iso_utc
from windfall.view.account import RunAccount
from windfall.view.counterfactuals import Counterfactuals
from windfall.view.state import RunState


def lead(summary: RunState, account: RunAccount, found: Counterfactuals) -> str:
    """The first thing on the page: emissions, how far off they may be, and what they are compared with."""
    best = found.headline
    kg = summary.kg_co2
    first = f'<p class="big">{carbon(kg)} <small>kg CO2</small></p>'
    unknown = summary.unpriced_kwh
    if kg is None:
        first = f'<p class="big">{number(summary.energy_kwh, 2)} <small>kWh; no signal says what was emitted</small></p>'
    else:
        first += _range(account)
        if unknown > 0:
            first += f'<p class="fine">{number(unknown, 2, "kWh")} were used in hours without a reading, and are in no kg.</p>'
    if best is None:
        why = next((b.why for b in found.regions if b.why), "no region of this run can be computed")
        why = f"The comparison with a site that is always on is not computable: {text(why)}."
        return f'<div class="lead">{first}<p>{why}</p></div>'
    return (
        f'<div class="lead">{first}<p><b>{percent(best.share)}</b> of what the same tokens would have emitted in '
        f"{text(best.region)}, always on ({carbon(best.kg)} kg).</p>"
        f'<p class="fine">{text(best.region)} is the cleanest of this run’s own regions; every alternative is in '
        f"the table below. {percent(summary.share_inside)} of all energy was used inside "
        "curtailment windows.</p></div>"
    )


def _range(account: RunAccount) -> str:
    r = account.range
    if r is None:
        return ""
    made = f"; {carbon(r.value / 1000)} with the making of the hardware" if any(account.embodied.values()) else ""
    moved = f". What moves this most: {text(r.moved_most_by)}" if r.moved_most_by else ""
    return f'<p class="fine">{carbon(r.low / 1000)} to {carbon(r.high / 1000)} kg by what is assumed of its parts{made}{moved}.</p>'


def facts(summary: RunState, account: RunAccount, found: Counterfactuals) -> str:
    """The figures beside it."""
    start, end = summary.val_bpb_start, summary.val_bpb
    best = found.headline
    money = " + ".join(f"{m:,.2f} {text(c)}" for c, m in sorted(account.total.money.items()))
    times = "–" if best is None or best.share is None else f"{best.share:,.3g} ×"
    cells = (
        ("tokens", f"{summary.tokens_committed:,}"),
        ("validation bits per byte", "–" if end is None else f"{start:.2f} → {end:.3f}"),
        ("energy, all phases", number(summary.energy_kwh, 2, "kWh")),
        ("cost of the energy", money or "–"),
        ("times the cleanest baseline", times),
        ("run time; wall time", f"{number(summary.run_hours, 1, 'h')}; {duration_text(summary.wall_seconds)}"),
    )
    return '<div class="facts">' + "".join(f"<div><span>{a}</span><strong>{b}</strong></div>" for a, b in cells) + "</div>"


def banner(config: Config, summary: RunState) -> str:
    """What is real and what is modelled, from the configuration."""
    powers = {powers_text(s) for s in config.site}
    each = f"{max(powers)} per site"
    if len(powers) > 1:
        each = ", ".join(f"{s.name} {powers_text(s)}" for s in config.site)
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
