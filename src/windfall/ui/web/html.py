"""The frame of every page."""

from __future__ import annotations

from windfall.ui.page.pieces import text
from windfall.ui.web.assets import address


def document(title: str, body: str, *, head: str = "", attributes: str = "") -> str:
    """A page; ``attributes`` of its body, ready for HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<title>{text(title)} · Windfall</title><link rel="icon" href="{address("icon.svg")}">'
        f'<link rel="stylesheet" href="{address("page.css")}">{head}</head><body{attributes}>{body}</body></html>\n'
    )


def holder(values: dict[str, str], name: str, tag: str = "span", css: str = "") -> str:
    """An element that holds one of ``words``."""
    kind = f' class="{css}"' if css else ""
    return f'<{tag} id="{name}"{kind}>{values.get(name, "")}</{tag}>'
