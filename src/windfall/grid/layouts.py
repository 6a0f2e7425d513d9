"""Layouts of exports that people have: which columns hold instants and values, which choose rows, and what is known of them.

The files are those of the providers' own downloads and interfaces, and the frames of their Python clients (watttime,
electricitymaps, entsoe-py, nemosis, gridstatus) as pandas saves them. ``laid_out`` reads a file by them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from windfall.config.signals import SignalTable
from windfall.errors import SignalError
from windfall.grid.repeated import toml_value
from windfall.grid.sheet import Sheet


@dataclass(frozen=True, slots=True)
class TimesColumn:
    """A column of instants; ``end`` names the column of the intervals' ends, ``keys`` are what is known of the instants."""

    name: str
    end: str = ""
    keys: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ValuesColumn:
    """A column of values: a regular expression of its whole name, how to call it, and its unit where that is not the layout's."""

    pattern: str
    name: str = ""
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class Selector:
    """Columns that choose rows, of which the first one there counts.

    ``usual`` is chosen unless `where` says otherwise; what becomes of a file that holds one other value alone is ``other``.
    ``place``: they say where, so that the site's region may choose, and rows of several are never one series.
    """

    names: tuple[str, ...]
    what: str
    usual: tuple[str, ...] = ()
    place: bool = False
    other: Literal["read", "told", "refused"] = "read"


@dataclass(frozen=True, slots=True)
class Layout:
    """One provider's exports."""

    what: str
    times: tuple[TimesColumn, ...]
    #: Columns of values, the first one there counts.
    values: tuple[ValuesColumn, ...]
    selectors: tuple[Selector, ...]
    period_s: float
    unit: str | None = None
    day_first: bool | None = None
    #: What one must know who reads a column, by its name.
    remark: Callable[[Sheet, SignalTable, str], str] = lambda sheet, table, column: ""
    #: Raises SignalError where the file holds something else of this provider.
    refuse: Callable[[Sheet, SignalTable], None] = lambda sheet, table: None
    #: Whether a frame's index and its only column of numbers are read, whatever they are called; columns of these names are not.
    frame: bool = False
    not_values: str = "(?!)"
    #: The provider writes no offsets, so that one is of what saved the file.
    naive: bool = False


def _not_carbon(sheet: Sheet, table: SignalTable) -> None:
    if "generated_at" in sheet.header or "meta.generated_at" in sheet.meta:
        raise SignalError(f"{sheet.label}: holds forecasts, not readings; fetch /v3/historical, not /v3/forecast")
    kind = sheet.meta.get("meta.signal_type", "")
    kinds = {c.strip() for name in ("signal_type",) if name in sheet.header for c in sheet.column(name)} | (
        {kind} if kind else set()
    )
    if kinds == {"co2_aoer"} and table.type != "average_co2":
        raise SignalError(f'{sheet.label}: holds co2_aoer, which is an average intensity: set type = "average_co2"')
    if len(kinds) == 1 and not next(iter(kinds)).startswith("co2_"):
        raise SignalError(f"{sheet.label}: holds {kinds.pop()}, which is no intensity of CO2; fetch signal_type=co2_moer")


def _not_settled(sheet: Sheet, table: SignalTable) -> None:
    run = next((name for name in ("RUN_DATETIME", "PREDISPATCHSEQNO") if name in sheet.header), None)
    if run is not None:
        raise SignalError(
            f"{sheet.label}: holds forecasts of several runs ({run}), not prices as paid; fetch DISPATCHPRICE or TRADINGPRICE"
        )


def _which_intensity(sheet: Sheet, table: SignalTable, column: str) -> str:
    other = next((h for h in sheet.header if h != column and re.fullmatch(_DIRECT, h)), "")
    said = []
    if other and table.column is None:
        said.append(f"`{column}` was read, as the provider's interface gives it; set column = {toml_value(other)} for the other")
    if table.type == "marginal_co2":
        said.append(f'`{column}` is an average intensity and is taken as a marginal one: type = "average_co2" is what it is')
    return "; ".join(said)


# The sign for CO2 comes as ₂, 2, ?, nothing, or as what is left of ₂ where UTF-8 was read as something else.
_INTENSITY = r"[Cc]arbon [Ii]ntensity gCO.{0,4}eq/kWh "
_DIRECT = rf"{_INTENSITY}\(direct\)"
_UTC = {"timezone": "UTC"}
_BRUSSELS = {"timezone": "Europe/Brussels"}
_MARKET_TIME = {"timezone": "+10:00", "stamp": "end"}

