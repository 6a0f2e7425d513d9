"""The bus: commands to sites, and heartbeats, progress and metrics from them.

It carries two kinds of traffic. In *streams* every entry arrives once and in order: commands; events and metrics. Of *registers*
only the newest value counts: heartbeat, run time granted, progress. The embedded bus keeps both as files in the site's own folder:
they are durable without a server, and a site sees nothing but its own. The bus is an accelerator, not a truth: the run is right
without it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from windfall.store.files import read_json, to_json, write_json

Entry = dict[str, Any]


class SiteBus(Protocol):
    """A site's end of the bus. No method waits for the other end."""

    def commands(self) -> list[Entry]:
        """Commands for this generation that have come since the last call."""
        ...

    def emit(self, entry: Entry) -> None:
        """Append to the stream towards the coordinator."""
        ...

    def set(self, register: str, value: Entry) -> None:
        """Set one of the site's registers."""
        ...

    def get(self, register: str) -> Entry | None:
        """The value that the coordinator has set in a register for this site; None if there is none yet."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


class Bus(Protocol):
    """The coordinator's end of the bus. No method waits for a site."""

    def send(self, site: str, command: Entry) -> None:
        """Append to the stream towards a site. ``generation`` in it says for which life of the site it is."""
        ...

    def poll(self, site: str) -> list[Entry]:
        """What the site has emitted since the last call."""
        ...

    def set(self, site: str, register: str, value: Entry) -> None:
        """Set a register for a site."""
        ...

    def get(self, site: str, register: str) -> Entry | None:
        """The value that a site has set in one of its registers; None if there is none yet."""
        ...

    def health(self) -> str:
        """Why nobody can be reached over the bus at present, or an empty string."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


#: A stream's file is emptied only if it is longer than this (bytes).
_LONG = 1_000_000


class _Stream:
    """An append-only file of JSON lines with one writer and one reader.

    ``remembered``: the reader keeps its position in a file beside it, from which its next life goes on.
    """

    def __init__(self, path: Path, *, remembered: bool = False) -> None:
        self._path = path
        self._mark = path.with_suffix(".at") if remembered else None
        at = read_json(self._mark) if self._mark else 0
        self._at = at if type(at) is int and at >= 0 else 0

    def forget_what_was_read(self) -> None:
        """Empty the file if it is long and all of it has been read. The writer calls it before it begins to write."""
        mark = read_json(self._path.with_suffix(".at"))
        with contextlib.suppress(FileNotFoundError):
            if mark == self._path.stat().st_size > _LONG:
                os.truncate(self._path, 0)

    def append(self, entry: Entry) -> None:
        data = to_json(entry).encode() + b"\n"
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)

    def read(self) -> list[Entry]:
        before = self._at
        found, self._at = read_stream(self._path, self._at)
        if self._mark and self._at != before:
            with contextlib.suppress(OSError):  # then the next reader sees some entries twice
                write_json(self._mark, self._at)
        return found


def read_stream(path: Path, at: int) -> tuple[list[Entry], int]:
    """The entries of a stream's file from byte ``at`` on, and where the next ones begin."""
    try:
        size = path.stat().st_size
        if size < at:
            at = 0  # its writer has begun anew
        if size <= at:
            return [], at
        with open(path, "rb") as f:
            f.seek(at)
            data = f.read()
    except FileNotFoundError:
        return [], at
    whole = data.rfind(b"\n") + 1  # a line still being written is left for the next call
    found = []
    for line in data[:whole].splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue  # a crash or a full disk has cut the line; the bus may lose an entry
        if isinstance(entry, dict):
            found.append(entry)
    return found, at + whole


class FileSiteBus:
    """Embedded bus, a site's end."""

    def __init__(self, site_dir: Path, generation: int) -> None:
        self._dir = site_dir / "bus"
        self._dir.mkdir(parents=True, exist_ok=True)
        self._generation = generation
        self._commands = _Stream(self._dir / "commands.jsonl")
        self._events = _Stream(self._dir / "events.jsonl")
        self._events.forget_what_was_read()

    def commands(self) -> list[Entry]:
        # Commands for an earlier life of the site are not for this one.
        return [c for c in self._commands.read() if c.get("generation") == self._generation]

    def emit(self, entry: Entry) -> None:
        self._events.append({**entry, "generation": self._generation})

    def set(self, register: str, value: Entry) -> None:
        write_json(self._dir / f"site-{register}.json", {**value, "generation": self._generation})

    def get(self, register: str) -> Entry | None:
        value = read_json(self._dir / f"run-{register}.json")
        return value if isinstance(value, dict) else None

    def close(self) -> None:
        return None


