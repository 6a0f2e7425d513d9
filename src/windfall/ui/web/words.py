"""What the page says of a run: pieces of HTML by the id of the element that holds each, for its first picture and later ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from windfall import clock
from windfall.store.configurations import change_text
from windfall.ui.page.pieces import carbon, number, percent, text
from windfall.ui.terminal.tables import doing_texts, lost_text, platform_texts, transfer_texts, waiting_text
from windfall.ui.web.look import Whole
from windfall.units import clock_text, counted, duration_text
from windfall.view.state import RunState, SiteState

#: Every state has a mark as well as a colour.
MARKS = {"off": "○", "provisioning": "◐", "ready": "◔", "training": "●", "draining": "◑", "failed": "✕", "held": "‖"}
_DAY = 86400.0


def words(w: Whole, against: Sequence[dict[str, Any]] | None, why: str) -> dict[str, str]:
    """By id."""
    s, h = w.state, w.head
    share = s.tokens_committed / s.tokens_budget if s.tokens_budget else 0.0
    found = {
        "w-shape": hashlib.blake2b("\n".join(s.sites).encode(), digest_size=4).hexdigest(),
        "w-state": state_badge(s),
        "w-sub": text(
            f"{counted(len(s.sites), 'site')} · policy {h.policy} · criterion {h.threshold:g} g CO2/kWh · "
            + ("time is replayed" if h.clock == "scaled" else "calendar time")
        ),
        "w-now": _now(w),
        "w-notes": _notes(w),
        "w-mode": f'<span class="dot {mode_of(s)}" aria-hidden="true"></span>{text(s.mode)}',
        "w-version": "–" if s.version is None else f"{s.version:,}",
        "w-tokens": f"{_large(s.tokens_committed)} <small>of {_large(s.tokens_budget)}</small>",
        "w-share": f"{share * 100:.1f} %",
        "w-bar": f'<progress max="1000" value="{round(share * 1000)}" aria-label="tokens committed">{share * 100:.1f} %</progress>',
        "w-loss": "–" if s.val_bpb is None else f"{s.val_bpb:.4f} <small>from {s.val_bpb_start:.2f}</small>",
        "w-train": "–" if s.train_loss is None else f"{s.train_loss:.3f}",
        "w-kwh": number(s.energy_kwh, 2, "kWh"),
        "w-inside": f"{percent(s.share_inside)} inside windows" if s.share_inside is not None else "",
        "w-kg": "not known" if s.kg_co2 is None else f"{carbon(s.kg_co2)} <small>kg CO2</small>",
        "w-against": _against(s, against, why),
        "w-money": ", ".join(f"{v:,.2f} {text(k)}" for k, v in sorted(h.money.items())) or "–",
        "w-left": "done" if s.state == "done" else "–" if h.time_left_s is None else _span_text(h.time_left_s),
        "w-hours": number(s.run_hours, 2, "h"),
    }
    for i, (name, site) in enumerate(s.sites.items()):
        found |= _site(i, name, site, s)
    return found


def mode_of(s: RunState) -> str:
    """The colour of a run's mode."""
    return s.mode if s.mode in ("local", "federated") else "paused"


def state_badge(s: RunState) -> str:
    """The run's state, as a badge."""
    marks = {"running": "▶", "done": "✓", "interrupted": "‖", "failed": "✕", "stopped": "■"}
    return f'<span class="badge {text(s.state)}">{marks.get(s.state, "?")} {text(s.state)}</span>'


def _large(n: int) -> str:
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if n >= 10 * size:
            return f"{n / size:,.4g} {word}"
    return f"{n:,}"


def _span_text(seconds: float) -> str:
    if seconds >= 2 * _DAY:
        return f"about {seconds / _DAY:.1f} days"
    return f"about {duration_text(seconds)}"


def _now(w: Whole) -> str:
    """Of when the page speaks, and whether anybody still says so."""
    s = w.state
    when = "the run has not begun" if s.t_run is None else f"run time {clock_text(s.t_run)} UTC"
    if w.head.stale_since is not None:
        ago = duration_text(max(0.0, clock.wall() - w.head.stale_since))
        since = f'<b class="stale">stale since {clock_text(w.head.stale_since)} UTC</b>'
        return f"{when} · {since} (its coordinator has said nothing for {ago})"
    if s.state == "running":
        return f"{when} · live"
    said = f"; last word {clock_text(s.t_wall)} UTC" if s.t_wall is not None else ""
    ends = {"done": "the run is done", "interrupted": "interrupted: `windfall run` goes on with it", "failed": "the run has failed"}
    return f"{when} · {text(ends.get(s.state, 'no coordinator is running'))}{said}"


