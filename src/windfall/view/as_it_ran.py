"""A run's configuration as it really was: with the pace, the power and the starts that its sites had."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from windfall.config.schema import Config
from windfall.store.telemetry_energy import EnergySums
from windfall.store.telemetry_states import StateRow
from windfall.view.baselines import MeasuredPace
from windfall.view.state import RunState


def as_it_ran(
    config: Config, state: RunState, paced: Mapping[str, MeasuredPace], mean: MeasuredPace, sums: Sequence[EnergySums],
    states: Sequence[StateRow],
) -> Config:  # fmt: skip
    """The configuration with the pace, power and starts that its sites really had, and what they have trained as the budget.

    A site that has trained nothing has the mean of those that did.
    """
    starts = _starts(states)
    sites = []
    for s in config.site:
        pace = paced.get(s.name, mean)
        own = {x.phase: x for x in sums if x.site == s.name}
        spin = starts.get(s.name, s.spin_up_s)
        sites.append(
            s.model_copy(
                update={
                    "tokens_per_s": pace.tokens_per_s, "train_power_w": pace.watts, "power_levels": [], "spin_up_s": spin,
                    "load_s": min(s.load_s, spin), "idle_power_w": _watts(own, ("idle", "stall", "draining"), s.idle_power_w),
                    "provisioning_power_w": _watts(own, ("provisioning",), s.provisioning_power_w),
                }
            )
        )  # fmt: skip
    run = config.run.model_copy(update={"budget_tokens": state.tokens_committed})
    backtest = config.backtest.model_copy(update={"site_hours": None, "target": "budget", "tick_s": None})
    return config.model_copy(update={"site": sites, "run": run, "backtest": backtest})


def _watts(own: Mapping[str, EnergySums], phases: Sequence[str], configured: float) -> float:
    found = [own[p] for p in phases if p in own]
    seconds = math.fsum(x.seconds for x in found)
    return math.fsum(x.joules for x in found) / seconds if seconds > 0 else configured


def _starts(states: Sequence[StateRow]) -> dict[str, float]:
    """By site, the mean time from the decision to start to being ready, of starts that came to that."""
    since: dict[str, float] = {}
    took: dict[str, list[float]] = {}
    for row in states:
        begun = since.pop(row.site, None)
        if row.state == "provisioning":
            since[row.site] = row.t_run
        elif begun is not None and row.state in ("ready", "training"):
            took.setdefault(row.site, []).append(row.t_run - begun)
    return {name: math.fsum(found) / len(found) for name, found in took.items()}
