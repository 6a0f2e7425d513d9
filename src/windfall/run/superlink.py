"""The SuperLink of a run: one process beside the coordinator, with a database that outlives it.

It keeps its port and its database from start to start, so that sites find it again, and messages under way survive it
(FACTS of Flower 1.41: nodes, runs and replies come back with the database).
"""

from __future__ import annotations

import sys
from pathlib import Path

from windfall.run.kept import KeptProcess
from windfall.wire.flower_environment import flower_environment


class SuperLink(KeptProcess):
    """Flower's server."""

    called = "the SuperLink"
    folder_name, port_name, log_name = "flower", "superlink.json", "superlink.log"
    port_key = "federation.port"

    def command(self) -> list[str]:
        return [
            str(Path(sys.executable).parent / "flower-superlink"), "--insecure", "--isolation", "process",
            "--disable-runtime-dependency-installation", "--host", "127.0.0.1", "--port", str(self.port),
            # Given as a URL without a path. From a path Flower would make a URL, in which `?` and `%` have a meaning.
            "--database", "sqlite:///superlink.db",
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        return flower_environment(str(self._folder.resolve()))

    def set_aside(self) -> None:
        for part in self._folder.glob("superlink.db*"):
            part.replace(part.with_name(f"damaged-{part.name}"))
