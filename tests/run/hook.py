"""A webhook on this machine: a real server, which answers as it is told and keeps what it was sent."""

from __future__ import annotations

import json
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from listening import Listening, send


@dataclass
class HookAnswer:
    """What one message gets. ``held``: not before this is set."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str = "ok"
    held: threading.Event | None = None


class Hook(Listening):
    """Answers are used up one after the other; then everything is taken."""

    def __init__(self, *answers: HookAnswer) -> None:
        super().__init__("/hook/T0PSECRET")
        self.answers = deque(answers)
        self.got: list[tuple[str, dict[str, str], Any]] = []
        self.came = threading.Condition()

    def handle(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        with self.came:
            self.got.append((handler.path, {k.lower(): v for k, v in handler.headers.items()}, json.loads(body)))
            answer = self.answers.popleft() if self.answers else HookAnswer()
            self.came.notify_all()
        if answer.held is not None:
            answer.held.wait()
        send(handler, answer.status, answer.headers, answer.body.encode())

    def wait(self, n: int) -> list[Any]:
        """The first ``n`` messages, once they are there."""
        with self.came:
            self.came.wait_for(lambda: len(self.got) >= n)
            return [body for _, _, body in self.got[:n]]
