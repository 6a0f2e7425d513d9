"""Reads a file by the layout that `[site.signal]` names: fills in the keys that are not set and chooses the rows that are meant.

What a layout cannot know (which node, which market) is asked for in one sentence.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from windfall.config.signals import SignalTable
from windfall.errors import SignalError
from windfall.grid.instant_texts import read_stamps
from windfall.grid.json_rows import INDEX
from windfall.grid.layouts import LAYOUTS, Layout, Selector, TimesColumn, recognised
from windfall.grid.magnitude import named_unit
from windfall.grid.numbers import numbers
from windfall.grid.repeated import toml_key, toml_value
from windfall.grid.sheet import Sheet, listed
from windfall.units import quantity_in

#: What pandas calls an index without a name: in CSV nothing, in Parquet this.
_INDEX = ("", "__index_level_0__", INDEX, "Unnamed: 0")
#: What `period_s` is where nobody has set it.
UNSET_S = SignalTable.model_fields["period_s"].default


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
    keys["column"] = column = table.column or _values(sheet, table, layout, times)
    twice = [name for name in (times.name, column) if sheet.header.count(name) > 1]
    if twice:
        raise SignalError(f"{sheet.label}: the header has column {twice[0]} twice; rename one of them")
    where = dict(table.where)
    if table.region_column is not None:
        own = {table.region_column: table.region_value or region}
        sheet.keep(own)
        where |= own
    said = []
    for selector in layout.selectors:
        chosen, remark = _choice(sheet, selector, where, times.name, table.region_value or region)
        where |= chosen
        said.append(remark)
    keys |= {"where": where, "region_column": None, "region_value": None}
    said.append(layout.remark(sheet, table, column))
    units = sheet.meta.get("meta.units", "")
    if units:
        sheet.units.setdefault(column, units.replace("lbs_co2_per_mwh", "lb/MWh"))
    own_unit = next((v.unit for v in layout.values if v.unit and re.fullmatch(v.pattern, column)), layout.unit)
    if own_unit is not None and table.unit is None and table.scale == 1.0:
        named = named_unit(sheet, column)[0]
        keys["unit"] = own_unit if named is None else named.text
    if table.type == "price":
        if table.unit is None and "[Currency/" in column:
            keys["unit"] = "currency/MWh"
        said.append(_currency(sheet, table))
    if table.period_s == UNSET_S:
        keys["period_s"] = _length(sheet, times) or layout.period_s
    if layout.naive and table.trust_offset:
        counted, remark = _without_zone(sheet, times)
        keys |= {"trust_offset": False} if counted else {}
        said.append(remark if table.timezone is None else "")
    return table.model_copy(update=keys), [f"{sheet.label}: {text}" for text in said if text]


def _times(sheet: Sheet, table: SignalTable, layout: Layout) -> TimesColumn:
    """The column of instants: the one that is named, else the first that the layout knows, else a frame's index."""
    if table.time_column != SignalTable.model_fields["time_column"].default:
        known = next((t for t in layout.times if t.name == table.time_column), None)
        return known or TimesColumn(table.time_column)
    for times in layout.times:
        if times.name in sheet.header:
            return times
    for name, cells in zip(sheet.header, sheet.cells, strict=True):
        if name in _INDEX or (layout.frame and len(sheet.header) == 2):
            dated = np.isfinite(read_stamps([c for c in cells[:200] if c.strip()]).local)
            if len(dated) and dated.mean() > 0.9:
                # An index without its name: what the layout's own column is, but where a frame has no such column.
                return TimesColumn(name, keys={} if layout.frame else layout.times[0].keys)
    raise _other(sheet, table, layout, f"no column of instants ({' or '.join(t.name for t in layout.times)})")


def _values(sheet: Sheet, table: SignalTable, layout: Layout, times: TimesColumn) -> str:
    for values in layout.values:
        found = [h for h in sheet.header if re.fullmatch(values.pattern, h)]
        if found:
            return max(found, key=lambda name: (_in_currency(name, table), name))
    if layout.frame and times not in layout.times:
        rest = [
            name for name, cells in zip(sheet.header, sheet.cells, strict=True)
            if name != times.name and name not in _INDEX and np.isfinite(numbers(cells[:200], sheet.decimal_comma)).any()
        ]  # fmt: skip
        odd = [name for name in rest if re.fullmatch(layout.not_values, name)]
        if len(rest) == 1 and not odd:
            return rest[0]
        if len(rest) > 1:
            raise SignalError(
                f"{sheet.label}: several columns of numbers ({listed(rest)}): name one, column = {toml_value(rest[0])}"
            )
    lacking = f"no column of values ({' or '.join(v.name or v.pattern for v in layout.values)})"
    raise _other(sheet, table, layout, lacking)


def _in_currency(column: str, table: SignalTable) -> bool:
    unit = quantity_in(column)
    return unit is not None and unit.currency == table.currency


def _other(sheet: Sheet, table: SignalTable, layout: Layout, lacking: str) -> SignalError:
    like = recognised(sheet.header)
    fix = (
        f'its columns are those of layout = "{like}": set that'
        if like and like != table.layout
        else "correct layout, or name time_column and column (`windfall trace show` says what is in it)"
    )
    return SignalError(
        f'{sheet.label}: is not {layout.what} (layout = "{table.layout}"): {lacking}; the file has '
        f"{listed(h for h in sheet.header if h)}; {fix}"
    )


