"""What a SuperNode on another machine says to the SuperLink goes through here: from this machine's loopback to the run's endpoint.

It goes by HTTPS and with the site's token, which the SuperNode itself never sees; through a proxy, if need be.
"""

from __future__ import annotations

import http.server
import os
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path

import httpx

from windfall import proxies
from windfall.errors import TransferError
from windfall.wire.fleet_proxy import FLEET

_TIMEOUT_S = 75.0
_DROPPED = {"connection", "keep-alive", "host", "transfer-encoding", "content-encoding", "content-length", "date", "server"}


class Tunnel:
    """Listens on a free port of the loopback, for processes of this user alone."""

    def __init__(
        self, endpoint: str, token: str, *, verify: bool | ssl.SSLContext = True, environ: Mapping[str, str] | None = None
    ) -> None:
        """Raises TransferError if the proxy that leads there cannot be used."""
        way = proxies.way(endpoint, environ)
        if way.fault:
            raise TransferError(f"{endpoint} cannot be asked: {way.fault}")
        client = httpx.Client(
            base_url=endpoint.rstrip("/"), timeout=_TIMEOUT_S, proxy=way.proxy, trust_env=False, follow_redirects=False,
            verify=verify if endpoint.startswith("https:") else False,
            headers={"Authorization": f"Bearer {token}", "Accept-Encoding": "identity", "User-Agent": "windfall"},
            limits=httpx.Limits(max_keepalive_connections=8),
        )  # fmt: skip
        self._client = client

        class Handler(_Handler):
            there = client

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="tunnel", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let nothing through any more."""
        self._server.shutdown()
        self._server.server_close()
        self._client.close()


class _Handler(http.server.BaseHTTPRequestHandler):
    there: httpx.Client
    server: http.server.ThreadingHTTPServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """A probe: whether the SuperLink is awake."""
        self._answer("GET", "/superlink", b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not self.path.startswith(FLEET) or not length.isdecimal():
            self.close_connection = True
            self.send_error(404)
            return
        self._answer("POST", self.path, self.rfile.read(int(length)))

    def _answer(self, method: str, path: str, body: bytes) -> None:
        if not _own_user(int(self.client_address[1]), self.server.server_port):
            self.close_connection = True
            self.send_error(403)
            return
        headers = [(k, v) for k, v in self.headers.items() if k.lower() not in _DROPPED]
        try:
            answer = self.there.request(method, path, content=body, headers=headers)
        except (httpx.HTTPError, RuntimeError):  # RuntimeError: the client has been closed
            self.close_connection = True  # to the SuperNode the SuperLink is away, and it tries again by itself
            return
        if method == "GET" and answer.status_code != 204:
            self.close_connection = True
            return
        try:
            self.send_response_only(answer.status_code)
            for name, value in answer.headers.items():
                if name.lower() not in _DROPPED:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        return None


def _own_user(port: int, ours: int) -> bool:
    """Whether a connection from this port of the loopback to ``ours`` is one of this user's processes (or cannot be told)."""
    try:
        lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return True
    for line in lines:
        fields = line.split()
        if fields[1] == f"0100007F:{port:04X}" and fields[2] == f"0100007F:{ours:04X}":
            return int(fields[7]) == os.getuid()
    return False
