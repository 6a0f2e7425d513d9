"""Where text comes from: the standard library, files and folders of several kinds, Hugging Face; as UTF-8 documents.

A corpus is a list of units of a few megabytes, each of which can be read by itself, by any process, as often as wanted, and gives
the same documents in the same order each time. A unit is plain values.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from windfall.errors import DataError
from windfall.train import parquet

STDLIB = "stdlib"
HUB = "hf:"
TEXT_SUFFIXES = frozenset({".txt", ".md", ".rst", ".py", ".tex", ".html", ".csv", ".json", ".toml", ".yaml", ".yml"})
#: About so much text in a unit: some seconds of encoding, and what an interruption costs at most for each worker.
UNIT_BYTES = 2**23
UNIT_FILES = 2_000
_STDLIB_LEFT_OUT = frozenset({"test", "tests", "idlelib", "idle_test", "site-packages", "dist-packages", "__pycache__"})
_SNIFF_BYTES = 8192
_PIECE_BYTES = 8192
#: A compressed file cannot be entered in the middle: each of its units unpacks what is before it, so they are few.
_ZST_UNITS = 32

Format = Literal["files", "sources", "text", "jsonl", "jsonl.zst", "parquet"]


@dataclass(frozen=True)
class Unit:
    """A part of a corpus.

    "files": whole files, a document each; "sources": the same, those that are not UTF-8 left out. "text": bytes start … end of one
    text, cut into documents of about 8 KiB. "jsonl", "jsonl.zst": the lines that begin at bytes start … end of the (unpacked) file.
    "parquet": row groups start … end. `size` is about how many bytes of text it holds.
    """

    format: Format
    paths: tuple[str, ...]
    start: int = 0
    end: int = 0
    size: int = 0


@dataclass(frozen=True)
class Corpus:
    """A readable source: `name` as the user wrote it (with the revision where there is one), and its units in order."""

    name: str
    units: tuple[Unit, ...]
    text_column: str = "text"
    #: Text files beside a folder's parquet files, which are no part of it (a README, licences).
    left_out: tuple[str, ...] = ()

    def documents(self) -> Iterator[bytes]:
        """All documents that are not empty, in order. Raises DataError as `read_unit`."""
        for unit in self.units:
            yield from filter(None, read_unit(unit, self.text_column))


def open_corpus(source: str | Path, text_column: str = "text", *, leave_out: Path | None = None) -> Corpus:
    """The corpus behind `source`.

    "stdlib"; "hf:OWNER/NAME[@REVISION][/SUBSET]", a data set of Hugging Face, which is fetched; a folder of text, .jsonl,
    .jsonl.zst or parquet files; or one such file. `text_column` names the column (parquet) or field (.jsonl) that holds the text.
    leave_out: a folder that is no part of the corpus, should it lie in it.

    Raises DataError where there is nothing of the kind, or a parquet file lacks the column.
    """
    if str(source) == STDLIB:
        return Corpus(STDLIB, tuple(_grouped(_stdlib_files(), "sources")))
    if str(source).startswith(HUB):
        from windfall.train.hub import fetch

        name, files = fetch(str(source).removeprefix(HUB))
        return Corpus(name, tuple(unit for path in files for unit in _file_units(path, text_column)), text_column)
    path = Path(source)
    name = str(source)
    beside: tuple[str, ...] = ()
    if path.is_dir():
        files, beside = _folder_files(path, leave_out)
        if not files:
            raise DataError(f"{path}: the folder holds no text file; put UTF-8 text (.txt, .md, .py, .jsonl, .parquet …) there")
        if len(files) > 1:
            return Corpus(name, tuple(_folder_units(files, text_column)), text_column, beside)
        path = files[0]  # one file: as if it had been named itself
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; name a text, .jsonl or .parquet file, a folder, hf:… or {STDLIB!r}")
    return Corpus(name, tuple(_file_units(path, text_column)), text_column, beside)


def read_unit(unit: Unit, text_column: str = "text") -> Iterator[bytes]:
    """Documents of a unit, empty ones too.

    Raises DataError for what cannot be read, is not UTF-8 (file and offset) or is not a document (file and line or row).
    """
    path = Path(unit.paths[0])
    if unit.format == "text":
        return _text_documents(path, unit.start, unit.end)
    if unit.format == "parquet":
        return parquet.documents(path, unit.start, unit.end, text_column)
    if unit.format in ("jsonl", "jsonl.zst"):
        return _jsonl_documents(path, unit, text_column)
    return _files_documents(unit)


def file_marks(unit: Unit) -> list[tuple[str, int, int]]:
    """Path, size and time of change (ns) of a unit's files: equal marks, equal text. Raises DataError where one is missing."""
    marks = []
    for path in unit.paths:
        try:
            stat = os.stat(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
        marks.append((path, stat.st_size, stat.st_mtime_ns))
    return marks


def _kind(path: Path) -> Format:
    if path.suffix == ".parquet":
        return "parquet"
    if path.name.endswith(".jsonl.zst"):
        return "jsonl.zst"
    return "jsonl" if path.suffix == ".jsonl" else "text"


def _file_units(path: Path, text_column: str) -> Iterator[Unit]:
    """Units of one file."""
    kind, name = _kind(path), str(path)
    if kind == "parquet":
        for start, end, size in parquet.ranges(path, text_column, UNIT_BYTES):
            yield Unit(kind, (name,), start, end, size)
    elif kind == "text":
        yield from (Unit(kind, (name,), start, end, end - start) for start, end in _text_ranges(path))
    else:
        total, step = _size(path), UNIT_BYTES
        if kind == "jsonl.zst":
            total = _unpacked_size(path)
            step = max(step, -(-total // _ZST_UNITS))
        for start in range(0, total, step):
            end = min(start + step, total)
            yield Unit(kind, (name,), start, end, end - start)


def _folder_units(files: list[Path], text_column: str) -> Iterator[Unit]:
    """Units of several files in order: data files each by itself, texts as a document each."""
    texts: list[Path] = []
    for path in files:
        if _kind(path) == "text":
            texts.append(path)
        else:
            yield from _grouped(texts, "files")
            texts = []
            yield from _file_units(path, text_column)
    yield from _grouped(texts, "files")


def _grouped(files: list[Path], kind: Format) -> Iterator[Unit]:
    group: list[str] = []
    size = 0
    for path in files:
        own = _size(path)
        if group and (size + own > UNIT_BYTES or len(group) == UNIT_FILES):
            yield Unit(kind, tuple(group), size=size)
            group, size = [], 0
        group.append(str(path))
        size += own
    if group:
        yield Unit(kind, tuple(group), size=size)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error


def _is_text(path: Path) -> bool:
    if path.suffix in TEXT_SUFFIXES or _kind(path) != "text":
        return True
    try:
        with path.open("rb") as file:
            return b"\0" not in file.read(_SNIFF_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions or move it away") from error


def _folder_files(folder: Path, leave_out: Path | None) -> tuple[list[Path], tuple[str, ...]]:
    """Text files under `folder`, hidden ones left out, by relative path in one order on every machine; and those left out.

    Where there are parquet files it is a data set, and texts beside them (a README, licences) are no part of it.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror}); check its permissions") from error

    found: list[Path] = []
    never = leave_out.resolve() if leave_out else None
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [
            name for name in folders
            if not name.startswith(".") and name != "__pycache__" and Path(parent, name).resolve() != never
        ]  # fmt: skip
        paths = (Path(parent, name) for name in names if not name.startswith("."))
        found.extend(path for path in paths if path.is_file() and _is_text(path))
    found.sort(key=lambda path: path.relative_to(folder).as_posix())
    if not any(_kind(path) == "parquet" for path in found):
        return found, ()
    rows = [path for path in found if _kind(path) != "text"]
    return rows, tuple(path.relative_to(folder).as_posix() for path in found if _kind(path) == "text")


def _files_documents(unit: Unit) -> Iterator[bytes]:
    for name in unit.paths:
        try:
            with open(name, "rb") as file:
                data = file.read()
        except OSError as error:
            raise DataError(f"{name}: cannot be read ({error.strerror}); check the path and its permissions") from error
        try:
            _check_utf8(name, data, 0)
        except DataError:
            if unit.format == "sources":
                continue  # not the user's file to repair
            raise
        yield data


def _check_utf8(name: str | Path, data: bytes, offset: int) -> None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}: not UTF-8 at byte offset {offset + error.start} ({error.reason}); convert the file or leave it out"
        ) from error


def _text_ranges(path: Path) -> Iterator[tuple[int, int]]:
    """Where to cut a text into units, at ends of its documents."""
    size, start, end = _size(path), 0, 0
    if not size:
        return
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for end in _piece_ends(data, 0, size):
                if end - start >= UNIT_BYTES:
                    yield start, end
                    start = end
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); check the path and its permissions") from error
    if end > start:
        yield start, end


def _piece_ends(data: bytes | mmap.mmap, start: int, stop: int) -> Iterator[int]:
    """Cut one long text at line ends into documents of about 8 KiB, so that some of it can be held out."""
    while start < stop:
        end = min(stop, start + _PIECE_BYTES)
        if end < stop:
            line_end = data.rfind(b"\n", start, end)
            if line_end >= start:
                end = line_end + 1
            else:  # one enormous line: cut it, but never inside a character (of at most four bytes)
                end -= next((back for back in range(4) if data[end - back] & 0xC0 != 0x80), 0)
        yield end
        start = end


def _text_documents(path: Path, start: int, end: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(end - start)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    _check_utf8(path, data, start)
    at = 0
    for piece_end in _piece_ends(data, 0, len(data)):
        yield data[at:piece_end]
        at = piece_end


def _jsonl_documents(path: Path, unit: Unit, field: str) -> Iterator[bytes]:
    for at, line in _lines(path, unit):
        if line.strip():
            yield _jsonl_text(path, unit, at, line, field)


def _lines(path: Path, unit: Unit) -> Iterator[tuple[int, bytes]]:
    """Lines that begin in the unit's range, each with the offset at which it does."""
    try:
        with _unpacked(path, unit.format) as file:
            at = unit.start
            if at:
                # From the byte before: if that ends a line, the next line is the unit's.
                file.seek(at - 1)
                at += len(file.readline()) - 1
            while at < unit.end and (line := file.readline()):
                yield at, line
                at += len(line)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    except _zstd_errors() as error:
        raise DataError(f"{path}: not a whole zstd file ({error}); fetch it again") from error


def _unpacked(path: Path, kind: Format) -> IO[bytes]:
    if kind != "jsonl.zst":
        return path.open("rb")
    return cast(IO[bytes], _zstd().open(path, "rb"))


def _zstd_errors() -> tuple[type[Exception], ...]:
    return (_zstd().ZstdError, EOFError)


def _zstd() -> Any:
    """Python's own zstd, which came with 3.14, or the same for older ones."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _unpacked_size(path: Path) -> int:
    """Bytes of a .zst file when unpacked. Unpacks it once, at about a gigabyte a second."""
    size = 0
    try:
        with _unpacked(path, "jsonl.zst") as file:
            while chunk := file.read(2**20):
                size += len(chunk)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    except _zstd_errors() as error:
        raise DataError(f"{path}: not a whole zstd file ({error}); fetch it again") from error
    return size


def _jsonl_text(path: Path, unit: Unit, at: int, line: bytes, field: str) -> bytes:
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        number = _line_number(path, unit, at)
        raise DataError(f"{path}: line {number} is not UTF-8 at byte {error.start} of the line; convert it") from error
    except (ValueError, RecursionError) as error:
        number = _line_number(path, unit, at)
        raise DataError(f"{path}: line {number} is not JSON ({error}); write one object per line") from error
    text = row.get(field) if isinstance(row, dict) else None
    if not isinstance(text, str):
        fields = ", ".join(map(repr, row)) if isinstance(row, dict) else ""
        there = f" (it has {fields}: {parquet.CHOOSE})" if fields and field not in row else ""
        raise DataError(
            f'{path}: line {_line_number(path, unit, at)} has no field "{field}" that holds a string{there};'
            f' write {{"{field}": "…"}}'
        )
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{path}: line {_line_number(path, unit, at)} holds half a surrogate pair at character {error.start}; repair the text"
        ) from error


def _line_number(path: Path, unit: Unit, at: int) -> int:
    """Number, from 1, of the line that begins at offset `at`: counted only when there is something to complain about."""
    number = 1
    with _unpacked(path, unit.format) as file:
        while at > 0 and (chunk := file.read(min(at, 2**20))):
            number += chunk.count(b"\n")
            at -= len(chunk)
    return number


def _stdlib_files() -> list[Path]:
    """The running Python's own .py files, without tests and what was installed beside them."""
    root = Path(sysconfig.get_path("stdlib"))
    files: list[Path] = []
    for parent, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _STDLIB_LEFT_OUT]
        files.extend(Path(parent, name) for name in names if name.endswith(".py"))
    if not files:
        raise DataError(f"{root}: this Python has no standard library sources; name a text file or folder instead")
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())
