"""Finds out what a file holds, by its name, or by its beginning if the name says too little.

Text, rows of JSON and parquet are read, the first two also compressed. For everything else there is a reason, and what to do.
"""

from __future__ import annotations

import errno
import json
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from windfall.errors import DataError
from windfall.train import parquet
from windfall.train.unpack import MAGIC, PACKED, head, open_plain, packing_of, unreadable

#: "lines": a JSON object in each line; "values": JSON objects one behind the other, or one list of them; "note": text about the
#: data; "config": JSON that is no rows, which is text among texts; "other": not read.
Kind = Literal["text", "note", "config", "lines", "values", "parquet", "other"]

_LINES = frozenset({".jsonl", ".ndjson", ".jsonlines", ".ldjson"})
_PARQUET = frozenset({".parquet", ".pq", ".parq"})
_NOTES = re.compile(
    r"(readme|licen[cs]e|copying)([._-][\w.-]*)?"
    r"|(notice|citation|contributing|code_of_conduct|security|authors|changelog|dataset_?card|model_?card)(\.\w+)?"
    r"|(dataset_infos?|dataset_dict|state|croissant)\.json|_\w+|(sha\d+|md5)(sums?)?(\.txt)?"
    r"|.*\.(sha\d+|md5|crc)",
    re.IGNORECASE,
)
_REASONS: dict[str, tuple[str, ...]] = {
    "Arrow, which is not read; write it as parquet (datasets: load_from_disk(…).to_parquet(…))": (".arrow", ".feather", ".ipc"),
    "an archive, which is not read; unpack it": (
        ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".zip", ".7z", ".rar", ".jar", ".whl", ".egg", ".deb", ".rpm", ".iso",
        ".cpio",
    ),
    "compressed in a way that is not read; unpack it, or compress it with gzip, bzip2, xz or zstd": (
        ".lz4", ".br", ".z", ".sz", ".snappy", ".lzo", ".lz",
    ),
    "a document, which is not read; save its text as UTF-8": (
        ".pdf", ".docx", ".odt", ".epub", ".mobi", ".djvu", ".pptx", ".odp", ".pages",
    ),
    "a spreadsheet, which is not read; save it as .jsonl or parquet": (".xls", ".xlsx", ".xlsm", ".ods", ".numbers"),
    "a table, which is not read; write the column of text as .txt, .jsonl or parquet": (".csv", ".tsv"),
    "a database, which is not read; save its rows as .jsonl or parquet": (
        ".db", ".sqlite", ".sqlite3", ".duckdb", ".mdb", ".lmdb",
    ),
    "rows in a format that is not read; write them as .jsonl or parquet": (
        ".avro", ".orc", ".tfrecord", ".tfrecords", ".msgpack", ".warc", ".wet", ".wat", ".mds",
    ),
    "numbers, not text; leave it elsewhere, or name prepared data as they are (data.source)": (
        ".bin", ".npy", ".npz", ".pt", ".pth", ".safetensors", ".ckpt", ".h5", ".hdf5", ".pkl", ".pickle", ".gguf", ".onnx", ".idx",
    ),
}  # fmt: skip
#: Endings of files that never hold a corpus's text. They are named, but do not count as left out.
_LIGHT: dict[str, tuple[str, ...]] = {
    "pictures, sound or fonts": (
        ".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ico", ".heic", ".psd", ".mp3", ".wav", ".flac", ".ogg",
        ".m4a", ".mp4", ".mkv", ".mov", ".avi", ".webm", ".ttf", ".otf", ".woff", ".woff2",
    ),
    "programs, not text": (".pyc", ".pyo", ".so", ".o", ".a", ".dll", ".exe", ".dylib", ".class", ".wasm", ".lib", ".obj"),
}  # fmt: skip
_BY_SUFFIX = {suffix: reason for table in (_REASONS, _LIGHT) for reason, suffixes in table.items() for suffix in suffixes}
_BINARY = "no text by its content"
_SPECIAL = "no regular file but a pipe, socket or device, which cannot be read twice; write what comes out of it to a file"
#: First bytes of files of other kinds, whatever their names.
_MAGIC = {
    b"PAR1": "parquet by its content; name it .parquet",
    b"ARROW1": next(iter(_REASONS)),
    b"PK\x03\x04": "a zip archive by its content; unpack it",
    b"%PDF-": "a PDF document by its content; save its text as UTF-8",
    b"SQLite format 3\0": "a database by its content; save its rows as .jsonl or parquet",
    b"\x93NUMPY": "numbers by its content, not text",
    **{magic: f"compressed by its content ({kind}); give its name the ending {next(s for s, k in PACKED.items() if k == kind)}"
       for kind, magic in MAGIC.items()},
}  # fmt: skip
_SNIFF_BYTES = 8192
_HEAD_BYTES = 2**20
_POINTER_BYTES = 1024
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LFS_REASON = "only Git LFS's pointer to a file; fetch the file itself (git lfs pull)"
_FIRST_LINE_BYTES = 2**26
_SAMPLE_ROWS = 100


