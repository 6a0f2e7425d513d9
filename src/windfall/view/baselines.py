"""What the same tokens would have emitted at one site that is always on. The report begins with this comparison.

A baseline trains the tokens that the run has committed, from the run's start and without interruption, as fast and at as much power
as the run's own sites in that region trained (elsewhere: as all of its sites did), under the readings of the baseline's region.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from windfall.config.schema import Config
from windfall.config.signals import SignalTable
from windfall.energy.always_on import always_on
from windfall.energy.tariff import Tariff
from windfall.grid.build import Grid
from windfall.grid.signal import Signal
from windfall.simulate.curves import Curve
from windfall.units import J_PER_KWH, clock_text
from windfall.view.recorded import known_part
from windfall.view.state import RunState

#: Points of a curve.
MOST = 3000
NOTHING = "nothing has been trained yet"
UNCOMMITTED = "no training has been committed yet"


@dataclass(frozen=True, slots=True)
class MeasuredPace:
    """How sites of a run trained, by its own account: tokens per second of training, and the power (W) that it took."""

    tokens_per_s: float
    watts: float


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """What another way of training the run's tokens would have cost.

    ``kind``: region (one site there, always on), all_on, random, threshold, paper or oracle. ``kg`` is None where ``why`` says why;
    ``share`` is the run's kg over it. Of one that is drawn, ``kg`` is the median over ``seeds``, ``kg_low`` and ``kg_high`` the
    10th and the 90th percentile. ``unknown_h``: hours in which its sites were on and nobody knows the intensity; they are in no
    kg. ``finish_h``: run time from the start until it had the tokens.
    """

    name: str
    kind: str
    kg: float | None = None
    share: float | None = None
    kwh: float | None = None
    money: dict[str, float] = field(default_factory=dict)
    site_hours: float | None = None
    finish_h: float | None = None
    starts: int | None = None
    unknown_h: float = 0.0
    kg_low: float | None = None
    kg_high: float | None = None
    seeds: int | None = None
    why: str = ""
    note: str = ""
    #: Of a region: its name, and whether the run has a site there.
    region: str | None = None
    own: bool = False
    #: (Run time, kg so far), linear between these; empty where it has no kg, or (with a microgrid) only its sum is known.
    curve: tuple[tuple[float, float], ...] = ()


def method_of(config: Config) -> str:
    """By which intensity a configuration's sites count emissions: marginal, average, none, or mixed, which nothing adds up."""
    kinds = [{t.type for t in s.all_signals} for s in config.site]
    found = {"marginal" if "marginal_co2" in k else "average" if "average_co2" in k else "none" for k in kinds}
    return found.pop() if len(found) == 1 else "mixed"


def paces(state: RunState, trained: Mapping[str, int] | None = None) -> dict[str, MeasuredPace]:
    """The pace of every site of the run that has handed in work.

    ``trained``: tokens that sites took steps on by their own count, where it is known; else what they have handed in counts. Leave
    it out of a run that goes on: then time spent on work that is still open makes the pace slower, as no committed tokens have it.
    """
    found = {}
    for name, site in state.sites.items():
        tokens = max(site.tokens + site.work_lost.tokens, (trained or {}).get(name, 0))
        if tokens > 0 and site.training_hours > 0 and site.mean_training_watts is not None:
            found[name] = MeasuredPace(tokens / (site.training_hours * 3600.0), site.mean_training_watts)
    return found


def mean_pace(state: RunState, found: Mapping[str, MeasuredPace], sites: Iterable[str] | None = None) -> MeasuredPace | None:
    """The mean of some sites' paces (default: of all), each weighed by its hours of training; None where there are none."""
    hours = {n: state.sites[n].training_hours for n in (found if sites is None else sites) if n in found}
    total = sum(hours.values())
    if total <= 0:
        return None
    tokens = sum(found[n].tokens_per_s * h for n, h in hours.items())
    return MeasuredPace(tokens / total, sum(found[n].watts * h for n, h in hours.items()) / total)


def baselines(
    config: Config, state: RunState, grid: Grid | None, why: str = "", trained: Mapping[str, int] | None = None
) -> list[Counterfactual]:  # fmt: skip
    """Every region of the configuration, cleanest first; those that cannot be computed last."""
    paced = paces(state, trained)
    if grid is not None:
        config, grid = known_part(config, grid)
    regions = list(dict.fromkeys([*(s.region for s in config.site), *(c.region for c in config.counterfactual)]))
    found = [_region(config, state, grid, region, paced, why) for region in regions]
    return sorted(found, key=lambda b: (b.kg is None, b.kg or 0.0))


def headline(found: Sequence[Counterfactual]) -> Counterfactual | None:
    """The comparison to begin with: the run's region that would have emitted least, which is the hardest to beat."""
    own = [b for b in found if b.kind == "region" and b.own and b.kg is not None and b.share is not None]
    return min(own, key=lambda b: b.kg or 0.0, default=None)


