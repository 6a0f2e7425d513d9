"""What may go wrong with a real export: another file of the same provider, another way of saving it, a damaged one."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import exports
import pytest
from layouts import points

from windfall.config.signals import SignalTable
from windfall.errors import SignalError
from windfall.grid.describe import describe
from windfall.grid.trace import Trace, load_trace


def load(path: Path, layout: str, region: str = "here", **keys: object) -> Trace:
    return load_trace(SignalTable.model_validate({"path": str(path), "layout": layout, **keys}), region)


def write(folder: Path, text: str | bytes, name: str = "export.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def five_minutes(*columns: str, values: Callable[[int], str], n: int = 12) -> str:
    return ",".join(columns) + "\n" + "".join(f"2024-06-01T00:{5 * i:02}:00+00:00,{values(i)}\n" for i in range(n))


def dispatchis(tables_before: int) -> str:
    """A file of AEMO's in which the prices come after tables that have SETTLEMENTDATE too, of many rows."""
    text = "C,NEMP.WORLD,DISPATCHIS,AEMO,PUBLIC,2024/01/01,00:05:11,1,DISPATCHIS,1\n"
    text += "I,DISPATCH,LOCAL_PRICE,1,SETTLEMENTDATE,DUID,LOCAL_PRICE_ADJUSTMENT\n"
    text += "".join(f'D,DISPATCH,LOCAL_PRICE,1,"2024/01/01 00:05:00",UNIT{i},0\n' for i in range(tables_before))
    text += "I,DISPATCH,PRICE,5,SETTLEMENTDATE,RUNNO,REGIONID,DISPATCHINTERVAL,INTERVENTION,RRP,EEP\n"
    for i in range(3):
        for region, price in (("NSW1", 51.5), ("SA1", -30.5)):
            text += f'D,DISPATCH,PRICE,5,"2024/01/01 00:{5 * (i + 1):02}:00",1,{region},{i},0,{price + i},0\n'
    text += 'I,DISPATCH,REGIONSUM,8,SETTLEMENTDATE,REGIONID\nD,DISPATCH,REGIONSUM,8,"2024/01/01 00:05:00",SA1\n'
    return text + 'C,"END OF REPORT",9\n'


@pytest.mark.parametrize("rows", [1, 400])
@pytest.mark.parametrize("where", [{}, {"REGIONID": "SA1"}])
def test_prices_are_found_among_the_tables_of_an_aemo_report(tmp_path: Path, rows: int, where: dict[str, str]) -> None:
    path = write(tmp_path, dispatchis(rows))
    assert points(load(path, "aemo", "SA1", where=where)) == {f"2023-12-31T14:{5 * i:02}": -30.5 + i for i in range(3)}
    assert describe(str(path), {}).layout == "aemo"


@pytest.mark.parametrize(
    ("layout", "text", "said"),
    [
        ("aemo", "I,P5MIN,REGIONSOLUTION,9,RUN_DATETIME,INTERVAL_DATETIME,REGIONID,RRP\n"
                 'D,P5MIN,REGIONSOLUTION,9,"2024/01/01 00:05:00","2024/01/01 00:10:00",SA1,4\n', "holds forecasts of several runs"),
        ("watttime", "point_time,value,generated_at\n2024-06-01T00:00Z,900,2024-06-01T00:00Z\n", "holds forecasts, not readings"),
        ("watttime", json.dumps({**exports.WATTTIME_V3, "meta": {"generated_at": "2024-06-01T00:00Z"}}), "holds forecasts"),
        ("caiso_oasis", "INTERVALSTARTTIME_GMT,INTERVALENDTIME_GMT,XML_DATA_ITEM,MW\n"
                        "2024-06-01T07:00:00-00:00,2024-06-01T08:00:00-00:00,RENEW_FCST_DA_MW,2000\n",
         r'XML_DATA_ITEM is RENEW_FCST_DA_MW throughout, not LMP: .* where = \{ XML_DATA_ITEM = "RENEW_FCST_DA_MW" \}'),
        ("caiso_oasis", "INTERVALSTARTTIME_GMT,INTERVALENDTIME_GMT,LMP_TYPE,MW\n"
                        "2024-06-01T07:00:00-00:00,2024-06-01T08:00:00-00:00,MCC,2\n", "LMP_TYPE is MCC throughout, not LMP"),
        ("entsoe", '"MTU (CET/CEST)","Area","Production Type","Generation (MW)"\n'
                   '"01/01/2024 00:00:00 - 01/01/2024 01:00:00","BZN|DK1","Solar","3"\n', "no column of values"),
        ("entsoe", ",Actual Load\n2024-01-01 00:00:00+01:00,40000\n2024-01-01 01:00:00+01:00,41000\n", "no column of values"),
        ("watttime", "point_time,value,value\n2024-01-01T00:00Z,1,2\n", "has column value twice"),
    ],
)  # fmt: skip
def test_another_file_of_the_same_provider_is_not_read_as_the_signal(tmp_path: Path, layout: str, text: str, said: str) -> None:
    name = "export.json" if text.startswith("{") else "export.csv"
    with pytest.raises(SignalError, match=said):
        load(write(tmp_path, text, name), layout)


