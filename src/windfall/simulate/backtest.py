"""Backtest: the loop on a manual clock, with the same policies, controller and account as a real run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from windfall import clock
from windfall.clock import ManualClock
from windfall.config.schema import Config
from windfall.energy.account import Account, PowerModel, always_on_kg
from windfall.errors import RunError
from windfall.fleet.controller import Controller, NullJournal
from windfall.fleet.driver import MemoryDriver
from windfall.fleet.loop import Loop, NullRecorder
from windfall.fleet.machine import Patience, Site, State
from windfall.grid.build import Grid, build_grid
from windfall.policy.build import build_policy
from windfall.simulate.work import SimulatedWork, TrainerModel
from windfall.units import kwh, parse_utc

#: Stop a simulation that makes no progress: nothing trained for this long.
_GIVE_UP_S = 400 * 86400.0


@dataclass(frozen=True)
class Row:
    """One policy's outcome. Hours are run time from the start; null figures could not be computed."""

    policy: str
    preset: str
    finish_h: float | None
    site_hours: float
    energy_kwh: float
    kg_co2: float
    starts: int
    idle_h: float
    share_inside: float | None
    site_hours_by_site: dict[str, float]
    #: (start, end, state) per site: what figures draw. Left out of JSON.
    lanes: dict[str, list[tuple[float, float, str]]]

    def as_json(self) -> dict[str, Any]:
        """The row without its lanes."""
        row = asdict(self)
        row.pop("lanes")
        return row


@dataclass(frozen=True)
class Backtest:
    """All rows, the always-on baselines by region (kg), and how long the simulation alone took."""

    start: float
    site_hours: float
    baseline_site_hours: float
    baselines: dict[str, float | None]
    rows: list[Row]
    elapsed_s: float
    warnings: list[str]

    def as_json(self) -> dict[str, Any]:
        """The object that `windfall backtest --json` prints."""
        return {
            "baselines": self.baselines,
            "baseline_site_hours": self.baseline_site_hours,
            "rows": [r.as_json() for r in self.rows],
            "elapsed_s": round(self.elapsed_s, 4),
            "warnings": self.warnings,
        }


def backtest(config: Config, policies: list[str] | None = None) -> Backtest:
    """Run every policy (default: ``[backtest] policies``) over the configuration's signals.

    Raises:
        SignalError: a trace cannot be used.
    """
    grid = build_grid(config)
    table = config.backtest
    begun = table.start or config.run.start
    start = parse_utc(begun) if begun else grid.starts_at()
    mean_rate = sum(s.tokens_per_s for s in config.site) / len(config.site)
    site_hours = table.site_hours or config.run.budget_tokens / mean_rate / 3600
    baseline_hours = table.baseline_site_hours or site_hours
    before = clock.monotonic()
    rows = [
        simulate(config, grid, start, name, table.paper_preset if name == "paper" else table.trainer.preset)
        for name in policies or table.policies
    ]
    elapsed = clock.monotonic() - before
    baselines = {
        region: always_on_kg(signal, config.site[0].train_power_w, start, baseline_hours)
        for region, signal in grid.by_region.items()
    }
    return Backtest(start, site_hours, baseline_hours, baselines, rows, elapsed, grid.warnings)


def simulate(config: Config, grid: Grid, start: float, policy: str, preset: str) -> Row:
    """One policy from ``start`` until the budget is trained or the signals end."""
    model = TrainerModel.of(config.backtest.trainer, preset)
    tick = config.backtest.tick_s or config.run.tick_s
    in_hours = config.backtest.site_hours is not None
    rates = {s.name: 1.0 if in_hours else s.tokens_per_s for s in config.site}
    budget = (config.backtest.site_hours or 0.0) * 3600 if in_hours else float(config.run.budget_tokens)
    work = SimulatedWork(model, rates, budget)
    spin_up = model.provision_s + model.load_s
    lanes: dict[str, list[tuple[float, float, str]]] = {s.name: [] for s in config.site}
    opened: dict[str, tuple[float, State]] = {s.name: (start, State.OFF) for s in config.site}

    def moved(t: float, site: Site, old: State, new: State) -> None:
        since, state = opened[site.name]
        if t > since:
            lanes[site.name].append((since, t, state.value))
        opened[site.name] = (t, new)

    time = ManualClock(start)
    controller = Controller(
        {s.name: Patience(spin_up, 1e9, 1e9, 120.0, 3600.0) for s in config.site},
        MemoryDriver(),
        NullJournal(),
        gated=True,
        seed=config.run.seed,
        observer=moved,
    )
    account = Account({s.name: PowerModel.of(s) for s in config.site}, grid.by_site, config.run.threshold_g_per_kwh)
    loop = Loop(
        clock=time,
        signals=grid.by_site,
        # The policy is told the site's configured restart time, as in a real run.
        spin_up_s={s.name: s.spin_up_s for s in config.site},
        policy=build_policy(config.policy, policy),
        controller=controller,
        work=work,
        account=account,
        recorder=NullRecorder(),
        load_s={s.name: model.load_s for s in config.site},
    )
    end = min(start + _GIVE_UP_S, max(s.ends_at() for s in grid.by_site.values()))
    while not work.complete() and time.now() < end:
        t = time.now()
        t_next = min(t + tick, end)
        loop.tick(t, t, t_next)
        t_next = t_next if work.done_at is None else work.done_at
        loop.book(t, t_next)
        time.move_to(t_next)
    for name in lanes:
        moved(time.now(), controller.sites[name], controller.sites[name].state, State.OFF)
    total = account.total()
    trained = {s.name: account.total(s.name, "training").seconds / 3600 for s in config.site}
    return Row(
        policy=policy,
        preset=preset,
        finish_h=(work.done_at - start) / 3600 if work.done_at is not None else None,
        site_hours=sum(trained.values()),
        energy_kwh=kwh(total.joules),
        kg_co2=total.grams / 1000,
        starts=sum(s.starts for s in controller.sites.values()),
        idle_h=(account.total(phase="idle").seconds + account.total(phase="draining").seconds) / 3600,
        share_inside=account.share_inside(),
        site_hours_by_site=trained,
        lanes=lanes,
    )


def require_finished(result: Backtest) -> None:
    """Raise RunError if no policy finished its budget before the signals ended."""
    if result.rows and all(r.finish_h is None for r in result.rows):
        raise RunError(
            "no policy finished the budget before the traces ended; lower site_hours or budget_tokens, or use longer traces"
        )
