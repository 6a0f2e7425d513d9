"""A run's page: its frame with the first picture in words. Scripts draw the figures; without them tables are in their place."""

from __future__ import annotations

import json
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool

from windfall.run.requests import LIVE_KEYS, OF_SITES
from windfall.ui.page.pieces import text
from windfall.ui.web import page_tables
from windfall.ui.web.assets import address
from windfall.ui.web.html import document, holder
from windfall.ui.web.look import RunLook, Whole
from windfall.ui.web.looks import Looks
from windfall.ui.web.page_list import footer
from windfall.ui.web.words import words
from windfall.view.event_pages import EventPage

#: Events in the first picture.
_EVENTS = 40


async def made(
    looks: Looks, look: RunLook, *, tables: bool, t0: float | None, t1: float | None, before: int | None, search: str, proof: str,
    many: bool,
) -> str:  # fmt: skip
    """The page. ``tables``: without scripts; ``proof``: what the page sends with what it asks to be done, if it may."""
    w = await run_in_threadpool(look.whole)
    events = await run_in_threadpool(look.events, before, _EVENTS, [], None, search, None)
    values = words(w, look.against, look.against_why)
    instead = await run_in_threadpool(page_tables.made, look, t0, t1) if tables else {}
    body = _body(w, values, events, instead, search=search, acts=bool(proof), many=many)
    scripts = f'<script defer src="{address("uplot.js")}"></script><script defer src="{address("dashboard.js")}"></script>'
    other = '<noscript><meta http-equiv="refresh" content="0;url=?tables=1"></noscript>'
    data = {"run": look.name, "sites": list(w.state.sites), "last_event": w.head.last_event, "samples": w.head.samples}
    attributes = f' data-page="run" data-run="{text(json.dumps(data))}" data-proof="{text(proof)}"'
    title = w.state.run_id or look.name
    return document(title, body, head="" if tables else other + scripts, attributes="" if tables else attributes)


def _body(
    w: Whole, v: dict[str, str], events: EventPage, instead: dict[str, str], *, search: str, acts: bool, many: bool
) -> str:  # fmt: skip
    up = '<a class="up" href="/">All runs</a>' if many else ""
    title = text(w.state.run_id or w.head.name)
    parts = [
        '<a class="skip" href="#sites">To the sites</a><a class="skip" href="#events">To the events</a><main id="main">',
        f'<header class="top"><h1>{title}</h1>{holder(v, "w-state")}{up}</header>',
        f'{holder(v, "w-sub", "p", "sub")}<p class="sub now" id="connection" role="status">{holder(v, "w-now")}</p>',
        f'<span id="w-shape" hidden>{v["w-shape"]}</span>',
        _hero(v),
        holder(v, "w-notes", "ul", "notes"),
        "" if instead else _TOOLS,
        _sites(w, v, instead, acts=acts),
        _figure("learning", "What was learned", _LOSS, "loss", "Loss over tokens", instead, tools=_LOG),
        _figure(
            "emissions",
            "Emissions against always on, and the oracle",
            _EMISSIONS,
            "emissions",
            "Cumulative kg CO2 over run time",
            instead,
        ),
        _rates(instead),
        _events(events, search, instead),
        _samples(w, instead),
        footer(),
        "</main>",
        _ASK if acts and not instead else "",
    ]
    return "".join(parts)


def _hero(v: dict[str, str]) -> str:
    def fact(about: str, *inner: str) -> str:
        return f"<div><dt>{about}</dt><dd>{''.join(inner)}</dd></div>"

    return (
        f'<div class="hero"><div class="lead"><p class="big">{holder(v, "w-kg")}</p><p>{holder(v, "w-against")}</p>'
        f'<p class="fine">{holder(v, "w-inside")}</p></div><dl class="facts">'
        + fact("mode", holder(v, "w-mode", "strong"))
        + fact("version", holder(v, "w-version", "strong"))
        + fact("tokens", holder(v, "w-tokens", "strong"), holder(v, "w-bar"), holder(v, "w-share", css="fine"))
        + fact(
            "bits per byte",
            holder(v, "w-loss", "strong"),
            f'<span class="fine">training loss {holder(v, "w-train")}</span>',
        )
        + fact("energy, all phases", holder(v, "w-kwh", "strong"))
        + fact("money", holder(v, "w-money", "strong"))
        + fact("time left", holder(v, "w-left", "strong"))
        + fact("run time", holder(v, "w-hours", "strong"))
        + "</dl></div>"
    )


