"""Finds the unit of a column's values, which is given or named by the file, and checks whether their size is possible."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from windfall.config.signals import SignalTable
from windfall.grid.sheet import Sheet
from windfall.units import UNITS, Quantity, conversion, energy_in, quantity, quantity_in, unknown_unit

Array = npt.NDArray[np.float64]

_UNIT_COLUMNS = ("unit", "units", "uom", "value-units", "value_units", "einheit")
#: Words in names of columns that hold prices, and of those that hold carbon.
_OTHER = {
    False: re.compile(r"(^|[^a-z])(lmp|rrp|spp|price|preis|prix|precio|spot)", re.IGNORECASE),
    True: re.compile(r"(^|[^a-z])(co2|moer|aoer|carbon|emission)", re.IGNORECASE),
}
#: Columns of values of WattTime's files, and one that stands beside each.
_WATTTIME = (("value", "point_time"), ("MOER", "MOER version"))
_POUNDS = ("lb", "lbs", "pounds")


@dataclass(frozen=True, slots=True)
class Factor:
    """The factor of a column, with the unit that it comes from and warnings."""

    value: float
    #: The unit's name where the file names one.
    named: str = ""
    warnings: tuple[str, ...] = ()


def factor_of(sheet: Sheet, table: SignalTable) -> Factor:
    """From the values of ``table.column`` to the unit of its type."""
    column, own = table.column or "", UNITS[table.type]
    found, where = named_unit(sheet, column)
    said: list[str] = []
    if found and found.currency and table.type == "price" and found.kind == "price" and found.currency != table.currency:
        said.append(f'{where} is in {found.currency}, currency is {table.currency}: set currency = "{found.currency}"')
    named = found.to(table.type) if found else None
    if table.unit is not None:
        if named is not None and not np.isclose(named, conversion(table.unit, table.type)):
            said.append(f'{where} is in {found.text if found else ""}, and unit = "{table.unit}" counts: check unit')
        return Factor(table.factor, found.text if found else "", tuple(said))
    if found is None or table.scale != 1.0:
        odd = _not_understood(sheet, table) if found is None and table.scale == 1.0 else ""
        return Factor(table.scale, found.text if found else "", tuple([*said, odd] if odd else said))
    if named is None:
        other = {
            "carbon": "marginal_co2 or average_co2", "price": "price", "power": "curtailed_power or surplus_power",
            "share": "state_of_charge",
        }[found.kind]  # fmt: skip
        if found.kind != "power":
            said.append(
                f"{where} is in {found.text}, and was taken as {table.type} in {own}: set type ({other}), or unit if the name is "
                "wrong"
            )
        return Factor(1.0, found.text, tuple(said))
    if named != 1.0:
        said.append(
            f'{where} is in {found.text}: values were converted to {own}; set unit = "{found.text}" to say so, or the unit that '
            "they are in"
        )
    return Factor(named, found.text, tuple(said))


def named_unit(sheet: Sheet, column: str) -> tuple[Quantity | None, str]:
    """The unit that the column's name holds, the row below the header, or a column of units; and how to call that in a message."""
    found = quantity_in(column)
    if found is not None and not (found.kind == "power" and column == "MW" and "LMP_TYPE" in sheet.header):
        return found, f"column `{column}`"
    below = sheet.units.get(column, "").strip("[]() ")
    if (one := quantity(below) or quantity_in(below)) is not None:
        beside = "the row below the header" if sheet.header_line else "what the file says of it"
        return one, f"column `{column}`, by {beside},"
    for name, cells in zip(sheet.header, sheet.cells, strict=True):
        if name.lower() in _UNIT_COLUMNS and len(cells):
            there = {c.strip() for c in cells}
            if len(there) == 1:
                text = next(iter(there)).replace("lbs_co2_per_mwh", "lb/MWh")
                if (one := quantity(text)) is not None:
                    return one, f"column `{name}`"
    if any(part in _POUNDS for part in column.lower().replace("(", "_").replace(")", "_").replace(" ", "_").split("_")):
        return quantity("lb/MWh"), f"column `{column}`"
    return None, ""


def _not_understood(sheet: Sheet, table: SignalTable) -> str:
    """Messages about a unit of the file that is not known, or an energy where a power is needed."""
    column, own = table.column or "", UNITS[table.type]
    below = sheet.units.get(column, "").strip("[]() ")
    beside = [
        {c.strip() for c in cells} for name, cells in zip(sheet.header, sheet.cells, strict=True) if name.lower() in _UNIT_COLUMNS
    ]
    alone = [below, *(text for there in beside if len(there) == 1 for text in there)]
    if table.type in ("curtailed_power", "surplus_power"):
        energy = next((e for e in map(energy_in, [column, *alone]) if e), "")
        if energy:
            return (
                f"column `{column}` is in {energy}, which is an energy and no power, and was taken as {own}: set scale to what "
                f"makes {own} of it (of {energy} per quarter hour: {4 * conversion(energy[:-1], table.type):g})"
            )
    unknown = next((u for u in [unknown_unit(column), *(unknown_unit(f"[{text}]") for text in alone)] if u), "")
    if not unknown:
        return ""
    return f"column `{column}`: unit {unknown} is not understood, and values were taken as {own}; set unit or scale"


def unlikely(values: Array, table: SignalTable, sheet: Sheet) -> str:
    """A message if values have a size that is rare or impossible for their type; else empty."""
    if not len(values):
        return ""
    column, own = table.column or "", UNITS[table.type]
    size = np.abs(values)
    top, middle = float(np.quantile(size, 0.95)), float(np.median(values))
    begin = f"values of `{column}` are"
    if top == 0.0:
        return f"{begin} all 0: is it the right column?"
    if table.unit is None and _OTHER[table.type == "price"].search(column):
        return f"{begin} taken as {own}, and the name is one of {'carbon' if table.type == 'price' else 'prices'}: check type"
    hint = ""
    if table.type in ("marginal_co2", "average_co2"):
        if float(size.max()) < 5.0:
            hint = _likely(middle, own, "t/MWh or kg/kWh", 'unit = "t/MWh"')
        elif float(np.quantile(size, 0.9)) > 1300.0:
            hint = _likely(middle, own, "lb/MWh (the dirtiest plants make 1,300 g/kWh)", 'unit = "lb/MWh"')
        elif table.unit is None and table.scale == 1.0 and (column, True) in [(c, n in sheet.header) for c, n in _WATTTIME]:
            return (
                f"{begin} taken as {own}; the columns are those of WattTime's files, which are in lb/MWh: "
                'set unit = "lb/MWh" (or "g/kWh")'
            )
    elif table.type == "price":
        if top < 3.0:
            hint = _likely(middle, own, "per kWh", f'unit = "{table.currency}/kWh"')
        elif middle > 5000.0:
            hint = _likely(middle, own, "cents per MWh, or per GWh", f'unit = "{table.currency}/GWh"')
    elif table.type == "curtailed_power":
        if float(size.max()) > 50_000.0:
            hint = _likely(middle, own, "kW or W", 'unit = "kW"')
    elif table.type == "surplus_power" and float(size.max()) < 100.0:
        hint = _likely(middle, own, "kW or MW", 'unit = "kW"')
    return f"{begin} {hint}" if hint else ""


def _likely(middle: float, own: str, perhaps: str, key: str) -> str:
    return f"{middle:.3g} in the median, which is not likely to be {own}; if they are {perhaps}, set {key}, else scale"