def _choice(sheet: Sheet, selector: Selector, where: dict[str, str], time_column: str, region: str) -> tuple[dict[str, str], str]:
    """Leave ``sheet`` with the rows of one value of a selector; the choice, where there was one to make, and what to know of it.

    Raises:
        SignalError: rows of several values cannot be told to be one series, and nothing says which are meant; or all of them are
            something else than what is usual.
    """
    there = [name for name in selector.names if name in sheet.header]
    if not there or any(name in where for name in there):
        return {}, ""
    name = there[0]
    values = sorted({c.strip() for c in sheet.column(name)} - {""})
    if len(values) < 2:
        return {}, _only(sheet, selector, name, values)
    if selector.place:
        for column in there:
            alike = [v for v in sorted({c.strip() for c in sheet.column(column)}) if _plain(v) == _plain(region)]
            if len(alike) == 1:
                sheet.keep({column: alike[0]})
                return {column: alike[0]}, ""
    usual = next((v for v in selector.usual if v in values), None)
    if usual is not None:
        sheet.keep({name: usual})
        return {name: usual}, ""
    if not selector.place and not _overlap(sheet, name, time_column):
        return {}, ""
    raise SignalError(
        f"{sheet.label}: holds {len(values):,} {selector.what} ({name}: {listed(values, 8)}): choose one with "
        f"where = {{ {toml_key(name)} = {toml_value(values[0])} }}"
        + (f", or name the site's region as one of them ({region} is none)" if selector.place and region else "")
    )


def _only(sheet: Sheet, selector: Selector, name: str, values: list[str]) -> str:
    """What to know of a file that holds one value of a selector alone, where that is not what is usual.

    Raises:
        SignalError: such a file is likely to be another one than was meant.
    """
    if not values or not selector.usual or values[0] in selector.usual or selector.other == "read":
        return ""
    key = f"where = {{ {toml_key(name)} = {toml_value(values[0])} }}"
    if selector.other == "told":
        return f"{name} is {values[0]} throughout, not {selector.usual[0]}; {key} says that this is meant"
    raise SignalError(
        f"{sheet.label}: {name} is {values[0]} throughout, not {selector.usual[0]}: fetch the other file, or set {key} if this is "
        "what you want"
    )


def _plain(place: str) -> str:
    """A place as it may be written: BZN|DE-LU, DE_LU and de_lu are one."""
    return re.sub(r"[^a-z0-9]", "", place.lower().removeprefix("bzn|"))


def _overlap(sheet: Sheet, name: str, time_column: str) -> bool:
    """Whether rows of different values are of the same instants, however they are written."""
    stamps = read_stamps(sheet.column(time_column), None, sheet.day_first)
    instants = (stamps.local - np.nan_to_num(stamps.offset)).tolist()
    at: dict[float, str] = {}
    return any(at.setdefault(t, value) != value for t, value in zip(instants, sheet.column(name), strict=True) if np.isfinite(t))


def _currency(sheet: Sheet, table: SignalTable) -> str:
    if "Currency" not in sheet.header:
        return ""
    there = {c.strip() for c in sheet.column("Currency")} - {""}
    if there <= {table.currency}:
        return ""
    return f'prices are in {listed(sorted(there))}, and currency is {table.currency}: set currency = "{sorted(there)[0]}"'


def _length(sheet: Sheet, times: TimesColumn) -> float | None:
    """How long the rows' intervals are (s), where the file has their ends or says it beside them."""
    said = sheet.meta.get("meta.data_point_period_seconds", "")
    if said.isdecimal() and int(said) > 0:
        return float(said)
    if times.end not in sheet.header or not times.end:
        return None
    begin, end = read_stamps(sheet.column(times.name)[:2000]), read_stamps(sheet.column(times.end)[:2000])
    lengths = (end.local - np.nan_to_num(end.offset)) - (begin.local - np.nan_to_num(begin.offset))
    lengths = lengths[np.isfinite(lengths) & (lengths > 0)]
    return float(np.median(lengths)) if len(lengths) else None


def _without_zone(sheet: Sheet, times: TimesColumn) -> tuple[bool, str]:
    """Whether instants that a provider writes without an offset stand here as numbers, and what to know of that.

    pandas' `to_json` writes an instant without a zone as if it were UTC: as a number, and before version 2 with a Z.
    """
    cells = [c.strip() for c in sheet.column(times.name)[:200] if c.strip()]
    offsets = read_stamps(cells).offset
    if not len(cells) or not np.isfinite(offsets).all():
        return False, ""
    zone = times.keys.get("timezone", "")
    if all(c.replace(".", "").isdecimal() for c in cells):
        return True, (
            f"instants of {times.name} are numbers, as pandas writes instants without a zone, and were read on the market's clock "
            f'({zone}); set timezone = "UTC" if they are Unix time, or "{zone}" to say so'
        )
    if (offsets == 0.0).all():
        return False, (
            f"instants of {times.name} have a zone (`{cells[0]}`), which the provider does not write, and it was taken as it is: "
            f'set timezone = "UTC" if it is, or timezone = "{zone}" and trust_offset = false if they are on the market\'s clock'
        )
    return False, ""
