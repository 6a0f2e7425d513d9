"""The API server's socket: HTTP/1.1, with TLS if asked for, a thread per connection."""

from __future__ import annotations

import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kubernetes.double.routes import Dropped, Request, Response, Routes


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A head and a body in two small packets would otherwise wait for each other.
    disable_nagle_algorithm = True
    wbufsize = -1
    routes: Routes

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        headers = {k.lower(): v for k, v in self.headers.items()}
        try:
            self._send(self.routes.handle(Request.of(self.command, self.path, headers, body)))
        except Dropped:
            self._hang_up()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if response.stream is None:
            self.send_header("Content-Length", str(len(response.body)))
            self.end_headers()
            self.wfile.write(response.body)
            self.wfile.flush()
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        for piece in response.stream:
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _hang_up(self) -> None:
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def log_message(self, format: str, *args: Any) -> None:
        """Clients say what went wrong; nobody reads a log of it."""


class _Sockets(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, routes: Routes, address: tuple[str, int], tls: ssl.SSLContext | None) -> None:
        super().__init__(address, type("Handler", (_Handler,), {"routes": routes}))
        self._tls = tls
        self._open: set[socket.socket] = set()

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is no trouble of the server's."""

    def hang_up(self) -> None:
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class Server:
    """Listens from `start` to `stop`, and again at the same port: an API server that was away."""

    def __init__(self, routes: Routes, *, tls: ssl.SSLContext | None = None) -> None:
        self._routes = routes
        self._tls = tls
        self._port = 0
        self._sockets: _Sockets | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    def start(self) -> str:
        self._routes.stopping = False
        self._sockets = _Sockets(self._routes, ("127.0.0.1", self._port), self._tls)
        self._port = self._sockets.server_address[1]
        self._thread = threading.Thread(target=self._sockets.serve_forever, args=(0.05,), name="apiserver", daemon=True)
        self._thread.start()
        return self.url

    def stop(self) -> None:
        if self._sockets is None or self._thread is None:
            return
        self._routes.stopping = True
        with self._routes.api.store.changed:
            self._routes.api.store.changed.notify_all()
        self._sockets.shutdown()
        self._sockets.hang_up()
        self._sockets.server_close()
        self._thread.join()
        self._sockets = None
