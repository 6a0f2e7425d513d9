"""Reads UTF-8 documents from the standard library, from files and folders of several kinds, and from Hugging Face.

A corpus is a list of units of a few megabytes, each of which can be read by itself, by any process, as often as wanted, and gives
the same documents in the same order each time. A unit is plain values.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from windfall.errors import DataError, NoData
from windfall.train import parquet
from windfall.train.formats import Look, look
from windfall.train.rows import Tally, line_documents, look_at_first_line, value_documents
from windfall.train.sources import LeftOut, chosen, find, sentences
from windfall.train.text import piece_documents, piece_ranges, whole_documents
from windfall.train.unpack import packing_of, plain_size, unreadable

STDLIB = "stdlib"
HUB = "hf:"
#: About how much text is in a unit (bytes). It takes some seconds to encode, and an interruption costs each worker at most one.
UNIT_BYTES = 2**23
UNIT_FILES = 2_000
_STDLIB_LEFT_OUT = frozenset({"test", "tests", "idlelib", "idle_test", "site-packages", "dist-packages", "__pycache__"})
#: About how much text is in a unit of a compressed file (bytes). It is large, because each unit unpacks all that is before it.
_PACKED_UNITS = 32
#: About how much larger text is than its compressed form; only used to group files.
_UNPACKED = 3

Format = Literal["files", "sources", "text", "lines", "values", "parquet"]


@dataclass(frozen=True)
class Unit:
    """A part of a corpus.

    "files": whole files, a document each; "sources": the same, those that are not UTF-8 left out. "text": bytes start … end of one
    text, cut into documents of about 8 KiB. "lines": the rows whose lines begin at bytes start … end. "values": the rows that
    begin at characters start … end. "parquet": row groups start … end. Of compressed files, what is in them counts. `size` is
    about how many bytes of text it holds.
    """

    format: Format
    paths: tuple[str, ...]
    start: int = 0
    end: int = 0
    size: int = 0


@dataclass(frozen=True)
class Corpus:
    """A readable source: `name` as the user wrote it (with the revision where there is one), and its files in order.

    skip_bad_rows: rows that are no documents are left out, and counted, instead of being an error.
    """

    name: str
    files: tuple[tuple[str, Format], ...]
    text_column: str = "text"
    left_out: tuple[LeftOut, ...] = ()
    skip_bad_rows: bool = False

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """Its units in order. To find them, long texts and compressed files are read once. Raises DataError if one is damaged."""
        return tuple(_units(self.files, self.text_column, lambda done, total: None))

    def look_through(self, progress: Callable[[int, int], None]) -> None:
        """Find the units, which is work where texts are long or compressed. progress(bytes of files done, all)."""
        if "units" not in self.__dict__:
            self.__dict__["units"] = tuple(_units(self.files, self.text_column, progress))

    def read(self, unit: Unit, tally: Tally | None = None) -> Iterator[bytes]:
        """Documents of a unit, as `read_unit`; what is to be told of its rows goes to `tally`."""
        return read_unit(unit, self.text_column, tally or Tally(self.skip_bad_rows))

    def documents(self) -> Iterator[bytes]:
        """All documents that are not empty, in order. Raises DataError as `read_unit`."""
        for unit in self.units:
            yield from filter(None, self.read(unit))

    def notes(self) -> list[str]:
        """What a user should know of what is left out, a sentence each."""
        return [f"{self.name}: {sentence}" for sentence in sentences(self.left_out)]


def open_corpus(
    source: str | Path, text_column: str = "text", *, leave_out: Path | None = None, skip_bad_rows: bool = False
) -> Corpus:
    """The corpus behind `source`.

    "stdlib"; "hf:OWNER/NAME[@REVISION][/SUBSET]", a data set of Hugging Face, which is fetched; a folder of text, JSON rows or
    parquet files; or one such file. Text and JSON rows may be compressed. `text_column` names the column (parquet) or field (JSON)
    that holds the text. leave_out: a folder that is no part of the corpus, should it lie in it. Only the beginnings of
    files are read.

    Raises DataError where there is nothing of the kind, most of it would be left out, or a first row lacks its text.
    """
    if str(source) == STDLIB:
        return Corpus(STDLIB, tuple((str(path), "sources") for path in _stdlib_files()))
    if str(source).startswith(HUB):
        from windfall.train.hub import fetch

        name, folder, files, more = fetch(str(source).removeprefix(HUB))
        looks = [look(path, text_column) for path in files]
        found = chosen(looks, name, lambda path: path.relative_to(folder).as_posix(), more)
        return _corpus(name, found.files, text_column, found.left_out, skip_bad_rows, single=True)
    path = Path(source)
    try:
        is_folder = path.is_dir()
        missing = not is_folder and not os.path.lexists(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no name of a file or folder ({error}); name a text file or a folder") from error
    if missing:
        raise NoData(f"{path}: no such file or folder; name a text, .jsonl or .parquet file, a folder, hf:… or {STDLIB!r}")
    if is_folder:
        found = find(path, text_column, leave_out)
        return _corpus(str(source), found.files, text_column, found.left_out, skip_bad_rows, single=len(found.files) == 1)
    seen = look(path, text_column)
    if seen.reason:
        raise DataError(f"{path}: {seen.reason}")
    return _corpus(str(source), (seen,), text_column, (), skip_bad_rows, single=True)


def _corpus(
    name: str, looks: tuple[Look, ...], column: str, left_out: tuple[LeftOut, ...], skip_bad_rows: bool, *, single: bool
) -> Corpus:
    """The corpus of these files. single: texts are cut into documents; else each text is one document."""
    files: list[tuple[str, Format]] = []
    for each in looks:
        if each.kind == "parquet":
            parquet.require_column(each.path, column)
            files.append((str(each.path), "parquet"))
        elif each.kind == "lines" or each.kind == "values":
            if each.kind == "lines" and not skip_bad_rows:
                look_at_first_line(each.path, column)
            files.append((str(each.path), each.kind))
        else:
            files.append((str(each.path), "text" if single else "files"))
    return Corpus(name, tuple(files), column, left_out, skip_bad_rows)


def read_unit(unit: Unit, text_column: str = "text", tally: Tally | None = None) -> Iterator[bytes]:
    """Documents of a unit, empty ones too; `tally` is told of rows without text, and decides what is done with bad ones.

    Raises DataError for what cannot be read, is not UTF-8 (file and offset) or is not a document (file and line or row).
    """
    path, tally = Path(unit.paths[0]), tally or Tally()
    match unit.format:
        case "text":
            return piece_documents(path, unit.start, unit.end)
        case "lines":
            return line_documents(path, unit.start, unit.end, text_column, tally)
        case "values":
            return value_documents(path, unit.start, unit.end, text_column, tally)
        case "parquet":
            return parquet.documents(path, unit.start, unit.end, text_column, tally)
        case _:
            return whole_documents(unit.paths, strict=unit.format == "files")


def file_marks(unit: Unit) -> list[tuple[str, int, int]]:
    """Path, size and time of change (ns) of a unit's files: equal marks, equal text. Raises DataError where one is missing."""
    marks = []
    for path in unit.paths:
        try:
            stat = os.stat(path)
        except OSError as error:
            raise unreadable(path, error) from error
        marks.append((path, stat.st_size, stat.st_mtime_ns))
    return marks


