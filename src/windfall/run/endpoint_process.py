"""``python -m windfall.run.endpoint_process RUN_DIR PORT``: what a run serves to its sites.

It reads the ledger (tokens) and writes nothing but what sites send. It knows nothing of messages and of what files mean.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from windfall.errors import StoreError
from windfall.store.files import read_json
from windfall.store.ledger import Ledger
from windfall.store.records import Token
from windfall.store.residents import revoked_lives
from windfall.store.rundir import RunDir
from windfall.wire.bulk import Shelf
from windfall.wire.bulk_server import BulkServer, Limits, application, serving
from windfall.wire.bus_server import BusServer
from windfall.wire.start_server import StartServer

#: No file of a run is larger than so many times its model, and this.
_TIMES_THE_MODEL, _AND_BYTES = 8, 1 << 30
#: Of Flower's requests, which carry at most one of its pieces of a message.
_LARGEST_MESSAGE = 64 * 2**20


class Shared:
    """Files that are offered to every site, as the coordinator has written them down: by the SHA-256 of their bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[int, int] = (0, 0)
        self._files: dict[str, Path] = {}

    def __call__(self) -> dict[str, Path]:
        """All of them now."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return {}
        if (stat.st_mtime_ns, stat.st_ino) != self._read:
            self._read = stat.st_mtime_ns, stat.st_ino
            self._files = {name: Path(path) for name, path in (read_json(self._path) or {}).items()}
        return self._files


class Tokens:
    """The tokens in a run's ledger, read anew each time, and which of them have been revoked since."""

    def __init__(self, path: Path, sites_dir: Path) -> None:
        self._path, self._sites = path, sites_dir
        self._ledger: Ledger | None = None

    def __call__(self) -> list[Token]:
        """All that are known. Raises StoreError if they cannot be read now."""
        if self._ledger is None:
            self._ledger = Ledger.open(self._path, read_only=True)
        try:
            found = self._ledger.tokens()
        except StoreError:
            self._ledger.close()
            self._ledger = None
            raise
        upto = {t.site: revoked_lives(self._sites, t.site) for t in found}
        return [replace(t, revoked=True) if t.generation <= upto[t.site] else t for t in found]


def main(argv: list[str] | None = None) -> int:
    """Serve until told to end."""
    root, port = (argv or sys.argv[1:])[:2]
    run = RunDir(Path(root))
    model = max((p.stat().st_size for p in run.checkpoints.glob("v*.safetensors")), default=0)
    limits = Limits(largest_bytes=_TIMES_THE_MODEL * model + _AND_BYTES)
    serves = read_json(run.served) or {}
    tokens = Tokens(run.ledger, run.sites)
    routes = BulkServer(Shelf(run.bulk), tokens, limits, Shared(run.shared)).routes()
    if serves.get("superlink_port"):
        routes += BusServer(run.sites, tokens, lambda: server.should_exit).routes()
        routes += StartServer(run.sites, tokens, serves["residents"], lambda: server.should_exit).routes()
        from windfall.wire.fleet_proxy import FleetProxy  # httpx, which a run whose sites are all here needs for nothing

        routes += FleetProxy(
            f"http://127.0.0.1:{serves['superlink_port']}", tokens, run.registrations, largest_bytes=_LARGEST_MESSAGE
        ).routes()
    tls = {"ssl_certfile": serves["certificate"], "ssl_keyfile": serves["key"]} if serves.get("certificate") else {}
    server = serving(application(routes), serves.get("host", "127.0.0.1"), int(port), **tls)
    server.run()
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