def _notes(w: Whole) -> str:
    """What is out of the ordinary at present, a line each."""
    s = w.state
    found: list[tuple[str, str]] = []
    if s.message:
        found.append(("ended", text(s.message)))
    if (waits := waiting_text(s)) is not None:
        found.append(("waits for", text(waits)))
    found += [("files", text(x)) for x in transfer_texts(s)]
    found += [("at work", text(x)) for x in doing_texts(s)]
    found += [("platform", text(x)) for x in platform_texts(s)]
    found += [("not heard", text(f"{x['reason']}, since {clock_text(x['since'])} UTC")) for x in s.signals_lost]
    if (lost := lost_text(s)) is not None:
        found.append(("lost", text(lost)))
    for a in s.asked:
        found.append(("asked", text(f"{a['what']} by {a['who']}: waits for a coordinator")))
    if s.dropped:
        found.append(("telemetry", f"{counted(s.dropped, 'row')} could not be written"))
    if s.unpriced_kwh > 0:
        found.append(("unknown", f"{number(s.unpriced_kwh, 2, 'kWh')} were used in hours without a reading, and are in no kg"))
    for c in s.changes[-3:]:
        found.append(("changed", text(change_text(c["key"], c["old"], c["new"]))))
    return "".join(f"<li><b>{name}</b> {what}</li>" for name, what in found)


def _against(s: RunState, against: Sequence[dict[str, Any]] | None, why: str) -> str:
    """The run's emissions as a share of the baseline's, and over the oracle's."""
    if against is None:
        return (
            f"What it is measured against cannot be computed: {text(why)}."
            if why
            else "Still working out what it is measured against."
        )
    best = next((x for x in against if x["headline"]), None)
    oracle = next((x for x in against if x["kind"] == "oracle"), None)
    if s.kg_co2 is None or best is None:
        reasons = [x["why"] for x in against if x["why"]]
        return f"Not comparable with a site that is always on: {text(reasons[0] if reasons else 'its emissions are not known')}."
    said = (
        f"<b>{s.kg_co2 / best['total_kg']:.3f} ×</b> the baseline: one site in {text(best['name'])}, always on, "
        f"at equal tokens ({carbon(best['total_kg'])} kg)."
    )
    if oracle is not None and oracle["total_kg"]:
        said += f" {s.kg_co2 / oracle['total_kg']:.2f} × the oracle ({carbon(oracle['total_kg'])} kg)."
    return said


def site_chip(site: SiteState, held: bool) -> str:
    """A site's state with its mark; ``held``: an operator keeps it off, and a coordinator has noted so."""
    kind = "held" if held and site.state == "off" else site.state
    return f'<span class="chip {text(kind)}"><span aria-hidden="true">{MARKS.get(kind, "?")}</span> {text(kind)}</span>'


def _site(i: int, name: str, site: SiteState, s: RunState) -> dict[str, str]:
    value = "" if site.value is None else f"<b>{site.value:,.4g}</b>" + ("" if site.worth is None else f" / {site.worth:,.4g}")
    since = f"since {clock_text(site.since)}" if site.since is not None else ""
    until = f"until {clock_text(site.until)}" if site.until is not None and site.until > (s.t_run or 0) else ""
    why = "; the policy: ".join(x for x in (site.held, site.reason) if x)
    figures = [f"{site.training_hours:,.1f} h", number(site.energy_kwh, 1, "kWh")]
    figures += [] if site.kg_co2 is None else [f"{carbon(site.kg_co2)} kg"]
    figures += [counted(site.starts, "start")]
    return {
        f"w-{i}-chip": site_chip(site, any(h["site"] == name for h in s.holds)),
        f"w-{i}-value": value,
        f"w-{i}-since": text(" · ".join(x for x in (since, until) if x)),
        f"w-{i}-why": text(why) or "nothing has been decided yet",
        f"w-{i}-figures": text(" · ".join(figures)),
    }
