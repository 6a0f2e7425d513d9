"""What prices a site's energy: the signals for its emissions and cost, and the criterion for being inside a window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from windfall.config.schema import RunTable, SiteTable
from windfall.grid.signal import Signal

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Tariff:
    """What prices a site's energy: the signals for its emissions and its cost, and the criterion for being inside a window.

    ``first`` is the signal that ``inside`` judges. ``emissions`` is marginal where the site has such a signal, else average; the
    two are never mixed in one sum.
    """

    first: Signal
    inside: Callable[[Array], Mask]
    emissions: Signal | None
    method: str
    average: Signal | None = None
    price: Signal | None = None
    currency: str = ""

    @classmethod
    def plain(cls, signal: Signal, criterion_g_per_kwh: float) -> Tariff:
        """The tariff of a site with one marginal intensity."""
        return cls(signal, lambda v: v < criterion_g_per_kwh, signal, "marginal")

    @classmethod
    def of(cls, site: SiteTable, signals: Mapping[str, Signal], run: RunTable) -> Tariff:
        """The tariff of a configured site; ``signals`` by label."""
        by_type = {t.type: t for t in reversed(site.all_signals)}
        marginal, average, price = (by_type.get(k) for k in ("marginal_co2", "average_co2", "price"))
        main = marginal or average
        return cls(
            signals[site.signal.label], inside_of(site, run), signals[main.label] if main else None,
            "marginal" if marginal else "average" if average else "none", signals[average.label] if average else None,
            signals[price.label] if price else None, price.currency if price else "",
        )  # fmt: skip


def inside_of(site: SiteTable, run: RunTable) -> Callable[[Array], Mask]:
    """The curtailment criterion: from values [n] of the site's first signal to whether each is inside. NaN (unknown) is outside."""
    level, under = level_of(site, run)
    return (lambda v: v < level) if under else (lambda v: v >= level)


def level_of(site: SiteTable, run: RunTable) -> tuple[float, bool]:
    """The criterion as a level of the site's first signal, in its unit, and whether a window is under it (else at it and over)."""
    match site.signal.type:
        case "price":
            return run.threshold_price_per_mwh, True
        case "curtailed_power" | "surplus_power":
            return site.demand_w / (1e6 if site.signal.type == "curtailed_power" else 1.0), False
        case _:
            return run.threshold_g_per_kwh, True
