"""Traces and readings: what is odd in a file is said, and never turned into a value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from windfall.config.signals import SignalTable
from windfall.errors import SignalError
from windfall.grid.synthetic import synthetic
from windfall.grid.trace import Trace, load_trace
from windfall.units import parse_utc

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
    (tmp_path / "t.csv").write_text("time_utc;g\n" + GOOD.replace(",", ";"), encoding="utf-8")
    with pytest.raises(SignalError, match="separated by semicolons"):
        load_trace(SignalTable(path=str(tmp_path / "t.csv"), column="g"), "R")


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
        ("2026-01-01T00:00Z,10\n2026-01-01T00:05Z,20\n2026-01-01T00:05Z,25\n2026-01-01T00:10Z,30\n", "repeated", [10, 25, 30]),
        ("2026-01-01T00:00Z,10\nyesterday,20\n2026-01-01T00:10Z,30\n", "readable instant", [10, 10, 30]),
        ("2026-01-01T00:00Z,10\n2026-01-01T00:05Z\n2026-01-01T00:10Z,30\n", "readable instant", [10, 10, 30]),
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
        (GOOD, {"region_column": "g", "region_value": "X"}, "no usable row.*g = X"),
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
