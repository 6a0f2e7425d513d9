"""Ranks regions: simulates the same site in each region of a configuration, over many start dates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from windfall.config.schema import Config, SiteTable
from windfall.errors import ConfigError, RunError, SignalError
from windfall.grid.build import build_grid
from windfall.simulate.backtest import span_of
from windfall.simulate.deadlines import deadlines_of, fitting_deadlines, past_the_end
from windfall.simulate.quantiles import quantiles
from windfall.simulate.simulation import TimeSpan
from windfall.simulate.sweep import SweepJob, SweepPoint, start_dates, sweep
from windfall.units import iso_utc

_DAY_S = 86400.0


@dataclass(frozen=True)
class RankedRegion:
    """The figures of one region. Triples are the 10th, 50th and 90th percentile over the starts; None if unknown."""

    region: str
    policy: str
    start_dates: int
    #: How many of them trained the budget before the region's signals ended.
    finished: int
    #: From when to when the simulations went (Unix seconds).
    begin: float
    end: float
    #: The schedule's value, as the hours of training at a signal of 0 that have the same value.
    net_value_h: tuple[float, ...] | None
    #: Energy used in hours without a reading, which is not in the kg.
    unknown_kwh: tuple[float, ...] | None
    #: Hours from start to finish; without a budget, hours trained.
    hours: tuple[float, ...] | None
    kg_co2: tuple[float, ...] | None
    money: tuple[float, ...] | None
    currency: str
    #: Share of the time between start and end in which the site trained.
    utilisation: tuple[float, ...] | None
    share_of_oracle: tuple[float, ...] | None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""

        def triple(x: tuple[float, ...] | None) -> dict[str, float] | None:
            return None if x is None else dict(zip(("p10", "p50", "p90"), x, strict=True))

        return {
            "region": self.region, "policy": self.policy, "start_dates": self.start_dates, "finished": self.finished,
            "begin": iso_utc(self.begin), "end": iso_utc(self.end), "net_value_h": triple(self.net_value_h),
            "unknown_kwh": triple(self.unknown_kwh),
            "hours": triple(self.hours), "kg_co2": triple(self.kg_co2), "money": triple(self.money), "currency": self.currency,
            "utilisation": triple(self.utilisation), "share_of_oracle": triple(self.share_of_oracle),
        }  # fmt: skip


def rank_regions(
    config: Config, policy: str, *, count: int, span_days: float | None, workers: int | None = None,
    tell: Callable[[float, str], None] = lambda _, what: None,
) -> list[RankedRegion]:  # fmt: skip
    """All regions, best first by what ``ranked_by`` says. Those that never finished or have no value come last.

    ``span_days``: without a budget, how long each simulation lasts.

    Raises:
        SignalError: a region's signal is live, or cannot be used.
    """
    found = []
    sites, alone, common = apart(config)
    for i, (site, one) in enumerate(zip(sites, alone, strict=True)):

        def part(fraction: float, what: str, i: int = i, region: str = site.region) -> None:
            tell((i + fraction) / len(sites), f"{region}: {what}")

        jobs, _ = with_deadlines(one, jobs_for(one, common, [policy], count, span_days))
        if not jobs:
            raise RunError(f"--rank-regions: {past_the_end(one, common)}; set a nearer deadline")
        points = sweep(one, jobs, workers=workers, tell=part)
        found.append(_ranked(config, site, policy, points))
    if config.backtest.target == "none":
        return sorted(found, key=lambda r: (-_middle(r.net_value_h, -math.inf), -_middle(r.hours, -math.inf)))
    return sorted(found, key=lambda r: (r.hours is None, *(_middle(x, math.inf) for x in (r.kg_co2, r.money, r.hours))))


def apart(config: Config) -> tuple[list[SiteTable], list[Config], TimeSpan]:
    """The first site in every region, a configuration of each of them alone, and the time that all regions' signals have.

    Raises:
        SignalError: a region's signal is live, or cannot be used.
        RunError: they have no time in common.
    """
    sites = moved(config)
    alone = [config.model_copy(update={"site": [site], "counterfactual": []}) for site in sites]
    spans = []
    for site, one in zip(sites, alone, strict=True):
        try:
            spans.append(span_of(one, build_grid(one)))
        except SignalError as e:
            raise SignalError(f"{site.region}: {e}") from None
    # All simulations have the same length, because a longer one has more of everything.
    common = TimeSpan(max(s.start for s in spans), min(s.end for s in spans))
    if common.end <= common.start:
        raise RunError("--rank-regions: the regions' signals have no time in common; give traces that overlap")
    return sites, alone, common


def ranked_by(config: Config) -> str:
    """What regions are ranked by, in words."""
    return "net value" if config.backtest.target == "none" else "kg CO2, then money, then hours"


def jobs_for(
    config: Config, span: TimeSpan, policies: Sequence[str], count: int, span_days: float | None, settings: Sequence[Any] = ((),)
) -> list[SweepJob]:
    """Simulations over start dates: of a budget to the end of the signals, without one of ``span_days`` each (default 28).

    Start dates are placed so that each has its deadlines within the signals.

    Raises:
        ConfigError: there is no such start date.
    """
    none = config.backtest.target == "none"
    if count <= 1 and span_days is None:
        return [SweepJob(span.start, span.end, s, tuple(policies)) for s in settings]
    if span_days is not None and span_days * _DAY_S > span.end - span.start:
        raise ConfigError(f"--span-days {span_days:g}: longer than the signals ({(span.end - span.start) / _DAY_S:.1f} days)")
    length = min((span_days or 28.0) * _DAY_S, span.end - span.start)
    # A budget takes at least so long. Later starts could not finish before the signals end.
    least = length if none or span_days is not None else _least_s(config)
    longest = 0.0 if none or config.policy.deadline else max(deadlines_of(config, span), default=0.0) * 3600
    if longest > (length if span_days is not None else span.end - span.start) + 1.0:
        asked = f"--span-days {span_days:g}" if span_days is not None else "the signals"
        raise ConfigError(
            f"a deadline of {longest / 3600:g} h is longer than {asked} "
            f"({(length if span_days is not None else span.end - span.start) / 3600:,.1f} h); set a nearer one"
        )
    least = max(least, longest)
    starts = start_dates(span, count, least)
    ends = [t + length if none or span_days is not None else span.end for t in starts]
    return [SweepJob(t, end, s, tuple(policies)) for s in settings for t, end in zip(starts, ends, strict=True)]


def with_deadlines(config: Config, jobs: Sequence[SweepJob]) -> tuple[list[SweepJob], list[str]]:
    """The jobs with a deadline within their signals (all, where none is set), and what to tell of the others."""
    missed = [past_the_end(config, TimeSpan(j.start, j.end)) for j in jobs]
    kept = [j for j, said in zip(jobs, missed, strict=True) if not said or fitting_deadlines(config, TimeSpan(j.start, j.end))]
    starts = sorted({j.start for j in jobs} - {j.start for j in kept})
    told = []
    if starts:
        when = ", ".join(iso_utc(t) for t in starts[:4]) + (f" and {len(starts) - 4} more" if len(starts) > 4 else "")
        of = len({j.start for j in jobs})
        told.append(f"{len(starts)} of {of} start dates are no row, as their deadline is not within the signals: {when}")
    partly = dict.fromkeys(said for j, said in zip(jobs, missed, strict=True) if said and j.start not in starts)
    return kept, [*told, *partly]


def _least_s(config: Config) -> float:
    rate = sum(s.tokens_per_s for s in config.site)
    hours = config.backtest.site_hours
    return hours * 3600 / len(config.site) if hours else config.run.budget_tokens / rate


def moved(config: Config) -> list[SiteTable]:
    """The first site in every region: its machine, the region's signals."""
    found: dict[str, SiteTable] = {}
    like = config.site[0]
    for s in config.site:
        own = like.model_copy(update={"region": s.region, "signal": s.signal, "signals": s.signals, "trigger": s.trigger})
        found.setdefault(s.region, own)
    for c in config.counterfactual:
        found.setdefault(c.region, like.model_copy(update={"region": c.region, "signal": c.signal, "signals": [], "trigger": None}))
    return list(found.values())


