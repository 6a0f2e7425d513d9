"""The report: one self-contained page about a run, its figures as files, and the summary as JSON.

The page loads nothing: style and figures are in it. It can be written at any time, for a run that is going on too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from windfall.config.schema import Config
from windfall.energy.tariff import level_of
from windfall.errors import StoreError
from windfall.simulate.provenance import Provenance, provenance
from windfall.store.files import to_json, write_atomic
from windfall.store.rundir import RunDir
from windfall.ui.page import bars, costs, figures, headline, pieces
from windfall.ui.page.computed_with import computed_with
from windfall.ui.page.lanes import LaneCriterion, lanes
from windfall.units import UNITS, clock_text, kwh
from windfall.view.account import RunAccount, run_account
from windfall.view.counterfactuals import Counterfactuals, counterfactuals, own_counts
from windfall.view.frames import without_secrets
from windfall.view.moment import one_moment
from windfall.view.recorded import configuration, load_grid
from windfall.view.series import RunSeries, run_series
from windfall.view.state import RunState, run_state
from windfall.view.text import printable
from windfall.view.windows import HeldSpan, SiteWindows, held_spans, site_windows

_WIDE, _NARROW = 1040.0, 440.0


@dataclass(frozen=True, slots=True)
class _Material:
    """Everything that a report is made of, of one moment of the run."""

    config: Config
    summary: RunState
    series: RunSeries
    account: RunAccount
    found: Counterfactuals
    windows: list[SiteWindows]
    holds: list[HeldSpan]
    made: Provenance


def write_report(run: RunDir, command: Sequence[str] = ()) -> Path:
    """Write ``report/`` of a run; the path of the page. ``command``: the arguments by which it was asked for.

    Raises:
        StoreError: there is no run here, or its report folder cannot be written.
        ConfigError: the run's stored configuration cannot be read.
    """
    r = _read(run, command)
    draws = {
        "lanes": lanes(r.series, r.summary.sites, lane_criteria(r.config), r.windows, r.holds),
        "loss": figures.loss(r.series),
        "counterfactuals": bars.counterfactuals(r.found),
        "emissions": figures.emissions(r.series, [*r.found.regions, r.found.of("oracle")]),
    }
    narrow = {name: figures.svg(draw, _NARROW) for name, draw in draws.items()}
    files: dict[str, bytes] = {}
    for name, draw in draws.items():
        formats = ("svg", "pdf", "png") if name == "lanes" else ("svg", "pdf")
        files |= {f"{name}.{f}": made for f, made in zip(formats, figures.drawn(draw, _WIDE, *formats), strict=True)}
    documents = {name: files[f"{name}.svg"].decode() for name in draws}
    files["summary.json"] = (to_json(_as_json(r), indent=2) + "\n").encode()
    files["index.html"] = _page(r, documents, narrow).encode()
    try:
        run.report.mkdir(exist_ok=True)
        for name, data in files.items():
            write_atomic(run.report / name, [data], durable=False)
    except OSError as e:
        raise StoreError(f"{run.report}: the report cannot be written: {e.strerror}; make room or give write access") from None
    return run.report / "index.html"


def _read(run: RunDir, command: Sequence[str]) -> _Material:
    with one_moment(run) as at:
        config = configuration(run)
        summary = run_state(run, at)
        s = run_series(run, at)
        readings = load_grid(config, run, at)
        account = run_account(run, at)
        t = at.telemetry
        end = summary.finished_run or summary.t_run or s.end
        start = summary.started_run or s.start
        holds = held_spans([e for _, e in t.events_of("held", "drain_asked", "released")], end) if t else []
        windows = site_windows(config, readings.grid, t, holds, start, end)
        states = t.states() if t else []
    found = counterfactuals(config, summary, readings, account.rows, s.costs, states, own_counts(run, summary))
    made = provenance(config, readings.grid if readings.traced else None, command)
    return _Material(config, summary, s, account, found, windows, holds, made)


def lane_criteria(config: Config) -> dict[str, LaneCriterion]:
    """By site, what its first signal is judged by, as windows are."""
    found = {}
    for s in config.site:
        unit = UNITS[s.signal.type].replace("currency", s.signal.currency)
        found[s.name] = LaneCriterion(level_of(s, config.run)[0], unit)
    return found


def _as_json(r: _Material) -> dict[str, Any]:
    """The summary with the comparison that the page leads with, every alternative, and what it was computed with."""
    training = [c for c in r.series.costs if c.phase == "training"]
    priced = sum(c.joules - c.unpriced_joules for c in training)
    per_kwh = sum(c.grams for c in training) / kwh(priced) if priced > 0 else None
    best = r.found.headline
    lead = None if best is None else {"region": best.region, "kg_co2": best.kg, "run_share": best.share}
    ranged = r.account.range
    windows = [
        {
            "site": w.site, "windows": w.windows, "inside_h": w.inside_s / 3600, "trained_h": w.trained_s / 3600,
            "missed_h": w.missed_s / 3600, "missed": [{"t0": m.t0, "t1": m.t1, "by": m.by, "why": m.why} for m in w.missed],
        }
        for w in r.windows
    ]  # fmt: skip
    return {
        **r.summary.as_json(), "g_per_kwh_training": per_kwh, "money": r.account.total.money, "headline": lead,
        "kg_range": None if ranged is None else [ranged.low / 1000, ranged.value / 1000, ranged.high / 1000],
        "counterfactuals": without_secrets(r.found.as_json()), "windows": without_secrets(windows),
        "provenance": without_secrets(r.made.as_json()),
    }  # fmt: skip


def _page(r: _Material, wide: Mapping[str, str], narrow: Mapping[str, str]) -> str:
    css = resources.files("windfall.ui").joinpath("assets/report.css").read_text(encoding="utf-8")
    summary, config, s = r.summary, r.config, r.series
    title = pieces.text(summary.run_id or config.run.name)
    state = pieces.text(summary.state)
    said = f'<p class="sub">{pieces.text(summary.message)}</p>' if summary.message else ""

    def figure(name: str, label: str, caption: str, kind: str = "") -> str:
        both = figures.inline(wide[name], f"{name}-w", "wide", label)
        both += figures.inline(narrow[name], f"{name}-n", "narrow", label)
        return f'<figure class="{kind}">{both}<figcaption>{caption}</figcaption></figure>'

    body = [
        f'<header class="top"><h1>{title}</h1><span class="badge {state}">{state}</span></header>',
        f'<p class="sub">{headline.subtitle(summary, config)}</p>{said}',
        f'<div class="hero">{headline.lead(summary, r.account, r.found)}{headline.facts(summary, r.account, r.found)}</div>',
        headline.banner(config, summary),
        _section("What the sites did, and why", "", figure("lanes", _LANES, _lanes_caption(r)) + costs.windows(r.windows, r.holds)),
        _section("What was learned", "", figure("loss", "Validation bits per byte over tokens and over run time", _LOSS, "loss")),
        _section(
            "The same tokens in any other way",
            _equal_tokens(r),
            figure("counterfactuals", "kg CO2 of the run and of each alternative at the same tokens", _COUNTER, "half")
            + figure("emissions", "Cumulative kg CO2 of the run, of each region always on and of the oracle", _EMISSIONS, "half")
            + costs.comparison(summary, r.found),
        ),
        _section("Account", _ACCOUNT, costs.accounts(summary, s) + costs.in_all(r.account)),
        _section("Decisions that changed something", "", pieces.decisions(s), "long" if len(s.changes) > _PRINTED else ""),
        _section("Changes of configuration", _CHANGES, pieces.changes(summary)) if summary.changes else "",
        _section("Events of note", "", pieces.notable(s), "" if 0 < len(s.notable) <= _PRINTED else "long"),
        _section("Versions", f"Each commit made one. {_by_mode(summary)}", pieces.versions(s), "long"),
        _samples(config, s),
        _section("What this report was computed with", _trained_by(r), computed_with(r.made)),
        _section("What it does not say", "", _limits(r)),
        f"<footer>Read from ledger and telemetry{_moment(summary.t_run)}. Figures (SVG, PDF) and summary.json lie beside this "
        "page.</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title} · Windfall</title>'
        f"<style>{css}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _moment(t_run: float | None) -> str:
    return "" if t_run is None else f" at run time {clock_text(t_run)} UTC"


def _section(title: str, about: str, inner: str, kind: str = "") -> str:
    """``kind`` long: on paper it is left out, as the databases have it."""
    css = f' class="{kind}"' if kind else ""
    return f"<section{css}><h2>{title}</h2>{f'<p>{about}</p>' if about else ''}{inner}</section>"


#: Versions whose text is shown.
_SAMPLES = 4
#: Rows of a table that fit on a printed page beside the rest.
_PRINTED = 14
_LANES = "One lane per site: signal, criterion and states over run time"
_LOSS = (
    "Each point is one evaluated version on the same held-out text; its colour, and that of the line leading to it, is "
    "the mode that made it: blue local, green federated. The faint line behind is the training loss of single steps, "
    "on a scale of its own: look at its shape, not its height. Axes are logarithmic where the values need it. On the "
    "right, hours without a step are hours in which the run was paused."
)
_EMISSIONS = (
    "The thick line is this run, all sites and phases together; it climbs only while a site draws power. Each thin "
    "line is the same tokens in one region that never stops; dashed regions have no site in this run. The dotted line is "
    "the oracle, which knew all readings to come and had the run's own time. Numbers at the ends are kg CO2."
)
_COUNTER = (
    "A line across a bar spans the 10th to the 90th percentile of the run’s own on-periods at random times. Rules begin when the "
    "run began; the oracle knew every reading to come, and had the run’s own time."
)
_ACCOUNT = (
    "Power of each phase times the region’s reading, interval by interval. Hours count what drew power: provisioning "
    "at 0 W is not in them. Inside windows means: while the reading was under the criterion."
)

_CHANGES = (
    "The run was resumed with these; what had been decided, booked and trained before stays as it was. The rest of this page "
    "speaks of the configuration as it is now."
)


def _lanes_caption(r: _Material) -> str:
    criteria = lane_criteria(r.config)
    levels = {(c.level, c.unit) for c in criteria.values()}
    if len(levels) == 1:
        ((level, unit),) = levels
        said = f"{level:g} {pieces.text(unit)}"
    else:
        said = ", ".join(f"{pieces.text(n)} {c.level:g} {pieces.text(c.unit)}" for n, c in criteria.items())
    return (
        f"The stepped line is each region’s signal as it became known; the dashed line is the criterion of {said}. The solid strip "
        "under a lane says what the site was doing, the tint above it when it trained. Hatched are the parts of windows in which a "
        "site was off; the table says why."
    )


def _equal_tokens(r: _Material) -> str:
    hours, watts = r.summary.training_hours, r.summary.mean_training_watts
    own = f"{hours:,.2f} site-hours at {watts:,.0f} W" if watts else "site-hours, of which there are none yet"
    return (
        f"The {r.found.tokens:,} committed tokens, at the pace and power that the run’s own sites had ({own}) and with their own "
        "starts, under each region’s own readings. Always on is without a start and without an interruption."
    )


def _limits(r: _Material) -> str:
    """What the figures rest on and leave out."""
    notes = [*r.account.notes, *r.found.notes]
    notes.append("energy of the coordinator and of storage is in no figure")
    notes.append("alternatives are computed, not run; the quality of what they would have trained is not known")
    return f"<ul>{''.join(f'<li>{pieces.text(n[:1].upper() + n[1:])}.</li>' for n in dict.fromkeys(notes))}</ul>"


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
    return _section("Sample text", about, inner, "long")


def _trained_by(r: _Material) -> str:
    by = f"The run itself was Windfall {', then '.join(map(pieces.text, r.summary.windfall))}." if r.summary.windfall else ""
    head = r.account.versions[-1] if r.account.versions else None
    weights = f" Weights of version {head.version}: SHA-256 {pieces.text(head.sha256[:16])}." if head is not None else ""
    return by + weights
