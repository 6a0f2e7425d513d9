"""Exports and frames that people have load by the name of their layout alone; what cannot be known is asked for in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import exports
import pytest
from layouts import points

from windfall.config.signals import SignalTable
from windfall.errors import SignalError
from windfall.grid.describe import describe
from windfall.grid.trace import Trace, load_trace

FORMS = ["csv", "csv.gz", "parquet", "json"]


def load(path: Path, layout: str, region: str = "here", **keys: object) -> Trace:
    return load_trace(SignalTable.model_validate({"path": str(path), "layout": layout, **keys}), region)


def hourly(first: str, value: float, n: int = 5) -> dict[str, float]:
    hour = int(first[11:13])
    return {f"{first[:11]}{hour + i:02}:00": value + i for i in range(n)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("rows", "layout", "keys", "first", "value", "step_s", "minutes"),
    [
        (exports.WATTTIME, "watttime", {}, "2024-06-01T00:00", 900 * 0.45359237, 0.45359237, 5),
        (exports.ELECTRICITY_MAPS, "electricity_maps", {}, "2024-01-01T00:00", 350.5, 1, 60),
        (exports.ELECTRICITY_MAPS_2025, "electricity_maps", {}, "2024-01-01T00:00", 350.5, 1, 60),
        (exports.entsoe(), "entsoe", {"where": {"Sequence": "Sequence 1"}}, "2024-01-31T23:00", 50.5, 1, 60),
        (exports.ENTSOE_LIBRARY, "entsoe", {"region": "DE-LU"}, "2024-01-01T00:00", 50.5, 1, 60),
        (exports.oasis(), "caiso_oasis", {"region": "TH_SP15_GEN-APND"}, "2024-06-01T07:00", 40.5, 1, 60),
        (exports.oasis("RTM", "VALUE", 5), "caiso_oasis", {"where": {"NODE": "TH_NP15_GEN-APND"}}, "2024-06-01T07:00", 30.5, 1, 5),
        (exports.oasis("RTPD", "PRC", 15), "caiso_oasis", {"where": {"NODE": "TH_SP15_GEN-APND"}}, "2024-06-01T07:00", 40.5, 1, 15),
        (exports.AEMO, "aemo", {}, "2023-12-31T14:00", -40.5, 1, 5),
        (exports.NEMOSIS, "aemo", {"region": "SA1"}, "2023-12-31T14:00", -40.5, 1, 5),
        (exports.GRIDSTATUS, "gridstatus", {"region": "TH_NP15_GEN-APND"}, "2024-11-03T07:00", 10.5, 1, 60),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)  # fmt: skip
def test_an_export_loads_by_its_layout_in_every_form(
    tmp_path: Path, form: str, rows: exports.Rows, layout: str, keys: dict[str, object], first: str, value: float, step_s: float,
    minutes: int,
) -> None:  # fmt: skip
    trace = load(exports.save(tmp_path, rows, form), layout, **keys)  # type: ignore[arg-type]
    found = points(trace)
    assert next(iter(found)) == first
    assert [round(value + i * step_s, 6) for i in range(len(found))] == list(found.values())
    assert set(trace.periods) == {minutes * 60.0}
    assert set((trace.times[1:] - trace.times[:-1]).tolist()) == {minutes * 60.0}
    # Two intensities stand side by side in these files; the choice is told. Nothing else is odd.
    odd = [w for w in trace.warnings if "set column =" not in w]
    assert odd == []
    assert (len(trace.warnings) > 0) == (layout == "electricity_maps")


def test_a_layout_says_what_its_values_are_and_keys_say_otherwise() -> None:
    table = SignalTable.model_validate({"path": "x.csv", "layout": "aemo"})
    assert (table.type, table.currency) == ("price", "AUD")
    assert SignalTable.model_validate({"path": "x", "layout": "watttime"}).type == "marginal_co2"
    mine = SignalTable.model_validate({"path": "x", "layout": "entsoe", "currency": "GBP"})
    assert (mine.type, mine.currency) == ("price", "GBP")
    assert SignalTable.model_validate({"path": "x", "layout": "watttime", "type": "average_co2"}).type == "average_co2"
    # As a run directory keeps it: with every key.
    again = SignalTable.model_validate(mine.model_dump(exclude_none=True))
    assert again == mine


@pytest.mark.parametrize(
    ("answer", "layout", "first", "value"),
    [
        (exports.WATTTIME_V3, "watttime", "2024-06-01T00:00", 900 * 0.45359237),
        (exports.ELECTRICITY_MAPS_HISTORY, "electricity_maps", "2024-01-01T00:00", 350.5),
        ({"zone": "DE", "data": exports.ELECTRICITY_MAPS_HISTORY["history"]}, "electricity_maps", "2024-01-01T00:00", 350.5),
    ],
)
def test_an_interfaces_answer_loads_as_it_came(tmp_path: Path, answer: object, layout: str, first: str, value: float) -> None:
    path = tmp_path / "answer.json"
    path.write_text(json.dumps(answer), encoding="utf-8")
    trace = load(path, layout)
    assert next(iter(points(trace).items())) == (first, round(value, 6))
    assert trace.warnings == []


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({"signal_type": "health_damage", "units": "usd_per_mwh"}, "holds health_damage, which is no intensity of CO2"),
        ({"signal_type": "co2_aoer"}, 'set type = "average_co2"'),
    ],
)
def test_another_signal_of_watttime_is_not_taken_for_the_marginal_one(tmp_path: Path, meta: dict[str, str], said: str) -> None:
    path = tmp_path / "answer.json"
    path.write_text(json.dumps({**exports.WATTTIME_V3, "meta": meta}), encoding="utf-8")
    with pytest.raises(SignalError, match=said):
        load(path, "watttime")
    forecast = [{"generated_at": "2024-06-01T00:00:00+00:00", "forecast": exports.WATTTIME_V3["data"]}]
    path.write_text(json.dumps({"data": forecast}), encoding="utf-8")
    with pytest.raises(SignalError, match="holds forecasts, not readings"):
        load(path, "watttime")


class TestFramesOfPandas:
    """What the providers' Python clients return, saved by pandas in each way that it has."""

    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")

    @classmethod
    def _saved(cls, frame: object, folder: Path, how: str) -> Path:
        path = folder / f"frame.{how.split('-')[0]}"
        if how == "csv":
            frame.to_csv(path)  # type: ignore[attr-defined]
        elif how == "csv.gz":
            frame.to_csv(path, compression={"method": "gzip", "mtime": 0})  # type: ignore[attr-defined]
        elif how == "parquet":
            frame = frame.to_frame() if hasattr(frame, "to_frame") else frame
            frame.columns = [str(c) for c in frame.columns]  # type: ignore[attr-defined]
            frame.to_parquet(path)  # type: ignore[attr-defined]
        else:
            orient = how.partition("-")[2]
            text = frame.to_json(orient=orient or None, date_format="iso", lines=orient == "records")  # type: ignore[attr-defined]
            path.write_text(text, encoding="utf-8")
        return path

    @pytest.mark.parametrize("how", ["csv", "csv.gz", "parquet", "json-index", "json-split"])
    def test_day_ahead_prices_of_entsoe_py_are_a_series_on_a_local_clock(self, tmp_path: Path, how: str) -> None:
        hours = self.pd.date_range("2024-10-27 00:00", periods=25, freq="h", tz="Europe/Brussels")
        series = self.pd.Series([50.5 + i for i in range(25)], index=hours)
        trace = load(self._saved(series, tmp_path, how), "entsoe")
        assert list(points(trace).values()) == [50.5 + i for i in range(25)]
        assert trace.times[0] == hours[0].timestamp()
        assert set((trace.times[1:] - trace.times[:-1]).tolist()) == {3600.0}
        assert trace.warnings == []

    def test_a_frame_of_several_prices_asks_which(self, tmp_path: Path) -> None:
        hours = self.pd.date_range("2024-01-01", periods=8, freq="15min", tz="Europe/Brussels")
        frame = self.pd.DataFrame({"Long": [1.5 * i for i in range(8)], "Short": [2.5 * i for i in range(8)]}, index=hours)
        path = self._saved(frame, tmp_path, "csv")
        with pytest.raises(SignalError, match=r'several columns of numbers \(Long, Short\): name one, column = "Long"'):
            load(path, "entsoe")
        trace = load(path, "entsoe", column="Short")
        assert set(trace.periods) == {900.0}

    @pytest.mark.parametrize("how", ["csv", "parquet", "json-records", "json", "json-split"])
    def test_a_frame_of_gridstatus_keeps_both_hours_of_the_night_when_clocks_go_back(self, tmp_path: Path, how: str) -> None:
        frame = self.pd.DataFrame(exports.GRIDSTATUS[1:], columns=exports.GRIDSTATUS[0])
        for name in ("Time", "Interval Start", "Interval End"):
            frame[name] = self.pd.to_datetime(frame[name], utc=True).dt.tz_convert("US/Pacific")
        frame["LMP"] = frame["LMP"].astype(float)
        trace = load(self._saved(frame, tmp_path, how), "gridstatus", "TH_SP15_GEN-APND")
        assert points(trace) == {f"2024-11-03T{7 + i:02}:00": 110.5 + i for i in range(5)}
        assert trace.warnings == []

    @pytest.mark.parametrize("how", ["csv", "parquet", "json-records"])
    def test_a_frame_of_nemosis_is_in_market_time_and_its_stamps_are_ends(self, tmp_path: Path, how: str) -> None:
        frame = self.pd.DataFrame(exports.NEMOSIS[1:], columns=exports.NEMOSIS[0])
        frame["SETTLEMENTDATE"] = self.pd.to_datetime(frame["SETTLEMENTDATE"])
        frame = frame.astype({"INTERVENTION": float, "RRP": float})
        trace = load(self._saved(frame, tmp_path, how), "aemo", "NSW1")
        assert list(points(trace).items())[:2] == [("2023-12-31T14:00", 60.5), ("2023-12-31T14:05", 61.5)]
        # Of the two runs of an intervention the one that prices are settled by.
        assert max(trace.values) == 65.5
        assert trace.warnings == []


