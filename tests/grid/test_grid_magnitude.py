"""Units of a file: what is given, what a name says, and what the size of values gives away."""

from __future__ import annotations

from pathlib import Path

import pytest
from layouts import points, read, rows


def load(tmp_path: Path, column: str, *values: float, **keys: object) -> tuple[float, list[str]]:
    trace = read(tmp_path, rows(*values, column=column), column=column, period_s=3600, **keys)
    return float(trace.values[0]), trace.warnings


@pytest.mark.parametrize(
    ("column", "keys", "value", "converted"),
    [
        ("g", {"unit": "lb/MWh"}, 900, 408.233133),
        ("g", {"unit": "t/MWh"}, 0.4, 400),
        ("g", {"unit": "t/MWh", "scale": 2}, 0.2, 400),
        ("g", {"scale": 1000}, 0.4, 400),
        ("g", {"scale": 0.45359237}, 900, 408.233133),
        ("p", {"type": "price", "unit": "EUR/kWh"}, 0.08, 80),
        ("p", {"type": "price", "unit": "ct/kWh"}, 8, 80),
        ("p", {"type": "surplus_power", "unit": "MW"}, 1.5, 1.5e6),
        ("p", {"type": "curtailed_power", "unit": "kW"}, 1500, 1.5),
        ("g", {}, 400, 400),
    ],
)
def test_values_are_converted_as_unit_and_scale_say(
    tmp_path: Path, column: str, keys: dict[str, object], value: float, converted: float
) -> None:
    found, warnings = load(tmp_path, column, value, value, value, **keys)
    assert found == pytest.approx(converted, rel=1e-9)
    assert warnings == []


@pytest.mark.parametrize(
    ("column", "keys", "value", "converted"),
    [
        ("moer_lbs_per_mwh", {}, 900, 408.233133),
        ("value (lbs/MWh)", {}, 900, 408.233133),
        ("co2_kg_kwh", {}, 0.4, 400),
        ("moer_lbs", {}, 900, 408.233133),
        ("USD/kWh", {"type": "price"}, 0.08, 80),
        ("surplus_kw", {"type": "surplus_power"}, 3, 3000),
        ("Curtailment [GW]", {"type": "curtailed_power"}, 0.5, 500),
    ],
)
def test_a_unit_in_the_columns_name_is_used_and_told(
    tmp_path: Path, column: str, keys: dict[str, object], value: float, converted: float
) -> None:
    found, warnings = load(tmp_path, column, value, value, value, **keys)
    assert found == pytest.approx(converted, rel=1e-9)
    assert any("values were converted" in w and "set unit" in w for w in warnings)


def test_watttimes_older_files_are_known_by_their_columns(tmp_path: Path) -> None:
    text = "timestamp,MOER,MOER version\n" + "".join(f"2022-01-01T0{i}:00:00+00:00,900,3.0\n" for i in range(4))
    assert 'set unit = "lb/MWh"' in read(tmp_path, text, time_column="timestamp", column="MOER", period_s=3600).warnings[0]


def test_a_column_of_units_is_believed_as_a_name_is(tmp_path: Path) -> None:
    text = "time_utc,value,units\n" + "".join(f"2024-01-01T0{i}:00Z,900,lbs_co2_per_mwh\n" for i in range(4))
    trace = read(tmp_path, text, column="value", period_s=3600)
    assert trace.values[0] == pytest.approx(408.233133)
    assert any("column `units` is in lb/MWh" in w for w in trace.warnings)


def test_a_unit_that_is_given_outdoes_the_name_and_both_are_told(tmp_path: Path) -> None:
    found, (warning,) = load(tmp_path, "lbs_per_mwh", 400, 410, unit="g/kWh")
    assert found == 400
    assert 'is in lbs/MWh, and unit = "g/kWh" counts' in warning


