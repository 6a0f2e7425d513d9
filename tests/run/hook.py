"""A webhook on this machine: a real server, which answers as it is told and keeps what it was sent."""

from __future__ import annotations

import json
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class HookAnswer:
    """What one message gets. ``held``: not before this is set."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str = "ok"
    held: threading.Event | None = None


class Hook:
    """Answers are used up one after the other; then everything is taken."""

    def __init__(self, *answers: HookAnswer) -> None:
        self.answers = deque(answers)
        self.got: list[tuple[str, dict[str, str], Any]] = []
        self.came = threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with outer.came:
                    outer.got.append((self.path, {k.lower(): v for k, v in self.headers.items()}, json.loads(body)))
                    answer = outer.answers.popleft() if outer.answers else HookAnswer()
                    outer.came.notify_all()
                if answer.held is not None:
                    answer.held.wait()
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body.encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook/T0PSECRET"

    def __enter__(self) -> Hook:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wait(self, n: int) -> list[Any]:
        """The first ``n`` messages, once they are there."""
        with self.came:
            self.came.wait_for(lambda: len(self.got) >= n)
            return [body for _, _, body in self.got[:n]]
