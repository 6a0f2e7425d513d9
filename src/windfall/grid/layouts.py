"""Layouts of exports that people have: which columns hold instants and values, which choose rows, and what is known of them.

A layout fills in the keys of `[site.signal]` that are not set; what it cannot know (which node, which market) it asks for in one
sentence. The files are those of the providers' own downloads and interfaces, and the frames of their Python clients (watttime,
electricitymaps, entsoe-py, nemosis, gridstatus) as pandas saves them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from windfall.config.signals import SignalTable
from windfall.errors import SignalError
from windfall.grid.instant_texts import read_stamps
from windfall.grid.json_rows import INDEX
from windfall.grid.magnitude import named_unit
from windfall.grid.numbers import numbers
from windfall.grid.repeated import toml_key, toml_value
from windfall.grid.sheet import Sheet, listed

#: What pandas calls an index without a name: in CSV nothing, in Parquet this.
_INDEX = ("", "__index_level_0__", INDEX, "Unnamed: 0")
#: What `period_s` is where nobody has set it.
UNSET_S = SignalTable.model_fields["period_s"].default


@dataclass(frozen=True, slots=True)
class TimesColumn:
    """A column of instants; ``end`` names the column of the intervals' ends, ``keys`` are what is known of the instants."""

    name: str
    end: str = ""
    keys: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Selector:
    """Columns that choose rows, of which the first one there counts.

    ``usual`` is chosen unless `where` says otherwise; ``place``: they say where, so that the site's region may choose, and rows of
    several are never one series.
    """

    names: tuple[str, ...]
    what: str
    usual: tuple[str, ...] = ()
    place: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """One provider's exports."""

    what: str
    times: tuple[TimesColumn, ...]
    #: Columns of values, the first one there counts; as regular expressions of the whole name.
    values: tuple[str, ...]
    selectors: tuple[Selector, ...]
    period_s: float
    unit: str | None = None
    day_first: bool | None = None
    #: What one must know who reads a column, by its name.
    remark: Callable[[Sheet, str], str] = lambda sheet, column: ""
    #: Raises SignalError where the file holds something else of this provider.
    refuse: Callable[[Sheet, SignalTable], None] = lambda sheet, table: None
    #: Whether a frame's index and its only column of numbers are read, whatever they are called.
    frame: bool = False


def _not_carbon(sheet: Sheet, table: SignalTable) -> None:
    if "forecast" in sheet.header and "generated_at" in sheet.header:
        raise SignalError(f"{sheet.label}: holds forecasts, not readings; fetch /v3/historical, not /v3/forecast")
    kind = sheet.meta.get("meta.signal_type", "")
    kinds = {c.strip() for name in ("signal_type",) if name in sheet.header for c in sheet.column(name)} | (
        {kind} if kind else set()
    )
    if kinds == {"co2_aoer"} and table.type != "average_co2":
        raise SignalError(f'{sheet.label}: holds co2_aoer, which is an average intensity: set type = "average_co2"')
    if len(kinds) == 1 and not next(iter(kinds)).startswith("co2_"):
        raise SignalError(f"{sheet.label}: holds {kinds.pop()}, which is no intensity of CO2; fetch signal_type=co2_moer")


def _which_intensity(sheet: Sheet, column: str) -> str:
    other = next((h for h in sheet.header if h != column and re.fullmatch(_DIRECT, h)), "")
    return (
        f"`{column}` was read, as the provider's interface gives it; set column = {toml_value(other)} for the other"
        if other
        else ""
    )


_DIRECT = r"[Cc]arbon [Ii]ntensity gCO.?2?eq/kWh \(direct\)"
_UTC = {"timezone": "UTC"}
_MARKET_TIME = {"timezone": "+10:00", "stamp": "end"}

