"""An event as one line of text: for `windfall events`, the plain live view and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windfall.store.configurations import change_text
from windfall.store.telemetry import Event
from windfall.units import clock_text, counted, iso_utc
from windfall.view.text import safe

#: Kinds that mark a transition or something that went wrong; the plain live view prints these and no others.
TRANSITIONS = frozenset(
    {
        "started",
        "resumed",
        "configuration_changed",
        "site_left",
        "state",
        "mode",
        "commit",
        "evaluation",
        "warning",
        "error",
        "refused",
        "discarded",
        "clipped",
        "work_lost",
        "message_failed",
        "quarantined",
        "lease_ended",
        "round_closed_without",
        "stranger",
        "swept",
        "adopted",
        "held",
        "drain_asked",
        "released",
        "stop_asked",
        "request_refused",
        "bus_down",
        "bus_up",
        "alert",
        "alert_over",
        "alerts_unsent",
        "alerts_sent_again",
        "grid_note",
        "grid_lost",
        "grid_back",
        "grid_reported",
        "signal_lost",
        "signal_back",
        "power_level",
        "power_level_measured",
        "power_level_failed",
        "meter",
        "meter_lost",
        "meter_silent",
        "meter_back",
        "meter_closed",
        "microgrid_trouble",
        "microgrid_back",
        "checkpoint_repaired",
        "checkpoint_damaged",
        "outer_state_lost",
        "tidied",
        "node_gone",
        "site_note",
        "link_measured",
        "given_up",
        "driver_trouble",
        "driver_back",
        "out_of_reach",
        "platform",
        "leaving",
        "done",
        "interrupted",
    }
)


def format_event(event: Event) -> str:
    """``2026-01-11 17:14:00  california  off -> provisioning: start: 65 g is under ...`` (run time, UTC)."""
    when = iso_utc(event.t_run).replace("T", " ").removesuffix("Z")
    return f"{when}  {event.site or 'run'}  {what_happened(event)}"


def what_happened(event: Event) -> str:
    """The same without time and site."""
    d = event.detail
    text = _life(event, d) or _work(event, d) or _trouble(event, d) or _hand(event, d)
    return safe(text or event.kind.replace("_", " ") + _because(d) + _rest(d, event.version))


def _because(d: Mapping[str, Any]) -> str:
    return f": {d['reason']}" if d.get("reason") else ""


def _life(event: Event, d: Mapping[str, Any]) -> str:
    """Coordinators and sites come and go."""
    match event.kind:
        case "state":
            return f"{d.get('was')} -> {d.get('now')}{_because(d)}"
        case "mode":
            return f"mode {d.get('was') or 'new'} -> {d.get('now')}"
        case "decision":
            return f"wanted {d.get('wanted')}{_because(d)}"
        case "started":
            return f"run {d.get('run_id', '')} started"
        case "resumed":
            return f"run {d.get('run_id', '')} resumed at version {event.version}"
        case "configuration_changed":
            by = f"; asked by {d['who']}" if d.get("who") else ""
            return f"from now on: {change_text(str(d.get('key')), d.get('old'), d.get('new'))}{by}{_because(d)}"
        case "site_left":
            left = f"{counted(d.get('contributions'), 'contribution')} of it taken in, {counted(d.get('blocks'), 'block')}"
            return f"is no part of the run any more: {left} can be lent again"
        case "done":
            return f"done at version {event.version}"
        case "interrupted":
            return f"interrupted at version {event.version}; run again to resume"
        case "leaving":
            return f"this coordinator ends and the next one goes on{_because(d)}"
        case "adopted":
            return f"generation {d.get('generation')} was found running; the run goes on with it"
        case "swept":
            return f"generation {d.get('generation')} was found running and is not wanted any more; it is ended"
        case "hello":
            said = f"generation {d.get('generation')} says hello" + (" again" if d.get("again") else "")
            said += f" and hands in {counted(d.get('offered'), 'contribution')}" if d.get("offered") else ""
            return said + (f", {counted(d['uncut_blocks'], 'block')} into its next" if d.get("uncut_blocks") else "")
        case "node_gone":
            return "its SuperNode is gone; what the site trains stays with it"
    return ""


def _work(event: Event, d: Mapping[str, Any]) -> str:
    """Rounds, cuts and versions."""
    match event.kind:
        case "round":
            cut = f"; cut at {clock_text(float(d['cut_at']))}" if d.get("cut_at") else ""
            return f"round {d.get('round')} ({d.get('mode')}) on version {event.version}: {_names(d.get('sites'))}{cut}"
        case "round_length":
            return f"round {d.get('round')} takes {float(d.get('length_s', 0)):,.0f} s{_because(d)}"
        case "power_level":
            surplus = d.get("surplus_w")
            by = "nothing is known of its surplus" if surplus is None else f"its surplus is {float(surplus):,.0f} W"
            return f"trains at {float(d.get('power_w', 0)):,.0f} W, {float(d.get('tokens_per_s', 0)):,.1f} tokens/s: {by}"
        case "power_level_measured":
            return f"at {float(d.get('power_w', 0)):,.0f} W it trains {float(d.get('tokens_per_s', 0)):,.1f} tokens/s, as measured"
        case "version_sent":
            return f"is sent version {event.version} before it counts as one of the round's"
        case "together":
            sent, received = (_megabytes(d.get(f"{way}_bytes_per_round")) for way in ("sent", "received"))
            text = f"{_names(d.get('sites'))} in {counted(d.get('rounds'), 'round')}: "
            text += f"{float(d.get('tokens_per_s', 0)):,.1f} tokens/s"
            return text + f", {sent} sent and {received} received a round"
        case "cut_forward":
            giver = f"; {d['inner_of']} hands in its inner state as well" if d.get("inner_of") else ""
            return f"the cut of round {d.get('round')} is brought forward{_because(d)}{giver}"
        case "round_closed_without":
            return f"round {d.get('round')} closed without {_names(d.get('sites'))}"
        case "contribution":
            text = f"cut {d.get('generation')}.{d.get('cut')} on version {event.version}: "
            return text + f"{int(d.get('tokens', 0)):,} tokens" + (", its last" if d.get("drained") else "")
        case "commit":
            shares = ", ".join(f"{site} {int(n):,}" for site, n in sorted(d.get("sites", {}).items()))
            text = f"version {event.version} ({d.get('mode')}): {int(d.get('tokens', 0)):,} tokens from {shares}"
            return text + f"; {int(d.get('tokens_total', 0)):,} in all"
        case "evaluation":
            return f"version {event.version}: {float(d.get('val_bpb', float('nan'))):.4f} bits per byte"
        case "inner_averaged":
            return f"the inner optimizer states of {_names(d.get('sites'))} are averaged"
        case "inner_not_averaged":
            return f"inner optimizer states are not averaged{_because(d)}"
        case "inner_state":
            of = f" by {d['giver']}" if d.get("giver") else ""
            return f"starts at version {event.version}; inner optimizer state: {d.get('choice')}{of}"
    return ""


def _trouble(event: Event, d: Mapping[str, Any]) -> str:
    """What went wrong, and what was done about it."""
    match event.kind:
        case "refused" | "discarded":
            cut = f" cut {d['generation']}.{d['cut']}" if "cut" in d and "generation" in d else ""
            tokens = f" ({int(d['tokens']):,} tokens)" if cut and "tokens" in d else ""
            return f"{event.kind}{cut}{tokens}{_because(d)}"
        case "clipped":
            return f"cut {d.get('generation')}.{d.get('cut')} is clipped{_because(d)}"
        case "work_lost":
            kwh = f" and an estimated {float(d['kwh']):.3g} kWh" if "kwh" in d else ""
            text = f"cut {d.get('generation')}.{d.get('cut')} comes too late: {int(d.get('tokens', 0)):,} tokens"
            return f"{text}{kwh} are lost{_because(d)}"
        case "message_failed":
            return f"a message {'failed' if d.get('current', True) else 'to an earlier life of the site failed'}{_because(d)}"
        case "stranger":
            return f"a node that is not one of this run's sites as they are now{_because(d)}"
        case "lease_ended":
            return f"lease {d.get('epoch')} ended; {counted(d.get('blocks'), 'block')} of it can be lent again"
        case "quarantined":
            return f"block {d.get('block')} is quarantined{_because(d)}"
        case "site_note":
            return str(d.get("note", ""))
        case "given_up" | "driver_trouble" | "driver_back" | "out_of_reach" | "platform":
            return str(d.get("reason", ""))
        case "meter_lost" | "meter_silent" | "meter_back" | "meter_closed" | "microgrid_trouble" | "microgrid_back":
            return str(d.get("reason", ""))
        case "power_level_failed":
            return f"its power cannot be held to its level{_because(d)}"
        case "meter":
            return f"its power is measured: {d.get('what', '')}"
        case "link_measured":
            return f"its link carries {float(d.get('mbit_s', 0.0)):.3g} Mbit/s{_because(d)}"
        case "bus_down":
            return f"the bus is down{_because(d)}"
        case "bus_up":
            return "the bus is up again"
        case "alert":
            return f"alert{_because(d)}"
        case "alert_over":
            return f"the alert is over{_because(d)}"
        case "alerts_unsent":
            return f"alerts cannot be sent{_because(d)}"
        case "alerts_sent_again":
            return "alerts are sent again"
        case "grid_note":
            return f"the grid: {d.get('reason', '')}"
        case "grid_lost":
            return f"the grid operator's server is not heard, and its last word counts{_because(d)}"
        case "grid_back":
            return "the grid operator's server is heard again"
        case "grid_reported":
            return f"reported to the grid: {d.get('reason', '')}"
        case "signal_lost":
            return f"a live signal is not heard{_because(d)}"
        case "signal_back":
            return f"a live signal is heard again{_because(d)}"
        case "checkpoint_repaired":
            return f"the weights of version {event.version} were damaged and are whole again{_because(d)}"
        case "checkpoint_damaged":
            return f"the weights of version {event.version} are damaged{_because(d)}"
        case "outer_state_lost":
            return f"training goes on without the outer state of version {event.version}{_because(d)}"
        case "tidied":
            named = list(d.get("files", []))
            more = int(d.get("count", len(named))) - len(named)
            text = f"removed {counted(d.get('count'), 'file')} that the ledger does not name: {_names(named)}"
            return text + (f" and {more} more" if more > 0 else "")
    return ""


def _hand(event: Event, d: Mapping[str, Any]) -> str:
    """What the operator has asked for."""
    until = f" until {iso_utc(float(d['until']))}" if d.get("until") is not None else ""
    match event.kind:
        case "held":
            return f"held by {d.get('who')}{until}{_because(d)}"
        case "drain_asked":
            return f"drain asked by {d.get('who')}{until}{_because(d)}"
        case "stop_asked":
            return f"stop asked by {d.get('who')}{_because(d)}"
        case "request_refused":
            return f"{d.get('what')}, asked by {d.get('who')}, is refused{_because(d)}"
        case "released" if str(d.get("reason", "")) in ("the hold is over", "the drain is over"):
            return f"{d['reason']}: it was asked by {d.get('who')}, and the policy decides again"
        case "released":
            return f"released by {d.get('who')}{_because(d)}"
    return ""


def _megabytes(value: Any) -> str:
    return f"{float(value or 0) / 1e6:,.2f} MB"


def _names(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) and value else "nobody"


def _rest(detail: Mapping[str, Any], version: int | None) -> str:
    """The details of an event that has no sentence of its own."""
    shown = [f"{k} {v}" for k, v in detail.items() if k not in ("reason", "pid") and isinstance(v, str | int | float)]
    if version is not None:
        shown.insert(0, f"version {version}")
    return f" ({', '.join(shown)})" if shown else ""
