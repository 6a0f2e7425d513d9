"""Traces and readings: what is odd in a file is said, and never turned into a value."""

from __future__ import annotations

from pathlib import Path

import layouts
import numpy as np
import pytest

from windfall.config.load import loads
from windfall.config.signals import SignalTable
from windfall.errors import SignalError
from windfall.grid.build import build_grid
from windfall.grid.repeated import Contradicting
from windfall.grid.synthetic import synthetic
from windfall.grid.trace import Trace, load_trace
from windfall.units import iso_utc, parse_utc

T = parse_utc("2026-01-01T00:00Z")


def load(tmp_path: Path, rows: str, **changes: object) -> Trace:
    (tmp_path / "t.csv").write_text("time_utc,g\n" + rows, encoding="utf-8")
    given = {"path": str(tmp_path / "t.csv"), "column": "g", **changes}
    return load_trace(SignalTable.model_validate(given), "R")


GOOD = "2026-01-01T00:00Z,10\n2026-01-01T00:05Z,20\n2026-01-01T00:10Z,30\n"


def test_a_reading_holds_from_valid_from_until_the_next(tmp_path: Path) -> None:
    signal = load(tmp_path, GOOD).signal
    assert signal.at(T - 1) is None
    values = [r.value for s in (0, 299, 300, 600) if (r := signal.at(T + s))]
    assert values == [10, 10, 20, 30]


def test_a_publication_delay_hides_a_reading_until_it_is_known_but_not_from_accounts(tmp_path: Path) -> None:
    signal = load(tmp_path, GOOD, publication_delay_s=300).signal
    assert signal.at(T + 299) is None
    r = signal.at(T + 300)
    assert r
    assert (r.value, r.valid_from, r.known_at) == (10, T, T + 300)
    assert signal.between(T, T + 600).values.tolist() == [10, 20]


def test_a_gap_lets_the_reading_grow_late_and_then_stale(tmp_path: Path) -> None:
    trace = load(tmp_path, "2026-01-01T00:00Z,10\n2026-01-01T01:00Z,20\n")
    assert "apart" in trace.warnings[0]
    r = trace.signal.at(T + 1000)
    assert r
    assert not r.is_fresh(T + 1000)
    assert r.is_fresh(T + 299)
    assert r.is_stale(T + 900)
    assert not r.is_stale(T + 899)


def test_rows_further_apart_than_the_period_say_which_period_they_want(tmp_path: Path) -> None:
    rows = "".join(f"2026-01-01T{h:02}:00Z,10\n" for h in range(12))
    assert "set period_s = 3600" in load(tmp_path, rows).warnings[0]
    assert load(tmp_path, rows, period_s=3600).warnings == []


def test_a_spreadsheets_byte_order_mark_is_no_part_of_a_columns_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("time_utc,g\n" + GOOD, encoding="utf-8-sig")
    assert load_trace(SignalTable(path=str(tmp_path / "t.csv"), column="g"), "R").warnings == []


def test_past_the_end_nothing_is_fresh_and_soon_everything_is_stale(tmp_path: Path) -> None:
    signal = load(tmp_path, GOOD).signal
    end = T + 900
    assert signal.ends_at() == end
    r = signal.at(end + 10_000)
    assert r
    assert r.is_stale(end)


def test_a_piecewise_trace_holds_until_its_stated_end(tmp_path: Path) -> None:
    signal = load(tmp_path, GOOD, period_s=0, until="2026-01-01T09:00Z").signal
    r = signal.at(T + 8 * 3600)
    assert r
    assert r.is_fresh(T + 8 * 3600)
    assert r.is_stale(T + 9 * 3600)