_TOOLS = (
    '<div class="tools" role="group" aria-label="Time shown"><button data-span="all">Whole run</button>'
    '<button data-span="86400">Last day</button><button data-span="3600">Last hour</button>'
    '<button data-do="out">Zoom out</button><button data-do="link">Link to this view</button>'
    '<span id="shown" role="status"></span></div>'
    '<section id="moment" hidden aria-label="One moment" tabindex="-1"></section>'
)
#: What will come of each, said before it is asked. Of a site its name comes first.
_SAID = {
    "hold": "stays off, whatever its policy says, until it is released. If it is on, it hands in its work first.",
    "release": "goes back to its policy, which decides whether it is on.",
    "drain": "stays off for the rest of this on-period; then its policy decides again. If it is on, it hands in its work first.",
    "set": "The coordinator takes it up at its next tick; what has been trained and booked stays as it is.",
    "stop": "All sites hand in their work; then the run stops. The same command resumes it.",
}
_ASK = (
    '<dialog id="ask" aria-labelledby="ask-title"><form method="dialog"><h2 id="ask-title">Ask</h2><p></p>'
    '<label>For how much run time, as 30m or 2h (empty: no limit)<input type="text" name="for" pattern="[0-9.]+[smhd]"></label>'
    '<label>What <select name="key">'
    + "".join(f"<option>{k}</option>" for k in LIVE_KEYS)
    + '</select></label><label>Its new value (none: no limit)<input type="text" name="value" maxlength="80"></label>'
    '<label>Why<input type="text" name="why" maxlength="400"></label>'
    '<label>Who asks<input type="text" name="who" maxlength="80"></label>'
    '<p role="alert" class="stale"></p><div class="row"><button value="no" formnovalidate>Cancel</button>'
    '<button value="yes" class="go">Ask</button></div></form></dialog>'
)
_LOG = '<label class="tool"><input type="checkbox" id="log"> logarithmic</label>'
_LOSS = (
    "Training loss of single steps (band: least to greatest) and validation bits per byte of versions, over tokens. Blue, "
    "and dots: local; green, and squares: federated."
)
_EMISSIONS = (
    "The thick line is this run, all sites and phases. The dotted one is the oracle: the same training by who knew all readings "
    "to come, in the run's own time. Dashes and dots are other ways to train at these sites: rules, or the same duty at random "
    "times. Other thin lines are one region that never stops; dashed ones have no site in this run."
)
_LANES = (
    "Each lane: the region's signal as it became known (line; a band where several readings share a pixel), the criterion "
    "(dashed), and below it what the site did. Drag to zoom, double-click to zoom out; with the keyboard arrows move, + and - "
    "zoom, and Enter says what was going on."
)
_RATES = (
    "Tokens per second of run time, time within training that passed without a step, and bytes that moved, by site. What a cut "
    "holds is spread over the training since the one before."
)


def _plot(chart: str, label: str, css: str = "") -> str:
    """Where a script draws; a slider, because its cursor moves along one axis and says where it is."""
    return (
        f'<div class="plot {css}" data-chart="{chart}"><p class="loading" role="status">Still loading</p></div>'
        f'<details class="behind" data-table="{chart}"><summary>Table: {text(label)}</summary>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(label)}"></div></details>'
    )


def _figure(
    name: str, title: str, about: str, chart: str, label: str, instead: dict[str, str], tools: str = ""
) -> str:  # fmt: skip
    inner = instead.get(chart) or _plot(chart, label, "tall")
    return (
        f'<section id="{name}" aria-labelledby="h-{name}"><div class="head"><h2 id="h-{name}">{title}</h2>'
        f"{'' if instead else tools}</div>"
        f'<p>{about}</p><figure aria-labelledby="h-{name}">{inner}</figure></section>'
    )


