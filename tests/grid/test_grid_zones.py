"""Clocks that are put forward and back: naive stamps in order are the instants that they were written at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import points, read

from windfall.grid.instant_texts import read_stamps
from windfall.grid.resolution import row_periods
from windfall.grid.zones import LocalTimes, instants

ZONES = (
    "Europe/Berlin", "America/New_York", "America/Santiago", "Australia/Adelaide", "Australia/Lord_Howe", "Asia/Kolkata",
    "Atlantic/Azores", "America/Havana", "Europe/London", "Asia/Tehran",
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(ZONES), st.integers(2015, 2030), st.integers(0, 360), st.sampled_from([5, 15, 30, 60]), st.integers(1, 400),
    st.booleans(),
)  # fmt: skip
def test_what_was_written_on_any_clock_is_read_back(zone: str, year: int, day: int, minutes: int, days: int, turned: bool) -> None:
    tz = ZoneInfo(zone)
    begin = datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=day)
    # Around every change of the clock of the year and a bit, so that each example holds some.
    marks = [begin + timedelta(days=d) for d in range(min(days, 380))]
    changes = [m for m in marks if m.astimezone(tz).utcoffset() != (m + timedelta(days=1)).astimezone(tz).utcoffset()]
    t = [m + timedelta(minutes=minutes * i) for m in changes or marks[:1] for i in range(48 * 60 // minutes)]
    t = sorted(set(t), reverse=turned)
    # A half hour's change is finer than an hour's rows can show.
    if zone == "Australia/Lord_Howe" and minutes == 60:
        return
    texts = [m.astimezone(tz).strftime("%Y-%m-%d %H:%M") for m in t]
    stamps = read_stamps(texts)
    found = instants(LocalTimes(stamps.local, np.full(len(t), -1, np.int8), np.full(len(t), np.nan)), tz)
    assert found.never == []
    np.testing.assert_array_equal(found.t, [m.timestamp() for m in t])


@pytest.mark.parametrize("minutes", [5, 15, 30, 60])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Chicago", "Australia/Adelaide"])
@pytest.mark.parametrize("by", ["clock", "hour"])
def test_ends_of_intervals_are_read_back_whichever_way_they_are_labelled(tmp_path: Path, zone: str, minutes: int, by: str) -> None:
    """`clock`: what the clock shows as the interval ends; `hour`: its begin's label and its length (hour ending)."""
    tz, step = ZoneInfo(zone), timedelta(minutes=minutes)
    days = ("2024-03-09", "2024-03-30", "2024-04-06", "2024-10-05", "2024-10-26", "2024-11-02")
    t = sorted(
        datetime.fromisoformat(d).replace(tzinfo=UTC) + timedelta(hours=6) + step * i
        for d in days
        for i in range(36 * 60 // minutes)
    )
    if by == "clock":
        labels = [(m + step).astimezone(tz) for m in t]
    else:
        labels = [m.astimezone(tz).replace(tzinfo=None) + step for m in t]
    text = "end,g\n" + "".join(f"{label:%Y-%m-%d %H:%M},{i % 97 + 1}.5\n" for i, label in enumerate(labels))
    trace = read(tmp_path, text, time_column="end", column="g", stamp="end", timezone=zone, period_s=60 * minutes)
    np.testing.assert_array_equal(trace.times, [m.timestamp() for m in t])
    np.testing.assert_array_equal(trace.values, [i % 97 + 1.5 for i in range(len(t))])


BERLIN = {"time_column": "t", "column": "g", "timezone": "Europe/Berlin"}


def day(labels: list[str]) -> str:
    return "t,g\n" + "".join(f"{label},{100 + i}\n" for i, label in enumerate(labels))


def test_a_row_that_is_missing_in_the_first_of_two_equal_hours_moves_no_other(tmp_path: Path) -> None:
    labels = [f"2024-10-27 {h}" for h in ("01:45", "02:00", "02:30", "02:45", "02:00", "02:15", "02:30", "02:45", "03:00")]
    found = points(read(tmp_path, day(labels), **BERLIN, period_s=900))
    assert found == {
        "2024-10-26T23:45": 100, "2024-10-27T00:00": 101, "2024-10-27T00:30": 102, "2024-10-27T00:45": 103,
        "2024-10-27T01:00": 104, "2024-10-27T01:15": 105, "2024-10-27T01:30": 106, "2024-10-27T01:45": 107, "2024-10-27T02:00": 108,
    }  # fmt: skip


def test_the_newest_row_may_come_first(tmp_path: Path) -> None:
    labels = [f"2024-10-27 {h}" for h in ("03:00", "02:30", "02:00", "02:30", "02:00", "01:30")]
    assert list(points(read(tmp_path, day(labels), **BERLIN, period_s=1800)).values()) == [105, 104, 103, 102, 101, 100]


@pytest.mark.parametrize(
    "hours",
    [
        ("02:00", "03:00", "01:00", "02:00", "04:00"),
        ("03:00", "02:00", "02:00", "01:00", "04:00"),
        ("01:00", "04:00", "02:00", "02:00", "03:00"),
        ("01:00", "02:30", "02:00", "02:30", "02:00", "03:00"),
    ],
)
def test_an_hour_that_comes_twice_in_rows_without_order_is_told_with_what_was_assumed(
    tmp_path: Path, hours: tuple[str, ...]
) -> None:
    trace = read(tmp_path, day([f"2024-10-27 {h}" for h in hours]), **BERLIN, period_s=3600)
    assert any(
        "2024-10-27 02:00" in w and "their order cannot tell which is which: of each the row that stands first was taken" in w
        for w in trace.warnings
    )
    at = hours.index("02:00")
    assert points(trace)["2024-10-27T00:00"] == 100 + at
    assert points(trace)["2024-10-27T01:00"] == 101 + at + hours[at + 1 :].index("02:00")


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    "hours", [("01:00", "02:00", "02:00", "03:00"), ("01:30", "02:00", "02:00", "02:30", "02:30", "03:00"), ("02:00", "02:00")]
)
def test_rows_in_order_tell_an_hour_that_comes_twice_without_a_word(tmp_path: Path, hours: tuple[str, ...], turned: bool) -> None:
    labels = [f"2024-10-27 {h}" for h in hours]
    trace = read(tmp_path, day(labels[::-1] if turned else labels), **BERLIN, period_s=1800)
    assert not any("comes twice" in w for w in trace.warnings)
    assert len(trace.times) == len(hours)