@pytest.mark.parametrize(
    ("rows", "warning", "values"),
    [
        ("2026-01-01T00:00Z,10\n2026-01-01T00:05Z,NaN\n2026-01-01T00:10Z,30\n", "without a plausible number", [10, 10, 30]),
        ("2026-01-01T00:00Z,10\n2026-01-01T00:05Z,\n2026-01-01T00:10Z,inf\n", "without a plausible number", [10, 10, 10]),
        ("2026-01-01T00:00Z,10\n2026-01-01T00:05Z,1e300\n2026-01-01T00:10Z,30\n", "without a plausible number", [10, 10, 30]),
        ("2026-01-01T00:10Z,30\n2026-01-01T00:00Z,10\n2026-01-01T00:05Z,20\n", "sorted", [10, 20, 30]),
        ("2026-01-01T00:00Z,10\n2026-01-01T00:05Z,20\n2026-01-01T00:05Z,20\n2026-01-01T00:10Z,30\n", "equal values", [10, 20, 30]),
        ("2026-01-01T00:00Z,10\nyesterday,20\n2026-01-01T00:10Z,30\n", "readable instant", [10, 10, 30]),
        ("2026-01-01T00:00Z,10\n2026-01-01T00:05Z\n2026-01-01T00:10Z,30\n", "without a plausible number", [10, 10, 30]),
    ],
)
def test_odd_rows_are_left_out_and_told(tmp_path: Path, rows: str, warning: str, values: list[float]) -> None:
    trace = load(tmp_path, rows)
    assert any(warning in w for w in trace.warnings)
    assert [r.value for s in (0, 300, 600) if (r := trace.signal.at(T + s))] == values


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (GOOD, {"path": "/nowhere/t.csv"}, "no such trace file"),
        (GOOD, {"column": "price"}, "no column price; the file has time_utc, g"),
        ("2026-01-01T00:00Z,x\n", {}, "no usable row.*1 bad values"),
        (GOOD, {"region_column": "g", "region_value": "X"}, "no usable row.*g = X; there are 10, 20, 30"),
        (
            GOOD,
            {"time_column": "when"},
            "no column when.*time_column names the column of instants .`time_utc` looks like it.: set it",
        ),
        ("yesterday,1\n", {}, "1 bad instants in column time_utc .time_column., for example `yesterday`.*time_format"),
        (GOOD + "x,1\ny,1\nz,1\nw,1\n", {}, "most rows cannot be read .4 bad instants"),
        ("", {}, "the file has a header and no rows"),
        ("2026-01-01T00:00Z,-4\n2026-01-01T00:05Z,-5\n", {}, "never below 0: are they prices. set type"),
        ("2026-01-01T00:00Z,420000\n", {}, "within 0 and 5000 gCO2/kWh: check unit"),
        ("2026-01-01T00:00Z,10\n2026-01-01T00:00Z,11\n", {}, 'no column tells them apart.*repeated = "last"'),
        ("01/02/2026 00:00,10\n02/02/2026 00:00,11\n", {}, "`01/02/2026 00:00`.*may be two dates: set time_format"),
        (GOOD, {"path": "bundled:mars"}, "no such bundled trace; there are bundled:paper_day"),
    ],
)
def test_a_trace_that_cannot_be_used_says_what_and_where(
    tmp_path: Path, rows: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(SignalError, match=message):
        load(tmp_path, rows, **changes)


def test_the_bundled_california_excerpt_is_a_month_of_five_minute_readings() -> None:
    trace = load_trace(SignalTable(path="bundled:caiso", column="pge_moer_g"), "CAISO_NORTH")
    assert trace.warnings == []
    columns = trace.signal.between(parse_utc("2021-04-01T00:00Z"), parse_utc("2021-05-01T00:00Z"))
    assert len(columns.values) == 8640


def test_generated_windows_flicker_like_real_ones_and_repeat_for_equal_seeds() -> None:
    lengths: list[float] = []
    for region in "ABCDE":
        signal = synthetic(region, 7, 0.0, 120.0)
        columns = signal.between(0.0, 120 * 86400.0)
        inside = np.diff(np.concatenate(([0], (columns.values < 100).astype(int), [0])))
        lengths += ((np.where(inside < 0)[0] - np.where(inside > 0)[0]) * 5.0).tolist()
    assert 10 <= np.median(lengths) <= 20
    assert 0.10 <= np.mean(np.array(lengths) < 10) <= 0.35
    one, two = synthetic("A", 7, 0.0, 3.0), synthetic("A", 7, 0.0, 3.0)
    np.testing.assert_array_equal(one.between(0, 2e5).values, two.between(0, 2e5).values)
    assert (synthetic("A", 8, 0.0, 3.0).between(0, 2e5).values != one.between(0, 2e5).values).any()


def test_the_last_of_contradicting_rows_counts_where_that_is_asked_for(tmp_path: Path) -> None:
    rows = GOOD + "2026-01-01T00:05Z,25\n2026-01-01T00:05Z,26\n"
    trace = load(tmp_path, rows, repeated="last")
    assert trace.values.tolist() == [10, 26, 30]
    assert any("the last row of each counts" in w for w in trace.warnings)


def test_forecasts_that_differ_contradict_each_other_too(tmp_path: Path) -> None:
    text = "time_utc,g,f\n2026-01-01T00:00Z,10,5\n2026-01-01T00:00Z,10,6\n2026-01-01T00:05Z,10,\n"
    with pytest.raises(Contradicting, match="different values"):
        layouts.read(tmp_path, text, column="g", forecast_columns={"f": 3600})
    assert layouts.read(tmp_path, text, column="g").values.tolist() == [10, 10]


def test_forecasts_are_converted_as_values_are(tmp_path: Path) -> None:
    text = "time_utc,lbs_per_mwh,f\n2026-01-01T00:00Z,1000,2000\n2026-01-01T00:05Z,1000,2000\n"
    trace = layouts.read(tmp_path, text, column="lbs_per_mwh", forecast_columns={"f": 300}, unit="lb/MWh")
    forecast = trace.signal.forecast(T, 3600)
    assert forecast is not None
    np.testing.assert_allclose(forecast.values, [453.59237, 907.18474])


def test_holes_are_told_from_when_to_when_the_largest_first_few(tmp_path: Path) -> None:
    kept = [i for i in range(400) if not (20 <= i < 80 or i in (100, 130, 131, 160, 190, 191, 192))]
    text = "time_utc,g\n" + "".join(f"{iso_utc(T + 300 * i)},10\n" for i in kept)
    trace = layouts.read(tmp_path, text, column="g")
    (warning,) = trace.warnings
    assert (
        "rows are missing 5 times, 5 h 35 min in all; the longest: 2026-01-01T01:40:00Z to 2026-01-01T06:40:00Z (5 h 00 min)"
        in warning
    )
    assert trace.holes()[1] == (T + 300 * 100, T + 300 * 101)


def test_a_series_of_changes_has_no_holes(tmp_path: Path) -> None:
    text = "time_utc,g\n2026-01-01T00:00Z,10\n2026-01-01T00:05Z,20\n2026-01-04T00:00Z,30\n"
    trace = layouts.read(tmp_path, text, column="g", period_s=0)
    assert trace.warnings == []
    assert trace.holes() == []
    r = trace.signal.at(T + 2 * 86400)
    assert r
    assert r.is_fresh(T + 2 * 86400)


@pytest.mark.parametrize(("coarse", "fine", "text"), [(30, 5, "30 min"), (60, 15, "1 h 00 min")])
def test_a_resolution_that_changes_inside_a_file_is_read_as_what_it_is(tmp_path: Path, coarse: int, fine: int, text: str) -> None:
    switch = 12 * coarse
    minutes = [*range(0, switch, coarse), *range(switch, switch + 40 * fine, fine)]
    rows = "time_utc,g\n" + "".join(f"{iso_utc(T + 60 * m)},{m}\n" for m in minutes)
    trace = layouts.read(tmp_path, rows, column="g", period_s=60 * fine)
    (warning,) = trace.warnings
    assert f"rows are {text} from" in warning
    assert set(trace.periods[:12]) == {60.0 * coarse}
    assert set(trace.periods[12:]) == {60.0 * fine}
    at = T + 60 * (coarse - 1)
    r = trace.signal.at(at)
    assert r
    assert r.is_fresh(at)
    late = T + 60 * (minutes[-1] + fine + 1)
    assert not trace.signal.at(late).is_fresh(late)  # type: ignore[union-attr]
    ends = layouts.read(tmp_path, rows, column="g", period_s=60 * fine, stamp="end")
    assert ends.times.tolist() == [T - 60 * coarse, *(trace.times[:12]).tolist(), *(trace.times[12:-1]).tolist()]
    assert ends.values.tolist() == trace.values.tolist()


def test_what_is_odd_about_a_file_is_told_once_for_all_its_sites(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("time_utc,g\n2026-01-01T00:00Z,10\n2026-01-01T00:05Z,\n2026-01-01T00:10Z,30\n")
    sites = "".join(
        f'[[site]]\nname = "{name}"\nregion = "{name}"\nspin_up_s = 300\ntrain_power_w = 2000\nidle_power_w = 400\n'
        f'tokens_per_s = 10\n[site.signal]\npath = "t.csv"\ncolumn = "g"\n'
        for name in ("a", "b")
    )
    grid = build_grid(loads(f"[run]\nbudget_tokens = 1000\n{sites}", "x.toml", tmp_path))
    assert len(grid.by_site) == 2
    assert len(grid.warnings) == len(set(grid.warnings)) == 2  # a value, and the hole that it leaves


@pytest.mark.parametrize(("minutes", "default"), [(1, 300), (3, 300), (15, 3600), (1.5, 300)])
def test_rows_that_are_finer_than_period_s_count_for_their_own_step_and_that_is_told(
    tmp_path: Path, minutes: float, default: float
) -> None:
    t0, step = 1704067200.0, 60 * minutes
    text = "time_utc,g\n" + "".join(f"{iso_utc(t0 + step * i)},{100 + i}\n" for i in range(20))
    trace = layouts.read(tmp_path, text, column="g", period_s=default, stale_periods=1)
    assert set(trace.periods) == {step}
    assert trace.signal.ends_at() == t0 + 20 * step
    (warning,) = trace.warnings
    assert f"rows are {step:g} s apart, and count as fresh for that long, not for period_s = {default:g} s" in warning
    assert f"set period_s = {step:g}" in warning
    assert layouts.read(tmp_path, text, column="g", period_s=step).warnings == []


@pytest.mark.parametrize(
    ("kind", "mark", "values"),
    [
        ("price", "-9999", (-20, 30, 40)),
        ("price", "-999.0", (-20, 30, 40)),
        ("price", "9999", (-20, 30, 40)),
        ("price", "-99999", (-1000, 30, 17_500)),
        ("marginal_co2", "-9999", (10, 300, 400)),
        ("average_co2", "-999", (10, 300, 400)),
        ("marginal_co2", "9999", (10, 300, 400)),
        ("curtailed_power", "-999", (0, 300, 4000)),
        ("surplus_power", "-9999", (-3000, 300, 6000)),
        ("surplus_power", "9999", (-3000, 300, 6000)),
    ],
)
def test_a_mark_for_no_value_that_comes_often_is_left_out_and_told_with_its_count(
    tmp_path: Path, kind: str, mark: str, values: tuple[float, ...]
) -> None:
    cells = [str(values[i % 3]) if i % 4 else mark for i in range(24)]
    text = "time_utc,v\n" + "".join(f"2024-01-01T{i:02}:00Z,{cell}\n" for i, cell in enumerate(cells))
    trace = layouts.read(tmp_path, text, column="v", type=kind, period_s=3600)
    assert set(trace.values) == set(map(float, values))
    assert len(trace.values) == 18
    assert any(f"6 rows of `v` are {float(mark):g}, which stands for no value" in w for w in trace.warnings)
    assert not any("without a plausible number" in w for w in trace.warnings)


def test_a_value_that_others_come_near_to_or_that_is_seldom_is_no_mark(tmp_path: Path) -> None:
    for values in ((-999, -999, -999, -1000, 40), (9999, 9999, 9999, 9500, 40), (-999, -999, 40, 50, 60)):
        trace = layouts.read(tmp_path, layouts.rows(*values, column="v"), column="v", type="price", period_s=3600)
        assert list(trace.values) == list(values)


def test_marks_for_no_value_in_forecasts_and_in_every_row_are_told(tmp_path: Path) -> None:
    text = "time_utc,v,ahead\n" + "".join(f"2024-01-01T0{i}:00Z,{i + 10},{-9999 if i % 2 else 50}\n" for i in range(8))
    keys = {"column": "v", "type": "price", "period_s": 3600, "forecast": "provider", "forecast_columns": {"ahead": 3600}}
    assert any("4 rows of `ahead` are -9999" in w for w in layouts.read(tmp_path, text, **keys).warnings)
    with pytest.raises(SignalError, match=r"no usable row in column `v` \(4 values that stand for none\)"):
        layouts.read(tmp_path, layouts.rows(-9999, -9999, -9999, -9999, column="v"), column="v", type="price", period_s=3600)