@dataclass(frozen=True)
class Look:
    """What a file is. reason: why it is not read (other, config). weight: bytes that count as its text; None: unknown."""

    path: Path
    kind: Kind
    reason: str = ""
    weight: int | None = 0


def look(path: Path, field: str) -> Look:
    """What a file holds; `field` names what would hold the text of JSON rows.

    Raises DataError where it cannot be read, or is text in another encoding than UTF-8 by its first bytes.
    """
    try:
        about = path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return Look(path, "other", "a link that leads back to itself; remove it, or lead it to a file", None)
        if isinstance(error, (FileNotFoundError, NotADirectoryError)) and path.is_symlink():
            return Look(path, "other", "a link to what is not there; fetch that, or remove the link", None)
        raise unreadable(path, error) from error
    if not stat.S_ISREG(about.st_mode):
        return Look(path, "other", _SPECIAL, None)
    kind, reason = _by_name(path)
    size = about.st_size
    if kind == "other":
        light = any(reason is each for each in _LIGHT)
        return Look(path, kind, reason, 0 if light else size)
    if size < _POINTER_BYTES and (pointer := _pointer(path)):
        return pointer
    if kind == "parquet":
        return Look(path, kind, weight=size)
    # A compressed file that is damaged at its very beginning is an error here, as it would be later.
    start = head(path, _SNIFF_BYTES) if size or packing_of(path) else b""
    if wrong := _wrong(start):
        return Look(path, "other", wrong, size)
    require_utf8(path, start)
    if b"\0" in start:
        return Look(path, "other", _BINARY, size)
    if _inner_suffix(path) == ".json":
        kind, reason = json_layout(path, field)
        if kind == "config" and is_note(path):
            kind, reason = "note", ""
    elif kind != "lines" and _begins_with_rows(path, start, field):
        kind = "lines"
    return Look(path, kind, reason, size)


def is_note(path: Path) -> bool:
    """Whether a file of this name is about the data, not of it."""
    return bool(_NOTES.fullmatch(path.name))


def _by_name(path: Path) -> tuple[Kind, str]:
    suffix = _inner_suffix(path)
    packed = bool(packing_of(path))
    if suffix in _PARQUET:
        return ("other", "compressed parquet, which is not read; unpack it") if packed else ("parquet", "")
    if suffix in _BY_SUFFIX:
        return "other", _BY_SUFFIX[suffix]
    if suffix in _LINES:
        return "lines", ""
    return ("note" if is_note(path) else "text"), ""


def _inner_suffix(path: Path) -> str:
    """The ending in small letters; of a compressed file, that of what is in it."""
    name = Path(path.name[: -len(path.suffix)]) if packing_of(path) else path
    return name.suffix.lower()


def _wrong(start: bytes) -> str:
    return next((reason for magic, reason in _MAGIC.items() if start.startswith(magic)), "")


def _pointer(path: Path) -> Look | None:
    """If the file is a pointer of Git LFS to the real one: a look that says so, with the real one's size. Else None."""
    try:
        with path.open("rb") as file:
            data = file.read()
    except OSError as error:
        raise unreadable(path, error) from error
    if not data.startswith(_LFS_POINTER):
        return None
    declared = re.search(rb"^size (\d{1,18})$", data, re.MULTILINE)
    return Look(path, "other", _LFS_REASON, int(declared[1]) if declared else 0)


