"""The coordinator of a tree."""

from __future__ import annotations

import sys
from pathlib import Path

from faults.file_transport import FileTransport
from faults.tree import command
from windfall.run import coordinator

if __name__ == "__main__":
    sites = Path(sys.argv[1]) / "sites"
    sys.exit(coordinator.main(sys.argv[1:], connect=lambda _: FileTransport(sites), agent=command("agent")))
