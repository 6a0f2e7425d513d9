"""Files as they come: separators, lines above the header, encodings, numbers as people write them; and what is no table."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
from layouts import points, read, rows, write

from windfall.errors import SignalError
from windfall.grid.numbers import numbers
from windfall.grid.sheet import read_sheet

HOURS = {"2024-01-01T00:00": 310.5, "2024-01-01T01:00": 320.5, "2024-01-01T02:00": 330.5}
PLAIN = rows(310.5, 320.5, 330.5)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("above", ["", "# made by hand\n", "Report, of: all; kinds\n\nUnits,g\nTwo,g,h\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_a_table_is_found_however_it_is_wrapped(tmp_path: Path, separator: str, above: str, encoding: str) -> None:
    text = above + PLAIN.replace(",", separator)
    assert points(read(tmp_path, text.encode(encoding), column="g", period_s=3600)) == HOURS


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
def test_lines_may_end_as_they_do_on_any_machine(tmp_path: Path, end: str) -> None:
    assert points(read(tmp_path, PLAIN.replace("\n", end).encode(), column="g", period_s=3600)) == HOURS


def test_quotes_and_blanks_around_names_and_values_are_no_part_of_them(tmp_path: Path) -> None:
    text = '"time_utc" , "g"\n' + "".join(f'"{t}Z"," {v} "\n' for t, v in HOURS.items())
    text = text.replace('" , "', '","')
    assert points(read(tmp_path, text, column="g", period_s=3600)) == HOURS


@pytest.mark.parametrize(
    ("cells", "separator", "values"),
    [
        (["1.234,5", "12,25", "-0,5"], ";", [1234.5, 12.25, -0.5]),
        (["1.234", "999,5", "2.345,75"], ";", [1234, 999.5, 2345.75]),
        (["1,234.5", "12.25", "-0.5"], ",", [1234.5, 12.25, -0.5]),
        (["1,234", "2,345", "999.5"], ",", [1234, 2345, 999.5]),
        (["12,5", "3,25", "1"], ",", [12.5, 3.25, 1]),
        (["1 234,5", "2\u00a0345,5", "3\u202f456,5"], ";", [1234.5, 2345.5, 3456.5]),
        (["1'234.5", "12.5", "7"], ";", [1234.5, 12.5, 7]),
        (["$25.10", "($3.20)", "−5.5"], ",", [25.1, -3.2, -5.5]),
        (["€ 25,10", "-3,2 ", "0,123"], "\t", [25.1, -3.2, 0.123]),
        (["0.123", "0.456", "0.789"], ";", [0.123, 0.456, 0.789]),
    ],
)
def test_numbers_are_read_as_the_file_writes_them(tmp_path: Path, cells: list[str], separator: str, values: list[float]) -> None:
    lines = [f'2024-01-01T0{i}:00Z{separator}"{cell}"' for i, cell in enumerate(cells)]
    trace = read(tmp_path, f"time_utc{separator}p\n" + "\n".join(lines), column="p", type="price", period_s=3600)
    assert trace.values.tolist() == pytest.approx(values)
    assert not any("decimal" in w for w in trace.warnings)


@pytest.mark.parametrize(
    ("separator", "cell", "value", "other"), [(";", "1,234", 1.234, 1234), (",", "1,234", 1234, 1.234), (";", "1.234", 1.234, 1234)]
)
def test_a_number_that_may_be_two_is_told_and_a_key_decides(
    tmp_path: Path, separator: str, cell: str, value: float, other: float
) -> None:
    text = f"time_utc{separator}p\n" + "".join(f'2024-01-01T0{i}:00Z{separator}"{cell}"\n' for i in range(4))
    trace = read(tmp_path, text, column="p", type="price", period_s=3600)
    assert trace.values[0] == value
    assert any(f"numbers of `p` as {cell} were read" in w and "set decimal" in w for w in trace.warnings)
    comma = "," if (cell == "1,234") == (other < 10) else "."
    decided = read(tmp_path, text, column="p", type="price", period_s=3600, decimal=comma)
    assert decided.values[0] == other
    assert not any("decimal" in w for w in decided.warnings)


def test_several_groups_of_thousands_are_one_number() -> None:
    assert numbers(["1.234.567,5", "-1.234.567"], True).tolist() == [1234567.5, -1234567]
    assert numbers(["1,234,567.5", "-1,234,567"], False).tolist() == [1234567.5, -1234567]


@pytest.mark.parametrize("text", ["", "-", "n/a", "N/A", "null", "None", "n/e", "NaN", "1.2.3", "1,2,3", "12e", "--5", "1-2"])
def test_what_is_no_number_is_none_in_either_way_of_writing(text: str) -> None:
    assert np.isnan(numbers([text, "1"], False)[0])
    assert np.isnan(numbers([text, "1"], True)[0])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PK\x03\x04rest", "a zip archive or a spreadsheet .*unpack it, or save it as CSV"),
        (b"<!DOCTYPE html><html>login", "a web page, perhaps of a login"),
        (b'{"data": [1, 2]}', "JSON without rows"),
        (b"BZh91AY", "packed with bzip2"),
        (b"ARROW1\0\0", "Arrow or Feather"),
        (b"PAR1" + b"\0" * 40 + b"PAR1", "not a readable parquet file"),
        (b"\x1f\x8b\x08broken", "is damaged|is cut off"),
        (gzip.compress(PLAIN.encode(), mtime=0)[:-12], "is cut off"),
        (bytes(range(256)) * 20, "it is no text"),
        (b"", "is empty"),
        (b"\xef\xbb\xbf\n\n", "is empty"),
        (b"time_utc,g,g\n2024-01-01T00:00Z,1,2\n", "has column g twice"),
        (b"time_utc,G\n2024-01-01T00:00Z,1\n", "no column g; the file has time_utc, G; did you mean G"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_what_is_no_table_is_told_as_what_it_is(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(SignalError, match=said):
        read(tmp_path, data, column="g")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SignalError, match="is a folder"):
        read_sheet(tmp_path, "t")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SignalError, match=r"needs pyarrow; pip install 'windfall\[analysis\]'"):
        read_sheet(write(tmp_path, b"PAR1" + b"\0" * 20, "t.parquet"), "t.parquet")


def test_regions_that_there_are_are_listed(tmp_path: Path) -> None:
    text = "time_utc,zone,g\n" + "".join(f"2024-01-01T00:00Z,Z{i:02},{i}\n" for i in range(30))
    with pytest.raises(SignalError, match=r"for zone = MARS; there are Z00, Z01, .*Z11 and 18 more: check region_value, or where"):
        read(tmp_path, text, "MARS", column="g", region_column="zone")
    with pytest.raises(SignalError, match="Z00, Z01"):
        read(tmp_path, text, column="g")


def test_values_that_are_each_there_but_not_together_are_told(tmp_path: Path) -> None:
    text = "time_utc,a,b,g\n2024-01-01T00:00Z,x,y,1\n2024-01-01T00:00Z,u,v,2\n"
    with pytest.raises(SignalError, match="a = x and b = v: each is there, not together"):
        read(tmp_path, text, column="g", where={"a": "x", "b": "v"})


def test_rows_that_differ_in_numbers_only_are_not_chosen_by_prices(tmp_path: Path) -> None:
    text = "time_utc,node,loss,g\n" + "".join(
        f"2024-01-01T{h:02}:00Z,{node},{h + node / 7:.3f},{node + h}\n" for h in range(9) for node in (11, 12)
    )
    with pytest.raises(SignalError, match=r"they differ in node: 11, 12: choose rows with where = \{ node = \"11\" \}"):
        read(tmp_path, text, column="g")
    assert read(tmp_path, text, column="g", where={"node": 12}, period_s=3600).values.tolist() == [12.0 + h for h in range(9)]


@pytest.mark.parametrize(("mark", "separator"), [(";", ";"), ("\t", "\t"), (",", ","), ("|", "|")])
@pytest.mark.parametrize("names", [(), ("time_utc", "g")])
def test_the_line_that_tells_excel_the_separator_is_no_header(
    tmp_path: Path, mark: str, separator: str, names: tuple[str, ...]
) -> None:
    path = write(tmp_path, f"sep={mark}\n" + PLAIN.replace(",", separator))
    sheet = read_sheet(path, "t.csv", names=names)
    assert (sheet.header, sheet.header_line, sheet.rows) == (["time_utc", "g"], 2, 3)


@pytest.mark.parametrize("first", ["2024-01-01T00:00Z,310.5", "1704067200,310.5", "01.01.2024 00:00;310,5", "2024-01-01,00:00,310"])
def test_a_file_without_a_header_is_refused_and_no_row_taken_for_one(tmp_path: Path, first: str) -> None:
    path = write(tmp_path, f"{first}\n{first}\n{first}\n")
    for names in ((), ("time_utc", "g"), (first.replace(";", ",").partition(",")[0],)):
        with pytest.raises(SignalError, match=r"^t.csv: the first row looks like data .*: write a row with the columns' names"):
            read_sheet(path, "t.csv", names=names)


@pytest.mark.parametrize("header", ["zone,2024-01-01,2024-01-02", "zone,20240101,20240102", "zone,1,2"])
def test_days_and_hours_as_names_are_a_header(tmp_path: Path, header: str) -> None:
    assert read_sheet(write(tmp_path, f"{header}\nA,1,2\nB,1,2\n"), "t.csv").header == header.split(",")
