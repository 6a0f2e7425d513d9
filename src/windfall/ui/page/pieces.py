"""Pieces of pages: tables, folded where they are long, and figures as text. Every text that is not ours passes ``text``."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from windfall.store.configurations import change_text
from windfall.units import clock_text
from windfall.view.events import what_happened
from windfall.view.series import RunSeries
from windfall.view.state import RunState
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


#: A table with more columns than this is wider than a phone, and says there that it can be moved.
_NARROW = 3


def table(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], label: str = "", name: str = "") -> str:
    """A table. A column named ``>kg`` is right-aligned, ``@time`` is quiet; a row is (class, cells of HTML).

    ``label``: what it is, for those who do not see it (default: its first column). ``name``: the id of what scrolls.
    """
    kinds = [{">": "n", "@": "t"}.get(c[:1], "") for c in columns]
    head = "".join(f'<th class="{k}">{escape(c.lstrip(">@"))}</th>' for c, k in zip(columns, kinds, strict=True))
    body = "".join(
        f'<tr class="{css}">' + "".join(f'<td class="{k}">{c}</td>' for c, k in zip(cells, kinds, strict=True)) + "</tr>"
        for css, cells in rows
    )
    says = '<p class="moves" aria-hidden="true">↔ this table can be scrolled sideways</p>' if len(columns) > _NARROW else ""
    inner = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    label = text(label or f"table: {columns[0].lstrip('>@')}")
    known = f' id="{name}"' if name else ""
    return f'{says}<div class="scroll" tabindex="0" role="region" aria-label="{label}"{known}>{inner}</div>'


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
    return f'<span class="dot {known}"></span>'


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
