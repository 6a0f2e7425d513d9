"""The model of the trainer that takes the trainer's place on the manual clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from windfall.config.schema import Config
from windfall.energy.levels import PowerLevels
from windfall.energy.phases import Span, with_stalls
from windfall.fleet.machine import Site, State


@dataclass(frozen=True, slots=True)
class ModelledStart:
    """How long the parts of a simulated start take (seconds): provisioning, then loading at idle power."""

    provision_s: float
    load_s: float

    @property
    def seconds(self) -> float:
        """From the decision to the first step."""
        return self.provision_s + self.load_s


@dataclass(frozen=True, slots=True)
class TrainerModel:
    """Starts by site, and stalls: while two or more sites train, the last ``stall_s`` of each ``cycle_s`` pass without a step."""

    preset: str
    starts: Mapping[str, ModelledStart]
    stall_s: float
    cycle_s: float

    @classmethod
    def of(cls, config: Config, preset: str) -> TrainerModel:
        """The model of a preset.

        ``windfall``: each site starts as its table says, and nothing stalls. ``prototype``: every site starts and stalls as the
        study's trainer did (``[backtest.trainer]``).
        """
        table = config.backtest.trainer
        if preset == "prototype":
            study = ModelledStart(table.provision_s, table.load_s)
            return cls(preset, {s.name: study for s in config.site}, table.stall_s, table.stall_cycle_s)
        own = {s.name: ModelledStart(s.spin_up_s - s.load_s, s.load_s) for s in config.site}
        return cls(preset, own, 0.0, table.stall_cycle_s)

    def differs(self, config: Config) -> str:
        """A note, if the start of a site's table is not that of ``[backtest.trainer]``; else empty."""
        table = config.backtest.trainer
        study = table.provision_s + table.load_s
        other = [s for s in config.site if abs(study - s.spin_up_s) > 1e-9]
        if not other:
            return ""
        theirs = ", ".join(f"{s.name} {s.spin_up_s:g} s" for s in other)
        if self.preset == "prototype":
            return f"a start takes the study's {study:g} s here, where the sites' spin_up_s says otherwise ({theirs})"
        own = type(table).model_fields  # a resolved configuration has every key
        if any(k in table.model_fields_set and getattr(table, k) != own[k].default for k in ("provision_s", "load_s")):
            return (
                f"[backtest.trainer] provision_s and load_s are of preset prototype; here each site's spin_up_s counts ({theirs})"
            )
        return ""


class SimulatedWork:
    """Sites that train at the pace of their power level while they work and are not stalled. Its time moves with ``tick``."""

    def __init__(
        self, model: TrainerModel, tokens_per_s: Mapping[str, float], budget: float, levels: PowerLevels | None = None
    ) -> None:
        """``budget`` in tokens, or in site-seconds at full power where every ``tokens_per_s`` is 1.

        ``levels``: which power levels sites are at, where some have several; ``tokens_per_s`` is then theirs.
        """
        self._model = model
        self._rate = tokens_per_s
        self._levels = levels or PowerLevels(())
        self._left = budget
        self.done_at: float | None = None
        self._working: dict[str, float] = {}
        self._at = -math.inf
        self._joint_since: float | None = None

    def tick(self, t: float, t_next: float, sites: Mapping[str, Site]) -> None:
        self.advance(t)
        for name, site in sites.items():
            self.place(t, name, site.state)
            if name in self._working and self._levels.take(t, name):
                self._working[name] = self._rate[name]

    def place(self, t: float, name: str, state: State) -> None:
        """Put a site into ``state`` from ``t`` on; ``advance`` must have been called for the time until then."""
        works = state in (State.READY, State.TRAINING)
        if works == (name in self._working):
            return
        if works:
            self._working[name] = self._rate[name]
        else:
            del self._working[name]
        if len(self._working) < 2:
            self._joint_since = None
        elif self._joint_since is None:
            self._joint_since = t

    def advance(self, t: float) -> None:
        """Train what the sites train until ``t``."""
        if t > self._at and self._left > 0 and self._working:
            rate = sum(self._working.values())
            worked = rate * self._steps_s(self._at, t)
            # Float64 Unix seconds have steps of a quarter of a microsecond, in which a site may train several tokens. Up to a
            # millisecond is therefore taken for rounding, not for work.
            if worked >= self._left - rate * 1e-3:
                self.done_at = max(self._at, min(t, self._finish(rate)))
                self._left = 0.0
            else:
                self._left -= worked
        self._at = max(self._at, t)

    def finishes_at(self) -> float:
        """When the budget will be trained if no site changes; infinity if none works."""
        if self.done_at is not None:
            return self.done_at
        rate = sum(self._working.values())
        return self._finish(rate) if rate > 0 and math.isfinite(self._left) else math.inf

    def _finish(self, rate: float) -> float:
        need = self._left / rate
        if self._joint_since is None or self._model.stall_s <= 0:
            return self._at + need
        # First the whole cycles, then the rest in one more.
        cycle, stall = self._model.cycle_s, self._model.stall_s
        steps = cycle - stall
        done = self._steps_until(self._at) + need
        cycles, rest = divmod(done, steps)
        if rest == 0 and cycles:
            cycles, rest = cycles - 1, steps
        return self._joint_since + cycles * cycle + rest

    def _steps_until(self, t: float) -> float:
        """How many seconds from the begin of the joint training to ``t`` had steps, stalls left out."""
        assert self._joint_since is not None
        cycles, into = divmod(t - self._joint_since, self._model.cycle_s)
        steps = self._model.cycle_s - self._model.stall_s
        return cycles * steps + min(into, steps)

    def _steps_s(self, t0: float, t1: float) -> float:
        if self._joint_since is None or self._model.stall_s <= 0:
            return t1 - t0
        return self._steps_until(t1) - self._steps_until(max(t0, self._joint_since))

    def poll(self, sites: Mapping[str, Site]) -> None:
        return None

    def ready(self, site: str, generation: int) -> bool:
        # Nothing to wait for: on a gated clock the site's state machine models how long a start takes (Patience.spin_up_s).
        return True

    def working(self, site: str) -> bool:
        return site in self._working

    def drained(self, site: str) -> bool:
        return True

    def merging(self) -> bool:
        return False

    def busy(self, site: str) -> bool:
        return False

    def lost(self, site: str) -> str:
        return ""

    def leaving(self, site: str) -> str:
        return ""

    def owes(self, t: float) -> str:
        return ""

    def behind(self, t_next: float, alive: set[str]) -> str:
        return ""

    def phases(self, site: str, t0: float, t1: float) -> list[Span]:
        since = self._joint_since
        if since is None or self._model.stall_s <= 0 or t1 <= since:
            return [("training", t0, t1)]
        alone: list[Span] = [("training", t0, since)] if t0 < since else []
        return [*alone, *with_stalls(max(t0, since), t1, since, self._model.cycle_s, self._model.stall_s)]

    def beside(self) -> list[tuple[str, str, float]]:
        return []  # nothing moves, and nothing is evaluated

    def left(self) -> float:
        return self._left

    def finished(self, site: str) -> bool:
        return self._left <= 0

    def complete(self) -> bool:
        return self._left <= 0