def test_a_component_of_the_price_is_read_where_it_is_asked_for(tmp_path: Path) -> None:
    path = exports.save(tmp_path, exports.oasis(), "csv")
    node = {"NODE": "TH_NP15_GEN-APND"}
    for chosen in ({"LMP_TYPE": "MCC"}, {"XML_DATA_ITEM": "LMP_CONG_PRC"}):
        assert points(load(path, "caiso_oasis", where=node | chosen))["2024-06-01T07:00"] == 1.25


def test_of_what_came_and_what_is_expected_the_first_is_read(tmp_path: Path) -> None:
    text = "SETTLEMENTDATE,REGIONID,RRP,PERIODTYPE\n" + "".join(
        f"2024-05-01T10:{5 * i:02}:00,NSW1,{40.5 + i},{'ACTUAL' if i < 4 else 'FORECAST'}\n" for i in range(8)
    )
    assert list(points(load(write(tmp_path, text), "aemo")).values()) == [40.5, 41.5, 42.5, 43.5]
    with pytest.raises(SignalError, match="PERIODTYPE is FORECAST throughout, not TRADE"):
        load(write(tmp_path, text.replace("ACTUAL", "FORECAST")), "aemo")


def test_direct_factors_are_told_and_so_is_an_average_taken_as_a_margin(tmp_path: Path) -> None:
    text = json.dumps(exports.ELECTRICITY_MAPS_HISTORY).replace("lifecycle", "direct")
    (warning,) = load(write(tmp_path, text, "a.json"), "electricity_maps").warnings
    assert "emissionFactorType is direct throughout, not lifecycle" in warning
    table = exports.save(tmp_path, exports.ELECTRICITY_MAPS, "csv")
    assert any("is an average intensity" in w for w in load(table, "electricity_maps", type="marginal_co2").warnings)


@pytest.mark.parametrize("sign", ["â‚‚", "?", "", "2"])
def test_electricity_maps_columns_are_known_however_the_sign_for_co2_survived(tmp_path: Path, sign: str) -> None:
    rows = [[cell.replace("₂", sign) for cell in row] for row in exports.ELECTRICITY_MAPS_2025]
    trace = load(exports.save(tmp_path, rows, "csv"), "electricity_maps")
    assert points(trace)["2024-01-01T03:00"] == 353.5
    assert len(trace.warnings) == 1  # which of the two intensities was read


def test_californias_own_signal_is_in_kilograms_and_its_newest_version_counts(tmp_path: Path) -> None:
    text = five_minutes("timestamp", "MOER version 1.0", "MOER version 2.0", values=lambda i: f"0.9,{0.25 + i / 100:.2f}")
    trace = load(write(tmp_path, text), "watttime")
    assert points(trace)["2024-06-01T00:10"] == 270.0
    assert trace.warnings == []