@pytest.mark.parametrize(
    ("column", "keys", "values", "said"),
    [
        ("g", {}, (0.4, 0.45, 0.3), 'unit = "t/MWh"'),
        ("g", {}, (0.0, 0.0, 0.45), 'unit = "t/MWh"'),
        ("g", {}, (1500, 1600, 1700), 'unit = "lb/MWh"'),
        ("g", {"unit": "g/kWh"}, (0.4, 0.45, 0.3), "not likely"),
        ("g", {}, (0, 0, 0), "all 0"),
        ("p", {"type": "price"}, (0.08, 0.12, -0.01), 'unit = "USD/kWh"'),
        ("p", {"type": "price", "currency": "EUR"}, (0.08, 0.12, 1.2), 'unit = "EUR/kWh"'),
        ("p", {"type": "price"}, (80_000, 90_000, 70_000), 'unit = "USD/GWh"'),
        ("p", {"type": "curtailed_power"}, (120_000, 90_000, 0), 'unit = "kW"'),
        ("p", {"type": "surplus_power"}, (5.2, 3.1, -2.0), 'unit = "kW"'),
        ("RRP", {}, (60, 70, 80), "the name is one of prices: check type"),
        ("lmp_total", {"type": "surplus_power"}, (600, 700, 800), "the name is one of prices: check type"),
        ("carbon_intensity", {"type": "price"}, (400, 410, 420), "the name is one of carbon: check type"),
    ],
)
def test_values_of_a_size_that_cannot_be_are_told_with_the_key_that_mends_them(
    tmp_path: Path, column: str, keys: dict[str, object], values: tuple[float, ...], said: str
) -> None:
    _, warnings = load(tmp_path, column, *values, **keys)
    assert any(said in w for w in warnings)


@pytest.mark.parametrize(
    ("column", "keys", "values"),
    [
        ("g", {}, (0, 0, 450)),
        ("g", {}, (12, 25, 30)),
        ("g", {}, (900, 1000, 1100)),
        ("p", {"type": "price"}, (-5, 0.5, 12)),
        ("p", {"type": "price"}, (-1000, 0, 17_500)),
        ("p", {"type": "curtailed_power"}, (0, 0, 3200)),
        ("p", {"type": "surplus_power"}, (-2000, 0, 5000)),
    ],
)
def test_values_of_a_size_that_may_be_are_not_doubted(
    tmp_path: Path, column: str, keys: dict[str, object], values: tuple[float, ...]
) -> None:
    assert load(tmp_path, column, *values, **keys)[1] == []


def test_prices_that_are_read_as_carbon_are_told(tmp_path: Path) -> None:
    _, warnings = load(tmp_path, "price_eur_mwh", 30, 40)
    assert "is in EUR/MWh, and was taken as marginal_co2 in gCO2/kWh: set type (price)" in warnings[0]
    _, warnings = load(tmp_path, "moer_lbs_per_mwh", 30, 40, type="price")
    assert "set type (marginal_co2 or average_co2)" in warnings[0]
    assert load(tmp_path, "price_eur_mwh", 300, 400, unit="g/kWh") == (300, [])


def test_a_currency_that_the_name_contradicts_is_told(tmp_path: Path) -> None:
    _, (warning,) = load(tmp_path, "EUR/MWh", 30, 40, type="price")
    assert 'set currency = "EUR"' in warning
    assert load(tmp_path, "EUR/MWh", 30, 40, type="price", currency="EUR")[1] == []
    assert points(read(tmp_path, rows(30, 40, column="EUR/MWh"), column="EUR/MWh", type="price", unit="EUR/MWh"))