def test_an_hour_that_comes_twice_and_stands_there_once_is_told(tmp_path: Path) -> None:
    trace = read(tmp_path, day([f"2024-10-27 0{h}:00" for h in range(5)]), **BERLIN, period_s=3600)
    assert "2024-10-27 02:00 comes twice in Europe/Berlin, and once in the file" in trace.warnings[0]
    assert points(trace)["2024-10-27T00:00"] == 102
    assert points(trace)["2024-10-27T02:00"] == 103


def test_an_hour_that_never_was_is_left_out_and_told(tmp_path: Path) -> None:
    trace = read(tmp_path, day([f"2024-03-31 0{h}:00" for h in range(6)]), **BERLIN, period_s=3600)
    assert "2024-03-31 02:00" in trace.warnings[0]
    assert 'set timezone to its offset, as "+01:00"' in trace.warnings[0]
    assert points(trace) == {
        "2024-03-30T23:00": 100, "2024-03-31T00:00": 101, "2024-03-31T01:00": 103, "2024-03-31T02:00": 104, "2024-03-31T03:00": 105,
    }  # fmt: skip
    steady = read(tmp_path, day([f"2024-03-31 0{h}:00" for h in range(6)]), **{**BERLIN, "timezone": "+01:00"}, period_s=3600)
    assert steady.warnings == []
    assert np.diff(steady.times).tolist() == [3600.0] * 5


