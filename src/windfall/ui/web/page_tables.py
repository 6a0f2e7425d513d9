"""The figures of a run's page as tables: for browsers without scripts, and for whoever would rather read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from windfall.ui.page.pieces import carbon, number, percent, table, text
from windfall.ui.web.look import RunLook, plain
from windfall.units import clock_text
from windfall.view.event_pages import EventPage
from windfall.view.instant import Instant

#: What the blocks of a lane are called.
BLOCK_WORDS = {
    "off": "off", "missed": "window missed", "held": "held", "provisioning": "provisioning", "idle": "on and idle",
    "local": "local", "federated": "federated", "draining": "draining", "failed": "failed",
}  # fmt: skip
#: Rows of each.
_ROWS = 24


def _scrolled(label: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    if not rows:
        return "<p>Nothing yet.</p>"
    return table(columns, rows, label)


def events(found: EventPage) -> str:
    """Events, newest first."""
    rows = [
        ("" if e.notable else "quiet", (clock_text(e.t_run), text(e.site or "run"), text(e.kind.replace("_", " ")), text(e.what)))
        for e in found.events
    ]
    return table(("@run time, UTC", "site", "kind", "what"), rows, "events", "event-rows")


def _dot(mode: str) -> str:
    """A mark in a mode's colour, by its class: the page's policy refuses inline styles."""
    return f'<span class="dot {mode if mode in ("local", "federated") else "paused"}" aria-hidden="true"></span>'


def moment(m: Instant) -> str:
    """How things stood at an instant, as a part of a page."""
    sites = ""
    for s in m.sites:
        reading = "no reading" if s.value is None else f"{s.value:,.4g} {s.unit}, {'a window' if s.inside else 'no window'}"
        sites += f"<li><b>{text(s.site)}</b> {text(s.state)} · {text(reading)} · {text(s.reason or 'nothing was decided yet')}</li>"
    before = "".join(f"<li>{clock_text(e.t_run)} {text(e.site or 'run')}: {text(e.what)}</li>" for e in m.events)
    version = "no version yet" if m.version is None else f"version {m.version}"
    return (
        f"<h2>{clock_text(m.t)} UTC</h2><p>{text(m.mode)} · {version} · {m.tokens:,} tokens</p><ul>{sites}</ul>"
        f'<h3>Just before</h3><ul class="fine">{before}</ul><button>Close</button>'
    )


def made(look: RunLook, t0: float | None, t1: float | None) -> dict[str, str]:
    """By name of the figure that each stands for."""
    lanes = plain(look.lanes(t0, t1, _ROWS, []))
    while True:
        loss = look.loss(None, None, 60)
        if loss["read"] >= 1.0:
            break
    found = {f"lane {x['site']}": _lane(x, lanes["blocks"]) for x in lanes["lanes"]}
    found["modes"] = _scrolled(
        "modes", ("@from, UTC", "@to", "mode of the run"),
        [("", (clock_text(a), clock_text(b), _dot(lanes["modes"][w]) + lanes["modes"][w])) for a, b, w in lanes["mode"]],
    )  # fmt: skip
    found["loss"] = _loss(loss)
    found["emissions"] = _emissions(look.emissions(t0, t1, _ROWS))
    found["rates"] = _rates(look.rates(t0, t1, 12))
    found["samples"] = _samples(look)
    return found


def _samples(look: RunLook) -> str:
    """What the first and the last version wrote."""
    kept = look.whole().head.samples
    texts = [s for n in dict.fromkeys((*kept[:1], *kept[-1:])) if (s := look.sample(n)) is not None]
    inner = ""
    for s in texts:
        wrote = text(s["prompt"] + s["text"])
        inner += f'<div><h3>Version {s["version"]}</h3><pre tabindex="0" aria-label="sample text">{wrote}</pre></div>'
    if not inner:
        return ""
    head = '<section id="samples" aria-labelledby="h-samples"><h2 id="h-samples">What versions write</h2>'
    return f'{head}<div class="two">{inner}</div></section>'


def _lane(lane: dict[str, Any], names: Sequence[str]) -> str:
    signal = lane["signal"]
    high = signal["high"] or signal["low"]
    rows = [
        ("", (clock_text(t), number(a, 1), number(b, 1) if b != a else ""))
        for t, a, b in _some(list(zip(signal["t"], signal["low"], high, strict=True)))
    ]
    did = [("", (clock_text(a), clock_text(b), BLOCK_WORDS[names[w]])) for a, b, w in lane["blocks"][-_ROWS:]]
    said = f"{lane['unit']}; criterion {'under' if lane['under'] else 'at least'} {lane['level']:g}"
    return (
        f"<figcaption>Signal, {text(said)}</figcaption>{_scrolled('signal', ('@from, UTC', '>value', '>up to'), rows)}"
        f"<figcaption>What the site did</figcaption>{_scrolled('states', ('@from, UTC', '@to', 'what'), did)}"
    )


def _some(rows: list[Any]) -> list[Any]:
    step = max(1, -(-len(rows) // _ROWS))
    return rows[::step]


def _loss(loss: dict[str, Any]) -> str:
    rows = [
        (
            "",
            (
                str(v["version"]),
                clock_text(v["t_run"]),
                _dot(v["mode"]) + text(v["mode"]),
                f"{v['tokens']:,}",
                number(v["val_bpb"], 4),
            ),
        )
        for v in _some(loss["versions"])
    ]
    steps = [
        ("", (f"{p['tokens']:,}", text(p["mode"]), number(p["mean"], 3), number(p["low"], 3), number(p["high"], 3)))
        for p in _some(loss["training"])
    ]
    return (
        _scrolled("validation", (">version", "@run time, UTC", "mode", ">tokens", ">bits per byte"), rows)
        + "<figcaption>Training loss, nats per token</figcaption>"
        + _scrolled("training loss", (">tokens", "mode", ">mean", ">least", ">greatest"), steps)
    )


def _emissions(found: dict[str, Any]) -> str:
    rows = [("", (clock_text(t), carbon(kg))) for t, kg in _some(list(zip(found["t"], found["kg"], strict=True)))]
    others = [
        ("", (text(x["name"]), "always on" if x["kind"] == "region" else "", carbon(x["total_kg"]), text(x["why"])))
        for x in found["against"]
    ]
    said = (
        ""
        if found["against_state"] == "there"
        else f"<p>{text(found['against_why'] or 'Still working it out; load the page again.')}</p>"
    )
    return _scrolled("emissions", ("@run time, UTC", ">kg CO2"), rows) + said + (
        _scrolled("measured against", ("what", "", ">kg CO2 in all", ""), others) if others else ""
    )  # fmt: skip


def _rates(found: dict[str, Any]) -> str:
    rows = []
    for site in found["sites"]:
        for t, tokens, stall, size in zip(found["t"], site["tokens_per_s"], site["stall_share"], site["bytes"], strict=True):
            if tokens or stall:
                rows.append(
                    (
                        "",
                        (
                            clock_text(t),
                            text(site["site"]),
                            number(tokens, 1),
                            percent(stall),
                            "–" if size is None else f"{size:,}",
                        ),
                    )
                )
    return _scrolled("rates", ("@from, UTC", "site", ">tokens/s", ">stalled", ">bytes moved"), rows)