@pytest.mark.parametrize(
    ("rows", "layout", "keys", "said"),
    [
        (exports.oasis(), "caiso_oasis", {},
         r'holds 2 nodes \(NODE: TH_NP15_GEN-APND, TH_SP15_GEN-APND\): choose one with where = \{ NODE = "TH_NP15_GEN-APND" \}, or '
         r"name the site's region as one of them \(here is none\)"),
        ([*exports.oasis(), *exports.oasis("RTM")[1:]], "caiso_oasis", {"region": "TH_NP15_GEN-APND"},
         r'holds 2 markets \(MARKET_RUN_ID: DAM, RTM\): choose one with where = \{ MARKET_RUN_ID = "DAM" \}'),
        (exports.NEMOSIS, "aemo", {}, r'holds 2 regions \(REGIONID: NSW1, SA1\): choose one with where = \{ REGIONID = "NSW1" \}'),
        (exports.ENTSOE_LIBRARY, "entsoe", {"region": "FR"}, r"holds 2 areas \(MapCode: DE_LU, GB\): choose one"),
        (exports.entsoe(), "entsoe", {}, r'holds 2 auctions \(Sequence: Sequence 1, Sequence 2\): choose one with'),
        (exports.GRIDSTATUS, "gridstatus", {}, r"holds 2 locations \(Location: TH_NP15_GEN-APND, TH_SP15_GEN-APND\)"),
        (exports.AEMO, "watttime", {},
         r'is not a WattTime export \(layout = "watttime"\): no column of instants \(point_time or timestamp\); the file '
         r'has REGION, SETTLEMENTDATE, .*; its columns are those of layout = "aemo": set that'),
        ([["a", "b"], ["1", "2"], ["3", "4"]], "aemo", {}, "correct layout, or name time_column and column"),
        ([["point_time", "moer"], ["2024-01-01T00:00Z", "2"]], "watttime", {}, r"no column of values \(value or MOER or MOER"),
        (exports.AEMO, "aemo", {"column": "RPR"}, "no column RPR; the file has REGION, SETTLEMENTDATE"),
        (exports.NEMOSIS, "aemo", {"where": {"REGIONID": "SA2"}}, "no row has REGIONID = SA2; there are NSW1, SA1"),
        (exports.NEMOSIS, "aemo", {"region_column": "REGIONID", "region": "SA3"}, "no row has REGIONID = SA3; there are NSW1, SA1"),
        (exports.NEMOSIS[:1], "aemo", {}, "has a header and no rows"),
    ],
)  # fmt: skip
def test_what_a_file_leaves_open_is_one_sentence_with_the_key(
    tmp_path: Path, rows: exports.Rows, layout: str, keys: dict[str, object], said: str
) -> None:
    path = exports.save(tmp_path, rows, "csv")
    with pytest.raises(SignalError, match=said) as caught:
        load(path, layout, **keys)  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_prices_in_another_currency_are_told(tmp_path: Path) -> None:
    path = exports.save(tmp_path, exports.ENTSOE_LIBRARY, "csv")
    (warning,) = load(path, "entsoe", "GB").warnings
    assert 'prices are in GBP, and currency is EUR: set currency = "GBP"' in warning
    assert load(path, "entsoe", "GB", currency="GBP").warnings == []


