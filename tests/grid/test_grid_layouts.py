"""The trade's files: each is read with documented keys, and the right value stands at the right instant."""

from __future__ import annotations

import gzip
from pathlib import Path

import layouts
import numpy as np
import pytest
from layouts import points, read

from windfall.errors import SignalError
from windfall.grid.repeated import Contradicting


def test_watttime_is_in_pounds_and_says_so_nowhere(tmp_path: Path) -> None:
    told = read(tmp_path, layouts.WATTTIME, time_column="point_time", column="value")
    (warning,) = told.warnings
    assert 'set unit = "lb/MWh"' in warning
    trace = read(tmp_path, layouts.WATTTIME, time_column="point_time", column="value", unit="lb/MWh")
    assert trace.warnings == []
    assert points(trace)["2024-06-01T00:05"] == pytest.approx(901 * 0.45359237, abs=1e-6)


def test_oasis_is_refused_without_its_node_and_its_component_and_read_with_both(tmp_path: Path) -> None:
    keys = {"time_column": "INTERVALSTARTTIME_GMT", "column": "MW", "type": "price", "period_s": 3600}
    with pytest.raises(Contradicting) as caught:
        read(tmp_path, layouts.oasis(), **keys)
    assert "LMP_TYPE: LMP, MCC, MCE, MCL" in str(caught.value)
    assert "NODE: TH_NP15_GEN-APND, TH_SP15_GEN-APND" in str(caught.value)
    assert 'where = { LMP_TYPE = "LMP", NODE = "TH_NP15_GEN-APND" }' in str(caught.value)
    with pytest.raises(Contradicting, match="they differ in LMP_TYPE: LMP, MCC, MCE, MCL"):
        read(tmp_path, layouts.oasis(), **keys, where={"NODE": "TH_SP15_GEN-APND"})
    trace = read(tmp_path, layouts.oasis(), **keys, where={"NODE": "TH_SP15_GEN-APND", "LMP_TYPE": "LMP"})
    assert trace.warnings == []
    assert points(trace) == {f"2024-06-01T{7 + h:02}:00": 40.5 + h for h in range(5)}
    beside = read(
        tmp_path, layouts.oasis(), **keys, region_column="NODE", region_value="TH_NP15_GEN-APND", where={"LMP_TYPE": "MCL"}
    )
    assert points(beside)["2024-06-01T07:00"] == -0.5


def test_australian_stamps_end_their_interval_in_market_time(tmp_path: Path) -> None:
    keys = {"time_column": "SETTLEMENTDATE", "column": "RRP", "type": "price", "currency": "AUD"}
    trace = read(tmp_path, layouts.AEMO, **keys, timezone="+10:00", stamp="end")
    assert trace.warnings == []
    assert points(trace)["2023-12-31T14:00"] == -40
    assert trace.signal.starts_at() == trace.times[0]
    # Without the keys: not before both are told.
    told = read(tmp_path, layouts.AEMO, **keys).warnings
    assert any("taken as UTC" in w and "+10:00" in w for w in told)
    assert any('stamp = "end"' in w for w in told)


def test_a_dispatch_archive_holds_several_tables_and_one_is_read(tmp_path: Path) -> None:
    keys = {"time_column": "SETTLEMENTDATE", "column": "RRP", "type": "price", "currency": "AUD", "timezone": "Australia/Brisbane"}
    with pytest.raises(Contradicting, match=r'where = \{ REGIONID = "NSW1" \}'):
        read(tmp_path, layouts.aemo_dispatch(), **keys, stamp="end")
    trace = read(tmp_path, layouts.aemo_dispatch(), **keys, stamp="end", region_column="REGIONID", region="SA1")
    assert trace.warnings == []
    assert points(trace) == {f"2023-12-31T14:{5 * i:02}": 140.0 + i for i in range(4)}


@pytest.mark.parametrize(
    ("day", "hours", "utc"),
    [
        ("2024-03-31", [0, 1, 3, 4], ["2024-03-30T23:00", "2024-03-31T00:00", "2024-03-31T01:00", "2024-03-31T02:00"]),
        ("2024-10-27", [1, 2, 2, 3], ["2024-10-26T23:00", "2024-10-27T00:00", "2024-10-27T01:00", "2024-10-27T02:00"]),
        ("2024-01-01", [0, 1, 2, 3], ["2023-12-31T23:00", "2024-01-01T00:00", "2024-01-01T01:00", "2024-01-01T02:00"]),
    ],
)
def test_entsoe_writes_intervals_in_brussels_time(tmp_path: Path, day: str, hours: list[int], utc: list[str]) -> None:
    keys = {"time_column": "MTU (CET/CEST)", "column": "Day-ahead Price [EUR/MWh]", "type": "price", "period_s": 3600}
    text = layouts.entsoe(day, hours)
    trace = read(tmp_path, text, **keys, currency="EUR", timezone="Europe/Brussels")
    assert trace.warnings == []
    assert points(trace) == dict(zip(utc, [50.0, 51.0, 52.0, 53.0], strict=True))
    # Its name says the zone, which is told.
    guessed = read(tmp_path, text, **keys, currency="EUR")
    assert points(guessed) == points(trace)
    assert 'timezone = "Europe/Brussels"' in guessed.warnings[0]
    assert any('set currency = "EUR"' in w for w in read(tmp_path, text, **keys).warnings)