@pytest.mark.parametrize(
    ("unit", "value", "converted"),
    [
        *((u, 6.8, 68.0) for u in ("p/kWh", "c/kWh", "øre/kWh", "öre/kWh", "snt/kWh", "Eurocent/kWh", "pence per kWh", "c€/kWh")),
        *((u, 6.8, 68.0) for u in ("NOK øre/kWh", "US cents/kWh", "€ cent/kWh", "Ct/kWh")),
        ("Euro/MWh", 68.0, 68.0),
        ("p/MWh", 6800.0, 68.0),
        ("gCO2/MJ", 100.0, 360.0),
        ("kg CO2/GJ", 100.0, 360.0),
    ],
)
@pytest.mark.parametrize("below", [False, True])
def test_cents_and_joules_are_known_in_a_name_and_in_a_row_of_units(
    tmp_path: Path, unit: str, value: float, converted: float, below: bool
) -> None:
    keys: dict[str, object] = {"type": "marginal_co2" if "CO2" in unit else "price", "currency": "EUR", "period_s": 3600}
    column = "v" if below else f"v [{unit}]"
    text = rows(value, value, value, column=column)
    if below:
        text = text.replace("v\n", f"v\nISO 8601,{unit}\n", 1)
    trace = read(tmp_path, text, column=column, **keys)
    assert trace.values == pytest.approx([converted] * 3, rel=1e-9)
    said = f"the row below the header, is in {unit}" if below else "values were converted"
    assert any(said in w for w in trace.warnings) == (value != converted)


def test_a_row_of_units_is_no_row_of_values_and_is_found_whatever_rows_are_chosen(tmp_path: Path) -> None:
    body = "".join(f"2024-01-01T0{i}:00Z,{zone},{6.848 + i}\n" for i in range(3) for zone in ("A", "B"))
    text = "time_utc,zone,price\n,,[ct/kWh]\n" + body
    trace = read(tmp_path, text, column="price", type="price", where={"zone": "B"}, period_s=3600)
    assert points(trace) == {"2024-01-01T00:00": 68.48, "2024-01-01T01:00": 78.48, "2024-01-01T02:00": 88.48}
    assert not any("left out" in w for w in trace.warnings)


@pytest.mark.parametrize("text", ["2024-01-01T00:00Z,,MW\n", "2024-01-01T00:00Z,5,MW\n"])
def test_a_row_with_an_instant_is_none_of_units(tmp_path: Path, text: str) -> None:
    more = "".join(f"2024-01-01T0{i}:00Z,{5 + i},MW\n" for i in range(1, 4))
    trace = read(tmp_path, "time_utc,power,unit\n" + text + more, column="power", type="curtailed_power", period_s=3600)
    assert trace.values[-1] == 8.0
    assert len(trace.values) + sum("1 rows" in w for w in trace.warnings) == 4


@pytest.mark.parametrize(
    ("column", "keys", "said"),
    [
        (
            "Price [kr/kWh]",
            {"type": "price"},
            "kr/kWh is not understood, and values were taken as currency/MWh; set unit or scale",
        ),
        ("Price (EUR/MMBtu)", {"type": "price"}, "unit EUR/MMBtu is not understood"),
        ("CO2 [t/h]", {}, "unit t/h is not understood"),
        ("emissions [t]", {}, "unit t is not understood"),
        ("share [%]", {}, "unit % is not understood"),
        ("curt [MWh]", {"type": "curtailed_power"}, "is in MWh, which is an energy and no power"),
        ("curtailed_mwh", {"type": "curtailed_power"}, "is in MWh, which is an energy and no power"),
        ("surplus kWh", {"type": "surplus_power"}, "of kWh per quarter hour: 4000"),
    ],
)
def test_a_unit_that_is_not_known_is_told_until_unit_or_scale_says_what_it_is(
    tmp_path: Path, column: str, keys: dict[str, object], said: str
) -> None:
    found, warnings = load(tmp_path, column, 400, 410, 420, **keys)
    assert found == 400
    assert any(said in w for w in warnings)
    assert not any(said in w for w in load(tmp_path, column, 400, 410, 420, scale=4, **keys)[1])


def test_a_row_of_units_that_is_not_known_is_told(tmp_path: Path) -> None:
    text = rows(60, 70, 80, column="p").replace("p\n", "p\n,kr/kWh\n", 1)
    assert any("unit kr/kWh is not understood" in w for w in read(tmp_path, text, column="p", type="price").warnings)


@pytest.mark.parametrize("column", ["price (DE/LU)", "Preis_EUR_MWh", "LMP [day-ahead]", "Price (nominal)"])
def test_what_only_looks_like_a_unit_is_not_doubted(tmp_path: Path, column: str) -> None:
    assert load(tmp_path, column, 60, 70, 80, type="price", currency="EUR")[1] == []