LAYOUTS: dict[str, Layout] = {
    "watttime": Layout(
        "a WattTime export",
        (TimesColumn("point_time", keys=_UTC), TimesColumn("timestamp", keys=_UTC)),
        (
            ValuesColumn("value"),
            ValuesColumn("MOER"),
            # California's signal for its SGIP programme, in kg/kWh. The newest version counts.
            ValuesColumn(r"MOER version [\d.]+", "MOER version 2.0", "kg/kWh"),
        ),
        (
            Selector(("region", "ba"), "regions", place=True),
            Selector(("signal_type", "datatype"), "signals", ("co2_moer", "MOER")),
            Selector(("market",), "markets"),
            Selector(("version", "MOER version", "model_date"), "versions of the model"),
        ),
        300.0,
        "lb/MWh",
        refuse=_not_carbon,
    ),
    "electricity_maps": Layout(
        "an Electricity Maps export",
        (
            TimesColumn("Datetime (UTC)", keys=_UTC),
            TimesColumn("datetime", keys=_UTC),
            TimesColumn("timestamp", keys=_UTC),
        ),
        (
            ValuesColumn(rf"{_INTENSITY}\((LCA|[Ll]ife [Cc]ycle)\)", "Carbon intensity gCO₂eq/kWh (Life cycle)"),
            ValuesColumn(_DIRECT, "Carbon intensity gCO₂eq/kWh (direct)"),
            ValuesColumn("carbonIntensity"),
            ValuesColumn("carbon_intensity(_avg)?", "carbon_intensity"),
        ),
        (
            Selector(("Zone id", "Zone Id", "zone", "zone_key"), "zones", place=True),
            Selector(("emissionFactorType",), "kinds of emission factors", ("lifecycle",), other="told"),
        ),
        3600.0,
        "g/kWh",
        remark=_which_intensity,
    ),
    "entsoe": Layout(
        "an ENTSO-E export",
        (
            TimesColumn("MTU (CET/CEST)", keys=_BRUSSELS),
            TimesColumn("MTU (CET)", keys=_BRUSSELS),  # until 2021; it follows the clock all the same
            TimesColumn("MTU (EET/EEST)", keys={"timezone": "Europe/Athens"}),
            TimesColumn("MTU (WET/WEST)", keys={"timezone": "Europe/Lisbon"}),
            TimesColumn("MTU (UTC)", keys=_UTC),
            TimesColumn("DateTime(UTC)", keys=_UTC),
            TimesColumn("DateTime", keys=_UTC),
        ),
        (
            ValuesColumn(r"Day-ahead Price [\[(]\w{3}/MWh[\])]", "Day-ahead Price (EUR/MWh)"),
            ValuesColumn(r"Price ?\[Currency/MWh\]", "Price[Currency/MWh]"),
            ValuesColumn("Price"),
            ValuesColumn("price"),
        ),
        (
            Selector(("MapCode", "AreaMapCode", "Area", "AreaDisplayName", "AreaName"), "areas", place=True),
            Selector(("AreaTypeCode",), "kinds of areas", ("BZN",)),
            Selector(("ContractType",), "contracts", ("Day-ahead", "DayAhead"), other="refused"),
            Selector(("ResolutionCode",), "resolutions"),
            Selector(("Sequence",), "auctions"),
        ),
        3600.0,
        day_first=True,
        frame=True,
        not_values=r"(?i).*(load|generation|aggregated|consumption|solar|wind|forecast|capacity|flow|position|\(MW\)|\[MW\]).*",
    ),
    "caiso_oasis": Layout(
        "a CAISO OASIS report",
        (
            TimesColumn("INTERVALSTARTTIME_GMT", "INTERVALENDTIME_GMT", _UTC),
            TimesColumn("INTERVAL_START_GMT", "INTERVAL_END_GMT", _UTC),
        ),
        (ValuesColumn("MW"), ValuesColumn("VALUE"), ValuesColumn("PRC"), ValuesColumn("LMP_PRC")),
        (
            # The item says the same as the type, where both are there.
            Selector(("LMP_TYPE", "XML_DATA_ITEM", "DATA_ITEM"), "data items", ("LMP", "LMP_PRC"), other="refused"),
            Selector(("NODE", "NODE_ID", "NODE_ID_XML", "RESOURCE_NAME"), "nodes", place=True),
            Selector(("MARKET_RUN_ID",), "markets"),
        ),
        3600.0,
    ),
    "aemo": Layout(
        "an AEMO table",
        (TimesColumn("SETTLEMENTDATE", keys=_MARKET_TIME), TimesColumn("INTERVAL_DATETIME", keys=_MARKET_TIME)),
        (ValuesColumn("RRP"), ValuesColumn("PRICE")),
        (
            Selector(("REGIONID", "REGION"), "regions", place=True),
            Selector(("INTERVENTION",), "runs", ("0", "0.0", "0.00")),
            Selector(("PERIODTYPE",), "kinds of periods", ("TRADE", "ACTUAL"), other="refused"),
        ),
        300.0,
        refuse=_not_settled,
        naive=True,
    ),
    "gridstatus": Layout(
        "a frame of gridstatus",
        (
            TimesColumn("Interval Start", "Interval End"),
            TimesColumn("interval_start_utc", "interval_end_utc", _UTC),
            TimesColumn("interval_start_local", "interval_end_local"),
            TimesColumn("Time"),
        ),
        (
            ValuesColumn("LMP"), ValuesColumn("SPP"), ValuesColumn("Price"), ValuesColumn("lmp"), ValuesColumn("spp"),
            ValuesColumn("price"),
        ),
        (
            Selector(
                (
                    "Location", "location", "Location Name", "location_name", "Location Short Name", "location_short_name",
                    "Location Id", "location_id",
                ),
                "locations",
                place=True,
            ),
            Selector(("Market", "market"), "markets"),
            Selector(("Location Type", "location_type"), "kinds of locations"),
        ),
        3600.0,
    ),
}  # fmt: skip


def recognised(header: Iterable[str]) -> str | None:
    """The layout that a file with these columns has; None where none, or more than one, is like it."""
    names = list(header)
    found = [key for key, layout in LAYOUTS.items() if _has_times(layout, names) and _has_values(layout, names)]
    return found[0] if len(found) == 1 else None


def headers(layout: str | None) -> list[Callable[[Sequence[str]], bool]]:
    """What a row of names is if it is the header of a file of ``layout`` (of any layout), the surest sign first."""
    if layout is None:
        return [lambda names: recognised(names) is not None]
    known = LAYOUTS[layout]
    return [lambda names: _has_times(known, names) and _has_values(known, names), lambda names: _has_times(known, names)]


def _has_times(layout: Layout, names: Sequence[str]) -> bool:
    return any(t.name in names for t in layout.times)


def _has_values(layout: Layout, names: Sequence[str]) -> bool:
    return any(re.fullmatch(v.pattern, n) for v in layout.values for n in names)