@pytest.mark.parametrize(("first", "second"), [("CEST", "CET"), ("(CEST)", "(CET)"), ("+02:00", "+01:00"), ("+0200", "+0100")])
def test_what_is_written_beside_a_stamp_outdoes_the_order(tmp_path: Path, first: str, second: str) -> None:
    labels = [f"2024-10-27 01:00 {first}", f"2024-10-27 02:00 {second}", f"2024-10-27 02:00 {first}", f"2024-10-27 03:00 {second}"]
    expected = {"2024-10-26T23:00": 100, "2024-10-27T00:00": 102, "2024-10-27T01:00": 101, "2024-10-27T02:00": 103}
    assert points(read(tmp_path, day(labels), **BERLIN, period_s=3600)) == expected
    without = {k: v for k, v in BERLIN.items() if k != "timezone"}
    assert points(read(tmp_path, day(labels), **without, period_s=3600)) == expected


def test_naive_stamps_without_a_zone_are_said_to_be_taken_as_utc_once(tmp_path: Path) -> None:
    text = day([f"2024-10-27 0{h}:00" for h in range(5)])
    trace = read(tmp_path, text, time_column="t", column="g", period_s=3600)
    (warning,) = trace.warnings
    assert "instants as `2024-10-27 00:00` in column t have no offset and are taken as UTC; set timezone" in warning
    assert read(tmp_path, text, time_column="t", column="g", period_s=3600, timezone="UTC").warnings == []
    assert read(tmp_path, text.replace("t,g", "t_utc,g"), time_column="t_utc", column="g", period_s=3600).warnings == []
    doubled = day([f"2024-10-27 {h}:00" for h in ("01", "02", "02", "03")])
    with pytest.raises(Exception, match="set timezone"):
        read(tmp_path, doubled, time_column="t", column="g", period_s=3600)


@pytest.mark.parametrize(
    ("column", "first"),
    [("Date (GMT+1)", "2024-06-30T23:00"), ("t (UTC-05:00)", "2024-07-01T05:00"), ("MTU (CET/CEST)", "2024-06-30T22:00")],
)
def test_a_zone_in_the_columns_name_is_used_and_told(tmp_path: Path, column: str, first: str) -> None:
    text = day([f"2024-07-01 0{h}:00" for h in range(5)]).replace("t,g", f"{column},g")
    trace = read(tmp_path, text, time_column=column, column="g", period_s=3600)
    assert next(iter(points(trace))) == first
    assert "was read as timezone" in trace.warnings[0]


def test_an_offset_that_lies_is_not_trusted_where_that_is_said(tmp_path: Path) -> None:
    text = "t,g\n" + "".join(f"2024-07-01T0{h}:00:00Z,{h + 100}\n" for h in range(5))
    keys = {"time_column": "t", "column": "g", "period_s": 3600, "timezone": "+10:00"}
    assert next(iter(points(read(tmp_path, text, **keys)))) == "2024-07-01T00:00"
    assert next(iter(points(read(tmp_path, text, **keys, trust_offset=False)))) == "2024-06-30T14:00"


def test_intervals_say_their_begin_whatever_stamp_says(tmp_path: Path) -> None:
    text = "t,g\n" + "".join(f"2024-07-01 0{h}:00 - 2024-07-01 0{h + 1}:00,{h + 100}\n" for h in range(5))
    trace = read(tmp_path, text, time_column="t", column="g", period_s=3600, timezone="UTC", stamp="end")
    assert next(iter(points(trace))) == "2024-07-01T00:00"


def test_periods_of_ends_look_back_and_those_of_starts_ahead() -> None:
    t = np.array([0, 30, 60, 90, 120, 125, 130, 135, 140]) * 60.0
    assert row_periods(t, 300.0).tolist() == [1800.0] * 4 + [300.0] * 5
    assert row_periods(t, 300.0, ends=True).tolist() == [1800.0] * 5 + [300.0] * 4
