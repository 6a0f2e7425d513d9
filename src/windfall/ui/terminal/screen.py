"""What the live view shows on a terminal: one screen, in two layouts.

A wide terminal has a site's reason beside its row, a narrow one (under 110 columns) below it, wrapped and whole. Every line is
shorter than the terminal is wide, by what a `^C` takes: echoed at the end of a full line it would begin a new one, and the old
picture would stay where it was. Where the terminal is too low for all of it, reasons are shortened first, and sites that are off.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from windfall.config.schema import Config
from windfall.ui.terminal.tables import WIDE, doing_texts, last_word, lost_text, platform_texts, transfer_texts, waiting_text
from windfall.units import clock_text, duration_text
from windfall.view.state import RunState, SiteState
from windfall.view.text import safe

#: What two keys of Ctrl-C write.
_ECHO = 4
_LABEL = 10
_SPARK = 24
_LEVELS = "▁▂▃▄▅▆▇█"
_STATE_STYLES = {
    "training": "bold green", "provisioning": "magenta", "ready": "yellow", "draining": "yellow", "failed": "bold red",
    "off": "dim",
}  # fmt: skip
_MODE_STYLES = {"federated": "bold green", "local": "bold blue"}


@dataclass
class Picture:
    """What is to be drawn: where a run stands, and what is not in that."""

    config: Config
    state: RunState
    emitted: str = ""
    #: Run seconds per wall second of late, None where it is not known yet.
    speed: float | None = None
    #: Tokens per second of wall time by training site.
    rates: Mapping[str, float] = field(default_factory=dict)
    #: Newest readings by site.
    sparks: Mapping[str, Iterable[float]] = field(default_factory=dict)
    #: Run time of the next cut.
    cut_at: float | None = None


def draw(p: Picture, width: int, height: int) -> list[Text]:
    """The lines of a screen of ``width`` columns and ``height`` rows; none is wider, and there are no more."""
    room = max(20, width - _ECHO)
    lines = [line for label, value in _facts(p, room - _LABEL - 2) for line in _fact(label, value, room)]
    lines.append(Text(""))
    return (lines + _sites(p, room, height - 1 - len(lines), wide=width >= WIDE))[: max(1, height - 1)]


# -- facts ---------------------------------------------------------------------------------------------------


def _facts(p: Picture, room: int) -> list[tuple[str, Text]]:
    s = p.state
    done, budget = int(s.tokens_committed), max(1, int(s.tokens_budget))
    found = [("run", _stands(s))] if s.state != "running" else []
    found += [("run time", Text(_run_time(p))), ("mode", Text(s.mode, style=_MODE_STYLES.get(s.mode, "dim")))]
    if (waits := waiting_text(s)) is not None:
        found.append(("waiting", Text(f"for {waits}", style="yellow")))
    found += [("files", Text(text)) for text in transfer_texts(s)]
    found += [("at work", Text(text)) for text in doing_texts(s)]
    found += [("platform", Text(text)) for text in platform_texts(s)]
    for h in s.signals_lost:
        found.append(("not heard", Text(f"{safe(str(h['reason']))}, since {clock_text(h['since'])} UTC", style="red")))
    found.append(("tokens", _bar(done, budget, f"version {s.version}", room)))
    bpb = "–" if s.val_bpb is None else f"{s.val_bpb:.4f} (version {s.val_bpb_version})"
    loss = "–" if s.train_loss is None else f"{s.train_loss:.3f}"
    found.append(("learning", Text(f"val bits per byte {bpb}, train loss {loss}, {sum(p.rates.values()):,.0f} tokens/s")))
    found.append(("emissions", Text(p.emitted)))
    if (lost := lost_text(s)) is not None:
        found.append(("lost", Text(lost, style="yellow")))
    found.append(("time left", Text(_left(s, done, budget))))
    return found


def _fact(label: str, value: Text, room: int) -> list[Text]:
    """One fact, on as many lines as it takes."""
    if cell_len(value.plain) <= room - _LABEL - 2:
        return [Text(f"{label:<{_LABEL}}  ", style="dim").append_text(Text("", style="not dim").append_text(value))]
    parts = textwrap.wrap(value.plain, room - _LABEL - 2) or [""]
    return [
        Text(f"{label if i == 0 else '':<{_LABEL}}  ", style="dim").append(part, style=f"not dim {value.style}".strip())
        for i, part in enumerate(parts)
    ]


def _stands(s: RunState) -> Text:
    """How a run stands that does not run."""
    said = "its coordinator has ended without a word; `windfall run` goes on with it" if s.state == "stopped" else s.message
    style = {"done": "green", "failed": "bold red"}.get(s.state, "yellow")
    return Text(s.state + (f": {safe(said)}" if said else ""), style=style)


def _run_time(p: Picture) -> str:
    s = p.state
    if s.t_run is None:
        return "starting"
    speed = "" if p.speed is None else f", {p.speed:,.0f} times real time"
    return f"{clock_text(s.t_run)} UTC, {s.run_hours:.2f} h in{speed}"


def _bar(done: int, budget: int, version: str, room: int) -> Text:
    share = min(1.0, done / budget)
    text = f"{share * 100:5.1f} %  {done:,} of {budget:,}  {version}"
    cells = min(28, room - len(text) - 2)
    if cells < 6:
        return Text(text.strip())
    full = round(share * cells)
    return Text("━" * full, style="green").append("━" * (cells - full), style="dim").append(f"  {text}", style="default")


def _left(s: RunState, done: int, budget: int) -> str:
    if s.state == "done":
        return "done"
    if not done or not s.wall_seconds:
        return "–"
    return f"about {duration_text(float(s.wall_seconds) * (budget - done) / done)}, by tokens"


# -- sites ---------------------------------------------------------------------------------------------------


def _sites(p: Picture, room: int, rows: int, *, wide: bool) -> list[Text]:
    """A row for each site, with its reason; shortened so that no more than ``rows`` lines come of it."""
    sites = p.state.sites
    if not sites:
        return []
    held = {h["site"]: h["until"] for h in p.state.holds}
    name_w = min(max(4, *(len(n) for n in sites)), 24 if wide else 18)
    waits = {n: _waits(p, n, x, held) for n, x in sites.items()}
    waits_w = max(len("waits for"), *(len(w) for w in waits.values()))
    # name, state, signal, g/worth, waits for, with two spaces between them
    left = room - name_w - 12 - 9 - waits_w - 2 * 4
    spark_w = max(0, min(_SPARK, left - 42 if wide else left))
    gap = "  "
    head = gap.join(
        [_cell("site", name_w), _cell("state", 12), _cell("signal", spark_w), f"{'g/worth':>9}", _cell("waits for", waits_w)]
    )
    lead = cell_len(head) + 2
    reason_w = room - lead if wide else room - 2
    shown_sites = []
    for name, x in sites.items():
        value = "–" if x.value is None else f"{x.value:.0f}"
        worth = "" if x.worth is None else f"/{x.worth:.0f}"
        row = Text(_cell(name, name_w) + gap)
        row.append(_cell(x.state, 12), style=_STATE_STYLES.get(x.state, ""))
        row.append(f"{gap}{_cell(sparkline(p.sparks.get(name, ()), spark_w), spark_w)}{gap}{_cell(value + worth, 9, right=True)}")
        row.append(f"{gap}{_cell(waits[name], waits_w)}")
        quiet = x.state == "off" and not x.held
        shown_sites.append((row, textwrap.wrap(safe(last_word(x)), reason_w) if reason_w >= 16 else [], quiet))
    header = Text(head + ("  last decision" if wide else ""), style="dim")
    return _fitted(header, shown_sites, rows, lead=lead, width=reason_w, wide=wide)


def _fitted(
    header: Text, shown_sites: Sequence[tuple[Text, list[str], bool]], rows: int, *, lead: int, width: int, wide: bool
) -> list[Text]:
    """As much of the reasons as there is room for."""
    made: list[Text] = []
    for most, of_quiet in ((99, 99), (3, 3), (2, 2), (2, 1), (1, 1), (1, 0), (0, 0)):
        made = [header]
        for row, reason, quiet in shown_sites:
            kept = _cut(reason, of_quiet if quiet else most, width)
            if wide:
                first = row.copy().append("  " + (kept[0] if kept else ""))
                made += [first, *(Text(" " * lead + part) for part in kept[1:])]
            else:
                made += [row, *(Text("  " + part, style="dim") for part in kept)]
        if len(made) <= rows:
            return made
    if rows < 2:
        return made[:rows]
    shown = made[: rows - 1]
    return [*shown, Text(f"and {len(shown_sites) - len(shown) + 1} more sites: windfall status", style="dim")]


def _cut(lines: list[str], most: int, width: int) -> list[str]:
    if len(lines) <= most:
        return lines
    if not most:
        return []
    return [*lines[: most - 1], lines[most - 1][: width - 1] + "…"]


def _cell(text: str, width: int, *, right: bool = False) -> str:
    if cell_len(text) > width:
        return set_cell_size(text, max(0, width - 1)) + ("…" if width else "")
    return " " * (width - cell_len(text)) + text if right else set_cell_size(text, width)


def _waits(p: Picture, name: str, x: SiteState, held: Mapping[str, float | None]) -> str:
    match x.state:
        case "provisioning":
            spin_up = next((c.spin_up_s for c in p.config.site if c.name == name), 0.0)
            return f"ready, {clock_text(x.since + spin_up)[-5:]}" if x.since is not None else "ready"
        case "training":
            return f"cut, {clock_text(p.cut_at)[-5:]}" if p.cut_at else "its cut"
        case "ready":
            return "a lease"
        case "draining":
            return "its last work"
        case "failed":
            return "its next try"
    if name in held:
        until = held[name]
        return "its release" if until is None else f"release, {clock_text(until)[-5:]}"
    return f"start, {clock_text(x.until)[-5:]}" if x.until is not None else "a window"


def sparkline(values: Iterable[float], width: int = _SPARK) -> str:
    """The newest values as bars between their least and their greatest."""
    found = list(values)[-width:] if width > 0 else []
    if not found:
        return ""
    low, high = min(found), max(found)
    span = (high - low) or 1.0
    return "".join(_LEVELS[min(7, int((v - low) / span * 8))] for v in found)
