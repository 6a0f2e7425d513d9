"""Where to build: the same site in each region of a configuration, by money, emissions and years to finish."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from windfall.config.schema import Config, SiteTable
from windfall.errors import ConfigError
from windfall.grid.build import build_grid
from windfall.simulate.economics import economics_rows, required, settled
from windfall.simulate.regions import apart

By = Literal["money", "kg", "years"]
_DAYS = 365.2425


@dataclass(frozen=True, slots=True)
class SitedRegion:
    """One region. Figures are None where the budget was not trained there from any start date, or the intensity is not known."""

    region: str
    start_dates: int
    finished: int
    per_million_tokens: float | None
    kg_per_million_tokens: float | None
    #: Until one such site has trained the run's budget.
    years: float | None
    duty: float | None
    power_per_mwh: float | None
    total: float | None
    kg: float | None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def site_regions(
    config: Config, policy: str, *, starts: int, span_days: float | None, by: By = "money",
    tell: Callable[[float, str], None] = lambda _, what: None,
) -> list[SitedRegion]:  # fmt: skip
    """All regions, best first by ``by``; those without that figure last.

    Raises:
        ConfigError: nothing says what energy costs in one of the regions.
        SignalError, RunError: as for `windfall backtest --rank-regions`.
    """
    sites, alone, common = apart(config)
    _require_prices(config, sites)
    found = []
    for i, (site, one) in enumerate(zip(sites, alone, strict=True)):

        def part(fraction: float, what: str, i: int = i, region: str = site.region) -> None:
            tell((i + fraction) / len(sites), f"{region}: {what}")

        rows, _ = economics_rows(one, build_grid(one), common, policy, starts, span_days, part)
        bills = [own.bill for _, own, _ in rows if own.useful]
        if not bills:
            found.append(SitedRegion(site.region, len(rows), 0, None, None, None, None, None, None, None))
            continue
        bill = settled(bills, one, site.region)
        o = bill.outlay
        found.append(SitedRegion(
            site.region, len(rows), len(bills), o.per_unit, o.kg_per_unit, bill.days / _DAYS, bill.duty,
            bill.energy / bill.kwh * 1000 if bill.kwh > 0 else None, bill.total, bill.kg,
        ))  # fmt: skip
    first = {"money": "per_million_tokens", "kg": "kg_per_million_tokens", "years": "years"}[by]

    def place(r: SitedRegion) -> tuple[float, ...]:
        figures = (getattr(r, first), r.per_million_tokens, r.kg_per_million_tokens, r.years)
        return tuple(math.inf if x is None else x for x in figures)

    return sorted(found, key=place)


def _require_prices(config: Config, sites: list[SiteTable]) -> None:
    table = required(config)
    dark = [s.region for s in sites if not table.tariffs_of(s.region) and all(t.type != "price" for t in s.all_signals)]
    if dark:
        raise ConfigError(
            f"--rank-regions: nothing says what energy costs in {', '.join(dark)}; add [[economics.tariff]] with its region"
        )
