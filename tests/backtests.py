"""Backtests made by hand, for the views' tests."""

from __future__ import annotations

from typing import Any

from ui_runs import START
from windfall.simulate.backtest import Backtest, Row

STUDY: dict[str, Any] = {
    "name": "the study", "preset": "measured", "finish_h": 14.6, "site_hours": 17.86, "energy_kwh": 37.72, "kg_co2": 1.379,
    "share_inside": 0.97,
}  # fmt: skip
BASELINES: dict[str, float | None] = {"CAISO_NORTH": 11.397, "SPP_TX": 14.539, "NEM_SA": 12.320, "DE": 27.048}


def row(policy: str = "breakeven", **changed: Any) -> Row:
    """A row with everything in it."""
    given: dict[str, Any] = {
        "policy": policy, "preset": "windfall", "publication_delay_s": None, "deadline_h": 13.79, "finish_h": 13.79,
        "site_hours": 17.86, "energy_kwh": 36.2, "kg_co2": 0.983, "kg_by_method": {"marginal": 0.983}, "money": None,
        "money_by_currency": {}, "starts": 5, "idle_h": 0.13, "share_inside": 0.998, "share_of_oracle": 0.97,
        "kg_over_oracle": 1.081, "value": 93069.0, "site_hours_by_site": {"california": 17.86}, "span_h": 13.79,
        "lanes": {"california": [(START, START + 240, "off"), (START + 240, START + 580, "provisioning"),
                                 (START + 580, START + 3600, "training")]},
    }  # fmt: skip
    return Row(**{**given, **changed})


def result(*rows: Row, **changed: Any) -> Backtest:
    """A backtest of the study's day with these rows."""
    given: dict[str, Any] = {
        "start": START, "end": START + 18 * 3600, "target": "budget", "site_hours": 17.86, "baseline_site_hours": 17.78,
        "baselines": dict(BASELINES), "rows": list(rows), "elapsed_s": 0.05, "warnings": [], "references": [],
    }  # fmt: skip
    return Backtest(**{**given, **changed})
