"""Reads files of rows and columns: CSV with any separator, with or without lines above its header, packed or not, parquet, JSON.

The result is columns of text. ``numbers`` and ``instant_texts`` find out what they mean.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from windfall.errors import SignalError
from windfall.grid.header import SEPARATORS, IsHeader, are_units, find_header, is_data
from windfall.grid.json_rows import json_rows
from windfall.inputs import require_file

#: What UTF-16 begins with.
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
#: Rows that are looked at to see how numbers are written.
_SAMPLED = 2000
#: So many different values of a column that chooses rows are remembered.
_REMEMBERED = 1000
#: So large a share of a text can be printed; of other bytes less can.
_TEXT_SHARE = 0.95
#: Known formats that are not read, and what to do instead.
_OTHERS = {
    b"PK\x03\x04": "a zip archive or a spreadsheet (.xlsx); unpack it, or save it as CSV",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet (.xls); save it as CSV",
    b"%PDF": "a PDF",
    b"\x89HDF": "HDF5; write it as CSV or parquet",
    b"CDF\x01": "NetCDF; write it as CSV or parquet",
    b"ARROW1": "Arrow or Feather; write it as parquet",
    b"BZh": "packed with bzip2; unpack it, or use gzip",
    b"(\xb5/\xfd": "packed with zstd; unpack it, or use gzip",
    b"\xfd7zXZ": "packed with xz; unpack it, or use gzip",
    b"<?xml": "XML; fetch it as CSV",
    b"<!DOC": "a web page, perhaps of a login; fetch the file again",
    b"<html": "a web page, perhaps of a login; fetch the file again",
}
_COMMA = re.compile(r"[-+−]?(\d+|\d{1,3}([.\s']\d{3})+),\d+")
_POINT = re.compile(r"[-+−]?(\d+|\d{1,3}([.\s']\d{3})+)\.\d+")
_GROUPED = re.compile(r"[-+−]?[1-9]\d{0,2}([.,]\d{3})+")


@dataclass
class Sheet:
    """A file's columns, as text: ``cells[k]`` are those of ``header[k]``, one for each row that was asked for."""

    label: str
    form: str
    header: list[str]
    cells: list[Sequence[str]]
    #: Whether numbers are written 1.234,56.
    decimal_comma: bool = False
    #: Whether that cannot be told, because all numbers look like 1,234 or 1.234.
    unclear: bool = False
    #: In which line of the file the header stands (from 1); 0 where it has no lines.
    header_line: int = 0
    #: Rows that have fewer cells than the header.
    short: int = 0
    #: Rows before any were chosen.
    rows: int = 0
    #: The values of the columns that choose rows, in all rows.
    seen: dict[str, list[str]] = field(default_factory=dict)
    #: The units that a row below the header gives for the columns, as they are written.
    units: dict[str, str] = field(default_factory=dict)
    #: What a JSON file says beside its rows: units, region.
    meta: dict[str, str] = field(default_factory=dict)
    #: Whether 01/02 is the first of February, where the file's layout says so.
    day_first: bool | None = None

    def column(self, name: str) -> Sequence[str]:
        """The cells of one column."""
        return self.cells[self.header.index(name)]

    def keep(self, where: dict[str, str]) -> None:
        """Leave only the rows that have these values; ``seen`` has those of all rows."""
        chosen = [self.column(name) for name in where]
        self.seen |= {name: sorted({c.strip() for c in cells})[:_REMEMBERED] for name, cells in zip(where, chosen, strict=True)}
        values = tuple(where.values())
        rows = [i for i, row in enumerate(zip(*chosen, strict=True)) if tuple(c.strip() for c in row) == values]
        self.cells = [[cells[i] for i in rows] for cells in self.cells]


