"""A backtest as one self-contained page: what came out, what each policy did, what it emitted by when.

The page loads nothing: style and figures are in it, like the report's.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from windfall.config.schema import Config
from windfall.config.signals import SignalTable
from windfall.energy.levels import powers_text
from windfall.errors import StoreError
from windfall.grid.build import Grid, build_grid
from windfall.simulate.backtest import Backtest, Row
from windfall.simulate.work import TrainerModel
from windfall.store.files import write_atomic
from windfall.ui import backtest_figures
from windfall.ui.backtest_late import beside
from windfall.ui.backtest_rows import by_average, columns, deadlines, footnotes, hours, labels, shares
from windfall.ui.page import figures, pieces
from windfall.ui.page.computed_with import computed_with
from windfall.ui.page.figures import Draw
from windfall.units import iso_utc

_WIDE, _NARROW = 1040.0, 440.0
#: Rows that are there to compare with: the page does not lead with them.
_COMPARED = ("oracle", "always", "random_duty")


def write_backtest_page(path: Path, result: Backtest, config: Config) -> None:
    """Write the page of a backtest to ``path``.

    Raises:
        SignalError: a trace of ``config`` cannot be read any more.
        StoreError: the page cannot be written.
    """
    write_page(path, _page(result, config, build_grid(config)))


def write_page(path: Path, page: str) -> None:
    """Write a page, whole or not at all.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, [page.encode()], durable=False)
    except OSError as e:
        raise StoreError(f"{path}: the page cannot be written: {e.strerror}; name another place or give write access") from None


def _page(result: Backtest, config: Config, grid: Grid) -> str:
    drawn = backtest_figures.prepare(result, config, grid)
    title = f"{pieces.text(config.run.name)}: policies compared"
    doing = backtest_figures.lanes(result, config, grid, drawn)
    emitted = backtest_figures.emitted(result, drawn)
    body = [
        f'<header class="top"><h1>{title}</h1><span class="badge">backtest</span></header>',
        f'<p class="sub">{_subtitle(result, config)}</p>',
        f'<div class="hero">{_lead(result)}{_facts(result)}</div>',
        _banner(result, config),
        section("What came out", _explained(result), _headline(result) + _notes(result)),
        section("What each policy did, and when", "", figure("lanes", doing, _LANES, _lanes_caption(result))),
        section("Emissions over time", "", figure("emitted", emitted, _EMITTED, _emitted_caption(result)) + _shares(result)),
    ]
    titles, late = beside(result)
    if titles:
        heads = [t if i == 0 else f">{t}" for i, t in enumerate(titles)]
        cells = [("", [pieces.text(c) for c in row]) for row in late]
        body.append(section("The same with late readings", "", pieces.table(heads, cells)))
    if result.provenance is not None:
        body.append(section("What this was computed with", "", computed_with(result.provenance)))
    body.append(f"<footer>Simulated in {result.elapsed_s:.2f} s. windfall backtest --json prints the same figures.</footer>")
    return document(title, body)


