"""Texts of instants: every layout of the trade, and nothing that is none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windfall.grid.instant_texts import read_stamps
from windfall.units import iso_utc


@pytest.mark.parametrize(
    ("text", "local", "offset_h"),
    [
        ("2024-01-02T03:04Z", "2024-01-02T03:04:00Z", 0),
        ("2024-01-02 03:04:05", "2024-01-02T03:04:05Z", None),
        ("2024-01-02T03:04:05.678+01:00", "2024-01-02T03:04:05Z", 1),
        ("2024-01-02T03:04:05-0530", "2024-01-02T03:04:05Z", -5.5),
        ("2024-01-02 03:04 UTC", "2024-01-02T03:04:00Z", 0),
        ("2024-01-02T03:04+01:00[Europe/Berlin]", "2024-01-02T03:04:00Z", 1),
        ("2024-01-02T03", "2024-01-02T03:00:00Z", None),
        ("2024-01-02T03-06", "2024-01-02T03:00:00Z", -6),
        ("2024-01-02", "2024-01-02T00:00:00Z", None),
        ("2024/01/02 24:00:00", "2024-01-03T00:00:00Z", None),
        ("02.01.2024 03:04", "2024-01-02T03:04:00Z", None),
        ("2.1.2024 3:04", "2024-01-02T03:04:00Z", None),
        ("02.01.2024 03:04 - 02.01.2024 04:04", "2024-01-02T03:04:00Z", None),
        ("2024-01-02T03:04Z/2024-01-02T04:04Z", "2024-01-02T03:04:00Z", 0),
        ("13/1/2024 3:04", "2024-01-13T03:04:00Z", None),
        ("1/13/2024 3:04:05 PM", "2024-01-13T15:04:05Z", None),
        ("1/13/2024 12:30 am", "2024-01-13T00:30:00Z", None),
        ("13-01-2024 03:04", "2024-01-13T03:04:00Z", None),
        ("02-Jan-2024 03:04", "2024-01-02T03:04:00Z", None),
        ("Jan 2, 2024 03:04", "2024-01-02T03:04:00Z", None),
        ("20240102", "2024-01-02T00:00:00Z", None),
        ("202401020304", "2024-01-02T03:04:00Z", None),
        ("20240102T030405Z", "2024-01-02T03:04:05Z", 0),
        ("1704164645", "2024-01-02T03:04:05Z", 0),
        ("1704164645.5", "2024-01-02T03:04:05Z", 0),
        ("1704164645000", "2024-01-02T03:04:05Z", 0),
        ("1704164645000000000", "2024-01-02T03:04:05Z", 0),
    ],
)
def test_a_layout_is_read(text: str, local: str, offset_h: float | None) -> None:
    found = read_stamps([text, f" {text} "])
    assert iso_utc(float(found.local[0])) == local
    assert found.local[0] == found.local[1]
    np.testing.assert_equal(found.offset[0], np.nan if offset_h is None else offset_h * 3600.0)


@pytest.mark.parametrize(
    "text",
    [
        "", "yesterday", "2024-13-01", "2024-02-30", "2023-02-29T00:00Z", "2024-01-02T24:01", "2024-01-02T03:60", "12", "3.5",
        "2024-01-02T03:04 XYZ", "0001-01-01", "9999-12-31T00:00Z", "2024-01-02T03:04:05Z!", "١٢٣", "45292.5", "1/13/2024 13:00 PM",
    ],
)  # fmt: skip
def test_what_is_no_instant_is_none(text: str) -> None:
    found = read_stamps(["2024-01-02T03:04Z", text])
    assert np.isnan(found.local).tolist() == [False, True]


def test_days_and_months_are_told_apart_by_the_whole_column_or_not_at_all() -> None:
    first = read_stamps(["01/02/2024", "13/02/2024"])
    assert [iso_utc(float(t))[:10] for t in first.local] == ["2024-02-01", "2024-02-13"]
    second = read_stamps(["01/02/2024", "02/13/2024"])
    assert [iso_utc(float(t))[:10] for t in second.local] == ["2024-01-02", "2024-02-13"]
    assert read_stamps(["01/02/2024", "03/04/2024"]).unclear
    assert read_stamps(["13/02/2024", "02/13/2024"]).unclear


def test_a_format_that_is_given_is_the_only_one() -> None:
    found = read_stamps(["01/02/2024 24:00", "2024-02-01 00:00", "31/12/2024 23:45"], "%d/%m/%Y %H:%M")
    assert [None if np.isnan(t) else iso_utc(float(t))[:16] for t in found.local] == ["2024-02-02T00:00", None, "2024-12-31T23:45"]
    assert read_stamps(["01.02.24 05:00 +0100"], "%d.%m.%y %H:%M %z").offset.tolist() == [3600.0]


def test_a_column_of_many_layouts_and_much_rubbish_is_read_row_by_row() -> None:
    texts = [f"rubbish {i}" for i in range(700)] + ["2024-01-02T03:04Z", "2.1.2024 3:04"]
    assert np.isfinite(read_stamps(texts).local).sum() == 2


@given(
    st.lists(
        st.datetimes(datetime(1971, 1, 1), datetime(2169, 1, 1)), min_size=1, max_size=30
    ),
    st.integers(-14 * 4, 14 * 4),
    st.sampled_from(["T", " "]),
    st.sampled_from(["seconds", "minutes", "milliseconds", "microseconds"]),
)  # fmt: skip
def test_iso_texts_are_read_as_the_standard_library_reads_them(
    moments: list[datetime], quarters: int, separator: str, spec: str
) -> None:
    zone = timezone(timedelta(minutes=15 * quarters))
    texts = [m.replace(tzinfo=zone).isoformat(separator, spec) for m in moments]
    found = read_stamps(texts)
    expected = [datetime.fromisoformat(t).timestamp() for t in texts]
    np.testing.assert_allclose(found.local - found.offset, expected, rtol=0, atol=1e-6)
    naive = [m.isoformat(separator, spec) for m in moments]
    np.testing.assert_allclose(
        read_stamps(naive).local, [datetime.fromisoformat(t).replace(tzinfo=UTC).timestamp() for t in naive], rtol=0, atol=1e-6
    )