def _units(files: tuple[tuple[str, Format], ...], column: str, progress: Callable[[int, int], None]) -> Iterator[Unit]:
    """Units of files in order: texts that are a document each together, every other file by itself."""
    sizes = [_size(Path(name)) for name, _ in files]
    done, total = 0, sum(sizes)
    group: list[tuple[str, int]] = []
    for at, (name, kind) in enumerate(files):
        done += sizes[at]
        if kind not in ("files", "sources"):
            yield from _file_units(Path(name), kind, column)
            progress(done, max(1, total))
            continue
        group.append((name, sizes[at]))
        if at + 1 == len(files) or files[at + 1][1] != kind:
            yield from _grouped(group, kind)
            group = []


def _file_units(path: Path, kind: Format, column: str) -> Iterator[Unit]:
    """Units of one file."""
    name = str(path)
    if kind == "parquet":
        for start, end, size in parquet.ranges(path, column, UNIT_BYTES):
            yield Unit(kind, (name,), start, end, size)
    elif kind == "text":
        for start, end in piece_ranges(path, UNIT_BYTES):
            yield Unit(kind, (name,), start, end, end - start)
    else:
        total, step = plain_size(path), UNIT_BYTES
        if packing_of(path) or kind == "values":
            step = max(step, -(-total // _PACKED_UNITS))
        for start in range(0, total, step):
            end = min(start + step, total)
            yield Unit(kind, (name,), start, end, end - start)


def _grouped(files: list[tuple[str, int]], kind: Format) -> Iterator[Unit]:
    group: list[str] = []
    size = 0
    for name, own in files:
        if group and (size + own > UNIT_BYTES or len(group) == UNIT_FILES):
            yield Unit(kind, tuple(group), size=size)
            group, size = [], 0
        group.append(name)
        size += own
    if group:
        yield Unit(kind, tuple(group), size=size)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size * (_UNPACKED if packing_of(path) else 1)
    except OSError as error:
        raise unreadable(path, error) from error


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
