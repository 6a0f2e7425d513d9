"""What a description of a file says, and that the table it suggests reads the file."""

from __future__ import annotations

import tomllib
from pathlib import Path

import layouts
import pytest
from layouts import points, read, rows, write

from windfall.config.signals import SignalTable
from windfall.errors import ConfigError, SignalError
from windfall.grid.describe import Description, describe, suggestion, windows
from windfall.grid.trace import load_trace
from windfall.units import iso_utc


def shown(tmp_path: Path, text: str, **asked: object) -> Description:
    return describe(str(write(tmp_path, text)), asked)


@pytest.mark.parametrize(
    ("text", "asked", "keys"),
    [
        (layouts.WATTTIME, {}, {"layout": "watttime", "type": "marginal_co2"}),
        (layouts.oasis(), {}, {"layout": "caiso_oasis", "where": {"LMP_TYPE": "LMP", "NODE": "TH_NP15_GEN-APND"}}),
        (layouts.AEMO, {}, {"layout": "aemo", "type": "price", "currency": "AUD"}),
        (layouts.aemo_dispatch(), {}, {"layout": "aemo", "where": {"REGIONID": "NSW1"}}),
        (layouts.entsoe("2024-01-01", [0, 1, 2, 3]), {}, {"layout": "entsoe", "currency": "EUR"}),
        (layouts.SMARD, {"timezone": "Europe/Berlin"}, {"time_column": "Datum von", "column": layouts.SMARD_PRICE}),
        (layouts.ELECTRICITY_MAPS, {}, {"layout": "electricity_maps", "type": "average_co2"}),
        (
            layouts.ercot(), {"time_format": "%m/%d/%Y", "timezone": "America/Chicago"},
            {"hour_column": "Hour Ending", "repeated_hour_column": "Repeated Hour Flag", "column": "Settlement Point Price"},
        ),
        (layouts.GRIDSTATUS, {}, {"layout": "gridstatus", "type": "price"}),
        (layouts.NORD_POOL, {"timezone": "Europe/Stockholm"}, {"time_column": "Date", "hour_column": "Hours"}),
        (rows(900, 910, 920, column="lbs_per_mwh"), {}, {"unit": "lbs/MWh"}),
    ],
)  # fmt: skip
def test_the_trades_files_are_understood_and_the_suggested_table_reads_them_alike(
    tmp_path: Path, text: str, asked: dict[str, object], keys: dict[str, object]
) -> None:
    found = shown(tmp_path, text, **asked)
    assert found.trace is not None, found.problem
    assert keys.items() <= found.table.items()
    again = load_trace(SignalTable.model_validate(tomllib.loads(suggestion(found))["site"]["signal"]), "R")
    assert points(again) == points(found.trace)
    assert not any(key in w for w in again.warnings for key in ("set period_s", "set stamp", "set timezone"))


def test_columns_are_told_by_what_they_hold(tmp_path: Path) -> None:
    found = shown(tmp_path, layouts.oasis())
    kinds = {c.name: c.kind for c in found.columns}
    assert kinds["INTERVALSTARTTIME_GMT"] == kinds["OPR_DT"] == "instants"
    assert kinds["MW"] == kinds["OPR_HR"] == "numbers"
    assert {c.name: c.values for c in found.columns}["LMP_TYPE"] == ("LMP", "MCC", "MCE", "MCL")
    assert {"LMP_TYPE", "NODE"} <= set(found.choices)
    assert found.table["where"] == {"LMP_TYPE": "LMP", "NODE": "TH_NP15_GEN-APND"}
    assert "# an example: choose" in suggestion(found)


@pytest.mark.parametrize(("hours", "period"), [((0, 1, 2), 3600.0), ((0, 1, 1.5, 9, 9.1, 22), 0.0)])
def test_a_pace_is_suggested_where_there_is_one(tmp_path: Path, hours: tuple[float, ...], period: float) -> None:
    text = "time_utc,g\n" + "".join(f"{iso_utc(1.7e9 + 3600 * h)},{100 + h}\n" for h in hours)
    assert shown(tmp_path, text).table["period_s"] == period


