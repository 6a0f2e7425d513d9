"""Run directories that are looked at together: those that are named, and those in folders that are named."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from windfall import clock
from windfall.errors import NoRun
from windfall.store.rundir import RunDir

#: A folder is looked through again when so much time (s) has passed.
_LOOKED_S = 2.0
#: Folders within folders are looked into this far.
_DEPTH = 2


@dataclass(frozen=True, slots=True)
class FoundRun:
    """A run directory under a name that is its own among those that are shown. ``changed``: wall time of the last write to it."""

    name: str
    run: RunDir
    changed: float


class RunFolders:
    """What `windfall dashboard` was given: run directories, folders of run directories, or both.

    Nothing but names and times of files is read, so that ten thousand runs cost little.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        """Raises NoRun if one of them is no folder."""
        for root in roots:
            if not root.is_dir():
                what = "is no folder" if root.exists() else "is not there"
                raise NoRun(f"{root}: {what}; name run directories, or a folder that has some")
        self._roots = [root.absolute() for root in roots]
        self._looked_at = float("-inf")
        self._found: dict[str, FoundRun] = {}

    @property
    def single(self) -> bool:
        """Whether one run directory was named and nothing else."""
        return len(self._roots) == 1 and RunDir(self._roots[0]).exists()

    def all(self) -> list[FoundRun]:
        """All runs that are there now, the one last written to first."""
        return sorted(self._look().values(), key=lambda f: (-f.changed, f.name))

    def get(self, name: str) -> RunDir | None:
        """The run of that name; None if there is none (any more)."""
        found = self._look().get(name)
        return found.run if found is not None and found.run.exists() else None

    def _look(self) -> dict[str, FoundRun]:
        now = clock.monotonic()
        if now - self._looked_at >= _LOOKED_S:
            found: dict[str, FoundRun] = {}
            for root in self._roots:
                for path in _runs_in(root, _DEPTH):
                    name = _slug(path.relative_to(root).as_posix() if path != root else root.name)
                    free, number = name, 2
                    while free in found:
                        free, number = f"{name}-{number}", number + 1
                    found[free] = FoundRun(free, RunDir(path), _changed(path))
            self._found, self._looked_at = found, now
        return self._found


def _slug(text: str) -> str:
    """A name for addresses: letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "run"


def _runs_in(root: Path, depth: int) -> list[Path]:
    if (root / "ledger.db").is_file():
        return [root]
    if depth == 0:
        return []
    try:
        with os.scandir(root) as entries:
            below = sorted(e.path for e in entries if not e.name.startswith(".") and _folder(e))
    except OSError:
        return []  # it may not be read, or has gone
    return [found for path in below for found in _runs_in(Path(path), depth - 1)]


def _folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _changed(path: Path) -> float:
    times = []
    for name in ("telemetry.db-wal", "telemetry.db", "ledger.db"):
        try:
            times.append((path / name).stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)
