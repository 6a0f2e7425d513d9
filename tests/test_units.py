"""Units: each conversion has the right factor, and what is no unit of a type is told with what is."""

from __future__ import annotations

from datetime import UTC, timedelta

import pytest

from windfall.units import conversion, quantity, quantity_in, time_zone


@pytest.mark.parametrize(
    ("unit", "kind", "factor"),
    [
        ("g/kWh", "marginal_co2", 1.0),
        ("gCO2/kWh", "average_co2", 1.0),
        ("gCO₂eq/kWh", "average_co2", 1.0),
        ("g CO2-eq/kWh", "average_co2", 1.0),
        ("kg/MWh", "marginal_co2", 1.0),
        ("kg/kWh", "marginal_co2", 1000.0),
        ("t/MWh", "marginal_co2", 1000.0),
        ("tCO2e/MWh", "marginal_co2", 1000.0),
        ("mTCO2/MWh", "marginal_co2", 1000.0),
        ("lb/MWh", "marginal_co2", 0.45359237),
        ("lbs CO2 per MWh", "marginal_co2", 0.45359237),
        ("lb/kWh", "marginal_co2", 453.59237),
        ("short ton/MWh", "marginal_co2", 907.18474),
        ("t/GWh", "marginal_co2", 1.0),
        ("g/MJ", "marginal_co2", 3.6),
        ("EUR/MWh", "price", 1.0),
        ("€/kWh", "price", 1000.0),
        ("$/MWhe", "price", 1.0),
        ("ct/kWh", "price", 10.0),
        ("EURct/kWh", "price", 10.0),
        ("p/kWh", "price", 10.0),
        ("EUR/GWh", "price", 0.001),
        ("MW", "curtailed_power", 1.0),
        ("kW", "curtailed_power", 0.001),
        ("GW", "curtailed_power", 1000.0),
        ("W", "surplus_power", 1.0),
        ("kW", "surplus_power", 1000.0),
        ("MW", "surplus_power", 1e6),
    ],
)
def test_values_are_converted_to_the_unit_of_their_type(unit: str, kind: str, factor: float) -> None:
    assert conversion(unit, kind) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(
    ("unit", "kind", "said"),
    [
        ("EUR/MWh", "marginal_co2", "no unit of marginal_co2; accepted are g/kWh"),
        ("lb/MWh", "price", "no unit of price; accepted are EUR/MWh"),
        ("MWh", "surplus_power", "no unit that is known; accepted are W, kW, MW, GW"),
        ("ton/MWh", "marginal_co2", "no unit that is known"),  # a short or a metric one
        ("mg/kWh", "marginal_co2", "no unit that is known"),
        ("furlongs", "price", "multiply with `scale`"),
    ],
)
def test_what_is_no_unit_of_a_type_is_refused_with_what_is(unit: str, kind: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        conversion(unit, kind)
    assert f'unit = "{unit}"' in str(caught.value)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("moer_lbs_per_mwh", "lbs/MWh"),
        ("value (lbs/MWh)", "lbs/MWh"),
        ("MOER (lbs CO2/MWh)", "lbs co2/MWh"),
        ("Carbon intensity gCO₂eq/kWh (direct)", "gco2eq/kWh"),
        ("carbon_intensity_gco2_kwh", "gco2/kWh"),
        ("g_per_kwh", "g/kWh"),
        ("Day-ahead Price [EUR/MWh]", "EUR/MWh"),
        ("Deutschland/Luxemburg [€/MWh] Originalauflösungen", "€/MWh"),
        ("Price (EUR/MWhe)", "EUR/MWh"),
        ("price_eur_kwh", "EUR/kWh"),
        ("Preis ct/kWh", "ct/kWh"),
        ("surplus_kw", "kW"),
        ("Curtailment [MW]", "MW"),
    ],
)
def test_a_columns_name_may_hold_its_unit(name: str, unit: str) -> None:
    found = quantity_in(name)
    assert found is not None
    assert found.text == unit


@pytest.mark.parametrize("name", ["RRP", "LMP", "g", "pge_moer_g", "value", "new", "net_mwh", "Last [MWh]", "time_utc", "t"])
def test_most_names_hold_none(name: str) -> None:
    assert quantity_in(name) is None


def test_a_unit_may_name_its_currency() -> None:
    assert [q.currency for u in ("EUR/MWh", "A$/MWh", "£/kWh", "$/MWh", "ct/kWh", "NOK/MWh") if (q := quantity(u))] == [
        "EUR", "AUD", "GBP", "", "", "NOK",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "hours"), [("+10:00", 10), ("UTC+9:30", 9.5), ("-05:00", -5), ("+1", 1), ("UTC", 0), ("Australia/Brisbane", 10)]
)
def test_a_zone_is_a_name_or_an_offset(text: str, hours: float) -> None:
    from datetime import datetime

    assert datetime(2024, 1, 1, tzinfo=UTC).astimezone(time_zone(text)).utcoffset() == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["CEST", "Berlin", "../etc/passwd", "", "+99:00", "Europe/", "/usr/share"])
def test_what_is_no_zone_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"give a name as Europe/Berlin"):
        time_zone(text)
