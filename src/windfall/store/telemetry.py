"""Telemetry: what happened, what was decided and why, what was measured and what it cost.

Views read it; nothing that must be right depends on it. Every statement that knows one of its tables is a method here, in the file
of its subject.
"""

from __future__ import annotations

from typing import Any, Protocol

from windfall.store.telemetry_decisions import DecisionTable
from windfall.store.telemetry_energy import EnergyTable
from windfall.store.telemetry_events import Event as Event
from windfall.store.telemetry_events import EventTable
from windfall.store.telemetry_metrics import MetricTable
from windfall.store.telemetry_states import StateTable
from windfall.store.telemetry_thinned import ThinnedTable


class Events(Protocol):
    """Where events and figures go (``Telemetry`` is one)."""

    def event(self, t_run: float, kind: str, *, site: str | None = None, version: int | None = None, **detail: Any) -> None: ...

    def metric(
        self, t_run: float, site: str, name: str, value: float, *, tokens: int | None = None,
        version: int | None = None, detail: dict[str, Any] | None = None,
    ) -> None: ...  # fmt: skip


class Telemetry(EventTable, DecisionTable, MetricTable, EnergyTable, StateTable, ThinnedTable):
    """One run's telemetry, all of its tables. Writes are queued; ``flush`` stores them."""