def test_a_unit_against_the_one_that_an_answer_gives_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps(exports.WATTTIME_V3), "a.json")
    (warning,) = load(path, "watttime", unit="g/kWh").warnings
    assert 'by what the file says of it, is in lb/MWh, and unit = "g/kWh" counts' in warning
    half_hours = {**exports.WATTTIME_V3, "meta": {**exports.WATTTIME_V3["meta"], "data_point_period_seconds": 1800}}  # type: ignore[dict-item]
    half_hours["data"] = half_hours["data"][:1]
    assert load(write(tmp_path, json.dumps(half_hours), "b.json"), "watttime").periods[0] == 1800.0


def test_sequences_of_two_resolutions_are_a_choice_though_their_intervals_are_written_otherwise(tmp_path: Path) -> None:
    text = '"MTU (CET/CEST)","Area","Sequence","Day-ahead Price (EUR/MWh)"\n'
    for h in range(4):
        text += f'"01/01/2025 0{h}:00:00 - 01/01/2025 0{h + 1}:00:00","BZN|DE-LU","Sequence 1","{h}.5"\n'
        text += "".join(
            f'"01/01/2025 0{h}:{q:02}:00 - 01/01/2025 0{h}:{q + 14:02}:59","BZN|DE-LU","Sequence 2","{h}.5"\n'
            for q in (0, 15, 30, 45)
        )
    # Their prices on the hour are equal, so that nothing contradicts: read as one they would be neither.
    with pytest.raises(SignalError, match=r"holds 2 auctions \(Sequence: Sequence 1, Sequence 2\)"):
        load(write(tmp_path, text), "entsoe")


def test_of_two_currencies_the_one_that_is_set_is_read(tmp_path: Path) -> None:
    text = '"MTU (CET)","Day-ahead Price [PLN/MWh]","Day-ahead Price [EUR/MWh]"\n'
    text += "".join(f'"01.07.2020 0{h}:00 - 01.07.2020 0{h + 1}:00","{200 + h}.5","{40 + h}.5"\n' for h in range(4))
    path = write(tmp_path, text)
    assert points(load(path, "entsoe"))["2020-06-30T22:00"] == 40.5  # the header says CET, and the clock is summer's
    zloty = load(path, "entsoe", currency="PLN")
    assert (points(zloty)["2020-06-30T22:00"], zloty.warnings) == (200.5, [])


def test_a_hub_may_be_named_where_a_frame_has_its_number_too(tmp_path: Path) -> None:
    text = "Interval Start,Interval End,Market,Location Id,Location Name,LMP\n"
    for h in range(3):
        for number, name, price in ((51288, "WESTERN HUB", 20.5), (116013751, "AEP ZONE", 30.5)):
            text += f"2024-06-01 0{h}:00:00-04:00,2024-06-01 0{h + 1}:00:00-04:00,DAY_AHEAD_HOURLY,{number},{name},{price + h}\n"
    assert points(load(write(tmp_path, text), "gridstatus", "WESTERN HUB"))["2024-06-01T04:00"] == 20.5
    with pytest.raises(SignalError, match=r"holds 2 locations \(Location Name: AEP ZONE, WESTERN HUB"):
        load(tmp_path / "export.csv", "gridstatus")


