"""The report: one self-contained page about a run, its figures as files, and the summary as JSON.

The page loads nothing: style and figures are in it. It can be written at any time, for a run that is going on too.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from windfall.config.schema import Config
from windfall.errors import StoreError
from windfall.simulate.provenance import Provenance, provenance
from windfall.store.files import to_json, write_atomic
from windfall.store.rundir import RunDir
from windfall.ui.page import figures, pieces
from windfall.ui.page.computed_with import computed_with
from windfall.units import clock_text, kwh
from windfall.view.counterfactuals import Counterfactuals, counterfactuals, own_counts
from windfall.view.frames import without_secrets
from windfall.view.moment import one_moment
from windfall.view.recorded import configuration, load_grid
from windfall.view.series import RunSeries, run_series
from windfall.view.state import RunState, run_state
from windfall.view.text import printable

_WIDE, _NARROW = 1040.0, 440.0


def write_report(run: RunDir) -> Path:
    """Write ``report/`` of a run; the path of the page.

    Raises:
        StoreError: there is no run here, or its report folder cannot be written.
        ConfigError: the run's stored configuration cannot be read.
    """
    with one_moment(run) as at:
        summary = run_state(run, at)
        config = configuration(run)
        s = run_series(run, at)
        readings = load_grid(config, run, at)
        tables = at.telemetry
        rows, states = (tables.energy(), tables.states()) if tables else ([], [])
    found = counterfactuals(config, summary, readings, rows, s.costs, states, own_counts(run, summary))
    criterion = config.run.threshold_g_per_kwh
    draws = {
        "lanes": figures.lanes(s, summary.sites, criterion),
        "loss": figures.loss(s),
        "emissions": figures.emissions(s, found.regions),
        "counterfactuals": figures.counterfactuals(found),
    }
    documents = {name: figures.svg(draw, _WIDE) for name, draw in draws.items()}
    narrow = {name: figures.svg(draw, _NARROW) for name, draw in draws.items()}
    made = provenance(config, readings.grid if readings.traced else None)
    page = _page(run, config, summary, s, found, documents, narrow, made)
    files = {f"{name}.svg": document.encode() for name, document in documents.items()}
    files |= {f"{name}.pdf": figures.pdf(draw, _WIDE) for name, draw in draws.items()}
    files["lanes.png"] = figures.png(draws["lanes"], _WIDE)
    files["summary.json"] = (to_json(_as_json(summary, found, s, made), indent=2) + "\n").encode()
    files["index.html"] = page.encode()
    try:
        run.report.mkdir(exist_ok=True)
        for name, data in files.items():
            write_atomic(run.report / name, [data], durable=False)
    except OSError as e:
        raise StoreError(f"{run.report}: the report cannot be written: {e.strerror}; make room or give write access") from None
    return run.report / "index.html"


def _as_json(summary: RunState, found: Counterfactuals, s: RunSeries, made: Provenance) -> dict[str, Any]:
    """The summary with the comparison that the page leads with, and what it was computed with."""
    training = [c for c in s.costs if c.phase == "training"]
    priced = sum(c.joules - c.unpriced_joules for c in training)
    intensity = sum(c.grams for c in training) / kwh(priced) if priced > 0 else None
    best = found.headline
    lead = None if best is None else {"region": best.region, "kg_co2": best.kg, "run_share": best.share}
    return {
        **summary.as_json(), "g_per_kwh_training": intensity, "headline": lead,
        "counterfactuals": without_secrets(found.as_json()), "provenance": without_secrets(made.as_json()),
    }  # fmt: skip


def _page(
    run: RunDir, config: Config, summary: RunState, s: RunSeries, found: Counterfactuals,
    wide: Mapping[str, str], narrow: Mapping[str, str], made: Provenance,
) -> str:  # fmt: skip
    css = resources.files("windfall.ui").joinpath("assets/report.css").read_text(encoding="utf-8")
    title = pieces.text(summary.run_id or config.run.name)
    state = pieces.text(summary.state)
    said = f'<p class="sub">{pieces.text(summary.message)}</p>' if summary.message else ""

    def figure(name: str, label: str, caption: str) -> str:
        both = figures.inline(wide[name], f"{name}-w", "wide", label)
        both += figures.inline(narrow[name], f"{name}-n", "narrow", label)
        return f"<figure>{both}<figcaption>{caption}</figcaption></figure>"

    body = [
        f'<header class="top"><h1>{title}</h1><span class="badge {state}">{state}</span></header>',
        f'<p class="sub">{pieces.subtitle(summary, config)}</p>{said}',
        f'<div class="hero">{pieces.lead(summary, found)}{pieces.facts(summary)}</div>',
        pieces.banner(config, summary),
        _section("What the sites did, and why", "", figure("lanes", _LANES, _lanes_caption(config, s))),
        _section("What was learned", "", figure("loss", "Validation bits per byte over tokens and over run time", _LOSS)),
        _section(
            "Emissions against one site that is always on",
            _equal_tokens(summary),
            figure("emissions", "Cumulative kg CO2 of the run and of each region always on", _EMISSIONS)
            + figure("counterfactuals", "kg CO2 of the run and of each alternative at the same tokens", _COUNTER)
            + pieces.comparison(summary, found),
        ),
        _section("Energy account", _ACCOUNT, pieces.accounts(summary, s)),
        _section("Versions", f"Each commit made one. {_by_mode(summary)}", pieces.versions(s)),
        _section("Decisions that changed something", "", pieces.decisions(s)),
        _section("Changes of configuration", _CHANGES, pieces.changes(summary)) if summary.changes else "",
        _section("Events of note", "", pieces.notable(s)),
        _samples(config, s),
        _section("What this report was computed with", _trained_by(summary), computed_with(made)),
        f"<footer>Read from ledger and telemetry{_moment(summary.t_run)}. Figures and summary.json lie beside this page.</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title} · Windfall</title>'
        f"<style>{css}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _moment(t_run: float | None) -> str:
    return "" if t_run is None else f" at run time {clock_text(t_run)} UTC"


def _section(title: str, about: str, inner: str) -> str:
    return f"<section><h2>{title}</h2>{f'<p>{about}</p>' if about else ''}{inner}</section>"


#: Versions whose text is shown.
_SAMPLES = 4
_LANES = "One lane per site: signal, criterion and states over run time"
_LOSS = (
    "Each point is one evaluated version on the same held-out text; its colour, and that of the line leading to it, is "
    "the mode that made it: blue alone, green together. The faint line behind is the training loss of single steps, "
    "on a scale of its own: look at its shape, not its height. Axes are logarithmic where the values need it. On the "
    "right, hours without a step are hours in which the run was paused."
)
_EMISSIONS = (
    "The thick line is this run, all sites and phases together; it climbs only while a site draws power. Each thin "
    "line is the same training in one region that never stops; dashed regions have no site in this run. Numbers at "
    "the ends are kg CO2."
)
_COUNTER = (
    "The same tokens, in every other way: thin lines span the 10th to the 90th percentile of random times. Rules and oracle train "
    "at this run’s own measured pace and power, with its own starts."
)
_ACCOUNT = (
    "Power of each phase times the region’s reading, interval by interval. Hours count what drew power: provisioning "
    "at 0 W is not in them. Inside windows means: while the reading was under the criterion."
)

_CHANGES = (
    "The run was resumed with these; what had been decided, booked and trained before stays as it was. The rest of this page "
    "speaks of the configuration as it is now."
)


def _lanes_caption(config: Config, s: RunSeries) -> str:
    return (
        f"The stepped line is each region’s signal ({pieces.text(s.unit)}) as it became known; the dashed line is the "
        f"criterion of {config.run.threshold_g_per_kwh:g}. The solid strip under a lane says what the site was doing, "
        "the tint above it when it trained. A good schedule trains where the line is low, and is not there where it is "
        "high."
    )


def _equal_tokens(summary: RunState) -> str:
    hours, watts = summary.training_hours, summary.mean_training_watts
    own = f"{hours:,.2f} site-hours at {watts:,.0f} W" if watts else "site-hours, of which there are none yet"
    return (
        f"Equal tokens are taken as equal training hours: the run’s own {own}, without interruption from the run’s "
        "start, under each region’s own readings."
    )


def _by_mode(summary: RunState) -> str:
    parts = [f"{n:,} tokens {pieces.text(mode)}" for mode, n in summary.tokens_by_mode.items()]
    moves = summary.joins_and_leaves
    done = ", ".join(parts) or "Nothing is committed yet"
    lost = summary.work_lost
    late = f" {lost.tokens:,} tokens (an estimated {lost.kwh:.3g} kWh) came too late and are lost."
    late = late if lost.tokens else ""
    return f"{done}; sites joined {moves['joins']} and left {moves['leaves']} times.{late}"


def _samples(config: Config, s: RunSeries) -> str:
    """What some versions wrote, from the first to the last."""
    if not s.samples:
        return ""
    known = sorted(s.samples, key=lambda sample: sample.version)
    shown = [known[i] for i in sorted({round(k * (len(known) - 1) / (_SAMPLES - 1)) for k in range(_SAMPLES)})]
    bpb = {v.version: v.val_bpb for v in s.versions}
    prompt = config.data.sample_prompt
    after = f"after “{pieces.text(prompt)}”" if prompt else "from a document’s beginning"
    about = f"Written {after} at the site that evaluated the version, drawn with the same seed each time, as it came out."
    heads = [f"version {x.version}, {pieces.number(bpb.get(x.version), 3)} bits per byte" for x in shown]
    texts = [pieces.text(printable(prompt + x.text)) for x in shown]
    inner = "".join(f"<h3>{head}</h3><pre>{wrote}</pre>" for head, wrote in zip(heads, texts, strict=True))
    return _section("Sample text", about, inner)


def _trained_by(summary: RunState) -> str:
    return f"The run itself was Windfall {', then '.join(map(pieces.text, summary.windfall))}." if summary.windfall else ""
