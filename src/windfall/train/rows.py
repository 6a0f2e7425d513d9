"""Documents out of rows: JSON in lines, or one JSON value behind the other; and what is told of rows that hold no text."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from windfall.errors import DataError
from windfall.train.parquet import CHOOSE
from windfall.train.text import BOM, without_marks
from windfall.train.unpack import open_plain, skip, unreadable

#: So many are named, and the rest counted.
NAMED = 10
_BLANK = re.compile(r"[ \t\r\n\ufeff]*")
_FIRST_CHARACTERS = 2**20


@dataclass
class Tally:
    """Rows of which something is to be told. skip: leave bad ones out instead of raising DataError.

    `null` rows hold null where the text should be and are empty documents; `bad` ones were left out. Up to ten of each are named.
    """

    skip: bool = False
    null: int = 0
    bad: int = 0
    null_rows: list[str] = field(default_factory=list)
    bad_rows: list[str] = field(default_factory=list)

    def no_text(self, where: Callable[[], str]) -> None:
        """A row whose text is null."""
        self.null += 1
        if len(self.null_rows) < NAMED:
            self.null_rows.append(where())

    def no_good(self, what: Callable[[], str]) -> None:
        """A row that is no document. Raises DataError, unless such rows are left out."""
        if not self.skip:
            raise DataError(what())
        self.bad += 1
        if len(self.bad_rows) < NAMED:
            # What is wrong, not what to do: ten times the same.
            self.bad_rows.append(what().partition("; ")[0])

    def add(self, other: Tally) -> None:
        """Take over what another tally holds."""
        self.null += other.null
        self.bad += other.bad
        self.null_rows = [*self.null_rows, *other.null_rows][:NAMED]
        self.bad_rows = [*self.bad_rows, *other.bad_rows][:NAMED]


def line_documents(path: Path, start: int, end: int, key: str, tally: Tally) -> Iterator[bytes]:
    """The text of each row whose line begins at bytes start … end of the (unpacked) file; blank lines are none.

    Raises DataError where the file cannot be read or a row is no good.
    """
    for at, line in _lines(path, start, end):
        if line.strip():
            document = _line_document(path, at, line, key, tally)
            if document is not None:
                yield document


def look_at_first_line(path: Path, key: str) -> None:
    """Raise DataError where the first row is no good."""
    for at, line in _lines(path, 0, 1):
        if line.strip():
            _line_document(path, at, line, key, Tally())


def value_documents(path: Path, start: int, end: int, key: str, tally: Tally) -> Iterator[bytes]:
    """The text of each JSON object that begins at characters start … end of the (unpacked) file: of one list or of none.

    Raises DataError where the file cannot be read, or a row is no good; what is no JSON hides what follows it, so that is an
    error even where bad rows are left out.
    """
    for number, (at, row) in enumerate(_values(path), 1):
        if at >= end:
            return
        if at >= start:
            where = f"{path}: row {number}"
            document = text_of(row, key, lambda where=where: where, tally)  # type: ignore[misc]
            if document is not None:
                yield document


def text_of(row: Any, key: str, where: Callable[[], str], tally: Tally) -> bytes | None:
    """The text of a row; None where the row is no good and was told to `tally`. where: its file and number."""
    if not isinstance(row, dict) or key not in row:
        keys = ", ".join(map(repr, row)) if isinstance(row, dict) else ""
        there = f" (it has {keys}: {CHOOSE})" if keys else ""
        tally.no_good(lambda: f'{where()} has no field "{key}" that holds a string{there}; write {{"{key}": "…"}}')
        return None
    text = row[key]
    if text is None:
        tally.no_text(where)
        return b""
    if not isinstance(text, str):
        kind = {dict: "an object", list: "a list", bool: "true or false"}.get(type(text), "a number")
        tally.no_good(lambda: f'{where()} has no field "{key}" that holds a string (it holds {kind}: {CHOOSE})')
        return None
    try:
        return without_marks(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        at = error.start
        tally.no_good(lambda: f"{where()} holds half a surrogate pair at character {at}; repair the text")
        return None


def _line_document(path: Path, at: int, line: bytes, key: str, tally: Tally) -> bytes | None:
    def where() -> str:
        return f"{path}: line {_line_number(path, at)}"

    try:
        row = json.loads(line.decode("utf-8").lstrip(BOM))
    except UnicodeDecodeError as error:
        byte = error.start
        tally.no_good(lambda: f"{where()} is not UTF-8 at byte {byte} of the line; convert it")
    except (ValueError, RecursionError) as error:
        why = str(error)
        tally.no_good(lambda: f"{where()} is not JSON ({why}); write one object per line")
    else:
        return text_of(row, key, where, tally)
    return None


def _lines(path: Path, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Lines that begin in the range, each with the offset at which it does."""
    with open_plain(path) as file:
        try:
            at = start
            if at:
                # From the byte before: if that ends a line, the next line is the range's.
                skip(file, path, at - 1)
                at += len(file.readline()) - 1
            while at < end and (line := file.readline()):
                yield at, line
                at += len(line)
        except OSError as error:
            raise unreadable(path, error) from error


