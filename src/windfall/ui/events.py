"""An event as one line of text: for `windfall events`, the plain live view and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windfall.store.telemetry import Event
from windfall.ui.reading import safe
from windfall.units import iso_utc

#: Kinds that mark a transition or something that went wrong; the plain live view prints these and no others.
TRANSITIONS = frozenset(
    {
        "started",
        "resumed",
        "state",
        "mode",
        "commit",
        "evaluation",
        "warning",
        "error",
        "refused",
        "discarded",
        "message_failed",
        "quarantined",
        "lease_ended",
        "round_closed_without",
        "stranger",
        "swept",
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
    reason = f": {d['reason']}" if d.get("reason") else ""
    match event.kind:
        case "state":
            text = f"{d.get('was')} -> {d.get('now')}{reason}"
        case "mode":
            text = f"mode {d.get('was') or 'new'} -> {d.get('now')}"
        case "decision":
            text = f"wanted {d.get('wanted')}{reason}"
        case "commit":
            shares = ", ".join(f"{site} {int(n):,}" for site, n in sorted(d.get("sites", {}).items()))
            text = f"version {event.version} ({d.get('mode')}): {int(d.get('tokens', 0)):,} tokens from {shares}"
            text += f"; {int(d.get('tokens_total', 0)):,} in all"
        case "evaluation":
            text = f"version {event.version}: {float(d.get('val_bpb', float('nan'))):.4f} bits per byte"
        case "contribution":
            text = f"cut {d.get('generation')}.{d.get('cut')} on version {event.version}: "
            text += f"{int(d.get('tokens', 0)):,} tokens"
        case "started":
            text = f"run {d.get('run_id', '')} started"
        case "resumed":
            text = f"run {d.get('run_id', '')} resumed at version {event.version}"
        case "done":
            text = f"done at version {event.version}"
        case "interrupted":
            text = f"interrupted at version {event.version}; run again to resume"
        case _:
            text = event.kind.replace("_", " ") + reason + _rest(d, event.version)
    return safe(text)


def _rest(detail: Mapping[str, Any], version: int | None) -> str:
    """The details of an event that has no sentence of its own."""
    shown = [f"{k} {v}" for k, v in detail.items() if k not in ("reason", "pid") and isinstance(v, str | int | float)]
    if version is not None:
        shown.insert(0, f"version {version}")
    return f" ({', '.join(shown)})" if shown else ""
