"""``python -m windfall.run.bulk_process RUN_DIR PORT``: serves the large files of a run to its sites.

It reads the ledger (tokens) and writes nothing but what sites send. It knows nothing of messages and of what files mean.
"""

from __future__ import annotations

import sys
from pathlib import Path

from windfall.errors import StoreError
from windfall.store.ledger import Ledger
from windfall.store.records import Token
from windfall.store.rundir import RunDir
from windfall.wire.bulk import Shelf
from windfall.wire.bulk_server import BulkServer, Limits, serving

#: No file of a run is larger than so many times its model, and this.
_TIMES_THE_MODEL, _AND_BYTES = 8, 1 << 30


class Tokens:
    """The tokens in a run's ledger, read anew each time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ledger: Ledger | None = None

    def __call__(self) -> list[Token]:
        """All that are known. Raises StoreError if they cannot be read now."""
        if self._ledger is None:
            self._ledger = Ledger.open(self._path, read_only=True)
        try:
            return self._ledger.tokens()
        except StoreError:
            self._ledger.close()
            self._ledger = None
            raise


def main(argv: list[str] | None = None) -> int:
    """Serve until told to end."""
    root, port = (argv or sys.argv[1:])[:2]
    run = RunDir(Path(root))
    model = max((p.stat().st_size for p in run.checkpoints.glob("v*.safetensors")), default=0)
    limits = Limits(largest_bytes=_TIMES_THE_MODEL * model + _AND_BYTES)
    server = serving(BulkServer(Shelf(run.bulk), Tokens(run.ledger), limits).app(), "127.0.0.1", int(port))
    server.run()
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
