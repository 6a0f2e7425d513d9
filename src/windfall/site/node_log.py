"""What a SuperNode's log says of messages that went wrong, told as events: nobody reads that log while a run stands still.

The agent reads the log and leaves a note in the site's folder; the trainer, which speaks to the coordinator, passes it on.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from windfall import clock
from windfall.site.spawning import SPAWNING
from windfall.store.files import read_json, write_json

#: The process that Flower starts for a message is refused by the SuperNode that has started it.
_REFUSED = re.compile(rb"401[^\n]*(Unauthorized|authentication failed)|authentication failed[^\n]*401")
#: Messages cost seconds each, for this reason.
_SPAWNING = re.compile(re.escape(SPAWNING.encode()) + rb": ([^\n]*)")
_NOTE = "node-note.json"
_LOOK_S = 1.0
#: Of a log that grows faster than this between two looks only the end is read.
_MOST = 1 << 20


class NodeLog:
    """The agent's side: follows the log from where it ends now."""

    def __init__(self, folder: Path, log: Path) -> None:
        self._log, self._note = log, folder / _NOTE
        self._note.unlink(missing_ok=True)
        self._at = log.stat().st_size if log.is_file() else 0
        self._count = 0
        self._spawning = ""
        self._looked = float("-inf")

    def look(self) -> None:
        """Read what is new, now and then."""
        if clock.monotonic() - self._looked < _LOOK_S:
            return
        self._looked = clock.monotonic()
        try:
            with open(self._log, "rb") as f:
                size = f.seek(0, 2)
                f.seek(max(self._at, size - _MOST) if size >= self._at else 0)
                new = f.read(_MOST)
                whole = new.rfind(b"\n") + 1
                self._at = f.tell() - len(new) + whole
        except FileNotFoundError:
            return
        refused, spawning = _REFUSED.findall(new[:whole]), _SPAWNING.findall(new[:whole])
        if spawning:
            self._spawning = spawning[-1].decode(errors="replace")
        if refused or spawning:
            self._count += len(refused)
            with contextlib.suppress(OSError):  # a full disk is told where work is lost by it
                write_json(self._note, {"refused": self._count, "spawning": self._spawning})


class NodeNotes:
    """The trainer's side."""

    def __init__(self, folder: Path) -> None:
        self._note = folder / _NOTE
        self._told = 0
        self._told_why = ""
        self._looked = float("-inf")

    def new(self) -> str:
        """What has to be told, or an empty string."""
        if clock.monotonic() - self._looked < _LOOK_S:
            return ""
        self._looked = clock.monotonic()
        said = read_json(self._note)
        if not isinstance(said, dict):
            return ""
        why = said.get("spawning")
        if isinstance(why, str) and why and not self._told_why:
            self._told_why = why
            return f"each of its messages starts a process, which costs seconds: {why}"
        count = said.get("refused")
        if not isinstance(count, int) or count <= self._told:
            return ""
        times, self._told = count - self._told, count
        return (
            f"its SuperNode refused the process that carries a message (401, {times} time{'s' if times > 1 else ''}): that "
            "had been silent or stopped for longer than its token is good for; the message is sent again"
        )