LAYOUTS: dict[str, Layout] = {
    "watttime": Layout(
        "a WattTime export",
        (TimesColumn("point_time", keys=_UTC), TimesColumn("timestamp", keys=_UTC)),
        ("value", "MOER"),
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
            TimesColumn("Datetime (UTC)"),
            TimesColumn("datetime", keys=_UTC),
            TimesColumn("timestamp", keys=_UTC),
        ),
        (
            r"[Cc]arbon [Ii]ntensity gCO.?2?eq/kWh \((LCA|[Ll]ife [Cc]ycle)\)",
            _DIRECT,
            "carbonIntensity",
            "carbon_intensity(_avg)?",
        ),
        (
            Selector(("Zone id", "Zone Id", "zone", "zone_key"), "zones", place=True),
            Selector(("emissionFactorType",), "kinds of emission factors", ("lifecycle",)),
        ),
        3600.0,
        remark=_which_intensity,
    ),
    "entsoe": Layout(
        "an ENTSO-E export",
        (
            TimesColumn("MTU (CET/CEST)", keys={"timezone": "Europe/Brussels"}),
            TimesColumn("MTU (EET/EEST)", keys={"timezone": "Europe/Athens"}),
            TimesColumn("MTU (WET/WEST)", keys={"timezone": "Europe/Lisbon"}),
            TimesColumn("MTU (UTC)", keys=_UTC),
            TimesColumn("DateTime(UTC)", keys=_UTC),
            TimesColumn("DateTime", keys=_UTC),
        ),
        (r"Day-ahead Price [\[(]\w{3}/MWh[\])]", r"Price ?\[Currency/MWh\]", "Price", "price"),
        (
            Selector(("MapCode", "AreaMapCode", "Area", "AreaDisplayName", "AreaName"), "areas", place=True),
            Selector(("AreaTypeCode",), "kinds of areas", ("BZN",)),
            Selector(("ContractType",), "contracts", ("Day-ahead", "DayAhead")),
            Selector(("ResolutionCode",), "resolutions"),
            Selector(("Sequence",), "auctions"),
        ),
        3600.0,
        day_first=True,
        frame=True,
    ),
    "caiso_oasis": Layout(
        "a CAISO OASIS report",
        (
            TimesColumn("INTERVALSTARTTIME_GMT", "INTERVALENDTIME_GMT", _UTC),
            TimesColumn("INTERVAL_START_GMT", "INTERVAL_END_GMT", _UTC),
        ),
        ("MW", "VALUE", "PRC", "LMP_PRC"),
        (
            Selector(("LMP_TYPE",), "components of the price", ("LMP",)),
            Selector(("XML_DATA_ITEM", "DATA_ITEM"), "data items", ("LMP_PRC",)),
            Selector(("NODE", "NODE_ID", "NODE_ID_XML", "RESOURCE_NAME"), "nodes", place=True),
            Selector(("MARKET_RUN_ID",), "markets"),
        ),
        3600.0,
    ),
    "aemo": Layout(
        "an AEMO table",
        (TimesColumn("SETTLEMENTDATE", keys=_MARKET_TIME), TimesColumn("INTERVAL_DATETIME", keys=_MARKET_TIME)),
        ("RRP", "PRICE"),
        (
            Selector(("REGIONID", "REGION"), "regions", place=True),
            Selector(("INTERVENTION",), "runs", ("0", "0.0", "0.00")),
            Selector(("PERIODTYPE",), "kinds of periods", ("TRADE",)),
        ),
        300.0,
    ),
    "gridstatus": Layout(
        "a frame of gridstatus",
        (
            TimesColumn("Interval Start", "Interval End"),
            TimesColumn("interval_start_utc", "interval_end_utc", _UTC),
            TimesColumn("interval_start_local", "interval_end_local"),
            TimesColumn("Time"),
        ),
        ("LMP", "SPP", "Price", "lmp", "spp", "price"),
        (
            Selector(("Location", "location", "Location Id", "location_id"), "locations", place=True),
            Selector(("Market", "market"), "markets"),
            Selector(("Location Type", "location_type"), "kinds of locations"),
        ),
        3600.0,
    ),
}  # fmt: skip


def likely_columns(table: SignalTable) -> list[str]:
    """Columns of instants that the header of a file of ``table.layout`` may have."""
    return [t.name for t in LAYOUTS[table.layout or ""].times]


def recognised(header: Iterable[str]) -> str | None:
    """The layout that a file with these columns has; None where none, or more than one, is like it."""
    names = list(header)
    found = [
        key for key, layout in LAYOUTS.items()
        if any(t.name in names for t in layout.times) and any(re.fullmatch(v, n) for v in layout.values for n in names)
    ]  # fmt: skip
    return found[0] if len(found) == 1 else None


def resolved(sheet: Sheet, table: SignalTable, region: str) -> tuple[SignalTable, list[str]]:
    """``table`` with the keys that its layout knows, ``sheet`` left with the rows that they choose; and what to know of that.

    Raises:
        SignalError: the file has another layout, or rows of several places or markets and nothing says which.
    """
    layout = LAYOUTS[table.layout or ""]
    layout.refuse(sheet, table)
    times = _times(sheet, table, layout)
    if layout.day_first is not None and table.time_format is None:
        sheet.day_first = layout.day_first
    keys: dict[str, Any] = {k: v for k, v in times.keys.items() if getattr(table, k) is None}
    keys["time_column"] = times.name
    keys["column"] = column = table.column or _values(sheet, table, layout, times.name)
    where = dict(table.where)
    if table.region_column is not None:
        own = {table.region_column: table.region_value or region}
        sheet.keep(own)
        where |= own
    for selector in layout.selectors:
        where |= _choice(sheet, selector, where, times.name, table.region_value or region)
    keys |= {"where": where, "region_column": None, "region_value": None}
    said = [layout.remark(sheet, column)] if table.column is None else []
    if layout.unit is not None and table.unit is None and table.scale == 1.0:
        units = sheet.meta.get("meta.units", "")
        sheet.units.setdefault(column, units)
        if named_unit(sheet, column)[0] is None:
            keys["unit"] = layout.unit
        elif units:
            keys["unit"] = units.replace("lbs_co2_per_mwh", "lb/MWh")
    if table.type == "price":
        if table.unit is None and "[Currency/" in column:
            keys["unit"] = "currency/MWh"
        said.append(_currency(sheet, table))
    if table.period_s == UNSET_S:
        keys["period_s"] = _length(sheet, times) or layout.period_s
    return table.model_copy(update=keys), [f"{sheet.label}: {text}" for text in said if text]


