"""`[economics]`: tariffs that cover every hour once, one currency, and what is missing; every mistake with its line and fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from windfall.config.load import ConfigProblems, loads
from windfall.config.schema import Config

HERE = Path(__file__).parent
BASE = """
[run]
name = "x"
budget_tokens = 1_000_000
clock = "scaled"
start = "2026-01-11T17:00Z"
[[site]]
name = "a"
region = "NEM_SA"
spin_up_s = 0
train_power_w = 1000
idle_power_w = 100
tokens_per_s = 1000
[site.signal]
path = "bundled:paper_day"
time_column = "from_utc"
column = "g_per_kwh"
region_column = "region"
period_s = 0
"""
PRICE = """
[[site.signals]]
type = "price"
kind = "synthetic"
"""


def loaded(text: str, more: str = "") -> Config:
    return loads(BASE + more + "[economics]\n" + text, "e.toml", HERE)


def told(text: str, more: str = "") -> list[str]:
    with pytest.raises(ConfigProblems) as e:
        loaded(text, more)
    lines = (BASE + more + "[economics]\n" + text).splitlines()
    return [f"{lines[p.line - 1].strip()} | {p.message}" for p in e.value.problems]


def tariffs(*rows: str) -> str:
    return "capex_per_gpu = 1\n" + "".join(f"[[economics.tariff]]\nprice_per_mwh = 1\n{r}\n" for r in rows)


def test_capex_that_is_missing_is_told_where_the_table_is_beside_other_mistakes() -> None:
    found = told('capex_per_gpus = 3\nlife_years = "4"\n', PRICE)
    assert [f.split(" | ")[0] for f in found] == ["[economics]", "capex_per_gpus = 3", 'life_years = "4"']
    assert "missing: currency, above 0 (what a GPU costs" in found[0]
    assert "did you mean `capex_per_gpu`" in found[1]
    assert "leave the quotes out" in found[2]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["from_h = 6"], ["weekdays from 00:00 to 06:00 have no tariff", "weekends from 00:00 to 06:00 have no tariff"]),
        (["until_h = 22.5"], ["weekdays from 22:30 to 24:00 have no tariff", "weekends from 22:30 to 24:00 have no tariff"]),
        (["from_h = 22\nuntil_h = 6", "from_h = 7\nuntil_h = 22"],
         ["weekdays from 06:00 to 07:00 have no tariff", "weekends from 06:00 to 07:00 have no tariff"]),
        (["until_h = 8", "from_h = 7"],
         ["weekdays from 07:00 to 08:00 are in tariff[0] too", "weekends from 07:00 to 08:00 are in tariff[0] too"]),
        (["from_h = 8\nuntil_h = 9", ""], ["weekdays from 08:00 to 09:00 are in tariff[1] too", "weekends from 08:00 to 09:00"]),
        (['days = "weekdays"'], ["weekends from 00:00 to 24:00 have no tariff"]),
        (["", 'days = "weekends"'], ["weekends from 00:00 to 24:00 are in tariff[0] too"]),
        (["", 'region = "NEM_SA"\nuntil_h = 12'],
         ["weekdays in NEM_SA from 12:00 to 24:00 have no tariff", "weekends in NEM_SA from 12:00 to 24:00 have no tariff"]),
    ],
)  # fmt: skip
def test_tariffs_with_gaps_or_overlaps_are_refused_hour_by_hour(rows: list[str], said: list[str]) -> None:
    found = told(tariffs(*rows))
    assert len(found) == len(said)
    for text, part in zip(found, said, strict=True):
        assert text.startswith("[[economics.tariff]] | ")
        assert part in text
        assert "end one where the other begins" in text or "move from_h or until_h" in text


def test_tariffs_that_cover_every_hour_once_are_taken_by_region() -> None:
    made = loaded(tariffs("from_h = 22\nuntil_h = 6", 'from_h = 6\nuntil_h = 22\ndays = "weekdays"',
                          'from_h = 6\nuntil_h = 22\ndays = "weekends"', 'region = "NEM_SA"'))  # fmt: skip
    assert made.economics is not None
    assert [len(made.economics.tariffs_of(r)) for r in ("NEM_SA", "elsewhere")] == [1, 3]


def test_a_site_whose_energy_nothing_prices_is_told() -> None:
    (found,) = told("capex_per_gpu = 1\n")
    assert found == "[[site]] | nothing says what energy costs in NEM_SA; give it a price signal, or add [[economics.tariff]]"
    assert loaded("capex_per_gpu = 1\n", PRICE).economics is not None


def test_mixed_currencies_are_told_at_the_signal_with_what_to_do() -> None:
    (found,) = told("capex_per_gpu = 1\n", PRICE + 'currency = "AUD"\n')
    assert found.startswith('currency = "AUD" | its prices are in AUD and [economics] is in USD, and currencies cannot be added')
    assert 'set currency = "USD" here, without unit, and scale to the rate' in found
    # Where a tariff prices the energy the signal does not.
    assert loaded(tariffs(""), PRICE + 'currency = "AUD"\n').economics is not None
    assert loaded('currency = "AUD"\ncapex_per_gpu = 1\n', PRICE + 'currency = "AUD"\n').economics is not None


def test_a_tariff_of_a_region_that_is_not_there_is_told_with_those_that_are() -> None:
    (found,) = told(tariffs("", 'region = "NEM_S"'))
    assert found == 'region = "NEM_S" | no site or counterfactual is in NEM_S; the regions are NEM_SA'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("network_per_gb = 1\n", "network_per_gb = 1 | network_per_gb and gb_per_site_hour are multiplied"),
        ('tariff_timezone = "Europe/Berlln"\n', 'tariff_timezone = "Europe/Berlln" | tariff_timezone = "Europe/Berlln" is none'),
        ("open_share = 1\n", "open_share = 1 | got 1; accepted: a number, above 0 and below 1"),
        ("rented_per_gpu_h = 0\n", "rented_per_gpu_h = 0 | got 0; accepted: currency per GPU-hour, above 0"),
    ],
)
def test_other_mistakes_are_told_at_their_key(text: str, said: str) -> None:
    (found,) = told("capex_per_gpu = 1\n" + text, PRICE)
    assert found.startswith(said)