def test_smard_has_semicolons_decimal_commas_and_points_between_thousands(tmp_path: Path) -> None:
    keys = {
        "column": layouts.SMARD_PRICE, "type": "price", "currency": "EUR", "timezone": "Europe/Berlin", "period_s": 3600,
    }  # fmt: skip
    trace = read(tmp_path, layouts.SMARD, **keys, time_column="Datum von")
    assert trace.warnings == []
    assert points(trace) == {
        "2024-06-30T22:00": 1234.56, "2024-06-30T23:00": -5.25, "2024-07-01T00:00": 0.07, "2024-07-01T01:00": 98.0,
    }  # fmt: skip
    assert points(read(tmp_path, layouts.SMARD, **keys, time_column="Datum bis", stamp="end")) == points(trace)
    assert points(read(tmp_path, layouts.SMARD.encode("cp1252", "ignore"), **keys, time_column="Datum von")) == points(trace)


def test_electricity_maps_names_unit_and_zone_of_time(tmp_path: Path) -> None:
    trace = read(
        tmp_path, layouts.ELECTRICITY_MAPS, time_column="Datetime (UTC)", column="Carbon intensity gCO₂eq/kWh (direct)",
        type="average_co2", region_column="Zone id", region="DE", period_s=3600,
    )  # fmt: skip
    assert trace.warnings == []
    assert points(trace)["2024-01-01T03:00"] == 303.5


@pytest.mark.parametrize("flagged", [True, False])
def test_ercot_numbers_the_ends_of_hours_and_flags_the_second_of_two(tmp_path: Path, flagged: bool) -> None:
    keys = {"repeated_hour_column": "Repeated Hour Flag"} if flagged else {}
    trace = read(
        tmp_path, layouts.ercot(), time_column="Delivery Date", time_format="%m/%d/%Y", hour_column="Hour Ending", stamp="end",
        column="Settlement Point Price", type="price", timezone="America/Chicago", period_s=3600, **keys,
    )  # fmt: skip
    found = points(trace)
    # 10 March: 01:00 and 02:00 in standard time, then 04:00 in daylight time; 23 hours without a gap.
    assert [found[f"2024-03-10T{h:02}:00"] for h in (6, 7, 8)] == [20, 21, 22]
    # 3 November: the hour that ends at 02:00 comes twice.
    assert [found[f"2024-11-03T{h:02}:00"] for h in (5, 6, 7, 8)] == [20, 21, 22, 23]
    assert len(trace.holes()) == 1  # between the two days
    assert len(found) == 23 + 25


def test_a_flag_outdoes_the_order_of_rows(tmp_path: Path) -> None:
    lines = layouts.ercot().splitlines(keepends=True)
    first, second = (i for i, line in enumerate(lines) if line.startswith("11/03/2024,02:00"))
    lines[first], lines[second] = lines[second], lines[first]
    trace = read(
        tmp_path, "".join(lines), time_column="Delivery Date", time_format="%m/%d/%Y", hour_column="Hour Ending", stamp="end",
        column="Settlement Point Price", type="price", timezone="America/Chicago", repeated_hour_column="Repeated Hour Flag",
    )  # fmt: skip
    assert (points(trace)["2024-11-03T06:00"], points(trace)["2024-11-03T07:00"]) == (21, 22)


def test_gridstatus_writes_offsets_which_outdo_a_time_zone(tmp_path: Path) -> None:
    for keys in ({}, {"timezone": "Europe/Berlin"}):
        trace = read(tmp_path, layouts.GRIDSTATUS, time_column="Interval Start", column="LMP", type="price", period_s=3600, **keys)
        assert trace.warnings == []
        assert points(trace) == {f"2024-11-03T{7 + i:02}:00": 10.0 + i for i in range(5)}
    ends = read(tmp_path, layouts.GRIDSTATUS, time_column="Interval End", column="LMP", type="price", period_s=3600, stamp="end")
    assert points(ends) == points(trace)


