"""Where text comes from: the standard library, a folder, a .jsonl file or a text file, as UTF-8 documents.

A corpus can be read more than once and gives the same documents in the same order each time.
"""

from __future__ import annotations

import json
import os
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from windfall.errors import DataError

STDLIB = "stdlib"
TEXT_SUFFIXES = frozenset({".txt", ".md", ".rst", ".py", ".tex", ".html", ".csv", ".json", ".toml", ".yaml", ".yml"})
_STDLIB_LEFT_OUT = frozenset({"test", "tests", "idlelib", "idle_test", "site-packages", "dist-packages", "__pycache__"})
_SNIFF_BYTES = 8192
_PIECE_BYTES = 8192


@dataclass(frozen=True)
class Corpus:
    """A readable source: `name` as the user wrote it and `documents`, which starts a new reading."""

    name: str
    documents: Callable[[], Iterator[bytes]]


def open_corpus(source: str | Path) -> Corpus:
    """The corpus behind `source`: "stdlib", a folder, a .jsonl file or any other single text file.

    Raises DataError where there is nothing of the kind; reading raises DataError for what cannot be read,
    is not UTF-8 (file and offset) or is not a document (.jsonl line number).
    """
    if str(source) == STDLIB:
        return Corpus(STDLIB, _stdlib_documents)
    path = Path(source)
    name = str(source)
    if path.is_dir():
        files = _folder_files(path)
        if not files:
            raise DataError(f"{path}: the folder holds no text file; put UTF-8 text (.txt, .md, .py, .jsonl …) there")
        if len(files) > 1 or files[0].suffix == ".jsonl":
            return Corpus(name, lambda: _files_documents(files))
        path = files[0]  # one file: as if it had been named itself
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; name a text file, a .jsonl file, a folder, or {STDLIB!r}")
    if path.suffix == ".jsonl":
        return Corpus(name, lambda: _jsonl_documents(path))
    return Corpus(name, lambda: _pieces(_read_text(path)))


def _read_text(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 at byte offset {error.start} ({error.reason}); convert the file or leave it out"
        ) from error
    return data


def _pieces(data: bytes) -> Iterator[bytes]:
    """Cut one long text at line ends into documents of about 8 KiB, so that some of it can be held out."""
    start = 0
    while start < len(data):
        end = min(len(data), start + _PIECE_BYTES)
        if end < len(data):
            line_end = data.rfind(b"\n", start, end)
            if line_end >= start:
                end = line_end + 1
            else:  # one enormous line: cut it, but never inside a character
                while data[end] & 0xC0 == 0x80:
                    end -= 1
        yield data[start:end]
        start = end


def _is_text(path: Path) -> bool:
    if path.suffix in TEXT_SUFFIXES or path.suffix == ".jsonl":
        return True
    try:
        with path.open("rb") as file:
            return b"\0" not in file.read(_SNIFF_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions or move it away") from error


def _folder_files(folder: Path) -> list[Path]:
    """Text files under `folder`, hidden ones left out, by relative path in one order on every machine."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror}); check its permissions") from error

    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        paths = (Path(parent, name) for name in names if not name.startswith("."))
        found.extend(path for path in paths if path.is_file() and _is_text(path))
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _files_documents(files: list[Path]) -> Iterator[bytes]:
    for path in files:
        if path.suffix == ".jsonl":
            yield from _jsonl_documents(path)
        elif data := _read_text(path):
            yield data


def _jsonl_documents(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip() and (text := _jsonl_text(path, number, line)):
                    yield text
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error


def _jsonl_text(path: Path, number: int, line: bytes) -> bytes:
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: line {number} is not UTF-8 at byte {error.start} of the line; convert it") from error
    except ValueError as error:
        raise DataError(f"{path}: line {number} is not JSON ({error}); write one object per line") from error
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise DataError(f'{path}: line {number} has no field "text" that holds a string; write {{"text": "…"}}')
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: line {number} holds half a surrogate pair at character {error.start}; repair the text") from error


def _stdlib_documents() -> Iterator[bytes]:
    """The running Python's own .py files, without tests and what was installed beside them."""
    root = Path(sysconfig.get_path("stdlib"))
    files: list[Path] = []
    for parent, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _STDLIB_LEFT_OUT]
        files.extend(Path(parent, name) for name in names if name.endswith(".py"))
    if not files:
        raise DataError(f"{root}: this Python has no standard library sources; name a text file or folder instead")
    for path in sorted(files, key=lambda path: path.relative_to(root).as_posix()):
        data = path.read_bytes()
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            continue  # not the user's file to repair
        if data:
            yield data
