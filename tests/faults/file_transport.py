"""Messages between processes without Flower: files in the sites' own folders. A node is a living agent."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from windfall import clock
from windfall.errors import DataError
from windfall.processes import start_time
from windfall.store.files import Envelope, read_json, write_json
from windfall.wire.transport import FileMailbox, Reply

_NODE = "node.json"


def join(folder: Path, site: str, generation: int) -> None:
    """This process is the site's node from now on."""
    write_json(folder / _NODE, {"node": f"{site}-{generation}-{os.getpid()}", "pid": os.getpid(), "born": start_time(os.getpid())})


class FileTransport:
    """The coordinator's side. Implements ``federation.transport.Transport``."""

    failure = ""

    def __init__(self, sites: Path) -> None:
        self._sites = sites
        self._count = itertools.count()
        self._open: dict[str, tuple[str, Path]] = {}  # message -> node, folder

    def _folders(self) -> dict[str, Path]:
        found = {}
        for file in self._sites.glob(f"*/{_NODE}"):
            said = read_json(file)
            if said and start_time(said["pid"]) == said["born"]:
                found[str(said["node"])] = file.parent
        return found

    def nodes(self) -> set[str]:
        return set(self._folders())

    def push(self, node: str, envelope: Envelope) -> str:
        name = f"{int(clock.wall() * 1e6):020d}-{os.getpid()}-{next(self._count)}"
        folder = self._folders().get(node)
        self._open[name] = (node, folder or self._sites)
        if folder:
            envelope.save(FileMailbox(folder).inbox / f"{name}.env")
        return name

    def poll(self) -> list[Reply]:
        found, living = [], self._folders()
        for name, (node, folder) in list(self._open.items()):
            answer = folder / "answers" / f"{name}.env"
            if answer.exists():
                try:
                    found.append(Reply(name, node, Envelope.load(answer)))
                except DataError as e:
                    found.append(Reply(name, node, None, f"unreadable reply: {e}"))
                answer.unlink()
            elif node in living:
                continue
            else:
                found.append(Reply(name, node, None, "Node Unavailable"))
            del self._open[name]
        return found

    def close(self) -> None:
        return None