def share(state: RunState, kg: float | None) -> float | None:
    """The run's kg over those of another way."""
    return state.kg_co2 / kg if kg and kg > 0 and state.kg_co2 is not None else None


def nothing_to_compare(state: RunState) -> str:
    """Why a run can be compared with nothing; empty if it can."""
    if state.started_run is None or state.training_hours <= 0:
        return NOTHING
    return "" if state.tokens_committed > 0 and paces(state) else UNCOMMITTED


def _region(
    config: Config, state: RunState, grid: Grid | None, region: str, paced: Mapping[str, MeasuredPace], why: str
) -> Counterfactual:  # fmt: skip
    own = {s.name for s in config.site if s.region == region}
    none = Counterfactual(region, "region", region=region, own=bool(own))
    said = nothing_to_compare(state)
    pace = mean_pace(state, paced, own) or mean_pace(state, paced)
    if said or pace is None or state.started_run is None:
        return _without(none, said or NOTHING)
    if grid is None:
        return _without(none, why)
    start, hours = state.started_run, state.tokens_committed / pace.tokens_per_s / 3600.0
    signal, price, said = _signals(config, grid, region)
    kwh = pace.watts * hours / 1000.0
    money: dict[str, float] = {}
    if price is not None:
        paid = always_on(price[1], pace.watts, start, hours).whole_kg
        money = {} if paid is None else {price[0]: paid}
    if signal is None:
        return _without(none, said, kwh=kwh, money=money, site_hours=hours)
    made = always_on(signal, pace.watts, start, hours)
    kg = made.whole_kg
    if kg is None:
        return _without(
            replace(none, unknown_h=made.unknown_h), why_not(signal, start, hours), kwh=kwh, money=money, site_hours=hours
        )
    return Counterfactual(
        region, "region", kg, share(state, kg), kwh, money, hours, hours, region=region, own=bool(own),
        curve=points_of(cumulative(signal, pace.watts, start, hours)),
    )  # fmt: skip


def _without(
    none: Counterfactual, why: str, *, kwh: float | None = None, money: dict[str, float] | None = None,
    site_hours: float | None = None,
) -> Counterfactual:  # fmt: skip
    """A region without kg."""
    return replace(none, kwh=kwh, money=money or {}, site_hours=site_hours, finish_h=site_hours, why=why)


def _signals(config: Config, grid: Grid, region: str) -> tuple[Signal | None, tuple[str, Signal] | None, str]:
    """By what a region's emissions and cost are counted, if it has such signals; and why it has no emissions."""
    method = method_of(config)
    for site in config.site:
        if site.region == region:
            tariff = Tariff.of(site, grid.signals[site.name], config.run)
            price = (tariff.currency, tariff.price) if tariff.price is not None else None
            return tariff.emissions, price, "its signal is no intensity of emissions"
    if region not in grid.by_region:
        return None, None, "its trace cannot be read, and the run recorded nothing of it"
    table: SignalTable = next(c.signal for c in config.counterfactual if c.region == region)
    price = (table.currency, grid.by_region[region]) if table.type == "price" else None
    if table.type not in ("marginal_co2", "average_co2"):
        return None, price, "its signal is no intensity of emissions"
    kind = table.type.removesuffix("_co2")
    if kind != method:
        return None, price, f"its signal is {kind} intensity, and this run counts by {method}"
    return grid.by_region[region], price, ""


def why_not(signal: Signal, start: float, hours: float) -> str:
    """Why the emissions of ``hours`` from ``start`` are not known."""
    end = start + hours * 3600
    if end > signal.ends_at() + 1:
        last = clock_text(signal.ends_at())
        return f"its readings end at {last} UTC, {hours:.1f} h always on would last until {clock_text(end)}"
    if signal.starts_at() > start:
        return f"its readings begin at {clock_text(signal.starts_at())} UTC, after the run's start"
    known = always_on(signal, 1.0, start, hours)
    return f"{known.unknown_h:.1f} of these {hours:.1f} h have no reading"


def cumulative(signal: Signal, watts: float, start: float, hours: float) -> Curve:
    """kg of a site that is always on, over run time."""
    columns = signal.between(start, start + hours * 3600)
    kg = np.cumsum(np.nan_to_num(columns.values) * (columns.ends - columns.starts)) * watts / J_PER_KWH / 1000.0
    return Curve(np.append(start, columns.ends), np.append(0.0, kg))


def points_of(curve: Curve) -> tuple[tuple[float, float], ...]:
    """A curve as (run time, kg), at so many instants at most as anybody can see apart."""
    times = curve.times if len(curve.times) <= MOST else np.linspace(curve.times[0], curve.times[-1], MOST)
    return tuple(zip(times.tolist(), curve.at(times).tolist(), strict=True))
