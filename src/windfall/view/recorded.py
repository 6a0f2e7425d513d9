"""The signals that a run was decided and booked by: its traces, or what the run itself has recorded of them.

Live signals are as the run recorded them. So are all, where a trace has been moved since: a report can be written elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from windfall.config.load import stored
from windfall.config.schema import Config, SiteTable
from windfall.config.signals import SignalTable
from windfall.config.trigger import parse_trigger
from windfall.errors import ConfigError, SignalError
from windfall.grid.build import Grid, build_grid
from windfall.grid.signal import Signal, StepSignal
from windfall.store.rundir import RunDir
from windfall.store.telemetry_decisions import ReadingRow
from windfall.units import UNITS
from windfall.view.moment import Moment, one_moment


@dataclass(frozen=True, slots=True)
class Readings:
    """The signals of a run; ``grid`` is None where there are none, and ``why`` says why it is not made of traces.

    ``traced``: the grid is that of the configuration, with every source of it.
    """

    grid: Grid | None
    why: str = ""
    traced: bool = True


def configuration(run: RunDir) -> Config:
    """A run's configuration as it is kept. The files that it names need not be there any more.

    Raises:
        StoreError: there is no run here.
        ConfigError: it is none that this Windfall knows.
    """
    path = run.open_existing().config
    try:
        return stored(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: cannot be read: {e}; put the run's configuration back, or read another run") from None
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}") from None


def load_grid(config: Config, run: RunDir | None = None, at: Moment | None = None) -> Readings:
    """The signals of a configuration, without asking anybody for news.

    Of live signals, what ``run`` recorded of them (by ``at``, default: now); without a run, what this machine has heard. A trace
    that cannot be read any more is replaced by the readings of it that the run recorded.
    """
    why = ""
    grid: Grid | None = None
    try:
        grid = build_grid(config)
    except SignalError as e:
        why = str(e)
    if run is None or (grid is not None and not any(_live(s, t) for s in config.site for t in s.all_signals)):
        return Readings(grid, why, grid is not None)
    heard = _heard(run, at)
    traced = grid is not None
    if grid is None:
        if not heard:
            return Readings(None, why, False)
        grid = Grid()
        why = f"{why}; the readings that the run recorded are used"
    for site in config.site:
        if traced and not _live(site, site.signal):
            continue
        signal = _as_recorded(site, heard.get(site.name, []))
        grid.by_site[site.name] = signal
        grid.signals[site.name] = {**grid.signals.get(site.name, {}), site.signal.label: signal}
        if next(s.name for s in config.site if s.region == site.region) == site.name:
            grid.by_region[site.region] = signal
    return Readings(grid, why, traced)


def known_part(config: Config, grid: Grid) -> tuple[Config, Grid]:
    """Configuration and grid with the signals alone that are known from end to end.

    Of a live signal that is not a site's first one nothing is recorded. A microgrid is simulated again where what its plants
    delivered is known from traces. A trigger that names a signal of which nothing is known is left out.
    """
    signals: dict[str, dict[str, Signal]] = {
        s.name: {t.label: x for t in s.all_signals if isinstance(x := grid.signals[s.name].get(t.label), StepSignal)}
        for s in config.site
    }
    supplies = {n: x for n, x in grid.supplies.items() if isinstance(x, StepSignal)}
    sites = []
    for s in config.site:
        there = [t for t in s.signals if t.label in signals[s.name] or (t.simulated and s.name in supplies)]
        changed: dict[str, object] = {"signals": there, "microgrid": s.microgrid if s.name in supplies else None}
        if len(there) < len(s.signals) and s.trigger is not None:
            named = parse_trigger(s.trigger).names()
            if not named <= {s.signal.label, *(t.label for t in there), "moer"}:
                changed["trigger"] = None
        sites.append(s.model_copy(update=changed))
    return config.model_copy(update={"site": sites}), Grid(dict(grid.by_site), dict(grid.by_region), signals, dict(supplies))


def _live(site: SiteTable, table: SignalTable) -> bool:
    """Whether a signal of a site is asked for while the run goes on, by itself or as the power of plants that are asked."""
    return table.live or (table.kind == "microgrid" and site.microgrid is not None and any(x.live for x in site.microgrid.source))


def _as_recorded(site: SiteTable, rows: Sequence[ReadingRow]) -> StepSignal:
    """A site's first signal as far as decisions have seen it; of one that was never heard nothing is known."""
    table = site.signal
    times = np.array([r.valid_from for r in rows] or [0.0])
    values = np.array([r.value for r in rows] or [math.nan])
    # When a reading is stale says for how long the source's rows hold, which may be other than what is configured.
    holds = np.array([math.nan if r.stale_at is None else r.stale_at for r in rows] or [math.nan]) - times
    periods = (holds - table.publication_delay_s) / table.stale_periods
    periods = np.where(np.isfinite(periods) & (periods > 0), periods, table.period_s)
    return StepSignal(
        times, values, unit=UNITS[table.type].replace("currency", table.currency), source="recorded", period_s=table.period_s,
        publication_delay_s=table.publication_delay_s, stale_periods=table.stale_periods, periods=periods,
    )  # fmt: skip


def _heard(run: RunDir, at: Moment | None) -> dict[str, list[ReadingRow]]:
    """The readings that a run recorded, by site."""
    with one_moment(run, at) as now:
        rows = now.telemetry.readings() if now.telemetry is not None else []
    found: dict[str, list[ReadingRow]] = {}
    for r in rows:
        found.setdefault(r.site, []).append(r)
    return found