def _line_number(path: Path, at: int) -> int:
    """Number, from 1, of the line that begins at offset `at`: counted only when there is something to complain about."""
    number = 1
    with open_plain(path) as file:
        while at > 0 and (chunk := file.read(min(at, 2**20))):
            number += chunk.count(b"\n")
            at -= len(chunk)
    return number


def _values(path: Path) -> Iterator[tuple[int, Any]]:
    """JSON values of a file, those of a list singly, each with the character at which it begins."""
    with open_plain(path) as file:
        text = _Characters(path, file)
        decoder = json.JSONDecoder()
        text.skip_blank()
        listed = text.next_is("[")
        if listed:
            text.take(1)
        first = True
        while True:
            text.skip_blank()
            if text.ended():
                if listed:
                    raise DataError(f"{path}: its list has no end; fetch it again")
                return
            if listed and text.next_is("]"):
                text.take(1)
                text.skip_blank()
                if text.ended():
                    return
                raise DataError(f"{path}: not JSON at character {text.at} (something follows the list); write one list, or rows")
            if listed and not first:
                if not text.next_is(","):
                    raise DataError(f"{path}: not JSON at character {text.at} (a comma is missing); repair it")
                text.take(1)
                text.skip_blank()
            at = text.at
            yield at, text.value(decoder)
            first = False


class _Characters:
    """A file's text, of which as much is held as is being read. at: characters that were taken."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._pos = "", 0
        self._bytes = 0
        self._whole = False
        self.at = 0

    def skip_blank(self) -> None:
        """Take white space and byte-order marks."""
        while True:
            match = _BLANK.match(self._text, self._pos)
            self.take(match.end() - self._pos if match else 0)
            if self._pos < len(self._text) or not self._more():
                return

    def ended(self) -> bool:
        """Whether there is no more, white space having been skipped."""
        return self._pos >= len(self._text)

    def next_is(self, character: str) -> bool:
        return self._text.startswith(character, self._pos)

    def take(self, count: int) -> None:
        self._pos += count
        self.at += count

    def value(self, decoder: json.JSONDecoder) -> Any:
        """The JSON value that is next. Raises DataError where there is none."""
        while True:
            problem = ""
            try:
                value, end = decoder.raw_decode(self._text, self._pos)
            except (ValueError, RecursionError) as error:
                problem = getattr(error, "msg", str(error))
            else:
                # A number may go on where what is held ends; an object does not.
                if end < len(self._text) or self._whole or not isinstance(value, (int, float)):
                    self.take(end - self._pos)
                    return value
            if not self._more():
                raise DataError(f"{self._path}: not JSON at character {self.at} ({problem}); repair it, or fetch it again")

    def _more(self) -> bool:
        """Hold twice as much as before, so that a long value is not tried too often; False at the end."""
        if self._whole:
            return False
        rest = self._text[self._pos :]
        try:
            data = self._file.read(max(_FIRST_CHARACTERS, len(rest)))
        except OSError as error:
            raise unreadable(self._path, error) from error
        self._whole = not data
        try:
            self._text, self._pos = rest + self._decoder.decode(data, final=self._whole), 0
        except UnicodeDecodeError as error:
            at = self._bytes + error.start
            raise DataError(f"{self._path}: not UTF-8 at about byte {at} ({error.reason}); convert the file") from error
        self._bytes += len(data)
        return True
