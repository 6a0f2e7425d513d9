"""A real proxy on this machine that refuses everything, and the address of one that is dead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from windfall.wire.probe import free_port


class RefusingProxy:
    """Answers 403 to whatever it is asked for. ``asked``: what reached it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def refuse(self) -> None:
                outer.asked.append(f"{self.command} {self.path}")
                self.send_response(403, "Forbidden by the proxy")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST = do_CONNECT = refuse

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.url = f"http://wind:s3cret-proxy@127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """Every spelling of it."""
        names = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
        return {**dict.fromkeys(names, self.url), "no_proxy": "", "NO_PROXY": ""}


@contextmanager
def refusing_proxy() -> Iterator[RefusingProxy]:
    proxy = RefusingProxy()
    thread = Thread(target=proxy._server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy._server.shutdown()
        thread.join()
        proxy._server.server_close()


def dead_proxy() -> str:
    """An address at which nobody listens."""
    return f"http://127.0.0.1:{free_port()}"