class FileRelay:
    """Embedded bus, one site's end as the endpoint has it: for a site on another machine, which asks over the network."""

    def __init__(self, site_dir: Path) -> None:
        self._dir = site_dir / "bus"

    def commands(self, at: int, generation: int) -> tuple[list[Entry], int]:
        """Commands for a generation from byte ``at`` of the stream on, and where the next ones begin."""
        found, at = read_stream(self._dir / "commands.jsonl", at)
        return [c for c in found if c.get("generation") == generation], at

    def registers(self) -> dict[str, Entry]:
        """What the coordinator has set, by register."""
        found = {}
        for path in sorted(self._dir.glob("run-*.json")):
            value = read_json(path)
            if isinstance(value, dict):
                found[path.stem.removeprefix("run-")] = value
        return found

    def take(self, generation: int, entries: Iterable[Entry], registers: Mapping[str, Entry], *, life: str, batch: int) -> None:
        """Append a site's entries and set its registers. What has been taken before, by the number of its ``batch``, is not again.

        ``life`` tells the site's processes apart, each of which counts from 1.
        """
        self._dir.mkdir(parents=True, exist_ok=True)
        mark = self._dir / "taken.json"
        taken = read_json(mark)
        if not isinstance(taken, dict) or taken.get("life") != life or not isinstance(taken.get("batch"), int):
            taken = {"batch": 0}
            _Stream(self._dir / "events.jsonl").forget_what_was_read()
        if batch > taken["batch"]:
            stream = _Stream(self._dir / "events.jsonl")
            for entry in entries:
                stream.append({**entry, "generation": generation})
            write_json(mark, {"life": life, "batch": batch})
        for register, value in registers.items():
            write_json(self._dir / f"site-{register}.json", {**value, "generation": generation})


class FileBus:
    """Embedded bus, the coordinator's end."""

    def __init__(self, sites_dir: Path) -> None:
        self._root = sites_dir
        self._events: dict[str, _Stream] = {}
        self._commands: dict[str, _Stream] = {}

    def _folder(self, site: str) -> Path:
        folder = self._root / site / "bus"
        if site not in self._events:
            folder.mkdir(parents=True, exist_ok=True)
            self._events[site] = _Stream(folder / "events.jsonl", remembered=True)
            self._commands[site] = _Stream(folder / "commands.jsonl")
        return folder

    def send(self, site: str, command: Entry) -> None:
        self._folder(site)
        self._commands[site].append(command)

    def poll(self, site: str) -> list[Entry]:
        self._folder(site)
        return self._events[site].read()

    def set(self, site: str, register: str, value: Entry) -> None:
        write_json(self._folder(site) / f"run-{register}.json", value)

    def get(self, site: str, register: str) -> Entry | None:
        value = read_json(self._folder(site) / f"site-{register}.json")
        return value if isinstance(value, dict) else None

    def health(self) -> str:
        return ""

    def close(self) -> None:
        return None


class MemoryBus:
    """Both ends in one process, for tests. ``site(name, generation)`` gives a site's end."""

    def __init__(self) -> None:
        self._commands: dict[str, list[Entry]] = {}
        self._events: dict[str, list[Entry]] = {}
        self._registers: dict[tuple[str, str, str], Entry] = {}

    def send(self, site: str, command: Entry) -> None:
        self._commands.setdefault(site, []).append(command)

    def poll(self, site: str) -> list[Entry]:
        return self._events.pop(site, [])

    def set(self, site: str, register: str, value: Entry) -> None:
        self._registers[(site, "run", register)] = value

    def get(self, site: str, register: str) -> Entry | None:
        return self._registers.get((site, "site", register))

    def health(self) -> str:
        return ""

    def close(self) -> None:
        return None

    def site(self, name: str, generation: int) -> MemorySiteBus:
        """A site's end."""
        return MemorySiteBus(self, name, generation)


class MemorySiteBus:
    """A site's end of a ``MemoryBus``."""

    def __init__(self, bus: MemoryBus, site: str, generation: int) -> None:
        self._bus, self._site, self._generation = bus, site, generation
        self._at = 0

    def commands(self) -> list[Entry]:
        entries = self._bus._commands.get(self._site, [])
        new, self._at = entries[self._at :], len(entries)
        return [c for c in new if c.get("generation") == self._generation]

    def emit(self, entry: Entry) -> None:
        self._bus._events.setdefault(self._site, []).append({**entry, "generation": self._generation})

    def set(self, register: str, value: Entry) -> None:
        self._bus._registers[(self._site, "site", register)] = {**value, "generation": self._generation}

    def get(self, register: str) -> Entry | None:
        return self._bus._registers.get((self._site, "run", register))

    def close(self) -> None:
        return None


#: Registers by which replayed time is granted and reported.
_PACE = {"clock", "progress"}


class PacedBus:
    """The coordinator's end on a gated clock: run time is granted by file, everything else goes over ``bus``.

    Replayed time must not depend on a bus that may fail: it is part of the simulation, not of what is tried in it.
    """

    def __init__(self, bus: Bus, files: FileBus) -> None:
        self._bus, self._files = bus, files

    def send(self, site: str, command: Entry) -> None:
        self._bus.send(site, command)

    def poll(self, site: str) -> list[Entry]:
        return self._bus.poll(site)

    def set(self, site: str, register: str, value: Entry) -> None:
        (self._files if register in _PACE else self._bus).set(site, register, value)

    def get(self, site: str, register: str) -> Entry | None:
        return (self._files if register in _PACE else self._bus).get(site, register)

    def health(self) -> str:
        return self._bus.health()

    def close(self) -> None:
        self._bus.close()


class PacedSiteBus:
    """A site's end of a ``PacedBus``."""

    def __init__(self, bus: SiteBus, files: SiteBus) -> None:
        self._bus, self._files = bus, files

    def commands(self) -> list[Entry]:
        return self._bus.commands()

    def emit(self, entry: Entry) -> None:
        self._bus.emit(entry)

    def set(self, register: str, value: Entry) -> None:
        (self._files if register in _PACE else self._bus).set(register, value)

    def get(self, register: str) -> Entry | None:
        return (self._files if register in _PACE else self._bus).get(register)

    def close(self) -> None:
        self._bus.close()
        self._files.close()
