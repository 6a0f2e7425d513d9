"""Makes documents of plain text: a long text is cut at line ends, or each file is one document.

A byte-order mark is no part of the text. It is left out at the begin of a file, and of a line, as in files that were concatenated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from windfall.errors import DataError
from windfall.train.unpack import open_plain, skip, unreadable

BOM = "\ufeff"
_MARK = BOM.encode()
_MARKS = re.compile(rb"(?:\A|(?<=[\r\n]))(?:\xef\xbb\xbf)+")
_PIECE_BYTES = 8192
_CHUNK_BYTES = 2**20


def piece_ranges(path: Path, unit_bytes: int) -> Iterator[tuple[int, int]]:
    """Where to cut a text into units of about `unit_bytes`, at ends of its documents, in bytes of the (unpacked) text.

    Raises DataError where it cannot be read.
    """
    start = end = 0
    for at, piece in _pieces(path, 0):
        end = at + len(piece)
        if end - start >= unit_bytes:
            yield start, end
            start = end
    if end > start:
        yield start, end


def piece_documents(path: Path, start: int, end: int) -> Iterator[bytes]:
    """Documents of about 8 KiB out of bytes start … end of the (unpacked) text. Raises DataError where it is no UTF-8 text."""
    for at, piece in _pieces(path, start):
        if at >= end:
            return
        _check(path, piece, at)
        yield without_marks(piece)


def whole_documents(paths: Iterable[str], *, strict: bool) -> Iterator[bytes]:
    """Each file, unpacked, a document. strict: raise DataError where one is no UTF-8 text, else leave such ones out."""
    for name in paths:
        path = Path(name)
        with open_plain(path) as file:
            try:
                data = file.read()
            except OSError as error:
                raise unreadable(path, error) from error
        try:
            _check(path, data, 0, zeros=strict)
        except DataError:
            if strict:
                raise
            continue
        yield without_marks(data)


def without_marks(text: bytes) -> bytes:
    """Text without byte-order marks where it or a line of it begins."""
    return _MARKS.sub(b"", text) if _MARK in text else text


def _check(path: Path, data: bytes, offset: int, *, zeros: bool = True) -> None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 at byte offset {offset + error.start} ({error.reason}); convert the file"
            " (if it is Latin-1: iconv -f LATIN1 -t UTF-8) or leave it out"
        ) from error
    if zeros and (at := data.find(b"\0")) >= 0:
        raise DataError(f"{path}: a zero byte at byte offset {offset + at}, which no text holds; repair the file or leave it out")


def _pieces(path: Path, start: int) -> Iterator[tuple[int, bytes]]:
    """Neighbouring pieces of a text from byte `start` on, where one begins: the offset of each, and its bytes."""
    with open_plain(path) as file:
        try:
            held, at, whole = b"", 0, False
            if not start:
                held = file.read(_CHUNK_BYTES)
                at = start = len(_MARK) if held.startswith(_MARK) else 0
            else:
                skip(file, path, start)
            while True:
                while len(held) - at <= _PIECE_BYTES and not whole:
                    chunk = file.read(_CHUNK_BYTES)
                    whole = not chunk
                    held, at = held[at:] + chunk, 0
                if at == len(held):
                    return
                end = _piece_end(held, at)
                yield start, held[at:end]
                start += end - at
                at = end
        except OSError as error:
            raise unreadable(path, error) from error


def _piece_end(data: bytes, start: int) -> int:
    """End of the document of about 8 KiB that begins at `start`: at a line's end, so that some of a long text can be held out."""
    end = min(len(data), start + _PIECE_BYTES)
    if end < len(data):
        line_end = data.rfind(b"\n", start, end)
        if line_end >= start:
            return line_end + 1
        # One enormous line: cut it, but never inside a character (of at most four bytes).
        end -= next((back for back in range(4) if data[end - back] & 0xC0 != 0x80), 0)
    return end
