"""The files of a corpus: which of a folder's are read, which are left out and why, and when that is too much.

Links are followed, to folders too; what two names lead to is read once. Nothing is left out without its name and a reason.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from windfall.errors import DataError
from windfall.train.formats import Look, is_note, look

#: So many files are named for a reason, and the rest counted.
NAMED = 10
_BESIDE = "texts beside parquet files are taken for notes"
_NOTES = "notes about the data"
_HIDDEN = "hidden, or a cache"
_ABOVE = "a link to a folder that this one lies in"
_TWICE = "a second name of what is read already"


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is no part of a corpus, by its name in it, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Found:
    """Files of a corpus in order, and what was left out of it."""

    files: tuple[Look, ...]
    left_out: tuple[LeftOut, ...]


def find(folder: Path, field: str, leave_out: Path | None = None) -> Found:
    """What is read of `folder`, by relative path in one order on every machine; `leave_out` is no part of it.

    field: what would hold the text of JSON rows. Raises DataError as `chosen`, or where a file or folder is unreadable.
    """
    if (folder / "manifest.json").is_file() and any(folder.glob("train-*.bin")):
        raise DataError(f"{folder}: prepared data, not text; name it as data.source in a configuration, or name the text")
    paths, more = _walk(folder, leave_out.resolve() if leave_out else None)
    return chosen([look(path, field) for path in paths], str(folder), lambda path: path.relative_to(folder).as_posix(), more)


def chosen(looks: Sequence[Look], name: str, named: Callable[[Path], str], more: Iterable[LeftOut] = ()) -> Found:
    """Which of these files are read; `named` gives a file's name in the corpus `name`, `more` is left out already.

    Where there is parquet it is a data set, and texts are no part of it. Beside rows of other kinds notes are none. JSON that is no
    rows is text beside at least as much text of other kinds.

    Raises DataError where nothing can be read, there are only notes, or more is left out than read: by bytes, or in number where
    links lead nowhere. Hidden files, notes, pictures, sound and programs do not count.
    """
    sizes = {kind: sum(each.weight or 0 for each in looks if each.kind == kind) for kind in {each.kind for each in looks}}
    parquet = "parquet" in sizes
    rows = parquet or any(each.kind in ("lines", "values") and not _long_known(each.path) for each in looks)
    configs_are_text = not parquet and sizes.get("text", 0) >= sizes.get("config", 0)
    read: list[Look] = []
    left = [*more]
    lost = unknown = 0
    for each in looks:
        reason = each.reason
        if each.kind == "note" and (parquet or rows):
            reason = _BESIDE if parquet else _NOTES
        elif each.kind == "text" and parquet:
            reason = _BESIDE
        elif each.kind == "config" and configs_are_text:
            reason = ""
        if not reason:
            read.append(each)
            continue
        left.append(LeftOut(named(each.path), reason))
        if each.kind != "note":
            lost += each.weight or 0
            unknown += each.weight is None
    told = "; ".join(sentences(left))
    notes = [each for each in read if each.kind == "note"]
    if not read or (len(notes) == len(read)):
        left += [LeftOut(named(each.path), f"{_NOTES}; name such a file itself if it is the text") for each in notes]
        told = "; ".join(sentences(left))
        raise DataError(
            f"{name}: the folder holds no text file that can be read{f' ({told})' if told else ''}; put UTF-8 text, JSON rows"
            " (.txt, .md, .py, .jsonl …, also compressed) or parquet there"
        )
    kept = sum(each.weight or 0 for each in read if each.kind != "note")
    number = len(read) - len(notes)
    if lost > kept or unknown > number:
        how_much = f"{lost:,} of {lost + kept:,} bytes" if lost > kept else f"{unknown:,} of {unknown + number:,} files"
        raise DataError(f"{name}: most of it would be left out ({how_much}): {told}. Do that, or name only what is to be read")
    return Found(tuple(read), tuple(left))


def sentences(left_out: Iterable[LeftOut]) -> list[str]:
    """What is told of what is left out: a line for each reason, with up to ten names."""
    lines = []
    for reason, group in groupby(sorted(left_out, key=lambda each: (each.reason, each.name)), lambda each: each.reason):
        names = [printable(each.name) for each in group]
        over = len(names) - NAMED
        lines.append(f"{', '.join(names[:NAMED])}{f' and {over:,} more' if over > 0 else ''} left out: {reason}")
    return lines


def printable(name: str) -> str:
    """A file's name on one line, whatever is in it."""
    return name if name.isprintable() else name.encode("unicode_escape", errors="backslashreplace").decode()


def _long_known(path: Path) -> bool:
    """Whether rows in such files have always been read, with notes beside them: their manifests are to stay as they are."""
    return path.suffix == ".jsonl" or path.name.endswith(".jsonl.zst")


def _walk(folder: Path, never: Path | None) -> tuple[list[Path], list[LeftOut]]:
    """Files under `folder`, in order, and what of it is not gone into or is there twice."""
    root = os.path.realpath(folder)
    seen: set[str] = set()
    links: list[Path] = []
    found: list[Path] = []
    left: list[LeftOut] = []

    def leave(path: Path, reason: str, ending: str = "") -> None:
        left.append(LeftOut(path.relative_to(folder).as_posix() + ending, reason))

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror}); check its permissions") from error

    def walk(start: Path) -> None:
        for parent, folders, names in os.walk(start, onerror=refuse):
            real = os.path.realpath(parent)
            seen.add(real)
            inner = []
            for name in sorted(folders):
                path = Path(parent, name)
                if path.resolve() == never:
                    continue
                if name.startswith(".") or name == "__pycache__":
                    leave(path, _HIDDEN, "/")
                elif path.is_symlink():
                    links.append(path)
                elif os.path.realpath(path) in seen:
                    leave(path, _TWICE, "/")
                else:
                    inner.append(name)
            folders[:] = inner
            for name in names:
                if name.startswith("."):
                    leave(Path(parent, name), _HIDDEN)
                else:
                    found.append(Path(parent, name))

    walk(folder)
    # Only now: a folder that a link leads to keeps its own name where it has one.
    for link in links:
        real = os.path.realpath(link)
        if root == real or root.startswith(real.rstrip("/") + "/"):
            leave(link, _ABOVE, "/")
        elif real in seen:
            leave(link, _TWICE, "/")
        else:
            walk(link)  # and may find more links, which this loop will come to
    found.sort(key=lambda path: path.relative_to(folder).as_posix())
    once = _once(found)
    for path in found:
        if path not in once:
            leave(path, _TWICE)
    return [path for path in found if path in once], left


def _once(paths: list[Path]) -> set[Path]:
    """Of the names of one file the first that is no link, else the first; links to nothing are all kept, to be told.

    A file without an ending leaves its place to a link that says what it is: Hugging Face's cache holds `blobs/<hash>`, and what
    those are is in the names of the links under `snapshots`.
    """
    links = [path for path in paths if path.is_symlink()]
    if not links:
        return set(paths)
    aims = set(links)
    own = {os.path.realpath(path): path for path in paths if path not in aims}
    kept = set(paths) - aims
    for path in links:
        real = os.path.realpath(path)
        holder = own.get(real)
        if holder is None or not os.path.exists(path):
            own[real] = path
            kept.add(path)
        elif not _tells(holder) and _tells(path):
            kept.remove(holder)
            own[real] = path
            kept.add(path)
    return kept


def _tells(path: Path) -> bool:
    """Whether a file's name says what is in it."""
    return bool(path.suffix) or is_note(path)