def _sites(w: Whole, v: dict[str, str], instead: dict[str, str], *, acts: bool) -> str:
    rows = []
    for i, (name, site) in enumerate(w.state.sites.items()):
        title = text(name) + (f" <small>{text(site.region)}</small>" if site.region else "")
        hands = (
            f'<div class="hands" role="group" aria-label="{text(name)}">'
            + "".join(
                f'<button data-ask="{k}" data-site="{text(name)}" data-said="{text(name)} {_SAID[k]}">{k}</button>'
                for k in OF_SITES
            )
            + "</div>"
            if acts and not instead
            else ""
        )
        plot = instead.get(f"lane {name}") or _plot(f"lane {i}", f"{name}, signal and states", "lane")
        rows.append(
            f'<article class="site" aria-labelledby="h-site-{i}"><div class="said"><h3 id="h-site-{i}">{title}</h3>'
            f'<p class="line">{holder(v, f"w-{i}-chip")} {holder(v, f"w-{i}-value", css="value")}</p>'
            f"{holder(v, f'w-{i}-why', 'p', 'why')}"
            f'<p class="fine">{holder(v, f"w-{i}-since")}</p><p class="fine">{holder(v, f"w-{i}-figures")}</p>{hands}</div>'
            f'<figure aria-labelledby="h-site-{i}">{plot}</figure></article>'
        )
    strip = instead.get("modes") or ('<div class="strip" id="strip" aria-hidden="true"></div>' + _legend())
    stop = ""
    if acts and not instead:
        names = {"set": "Change budget or limits", "stop": "Stop the run"}
        inner = "".join(f'<button data-ask="{k}" data-said="{_SAID[k]}">{name}</button>' for k, name in names.items())
        stop = f'<div class="hands whole">{inner}</div>'
    sign = "" if acts or instead else '<p class="fine"><a href="/login">Sign in</a> to hold, release or drain a site.</p>'
    about = "" if instead else f"<p>{_LANES}</p>"
    return (
        f'<section id="sites" aria-labelledby="h-sites" tabindex="-1"><div class="head"><h2 id="h-sites">Sites</h2>{stop}</div>'
        f"{about}{sign}"
        f"{strip}{''.join(rows) or '<p>The configuration names no site.</p>'}</section>"
    )


def _legend() -> str:
    order = ("local", "federated", "provisioning", "idle", "draining", "held", "missed", "failed", "off")
    return (
        '<ul class="legend">' + "".join(f'<li><i class="swatch {k}"></i>{page_tables.BLOCK_WORDS[k]}</li>' for k in order) + "</ul>"
    )


def _rates(instead: dict[str, str]) -> str:
    charts = (("tokens", "Tokens per second"), ("stall", "Stalls, share of training time"), ("bytes", "Bytes moved to and from it"))
    inner = instead.get("rates") or "".join(
        f'<figure aria-labelledby="h-{c}"><h3 id="h-{c}">{label}</h3>{_plot(c, label, "low")}</figure>' for c, label in charts
    )
    return (
        f'<section id="rates" aria-labelledby="h-rates"><h2 id="h-rates">Throughput, stalls, bytes</h2><p>{_RATES}</p>'
        f'<div class="three">{inner}</div></section>'
    )


def _events(events: EventPage, search: str, instead: dict[str, str]) -> str:
    kinds = "".join(f'<option value="{text(k)}">{text(k.replace("_", " "))} ({n:,})</option>' for k, n in events.kinds.items())
    more = f'<label>Kind <select name="kind"><option value="">all</option>{kinds}</select></label>'
    if instead:
        more = '<input type="hidden" name="tables" value="1">'
    form = (
        '<form class="find" method="get" role="search" id="find"><label>Search the events '
        f'<input type="search" name="search" value="{text(search)}" maxlength="200"></label>{more} <button>Search</button></form>'
    )
    older = ""
    if instead and events.next_before is not None:
        found = f"&amp;search={quote(search)}" if search else ""
        older = f'<p class="pages"><a href="?tables=1&amp;before={events.next_before}{found}#events">older</a></p>'
    elif not instead:
        older = (
            f'<p class="pages"><button id="older" data-before="{events.next_before or ""}">Older</button> '
            '<span id="searched" role="status"></span></p>'
        )
    return (
        '<section id="events" aria-labelledby="h-events" tabindex="-1"><h2 id="h-events">Events</h2>'
        f"{form}{page_tables.events(events)}{older}</section>"
    )


def _samples(w: Whole, instead: dict[str, str]) -> str:
    if "samples" in instead:
        return instead["samples"]
    if not w.head.samples:
        return ""
    kept = w.head.samples

    def choice(name: str, chosen: int) -> str:
        options = "".join(f"<option{' selected' if n == chosen else ''}>{n}</option>" for n in reversed(kept))
        return (
            f'<div><label>Version <select id="sample-{name}">{options}</select></label> <span class="fine" id="bpb-{name}"></span>'
            f'<pre id="text-{name}" tabindex="0" aria-label="sample text"></pre></div>'
        )

    return (
        '<section id="samples" aria-labelledby="h-samples"><h2 id="h-samples">What versions write</h2>'
        "<p>Written by the site that evaluated the version, drawn with the same seed each time, as it came out.</p>"
        f'<div class="two">{choice("a", kept[max(0, len(kept) // 3)])}{choice("b", kept[-1])}</div></section>'
    )