def _times(sheet: Sheet, table: SignalTable, layout: Layout) -> TimesColumn:
    """The column of instants: the one that is named, else the first that the layout knows."""
    if table.time_column != SignalTable.model_fields["time_column"].default:
        known = next((t for t in layout.times if t.name == table.time_column), None)
        return known or TimesColumn(table.time_column)
    for times in layout.times:
        if times.name in sheet.header:
            return times
    if layout.frame:
        for name, cells in zip(sheet.header, sheet.cells, strict=True):
            dated = np.isfinite(read_stamps([c for c in cells[:200] if c.strip()]).local)
            if (name in _INDEX or len(sheet.header) == 2) and len(dated) and dated.mean() > 0.9:
                return TimesColumn(name)
    raise _other(sheet, table, layout, f"no column of instants ({' or '.join(t.name for t in layout.times)})")


def _values(sheet: Sheet, table: SignalTable, layout: Layout, time_column: str) -> str:
    for pattern in layout.values:
        found = [h for h in sheet.header if re.fullmatch(pattern, h)]
        if found:
            return found[0]
    if layout.frame:
        rest = [
            name for name, cells in zip(sheet.header, sheet.cells, strict=True)
            if name != time_column and name not in _INDEX and np.isfinite(numbers(cells[:200], sheet.decimal_comma)).any()
        ]  # fmt: skip
        if len(rest) == 1:
            return rest[0]
        if rest:
            raise SignalError(
                f"{sheet.label}: several columns of numbers ({listed(rest)}): name one, column = {toml_value(rest[0])}"
            )
    plain = [re.sub(r"[\\?]|\[\\\[\(\]|\[\\\]\)\]", "", v) for v in layout.values]
    raise _other(sheet, table, layout, f"no column of values ({' or '.join(plain)})")


def _other(sheet: Sheet, table: SignalTable, layout: Layout, lacking: str) -> SignalError:
    like = recognised(sheet.header)
    fix = (
        f'its columns are those of layout = "{like}": set that'
        if like and like != table.layout
        else "correct layout, or name time_column and column (`windfall trace show` says what is in it)"
    )
    return SignalError(
        f'{sheet.label}: is not {layout.what} (layout = "{table.layout}"): {lacking}; the file has {listed(sheet.header)}; {fix}'
    )


def _choice(sheet: Sheet, selector: Selector, where: dict[str, str], time_column: str, region: str) -> dict[str, str]:
    """Leave ``sheet`` with the rows of one value of a selector; the choice, where there was one to make.

    Raises:
        SignalError: rows of several values cannot be told to be one series, and nothing says which are meant.
    """
    there = [name for name in selector.names if name in sheet.header]
    if not there or any(name in where for name in there):
        return {}
    name = there[0]
    values = sorted({c.strip() for c in sheet.column(name)} - {""})
    if len(values) < 2:
        return {}
    if selector.place:
        for column in there:
            alike = [v for v in sorted({c.strip() for c in sheet.column(column)}) if _plain(v) == _plain(region)]
            if len(alike) == 1:
                sheet.keep({column: alike[0]})
                return {column: alike[0]}
    usual = next((v for v in selector.usual if v in values), None)
    if usual is not None:
        sheet.keep({name: usual})
        return {name: usual}
    if not selector.place and not _overlap(sheet, name, time_column):
        return {}
    raise SignalError(
        f"{sheet.label}: holds {len(values):,} {selector.what} ({name}: {listed(values, 8)}): choose one with "
        f"where = {{ {toml_key(name)} = {toml_value(values[0])} }}"
        + (f", or name the site's region as one of them ({region} is none)" if selector.place and region else "")
    )


def _plain(place: str) -> str:
    """A place as it may be written: BZN|DE-LU, DE_LU and de_lu are one."""
    return re.sub(r"[^a-z0-9]", "", place.lower().removeprefix("bzn|"))


def _overlap(sheet: Sheet, name: str, time_column: str) -> bool:
    """Whether rows of different values are of the same instants."""
    at: dict[str, str] = {}
    return any(at.setdefault(t, value) != value for t, value in zip(sheet.column(time_column), sheet.column(name), strict=True))


def _currency(sheet: Sheet, table: SignalTable) -> str:
    if "Currency" not in sheet.header:
        return ""
    there = {c.strip() for c in sheet.column("Currency")} - {""}
    if there <= {table.currency}:
        return ""
    return f'prices are in {listed(sorted(there))}, and currency is {table.currency}: set currency = "{sorted(there)[0]}"'


def _length(sheet: Sheet, times: TimesColumn) -> float | None:
    """How long the rows' intervals are (s), where the file has their ends."""
    if times.end not in sheet.header or not times.end:
        return None
    begin, end = read_stamps(sheet.column(times.name)[:2000]), read_stamps(sheet.column(times.end)[:2000])
    lengths = (end.local - np.nan_to_num(end.offset)) - (begin.local - np.nan_to_num(begin.offset))
    lengths = lengths[np.isfinite(lengths) & (lengths > 0)]
    return float(np.median(lengths)) if len(lengths) else None