class TestJsonOfPandas:
    """A frame without a zone is written as if it were UTC; an index may lose its name; rows may be objects by their number."""

    pd = pytest.importorskip("pandas")

    def frame(self, *, as_numbers: bool) -> object:
        pd = self.pd
        ends = pd.date_range("2024-01-01 00:05", periods=6, freq="5min", tz=None if as_numbers else "UTC")
        # Milliseconds, as pandas before version 4 writes instants unless it is told otherwise.
        stamps = ends.as_unit("ms").astype("int64") if as_numbers else ends
        return pd.DataFrame({"SETTLEMENTDATE": stamps, "REGIONID": "SA1", "RRP": [-40.5 + i for i in range(6)]})

    @pytest.mark.parametrize("orient", ["columns", "index", "split", "records", "named index"])
    def test_numbers_of_a_frame_without_a_zone_are_on_the_markets_clock(self, tmp_path: Path, orient: str) -> None:
        frame = self.frame(as_numbers=True)
        if orient == "named index":
            frame = frame.set_index("SETTLEMENTDATE")  # type: ignore[attr-defined]
        text = frame.to_json(orient=None if " " in orient else orient)  # type: ignore[attr-defined]
        path = write(tmp_path, text, "f.json")
        trace = load(path, "aemo", "SA1")
        assert next(iter(points(trace))) == "2023-12-31T14:00"
        assert 'set timezone = "UTC" if they are Unix time' in trace.warnings[0]
        told = load(path, "aemo", "SA1", timezone="+10:00")
        assert (points(told), told.warnings) == (points(trace), [])
        unix = load(path, "aemo", "SA1", timezone="UTC")
        assert (next(iter(points(unix))), unix.warnings) == ("2024-01-01T00:00", [])

    def test_a_zone_that_the_market_does_not_write_is_told(self, tmp_path: Path) -> None:
        text = self.frame(as_numbers=False).to_json(orient="records", date_format="iso")  # type: ignore[attr-defined]
        path = write(tmp_path, text, "f.json")
        trace = load(path, "aemo")
        assert next(iter(points(trace))) == "2024-01-01T00:00"
        assert 'timezone = "+10:00" and trust_offset = false' in trace.warnings[0]
        assert next(iter(points(load(path, "aemo", timezone="+10:00", trust_offset=False)))) == "2023-12-31T14:00"
        assert load(path, "aemo", timezone="UTC").warnings == []

    def test_rows_without_names_are_no_table(self, tmp_path: Path) -> None:
        path = write(tmp_path, self.frame(as_numbers=True).to_json(orient="values"), "f.json")  # type: ignore[attr-defined]
        with pytest.raises(SignalError, match="it holds rows without names"):
            load(path, "aemo")

    def test_an_index_that_lost_its_name_holds_the_instants(self, tmp_path: Path) -> None:
        pd = self.pd
        frame = pd.DataFrame(exports.ELECTRICITY_MAPS[1:], columns=exports.ELECTRICITY_MAPS[0])
        frame["Datetime (UTC)"] = pd.DatetimeIndex(frame["Datetime (UTC)"]).as_unit("ms").astype("int64")
        path = write(tmp_path, frame.set_index("Datetime (UTC)").to_json(), "f.json")
        assert points(load(path, "electricity_maps"))["2024-01-01T00:00"] == 350.5


GOOD = five_minutes("point_time", "value", values=lambda i: f"{900 + i}.0")
PACKED = gzip.compress(GOOD.encode(), mtime=0)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("t.csv", b"", "is empty"),
        ("t.csv.gz", b"", "is empty"),
        ("t.csv.gz", gzip.compress(b""), "is empty"),
        ("t.parquet", b"", "is empty"),
        ("t.json", b"[]", "holds an empty list"),
        ("t.json", b'{"data": [], "meta": {}}', "holds an empty list"),
        ("t.json", b"null", "JSON without rows"),
        ("t.csv.gz", PACKED[: len(PACKED) // 2], "is cut off, as its gzip data end too soon"),
        ("t.csv.gz", PACKED[:-8] + bytes(8), "is damaged, its gzip data cannot be unpacked"),
        ("t.csv.gz", PACKED + b"more", "is damaged, its gzip data cannot be unpacked"),
        ("t.csv", GOOD.replace("905.0", '"905.0').encode(), "a quotation mark in line 7 is not closed"),
        ("t.csv", GOOD.replace("905.0", "90\x005.0").encode(), "it is no text"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    with pytest.raises(SignalError, match=said) as caught:
        load(write(tmp_path, data, name), "watttime")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [GOOD, json.dumps(exports.WATTTIME_V3)])
def test_what_a_shell_of_windows_redirects_is_read(tmp_path: Path, text: str) -> None:
    trace = load(write(tmp_path, text.encode("utf-16"), "t.json" if text.startswith("{") else "t.csv"), "watttime")
    assert points(trace)["2024-06-01T00:05"] == pytest.approx(901 * 0.45359237, abs=1e-6)


def test_an_example_of_what_was_left_out_is_in_one_line_and_an_empty_cell_is_called_so(tmp_path: Path) -> None:
    (warning, _) = load(write(tmp_path, GOOD.replace("905.0", "")), "watttime").warnings
    assert "for example an empty cell" in warning
