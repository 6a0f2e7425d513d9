"""A site's agent in a tree."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from faults.file_transport import join
from windfall.site import agent


class TreeAgent(agent.Agent):
    """Its SuperNode is itself."""

    def __init__(self, folder: Path, site: dict[str, Any]) -> None:
        super().__init__(folder, site)
        join(folder, site["site"], site["generation"])

    def trainer_command(self) -> list[str]:
        return [sys.executable, "-m", "faults.trainer", str(self._folder)]

    def node_command(self) -> list[str]:
        return ["sleep", "1000000"]


if __name__ == "__main__":
    sys.exit(agent.main(sys.argv[1:], make=TreeAgent))