def _ranked(config: Config, site: SiteTable, policy: str, points: Sequence[SweepPoint]) -> RankedRegion:
    rows = [p.row for p in points]
    with_budget = config.backtest.target == "budget"
    # If the budget was not trained before the signals ended, its cost is unknown.
    used = [r for r in rows if r.finish_h is not None] if with_budget else rows
    price = next((t for t in site.all_signals if t.type == "price"), None)

    def over(values: list[float | None]) -> tuple[float, ...] | None:
        known = [v for v in values if v is not None]
        return quantiles(known) if known else None

    return RankedRegion(
        region=site.region, policy=policy, start_dates=len(points), finished=len(used),
        begin=min(p.start for p in points), end=max(p.start + p.row.span_h * 3600 for p in points),
        net_value_h=over([None if r.value is None else r.value / (site.train_power_w / 1000.0) / 3600 for r in used]),
        unknown_kwh=over([r.unknown_kwh for r in used]),
        hours=over([r.finish_h if with_budget else r.site_hours for r in used]), kg_co2=over([r.kg_co2 for r in used]),
        money=over([r.money for r in used]), currency=price.currency if price else "",
        utilisation=over([r.site_hours / r.span_h if r.span_h > 0 else None for r in used]),
        share_of_oracle=over([r.share_of_oracle for r in used]),
    )  # fmt: skip


def _middle(triple: tuple[float, ...] | None, without: float) -> float:
    return without if triple is None else triple[1]
