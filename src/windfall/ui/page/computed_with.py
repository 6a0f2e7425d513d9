"""What a page's figures were computed with, as a part of the page: Windfall's commit, the command, traces, the configuration."""

from __future__ import annotations

from windfall.simulate.provenance import Provenance, UsedTrace
from windfall.ui.page import pieces


def computed_with(made: Provenance) -> str:
    """The part of a page (HTML, without its heading)."""
    command = f"<pre>{pieces.text(made.command)}</pre>" if made.command else ""
    rows = [("", [pieces.text(c) for c in _cells(t)]) for t in made.traces]
    table = pieces.table(["site", "signal", "source", "unit", "@from, UTC", "@to, UTC", ">holes", "SHA-256"], rows)
    full = [f"{t.sha256}  {t.source}" for t in made.traces if t.sha256]
    whole = "\n".join([f"commit {made.windfall.commit or 'unknown'}", f"configuration {made.config_sha256}", *dict.fromkeys(full)])
    hashes = f"<details><summary>Whole hashes</summary><pre>{pieces.text(whole)}</pre></details>"
    keys = f"<details><summary>Configuration, with every key</summary><pre>{pieces.text(made.config_toml)}</pre></details>"
    return (
        f"<p>Windfall {pieces.text(made.windfall)}, Python {pieces.text(made.python)}, NumPy {pieces.text(made.numpy)}; "
        f"configuration {pieces.text(made.config_sha256[:16])}.</p>{command}{table}{hashes}{keys}"
    )


def _cells(t: UsedTrace) -> list[str]:
    holes = "–" if t.holes is None else "none" if not t.holes else f"{t.holes:,}, {t.hole_h or 0:,.1f} h"
    where = t.site if t.site in ("", t.region) else f"{t.site} ({t.region})"
    return [
        where or t.region, t.signal, t.source.rpartition("/")[2], t.unit,
        _short(t.begins or "–"), _short(t.ends or "no end"), holes,
        t.sha256[:16] if t.sha256 else "–",
    ]  # fmt: skip


def _short(instant: str) -> str:
    """``2020-09-01 00:00`` for 2020-09-01T00:00:00Z."""
    return instant.replace("T", " ").removesuffix("Z").removesuffix(":00")