def test_a_change_of_resolution_is_no_choice_between_two(tmp_path: Path) -> None:
    text = "DateTime(UTC)\tResolutionCode\tMapCode\tPrice[Currency/MWh]\tCurrency\n"
    text += "".join(f"2025-09-30 {h:02}:00:00\tPT60M\tBE\t{h}.5\tEUR\n" for h in range(24))
    text += "".join(f"2025-10-01 {q // 4:02}:{q % 4 * 15:02}:00\tPT15M\tBE\t{q}.5\tEUR\n" for q in range(96))
    path = tmp_path / "prices.csv"
    path.write_text(text, encoding="utf-8")
    trace = load(path, "entsoe", "BE")
    assert [p.period_s for p in trace.resolution_parts()] == [3600.0, 900.0]
    # Both at the same instants are a choice.
    path.write_text(text + "2025-09-30 00:00:00\tPT15M\tBE\t7.5\tEUR\n", encoding="utf-8")
    with pytest.raises(SignalError, match=r"holds 2 resolutions \(ResolutionCode: PT15M, PT60M\)"):
        load(path, "entsoe", "BE")


def test_days_come_before_months_in_entsoes_export(tmp_path: Path) -> None:
    trace = load(exports.save(tmp_path, exports.entsoe("02/01/2024"), "csv"), "entsoe", where={"Sequence": "Sequence 2"})
    assert next(iter(points(trace).items())) == ("2024-01-01T23:00", 60.5)


