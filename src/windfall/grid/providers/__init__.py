"""One module per provider of live signals; each is imported when a configuration names it."""

from __future__ import annotations

from windfall.config.signals import SignalTable
from windfall.grid.providers.base import Tools
from windfall.grid.source import Source

__all__ = ["Tools", "make_source"]


def make_source(table: SignalTable, region: str, tools: Tools) -> Source:
    """The source of ``table`` for ``region``. Nothing is asked yet."""
    match table.kind:
        case "watttime":
            from windfall.grid.providers.watttime import WattTime

            return WattTime(table, region, tools)
        case "electricity_maps":
            from windfall.grid.providers.electricity_maps import ElectricityMaps

            return ElectricityMaps(table, region, tools)
        case "openelectricity":
            from windfall.grid.providers.openelectricity import OpenElectricity

            return OpenElectricity(table, region, tools)
        case "gridstatus":
            from windfall.grid.providers.gridstatus import GridStatus

            return GridStatus(table, region, tools)
        case "http":
            from windfall.grid.providers.http_json import HttpJson

            return HttpJson(table, region, tools)
        case "vessim":
            from windfall.grid.providers.vessim import Vessim

            return Vessim(table, region, tools)
    raise ValueError(f"{table.kind} is not a live kind")