def test_nord_pool_has_lines_above_its_header_and_a_day_of_25_hours(tmp_path: Path) -> None:
    trace = read(
        tmp_path, layouts.NORD_POOL, time_column="Date", hour_column="Hours", column="SE3", type="price", currency="EUR",
        timezone="Europe/Stockholm", period_s=3600, stamp="start",
    )  # fmt: skip
    assert trace.warnings == []
    assert np.diff(trace.times).tolist() == [3600.0] * 24
    assert list(points(trace).items())[:5] == [
        ("2024-10-26T22:00", 20.5), ("2024-10-26T23:00", 21.5), ("2024-10-27T00:00", 22.5), ("2024-10-27T01:00", 23.5),
        ("2024-10-27T02:00", 24.5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("day", "zone", "labels", "step", "first"),
    [
        ("2024-10-27", "Europe/Madrid", [str(h) for h in range(1, 26)], 3600, "2024-10-26T22:00"),  # counted
        ("2024-03-31", "Europe/Madrid", [str(h) for h in range(1, 24)], 3600, "2024-03-30T23:00"),
        ("2024-03-31", "Europe/Madrid", [str(h) for h in range(1, 25) if h != 3], 3600, "2024-03-30T23:00"),  # of a clock
        ("2024-10-27", "Europe/Berlin", ["1", "2", "3A", "3B", *(str(h) for h in range(4, 25))], 3600, "2024-10-26T22:00"),
        ("2024-10-27", "Europe/Berlin", ["0", "1", "2", "2", *(str(h) for h in range(3, 24))], 3600, "2024-10-26T22:00"),
        ("2024-10-27", "Europe/London", [str(h) for h in range(1, 51)], 1800, "2024-10-26T23:00"),  # settlement periods
        ("2024-03-31", "Europe/London", [str(h) for h in range(1, 47)], 1800, "2024-03-31T00:00"),
        ("2024-10-27", "Europe/Berlin", [str(q) for q in range(1, 101)], 900, "2024-10-26T22:00"),
        (
            "2024-11-03",
            "America/New_York",
            ["HE01", "HE02", "HE02*", *(f"HE{h:02}" for h in range(3, 25))],
            3600,
            "2024-11-03T04:00",
        ),
    ],
)
def test_hours_may_be_numbered_in_many_ways(tmp_path: Path, day: str, zone: str, labels: list[str], step: int, first: str) -> None:
    text = "day,h,p\n" + "".join(f"{day},{label},{i}\n" for i, label in enumerate(labels))
    trace = read(tmp_path, text, time_column="day", hour_column="h", column="p", type="price", timezone=zone, period_s=step)
    assert next(iter(points(trace))) == first
    assert np.diff(trace.times).tolist() == [float(step)] * (len(labels) - 1)
    assert trace.values.tolist() == list(range(len(labels)))


@pytest.mark.parametrize(("quarters", "minutes"), [(("1", "2", "3", "4"), 15), (("0", "15", "30", "45"), 15), (("1", "2"), 30)])
def test_hours_may_have_quarters_beside_them(tmp_path: Path, quarters: tuple[str, ...], minutes: int) -> None:
    text = "day,h,q,p\n" + "".join(f"2024-07-01,{h},{q},{h}\n" for h in range(1, 25) for q in quarters)
    keys = {"time_column": "day", "hour_column": "h", "column": "p", "type": "price", "timezone": "Europe/Berlin"}
    trace = read(tmp_path, text, **keys, quarter_column="q", period_s=minutes * 60)
    assert next(iter(points(trace))) == "2024-06-30T22:00"
    assert (np.diff(trace.times) == minutes * 60).all()
    with pytest.raises(Contradicting, match='quarter_column = "q"'):
        read(tmp_path, text.replace(",1\n", ",99\n", 1), **keys, period_s=3600)


def test_hours_of_which_nothing_shows_where_they_begin_are_asked_about(tmp_path: Path) -> None:
    text = "day,h,p\n" + "".join(f"2024-07-01,{h},{h}\n" for h in range(8, 18))
    keys = {"time_column": "day", "hour_column": "h", "column": "p", "type": "price", "timezone": "UTC", "period_s": 3600}
    with pytest.raises(SignalError, match="set hours_from = 1"):
        read(tmp_path, text, **keys)
    assert points(read(tmp_path, text, **keys, hours_from=0))["2024-07-01T08:00"] == 8
    assert points(read(tmp_path, text, **keys, hours_from=1))["2024-07-01T07:00"] == 8


@pytest.mark.parametrize("name", ["t.csv.gz", "t.parquet"])
def test_packed_files_and_parquet_are_read_as_csv_is(tmp_path: Path, name: str) -> None:
    if name.endswith("gz"):
        layouts.write(tmp_path, gzip.compress(layouts.oasis().encode()), name)
    else:
        pa = pytest.importorskip("pyarrow")
        pq = pytest.importorskip("pyarrow.parquet")
        lines = [line.split(",") for line in layouts.oasis().splitlines()]
        columns = dict(zip(lines[0], map(list, zip(*lines[1:], strict=True)), strict=True))
        moments = [np.datetime64(t[:19]) for t in columns["INTERVALSTARTTIME_GMT"]]
        columns["INTERVALSTARTTIME_GMT"] = pa.array(moments).cast(pa.timestamp("us", "America/Los_Angeles"))
        columns["MW"] = [float(v) for v in columns["MW"]]
        columns["NODE"] = pa.array(columns["NODE"]).dictionary_encode()
        pq.write_table(pa.table(columns), tmp_path / name)
    from windfall.config.signals import SignalTable
    from windfall.grid.trace import load_trace

    table = SignalTable(
        path=str(tmp_path / name), time_column="INTERVALSTARTTIME_GMT", column="MW", type="price", period_s=3600,
        where={"NODE": "TH_SP15_GEN-APND", "LMP_TYPE": "LMP"},
    )  # fmt: skip
    trace = load_trace(table, "R")
    assert trace.warnings == []
    assert points(trace) == {f"2024-06-01T{7 + h:02}:00": 40.5 + h for h in range(5)}