def test_an_archive_of_several_tables_is_found_by_its_columns(tmp_path: Path) -> None:
    from layouts import aemo_dispatch

    path = tmp_path / "PUBLIC_DVD_DISPATCHPRICE.CSV"
    path.write_text(aemo_dispatch(), encoding="utf-8")
    assert points(load(path, "aemo", "SA1")) == {f"2023-12-31T14:{5 * i:02}": 140.0 + i for i in range(4)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"data": [{"point_time": "2024-06-01T00:00Z", "val', "is no whole JSON"),
        ('{"error": "no such region"}', "JSON without rows: .*it holds error"),
        ("[1, 2, 3]", "it holds values alone"),
        ("[" * 5000, "is no whole JSON|nested too deeply"),
    ],
)
def test_json_that_holds_no_rows_is_told(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "answer.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SignalError, match=said):
        load(path, "watttime")


def test_trace_show_recognises_a_layout(tmp_path: Path) -> None:
    path = str(exports.save(tmp_path, exports.oasis(), "csv"))
    assert describe(path, {}).layout == "caiso_oasis"
    found = describe(path, {"layout": "caiso_oasis", "where": {"NODE": "TH_NP15_GEN-APND"}})
    assert found.trace is not None
    assert points(found.trace)["2024-06-01T07:00"] == 30.5
    lacking = describe(path, {"layout": "caiso_oasis"})
    assert lacking.trace is None
    assert "holds 2 nodes" in lacking.problem