def read_sheet(
    file: Path, label: str, *, names: Iterable[str] = (), where: dict[str, str] | None = None, decimal: str | None = None,
    likely: Sequence[IsHeader] = (),
) -> Sheet:  # fmt: skip
    """The rows of ``file`` that have the values of ``where``.

    ``names`` are columns that its header has, to find it by; ``likely``: what else tells it, the surest sign first.

    Raises:
        SignalError: it is not there, no table, or lacks columns that are named.
    """
    wanted = list(dict.fromkeys([*names, *(where or {})]))
    try:
        require_file(file)
        data = _unpacked(file.read_bytes(), label)
        if not data.removeprefix(b"\xef\xbb\xbf").strip():
            raise SignalError(f"{label}: is empty; fetch the file again")
        if data[:2] in _UTF16:  # what a shell of Windows writes
            data = _decoded(data, label).encode()
        if data[:4] == b"PAR1":
            sheet = _parquet(data, label, wanted, where or {})
        elif file.suffix == ".parquet":
            raise SignalError(f"{label}: is no Parquet file, whatever its name says; fetch it again")
        elif data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[") or ".json" in file.suffixes:
            sheet = _json(data, label, wanted, where or {})
        else:
            sheet = _text(_decoded(data, label), label, wanted, where or {}, likely)
    except FileNotFoundError:
        raise SignalError(f"{label}: no such trace file; check `path`") from None
    except IsADirectoryError:
        raise SignalError(f"{label}: is a folder; `path` names one file") from None
    except OSError as e:
        raise SignalError(f"{label}: cannot be read: {e.strerror or e}") from None
    except csv.Error as e:
        raise SignalError(f"{label}: cannot be read as CSV: {e}") from None
    if decimal is not None:
        sheet.decimal_comma, sheet.unclear = decimal == ",", False
    return sheet


def _unpacked(data: bytes, label: str) -> bytes:
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except EOFError:
        raise SignalError(f"{label}: is cut off, as its gzip data end too soon; fetch the file again") from None
    except (gzip.BadGzipFile, zlib.error) as e:
        raise SignalError(f"{label}: is damaged, its gzip data cannot be unpacked ({e}); fetch the file again") from None


def _decoded(data: bytes, label: str) -> str:
    head = data[:16].lstrip()
    for mark, what in _OTHERS.items():
        if head.startswith(mark):
            raise SignalError(f"{label}: cannot be read: it is {what} (.csv, .csv.gz, .parquet and .json can be read)")
    if data[:2] in _UTF16:
        encodings = ["utf-16"]
    elif data[:1000].count(0) > 0.3 * len(data[:1000]):  # UTF-16 without a mark has a zero in every ASCII character
        encodings = ["utf-16-le" if data[1:2] == b"\0" else "utf-16-be"]
    else:
        encodings = ["utf-8-sig", "cp1252", "latin-1"]
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        head_of_it = text[:10_000]
        if "\0" not in text and sum(c.isprintable() or c in "\r\n\t" for c in head_of_it) >= _TEXT_SHARE * len(head_of_it):
            return text
    raise SignalError(f"{label}: cannot be read as CSV: it is no text; .csv, .csv.gz, .parquet and .json can be read")


def _text(text: str, label: str, wanted: list[str], where: dict[str, str], likely: Sequence[IsHeader]) -> Sheet:
    separator, place, header = find_header(text, wanted, likely)
    if is_data(header):
        raise SignalError(
            f"{label}: the first row looks like data ({listed(header, 3)}): write a row with the columns' names above it, as "
            "time,value"
        )
    _require(label, wanted, header, separator)
    _require_quotes(text, label, separator)
    stream = io.StringIO(text, newline="")
    for _ in range(place):
        stream.readline()
    reader = csv.reader(stream, delimiter=separator)
    next(reader, None)
    sheet = Sheet(label, f"CSV separated by {SEPARATORS[separator]}", header, [], header_line=place + 1)
    chosen = [(header.index(name), value) for name, value in where.items()]
    seen: list[dict[str, None]] = [{} for _ in chosen]
    rows: list[list[str]] = []
    n = len(header)
    # AEMO's files hold several tables: the rows of the one that the header begins are marked as it is.
    table = ["D", *header[1:3]] if header[:1] == ["I"] and n > 4 else []
    # Every row is wanted, as of most files.
    first = next((row for row in reader if row), [])
    if are_units(first):
        sheet.units = {name: cell.strip() for name, cell in zip(header, first, strict=False) if cell.strip()}
        first = []
    body = chain([first], reader)
    if not chosen and not table:
        rows = [row for row in body if row]
        sheet.rows = len(rows)
        if rows and min(map(len, rows)) < n:
            for row in rows:
                sheet.short += len(row) < n
                row += [""] * (n - len(row))
    for row in body:
        if not row or (table and [c.strip() for c in row[:3]] != table):
            continue
        sheet.rows += 1
        if len(row) < n:
            sheet.short += 1
            row += [""] * (n - len(row))
        keep = True
        for (at, value), found in zip(chosen, seen, strict=True):
            cell = row[at].strip()
            if cell not in found and len(found) < _REMEMBERED:
                found[cell] = None
            keep = keep and cell == value
        if keep:
            rows.append(row)
    sheet.seen = {name: sorted(found) for name, found in zip(where, seen, strict=True)}
    sheet.cells = [*zip(*rows, strict=False)] if rows else [()] * n
    sheet.cells = sheet.cells[:n]
    sheet.decimal_comma, sheet.unclear = _writing(rows[:_SAMPLED], separator)
    return sheet


def _require(label: str, wanted: list[str], header: list[str], separator: str) -> None:
    absent = [name for name in wanted if name not in header]
    if absent:
        there = listed(header) if any(header) else "no header"
        near = [h for a in absent for h in header if _plain(h) == _plain(a)]
        hint = f"; did you mean {near[0]}?" if near else ""
        raise SignalError(f"{label}: no column {', '.join(absent)}; the file has {there}{hint}")
    twice = [name for name in wanted if header.count(name) > 1]
    if twice:
        raise SignalError(f"{label}: the header has column {twice[0]} twice; rename one of them")


def _require_quotes(text: str, label: str, separator: str) -> None:
    """Refuse a text in which a quotation mark opens a cell that nothing closes: it would swallow the rows that follow."""
    if text.count('"') % 2 == 0:
        return
    row_at, reader = 1, csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    for row in reader:
        if any("\n" in cell or "\r" in cell for cell in row):
            raise SignalError(
                f"{label}: a quotation mark in line {row_at} is not closed and swallows the rows after it; correct it"
            )
        row_at = reader.line_num + 1


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names in a row, the first so many, and how many more there are."""
    given = list(names)
    rest = len(given) - most
    return ", ".join(given[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def _writing(rows: list[list[str]], separator: str) -> tuple[bool, bool]:
    """Whether decimals follow a comma; and whether that is unclear, because all such numbers may have thousands separators."""
    comma = point = grouped_comma = grouped_point = 0
    for row in rows:
        for cell in row:
            text = cell.strip()
            if not text or len(text) > 24 or not text[-1].isdigit():
                continue
            if _GROUPED.fullmatch(text):
                point += text.count(",") > 1
                comma += text.count(".") > 1
                grouped_comma += text.count(",") == 1
                grouped_point += text.count(".") == 1
            else:
                comma += bool(_COMMA.fullmatch(text))
                point += bool(_POINT.fullmatch(text))
    if comma or point:
        return comma > point, False
    if grouped_comma:  # 1,234 everywhere: thousands where commas part columns, decimals where they do not
        return separator != ",", True
    return False, grouped_point > 0 and separator != ","


def _parquet(data: bytes, label: str, wanted: list[str], where: dict[str, str]) -> Sheet:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise SignalError(f"{label}: reading parquet needs pyarrow; pip install 'windfall[analysis]', or write it as CSV") from None
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (OSError, pa.ArrowException) as e:
        raise SignalError(f"{label}: not a readable parquet file ({str(e).partition(chr(10))[0]}); fetch it again") from None
    header = [str(name).strip() for name in table.column_names]
    _require(label, wanted, header, ",")
    sheet = Sheet(label, "parquet", header, [], rows=table.num_rows)
    sheet.cells = [_as_text(column) for column in table.columns]
    if where:
        sheet.keep(where)
    return sheet


def _json(data: bytes, label: str, wanted: list[str], where: dict[str, str]) -> Sheet:
    found = json_rows(_decoded(data, label), label)
    _require(label, wanted, found.header, ",")
    sheet = Sheet(label, "JSON", found.header, list(found.cells), rows=found.rows, meta=found.meta)
    if where:
        sheet.keep(where)
    return sheet


def _as_text(column: Any) -> list[str]:
    """A parquet column as texts; what has no value, and what is neither number, text nor instant, is empty."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        column = column.cast(pa.timestamp(kind.unit, "UTC"))
    try:
        texts = column.cast(pa.string()).to_pylist()
    except pa.ArrowException:
        return [""] * len(column)
    return [t.strip() if t else "" for t in texts]
