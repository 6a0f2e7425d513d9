"""The list of runs, signing in, and what is said where nothing can be shown."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from windfall.ui.page.pieces import carbon, number, table, text
from windfall.ui.web.assets import address
from windfall.ui.web.html import document
from windfall.ui.web.look import as_json
from windfall.ui.web.looks import Looks
from windfall.units import clock_text, counted

_AT_ONCE = 25
_COLUMNS = ("run", "state", "mode", ">tokens", ">of the budget", ">bits per byte", ">kWh", ">kg CO2", "@last written, UTC")


async def made(looks: Looks, search: str, offset: int, tables: bool) -> str:
    """The list of runs whose name holds ``search``, from place ``offset`` on. With ``tables`` it leads to pages of tables."""
    key = ("runs", search, offset, _AT_ONCE)
    answer = await looks.answers.get(key, None, as_json(lambda: looks.listed(search, offset, _AT_ONCE)), least_s=1.0, most_s=1.0)
    found: dict[str, Any] = json.loads(answer.body)
    rows = [("", _row(r, tables)) for r in found["runs"]]
    total = int(found["total"])
    form = (
        '<form class="find" method="get" action="/" role="search"><label>Find a run '
        f'<input type="search" name="search" value="{text(search)}" maxlength="200"></label> <button>Find</button>'
        + ('<input type="hidden" name="tables" value="1"></form>' if tables else "</form>")
    )
    inner = table(_COLUMNS, rows, "runs")
    if not rows:
        inner = f"<p>{'No run has that in its name.' if search else 'No run is here yet; one appears as soon as it begins.'}</p>"
    body = (
        f'<main id="main"><header class="top"><h1>Runs</h1></header><p class="sub">{counted(total, "run")} here, the '
        f'one last written to first.</p>{form}<section aria-label="runs" id="runs">{inner}'
        f"{_pages(search, offset, total, tables)}</section>{footer()}</main>"
    )
    script = f'<script defer src="{address("dashboard.js")}"></script>'
    return document("Runs", body, head=script, attributes=' data-page="runs"')


def _row(r: dict[str, Any], tables: bool) -> tuple[str, ...]:
    name = f'<a href="/runs/{quote(r["name"])}{"?tables=1" if tables else ""}">{text(r["name"])}</a>'
    changed = clock_text(r["changed"]) if r["changed"] else "–"
    if r["error"]:
        return (name, f'<span class="badge failed">✕ unreadable</span> {text(r["error"])}', "", "", "", "", "", "", changed)
    share = r["tokens_committed"] / r["tokens_budget"] * 100 if r["tokens_budget"] else 0.0
    mode = text(r["mode"]) if r["state"] == "running" else ""
    return (
        name, f'<span class="badge {text(r["state"])}">{text(r["state"])}</span>', mode, f"{r['tokens_committed']:,}",
        f"{share:.1f} %", number(r["val_bpb"], 4), number(r["energy_kwh"], 2), carbon(r["kg_co2"]), changed,
    )  # fmt: skip


def _pages(search: str, offset: int, total: int, tables: bool) -> str:
    parts = []
    more = ("tables=1&amp;" if tables else "") + (f"search={quote(search)}&amp;" if search else "")
    if offset > 0:
        parts.append(f'<a href="/?{more}offset={max(0, offset - _AT_ONCE)}">newer</a>')
    if offset + _AT_ONCE < total:
        parts.append(f'<a href="/?{more}offset={offset + _AT_ONCE}">older</a>')
    return f'<p class="pages">{" · ".join(parts)}</p>' if parts else ""


def login(wrong: str) -> str:
    """Signing in with the token."""
    said = f'<p class="stale" role="alert">{text(wrong)}</p>' if wrong else ""
    body = (
        '<main id="main" class="narrow"><header class="top"><h1>Sign in</h1></header><section aria-label="sign in">'
        "<p>Windfall's dashboard asks for the token that it printed when it began.</p>" + said +
        '<form method="post" action="/login"><label>Token <input type="password" name="token" autocomplete="off" required></label> '
        "<button>Sign in</button></form></section></main>"
    )  # fmt: skip
    return document("Sign in", body)


def problem(status: int, why: str) -> str:
    """Why a page cannot be shown."""
    title = "Not here" if status == 404 else "Not now" if status == 503 else "Not like this"
    body = (
        f'<main id="main" class="narrow"><header class="top"><h1>{title}</h1></header><section aria-label="problem">'
        f'<p role="alert">{text(why)}</p><p><a href="/">All runs</a></p></section></main>'
    )
    return document(title, body)


def footer() -> str:
    """The end of every page."""
    return (
        "<footer>Windfall reads run directories and writes nothing to them but what is asked for here. "
        '<a href="/api/v1/openapi.json">The JSON behind this page</a></footer>'
    )
