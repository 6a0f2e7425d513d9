"""For tests of the bulk transport: a server in a thread, and a relay that cuts connections."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from patience import PATIENCE_S
from windfall import clock
from windfall.store.records import Token
from windfall.wire.bulk import Shelf
from windfall.wire.bulk_client import BulkClient
from windfall.wire.bulk_server import BulkServer, Limits, serving

TOKENS = {("a", 1): "a-old" * 8, ("a", 2): "a-new" * 8, ("b", 1): "b-new" * 8}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def some_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


class Server:
    """A bulk server on a port of its own, which it keeps."""

    def __init__(self, root: Path, limits: Limits | None = None) -> None:
        self.shelf = Shelf(root)
        self.bulk = BulkServer(self.shelf, self.tokens, limits or Limits(reserve_bytes=0))
        self._socket = self._listen(0)
        self.port = int(self._socket.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def tokens(self) -> list[Token]:
        current = {"a": 2, "b": 1}
        return [Token(s, g, digest(t.encode()), current[s] == g) for (s, g), t in TOKENS.items()]

    @staticmethod
    def _listen(port: int) -> socket.socket:
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", port))
        return s

    def start(self) -> None:
        self._server = serving(self.bulk.app(), "127.0.0.1", self.port)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})
        self._thread.start()
        until(lambda: self._server.started)

    def stop(self) -> None:
        """End it at once, with the connections that it has."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        self._socket.close()

    def again(self) -> None:
        self._socket = self._listen(self.port)
        self.start()

    def offer(self, site: str, data: bytes) -> str:
        folder = self.shelf.offered(site)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / digest(data)).write_bytes(data)
        return digest(data)

    def client(self, site: str = "a", generation: int = 2, *, url: str = "", bandwidth_mbit_s: float | None = None) -> BulkClient:
        return BulkClient(url or self.url, TOKENS[site, generation], wait_s=0.001, bandwidth_mbit_s=bandwidth_mbit_s)


@contextlib.contextmanager
def running(root: Path, limits: Limits | None = None) -> Iterator[Server]:
    server = Server(root, limits)
    try:
        yield server
    finally:
        server.stop()


class Relay:
    """Passes connections on to ``port``; the first one is cut after so many bytes ``up`` or ``down``."""

    def __init__(self, port: int, *, up: int | None = None, down: int | None = None) -> None:
        self._port = port
        self._cuts = [(up, down)]
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            far = socket.create_connection(("127.0.0.1", self._port))
            up, down = self._cuts.pop() if self._cuts else (None, None)
            for source, target, left in ((near, far, up), (far, near, down)):
                threading.Thread(target=self._pass, args=(source, target, left), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket, left: int | None) -> None:
        with contextlib.suppress(OSError):
            while left is None or left > 0:
                data = source.recv(65536 if left is None else min(65536, left))
                if not data:
                    break
                target.sendall(data)
                left = None if left is None else left - len(data)
        for s in (source, target):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            s.close()


def until(true: object) -> None:
    """Wait until ``true()``."""
    deadline = clock.monotonic() + PATIENCE_S
    while not true():  # type: ignore[operator]
        assert clock.monotonic() < deadline
        clock.pause(0.002)