def require_utf8(path: Path, start: bytes) -> None:
    """Raise DataError where a file's mark says that it is UTF-16 or UTF-32, or the zeros between its letters do."""
    name = ""
    if start.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        name = "UTF-32"
    elif start.startswith((b"\xff\xfe", b"\xfe\xff")):
        name = "UTF-16"
    elif len(start) >= 16:
        even, odd = start[::2].count(0), start[1::2].count(0)
        if max(even, odd) > 0.4 * len(start) / 2 and min(even, odd) < 0.02 * len(start) and _is_utf16(start, even > odd):
            name = "UTF-16LE" if odd > even else "UTF-16BE"
    if name:
        raise DataError(f"{path}: not UTF-8 but {name}; convert it (iconv -f {name} -t UTF-8) or leave it out")


def _is_utf16(start: bytes, big: bool) -> bool:
    text = start[: len(start) // 2 * 2].decode("utf-16-be" if big else "utf-16-le", errors="replace")
    return sum(c.isprintable() or c in "\r\n\t" for c in text) > 0.95 * len(text)


def json_layout(path: Path, field: str) -> tuple[Kind, str]:
    """What a .json file holds, by its first megabyte: rows in lines or otherwise, or what is no rows and why.

    Raises DataError where it cannot be read.
    """
    text, whole = _beginning(path)
    text = text.lstrip("\ufeff \t\r\n")
    if not text:
        return "lines", ""
    rows: list[Any] = []
    lines, broken = True, ""
    try:
        for row, one_line in _objects(text):
            rows.append(row)
            lines = lines and one_line
            if len(rows) == _SAMPLE_ROWS:
                break
    except (ValueError, RecursionError) as error:
        broken = str(error) if whole or not rows else ""
    objects = [row for row in rows if isinstance(row, dict)]
    if any(isinstance(row.get(field), str) for row in objects):
        return ("lines" if lines else "values"), ""
    if not rows:
        return "config", f"no JSON ({broken}); write an object with a field {field!r} in each line"
    if not objects:
        return "config", f"JSON, but no objects with a field {field!r}; write one in each line"
    keys = list(dict.fromkeys(key for row in objects for key in row))
    there = ", ".join(map(repr, keys[:20])) + (" …" if len(keys) > 20 else "")
    return "config", f"JSON without a field {field!r} that holds a string (it has {there or 'none'}); {parquet.CHOOSE}"


def _begins_with_rows(path: Path, start: bytes, field: str) -> bool:
    """Whether a file, whatever it is called, holds JSON rows: its first two lines that are not blank are such, or its only one.

    start: its first bytes. Raises DataError where it cannot be read.
    """
    if not start.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n").startswith("{"):
        return False
    with open_plain(path) as file:
        try:
            rows = 0
            while rows < 2 and (line := file.readline(_FIRST_LINE_BYTES)):
                text = line.decode("utf-8", errors="replace").strip("\ufeff \t\r\n")
                if text:
                    row = json.loads(text)
                    if not isinstance(row, dict) or field not in row:
                        return False
                    rows += 1
        except OSError as error:
            raise unreadable(path, error) from error
        except (ValueError, RecursionError):
            return False
    return rows > 0


def _beginning(path: Path) -> tuple[str, bool]:
    """The first megabyte, or the first line where that is longer; and whether that is all."""
    with open_plain(path) as file:
        try:
            data = file.read(_HEAD_BYTES)
            if b"\n" not in data:
                data += file.readline(_FIRST_LINE_BYTES)
            whole = not file.read(1)
        except OSError as error:
            raise unreadable(path, error) from error
    return data.decode("utf-8", errors="replace"), whole


def _objects(text: str) -> Iterator[tuple[Any, bool]]:
    """Values at the beginning of a JSON text, those of a list singly, and whether each has its line to itself."""
    decoder = json.JSONDecoder()
    blank = re.compile(r"[ \t\r\n]*")
    at, listed = 0, text.startswith("[")
    if listed:
        at = 1
    while True:
        at = blank.match(text, at).end()  # type: ignore[union-attr]
        if (listed and text.startswith("]", at)) or at == len(text):
            return
        value, end = decoder.raw_decode(text, at)
        rest = text[end : end + 1000].lstrip(" \t\r\ufeff")
        yield value, not listed and "\n" not in text[at:end] and (not rest or rest.startswith("\n"))
        at = end
        if listed:
            at = blank.match(text, at).end()  # type: ignore[union-attr]
            if text.startswith(",", at):
                at += 1