def document(title: str, body: Sequence[str]) -> str:
    """A page of its own with everything in it; ``title`` and ``body`` are HTML."""
    css = resources.files("windfall.ui").joinpath("assets/report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title} · Windfall</title>'
        f"<style>{css}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def section(title: str, about: str, inner: str) -> str:
    """A part of a page; all three are HTML."""
    return f"<section><h2>{title}</h2>{f'<p>{about}</p>' if about else ''}{inner}</section>"


def figure(name: str, draw: Draw | None, label: str, caption: str) -> str:
    """A figure in both widths; a word in its place where there is nothing to draw."""
    if draw is None:
        return "<p>No site has a signal of emissions, so there are none to draw.</p>"
    both = figures.inline(figures.svg(draw, _WIDE), f"{name}-w", "wide", label)
    both += figures.inline(figures.svg(draw, _NARROW), f"{name}-n", "narrow", label)
    return f"<figure>{both}<figcaption>{caption}</figcaption></figure>"


_LANES = "Each policy at each site over time, with the region's signal and windows"
_EMITTED = "kg CO2 by policy over time, and in all"


def _lanes_caption(result: Backtest) -> str:
    common = "The number on the right is the policy’s training hours at the site"
    common += "; an upright stroke marks the end of its budget." if result.target == "budget" else "."
    if result.rows and max(r.span_h for r in result.rows) / 24 > backtest_figures.DAILY_FROM_DAYS:
        return (
            "For each site a row of days: grey, how much of each day the region was inside a window; below, how much of it each "
            f"policy trained there. {common}"
        )
    return (
        "The stepped line is each region’s signal, the dashed line the criterion; grey is the time inside a window. Below, a strip "
        f"for each policy says what the site was doing. Starts take time before they train. {common}"
    )


def _emitted_caption(result: Backtest) -> str:
    refs = " A diamond is a figure from elsewhere." if any(r.get("kg_co2") is not None for r in result.references) else ""
    return (
        "The curves are what each policy had emitted by when, all sites and phases together, starts and stalls included; policies "
        "that emit several times as much are only among the sums. Beside the sums, one site in each region that trains "
        f"{result.baseline_site_hours:,g} hours without interruption (always on).{refs}"
    )


def _subtitle(result: Backtest, config: Config) -> str:
    span = f"{iso_utc(result.start)} to {iso_utc(result.end)}"
    budget = "no budget: as much as is trained" if result.site_hours is None else f"budget {result.site_hours:,.2f} site-hours"
    parts = (span, budget, f"{len(config.site)} sites", f"criterion {_criterion(config)}")
    return pieces.text(" · ".join(parts))


def _criterion(config: Config) -> str:
    kinds = dict.fromkeys(s.signal.type for s in config.site)
    words = {
        "price": f"{config.run.threshold_price_per_mwh:g} {config.site[0].signal.currency}/MWh",
        "curtailed_power": "the site’s demand",
        "surplus_power": "the site’s demand",
    }
    return " or ".join(dict.fromkeys(words.get(k, f"{config.run.threshold_g_per_kwh:g} g CO2/kWh") for k in kinds))


def _best(result: Backtest) -> Row | None:
    """The row to lead with: of the policies that could run, the least kg of a budget, or the largest value without one."""
    rows = [r for r in result.rows if r.policy not in _COMPARED]
    if result.target == "budget":
        done = [r for r in rows if r.finish_h is not None and r.kg_co2 is not None]
        return min(done, key=lambda r: r.kg_co2 or 0.0, default=None)
    return max((r for r in rows if r.share_of_oracle is not None), key=lambda r: r.share_of_oracle or 0.0, default=None)


def _lead(result: Backtest) -> str:
    best = _best(result)
    if best is None:
        why = "No policy finished the budget before the signals ended." if result.target == "budget" else ""
        return f'<div class="lead"><p class="big">{len(result.rows)} <small>policies</small></p><p>{why}</p></div>'
    name = pieces.text(next(n for n, r in zip(labels(result.rows), result.rows, strict=True) if r is best))
    if result.target == "none":
        first = f'<p class="big">{pieces.percent(best.share_of_oracle)} <small>of the oracle</small></p>'
        words = f"<b>{name}</b> comes closest to what could have been had by one who knew the signals to come."
        return f'<div class="lead">{first}<p>{words}</p></div>'
    first = f'<p class="big">{pieces.carbon(best.kg_co2)} <small>kg CO2</small></p>'
    words = f"<b>{name}</b> emits least of the policies that could run, in {best.finish_h or 0.0:,.1f} hours."
    fine = []
    base = [(kg, region) for region, kg in result.baselines.items() if kg]
    if base and best.kg_co2 is not None:
        kg, region = min(base)
        fine.append(
            f"That is {pieces.percent(best.kg_co2 / kg)} of one site in {pieces.text(region)} always on, the cleanest region."
        )
    if best.kg_over_oracle is not None and best.deadline_h is not None:
        fine.append(
            f"It is {best.kg_over_oracle:.2f} times the least with which the same can be trained in {best.deadline_h:,.1f} hours."
        )
    return f'<div class="lead">{first}<p>{words}</p><p class="fine">{" ".join(fine)}</p></div>'


def _facts(result: Backtest) -> str:
    longest = max((r.span_h for r in result.rows), default=0.0)
    cells = (
        ("policies compared", str(len({r.policy for r in result.rows}))),
        ("longest run", f"{longest / 24:,.1f} days" if longest > 96 else f"{longest:,.1f} h"),
        ("budget", "none" if result.site_hours is None else f"{result.site_hours:,.2f} site-h"),
        ("simulated in", f"{result.elapsed_s:.2f} s"),
    )
    return '<div class="facts">' + "".join(f"<div><span>{a}</span><strong>{b}</strong></div>" for a, b in cells) + "</div>"


def _banner(result: Backtest, config: Config) -> str:
    """What is modelled, from the configuration."""
    t = config.backtest.trainer
    starts = TrainerModel.of(config, t.preset).starts.items()
    begun = dict.fromkeys(f"{s.provision_s:,.0f} s of provisioning and {s.load_s:,.0f} s of loading" for _, s in starts)
    start = f"a start is {' or '.join(begun)}"
    stall = ""
    if any(r.preset == "prototype" for r in result.rows):
        stall = f"; preset prototype stands still for {t.stall_s:g} s of every {t.stall_cycle_s:g} s when two or more sites train"
    each = ", ".join(dict.fromkeys(powers_text(s) for s in config.site))
    sources = dict.fromkeys(_source(s.signal) for s in config.site)
    lines = [
        "<b>Nothing was trained</b>: policies, controller and account are those of a real run, the trainer is a model; "
        f"{start}{stall}.",
        f"<b>Power is modelled</b>: {pieces.text(each)} a site while training, by configuration.",
        f"<b>Signals</b>: {pieces.text(', '.join(sources))}.",
    ]
    if any(s.signal.forecast == "perfect" for s in config.site):
        lines.append("<b>Forecasts are perfect</b>: policies that use them see what will really be. No provider's forecast is.")
    lines += [f"<b>Note</b>: {pieces.text(w)}" for w in result.warnings]
    return '<div class="banner"><ul>' + "".join(f"<li>{line}</li>" for line in lines) + "</ul></div>"


def _source(signal: SignalTable) -> str:
    if signal.kind == "synthetic":
        return f"synthetic (generated, seed {signal.seed})"
    path = signal.path or signal.kind
    return path if path.startswith("bundled:") else Path(path).name


def _explained(result: Backtest) -> str:
    parts = ["The oracle knows the signals to come and is what could have been done at best."]
    titles = {c.title for c in columns(result)}
    if "% of oracle" in titles:
        parts.append(
            "<b>% of oracle</b> is the value of a policy’s timing over the best possible in the same time; below zero, staying off "
            "would have been better."
        )
    if "kg / oracle" in titles:
        by = deadlines(result)
        when = f"within {hours(by[0])} hours" if len(by) == 1 else "by the row’s deadline"
        parts.append(f"<b>kg / oracle</b> is a policy’s emissions over the least possible for the same training {when}.")
    if "kWh unknown" in titles:
        parts.append("<b>kWh unknown</b> were used in hours without a reading: they are in no kg, and neither inside nor outside.")
    if by_average(result):
        parts.append("Emissions are by average intensity: no site has a marginal one.")
    return " ".join(parts)


def _headline(result: Backtest) -> str:
    found = columns(result)
    heads = [c.title if c.left else f">{c.title}" for c in found]
    # Figures from elsewhere come after the rows, and quieter.
    rows = [
        ("" if i < len(result.rows) else "phase", [_unbroken(c.cells[i]) if c.left else pieces.text(c.cells[i]) for c in found])
        for i in range(len(result.rows) + len(result.references))
    ]
    return pieces.table(heads, rows)


def _notes(result: Backtest) -> str:
    notes = footnotes(result)
    if not notes:
        return ""
    return "<p>" + "<br>".join(f"({i + 1}) {pieces.text(n)}" for i, n in enumerate(notes)) + "</p>"


def _shares(result: Backtest) -> str:
    regions, rows = shares(result)
    if not regions:
        return ""
    about = f'<p style="margin-top: 26px">kg CO2 as % of one site always on for {result.baseline_site_hours:,g} h, by region:</p>'
    body: list[tuple[str, Sequence[str]]] = [
        ("phase" if reference else "", [_unbroken(name), *cells]) for name, cells, reference in rows
    ]
    body.append(("sum", ["always on, kg", *(pieces.number(kg, 2) for kg in result.baselines.values())]))
    return about + pieces.table(["policy", *(f">{region}" for region in regions)], body)


def _unbroken(text: str) -> str:
    return pieces.text(text).replace(" ", "&nbsp;")