def test_windows_end_at_holes_and_are_shares_of_the_known_time(tmp_path: Path) -> None:
    values = [(h, 50 if h % 4 < 2 else 150) for h in range(48) if h not in range(20, 44)]
    text = "time_utc,g\n" + "".join(f"2024-01-{1 + h // 24:02}T{h % 24:02}:00Z,{v}\n" for h, v in values)
    trace = read(tmp_path, text, column="g", period_s=3600, stale_periods=1)
    seen = windows(trace, 100.0, below=True)
    assert (seen.count, seen.median_s, seen.longest_s, seen.share) == (6, 7200.0, 7200.0, 0.5)
    assert windows(trace, 10.0, below=True).count == 0
    assert windows(trace, 150.0, below=False).share == 0.5


def test_what_cannot_be_understood_says_what_is_lacking(tmp_path: Path) -> None:
    assert "no column looks like instants; name it with --time-column" in shown(tmp_path, "a,b\n1,x\n2,y\n").problem
    assert "no column looks like values; name it with --column" in shown(tmp_path, "t,b\n2024-01-01,x\n2024-01-02,y\n").problem
    naive = shown(tmp_path, layouts.ercot())
    assert "set time_format" in naive.problem
    assert naive.trace is None
    assert naive.table["hour_column"] == "Hour Ending"


def test_what_is_asked_for_must_make_sense(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no unit of marginal_co2"):
        shown(tmp_path, layouts.WATTTIME, unit="EUR/MWh")
    with pytest.raises(ConfigError, match="stamp"):
        shown(tmp_path, layouts.WATTTIME, stamp="middle")
    with pytest.raises(SignalError, match="no column moer; the file has point_time, value"):
        shown(tmp_path, layouts.WATTTIME, column="moer")
    with pytest.raises(SignalError, match="no such trace file"):
        describe(str(tmp_path / "none.csv"), {})


def clocked(name: str = "Time", separator: str = ",") -> str:
    """Two days of quarter hours: a date, a time of the day, a price that counts the rows."""
    lines = [f"2025-01-0{1 + i // 96},{i // 4 % 24:02}:{15 * (i % 4):02},{i}.5" for i in range(192)]
    return "\n".join([f"Date,{name},price", *lines, ""]).replace(",", separator)


@pytest.mark.parametrize("name", ["Time", "Heures", "Uhrzeit", "klo", "Hora"])
def test_a_column_of_clock_times_beside_one_of_dates_is_the_hour_column(tmp_path: Path, name: str) -> None:
    found = shown(tmp_path, clocked(name, "\t"))
    assert found.trace is not None
    assert found.table["hour_column"] == name
    assert (found.table["period_s"], "where" in found.table, "quarter_column" in found.table) == (900.0, False, False)
    assert list(found.trace.values) == [i + 0.5 for i in range(192)]
    assert points(found.trace)["2025-01-02T23:45"] == 191.5


def test_the_refusal_of_repeated_dates_names_the_column_of_clock_times(tmp_path: Path) -> None:
    with pytest.raises(SignalError, match=r'is the time of the day in them\? set hour_column = "Time"$'):
        read(tmp_path, clocked(), column="price", type="price", time_column="Date", timezone="UTC")


def test_rows_are_chosen_by_names_and_by_numbers_only_where_names_do_not_tell_them_apart(tmp_path: Path) -> None:
    head, *body = layouts.oasis().splitlines()
    # Each pair of a node and a component has its own GROUP, as in CAISO's files: it alone would tell all rows apart.
    groups = dict.fromkeys((*line.split(",")[4:7:2],) for line in body)
    numbered = [f"{line.rpartition(',')[0]},{list(groups).index((*line.split(',')[4:7:2],)) + 1}" for line in body]
    found = shown(tmp_path, "\n".join([head, *numbered, ""]))
    assert found.table["where"] == {"LMP_TYPE": "LMP", "NODE": "TH_NP15_GEN-APND"}
    runs = "t,zone,run,price\n" + "".join(
        f"2024-01-01T0{h}:00Z,{zone},{run},{h + run}.5\n" for h in range(4) for zone in "AB" for run in (1, 2)
    )
    assert shown(tmp_path, runs).table["where"] == {"zone": "A", "run": "1"}
