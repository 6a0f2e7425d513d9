"""The model of the trainer that takes the trainer's place on the manual clock (DESIGN 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from windfall.config.schema import TrainerTable
from windfall.fleet.machine import Site, State


@dataclass(frozen=True, slots=True)
class TrainerModel:
    """Seconds, all of them. ``stall_s`` of each ``cycle_s`` pass without a step while two or more sites train."""

    preset: str
    provision_s: float
    load_s: float
    stall_s: float
    cycle_s: float

    @classmethod
    def of(cls, table: TrainerTable, preset: str) -> TrainerModel:
        """Preset ``prototype`` has the study's stall, ``windfall`` none."""
        stall = table.stall_s if preset == "prototype" else 0.0
        return cls(preset, table.provision_s, table.load_s, stall, table.stall_cycle_s)


class SimulatedWork:
    """Sites that train at ``tokens_per_s`` while they are in work and not stalled."""

    def __init__(self, model: TrainerModel, tokens_per_s: Mapping[str, float], budget: float) -> None:
        """``budget`` in tokens, or in site-seconds where every ``tokens_per_s`` is 1."""
        self._model = model
        self._rate = tokens_per_s
        self.left = budget
        self.done_at: float | None = None
        self._working: set[str] = set()
        self._joint_since: float | None = None

    def tick(self, t: float, t_next: float, sites: Mapping[str, Site]) -> None:
        self._working = {n for n, s in sites.items() if s.state in (State.READY, State.TRAINING)}
        if len(self._working) < 2:
            self._joint_since = None
        elif self._joint_since is None:
            self._joint_since = t
        active = sum(self._rate[n] for n in self._working if self.phase(n, t) == "training")
        if active <= 0 or self.left <= 0:
            return
        took = min(t_next - t, self.left / active)
        self.left -= active * took
        if self.left <= 1e-9:
            self.left = 0.0
            self.done_at = t + took

    def poll(self, sites: Mapping[str, Site]) -> None:
        return None

    def ready(self, site: str, generation: int) -> bool:
        # How long a start takes is the machine's to model (Patience.spin_up_s, on a gated clock).
        return True

    def working(self, site: str) -> bool:
        return site in self._working

    def drained(self, site: str) -> bool:
        return True

    def lost(self, site: str) -> str:
        return ""

    def owes(self, t: float) -> str:
        return ""

    def behind(self, t_next: float, alive: set[str]) -> str:
        return ""

    def phase(self, site: str, t: float) -> str:
        if self._joint_since is None or self._model.stall_s <= 0:
            return "training"
        into = (t - self._joint_since) % self._model.cycle_s
        return "training" if into < self._model.cycle_s - self._model.stall_s else "idle"

    def finished(self, site: str) -> bool:
        return self.left <= 0

    def complete(self) -> bool:
        return self.left <= 0
