"""A VTN on this machine: a real HTTP server with programmes, events, reports and tokens, as OpenADR 3.0 specifies them."""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from listening import Listening, send
from windfall.units import iso_utc

CLIENT, SECRET = "ven-1", "s3cret/of+ven"


@dataclass
class Fault:
    """What the next request gets instead. ``path``: only one that begins so."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: str = '{"title": "no"}'
    path: str = "/"


def event(
    id: str,
    start: float,
    lasts_s: float = 3600.0,
    *,
    kind: str = "SIMPLE",
    value: Any = 1,
    changed: int = 0,
    count: int = 1,
    **more: Any,
) -> dict[str, Any]:
    """An event of ``count`` intervals that follow on one another."""
    return {
        "id": id, "objectType": "EVENT", "createdDateTime": "2026-01-01T00:00:00Z",
        "modificationDateTime": f"2026-01-01T00:00:{changed:02d}Z", "programID": "p-0", "eventName": id, "targets": None,
        "intervalPeriod": {"start": iso_utc(start), "duration": f"PT{lasts_s:.0f}S"},
        "intervals": [{"id": i, "payloads": [{"type": kind, "values": [value]}]} for i in range(count)], **more,
    }  # fmt: skip


class TestVtn(Listening):
    """The server. Tokens are counted, and `revoke` ends the present one."""

    __test__ = False

    def __init__(self) -> None:
        super().__init__("/openadr3/3.0.1")
        self.programs: list[dict[str, Any]] = [{"id": "p-0", "programName": "curtail"}]
        self.events: list[Any] = []
        #: As a VTN of 3.1: what has targets is given to who names one of them.
        self.hides_targeted = False
        #: Nobody is there: connections are ended without an answer.
        self.away = False
        self.reports: list[dict[str, Any]] = []
        self.faults: deque[Fault] = deque()
        self.asked: list[str] = []
        self.tokens = 0
        self.valid = ""
        self.came = threading.Condition()

    def revoke(self) -> None:
        self.valid = ""

    def wait(self, path: str, n: int = 1) -> None:
        """Until ``path`` has been asked ``n`` times more."""
        with self.came:
            already = sum(p.startswith(path) for p in self.asked)
            self.came.wait_for(lambda: sum(p.startswith(path) for p in self.asked) >= already + n)

    def handle(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        if self.away:
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        parts = urlsplit(handler.path)
        path = parts.path.removeprefix("/openadr3/3.0.1")
        query = {k: v[-1] for k, v in parse_qs(parts.query).items()}
        status, headers, said = self._say(handler, path, query, body)
        with self.came:
            self.asked.append(path + (f"?{parts.query}" if parts.query else ""))
            self.came.notify_all()
        send(handler, status, {"Content-Type": "application/json", **headers}, said)

    def _say(
        self, handler: BaseHTTPRequestHandler, path: str, query: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if self.faults and path.startswith(self.faults[0].path):
            fault = self.faults.popleft()
            return fault.status, fault.headers, fault.body.encode()

        def problem(status: int, title: str) -> tuple[int, dict[str, str], bytes]:
            return status, {}, json.dumps({"type": "about:blank", "title": title, "status": status}).encode()

        if path == "/auth/token":
            form = {k: v[-1] for k, v in parse_qs(body.decode()).items()}
            if handler.headers["Content-Type"] != "application/x-www-form-urlencoded":
                return problem(400, "invalid_request")
            if (form.get("grant_type"), form.get("client_id"), form.get("client_secret")) != ("client_credentials", CLIENT, SECRET):
                return problem(401, f"invalid_client {form.get('client_secret')}")
            self.tokens += 1
            self.valid = f"t{self.tokens}"
            return 200, {}, json.dumps({"access_token": self.valid, "token_type": "bearer", "expires_in": 3600}).encode()
        if not self.valid or handler.headers.get("Authorization") != f"Bearer {self.valid}":
            return problem(401, "no such token")
        if path == "/reports" and handler.command == "POST":
            report = json.loads(body)
            if lacks := [k for k in ("programID", "eventID", "clientName", "resources") if k not in report]:
                return problem(400, f"{lacks} missing")
            self.reports.append(report)
            return 201, {}, json.dumps({"id": f"r-{len(self.reports)}", **report}).encode()
        found = self.programs if path == "/programs" else self.events if path == "/events" else None
        if found is None or (path == "/events" and query.get("programID") not in {p.get("id") for p in self.programs}):
            return problem(404, "not found")
        if self.hides_targeted:
            target = query.get("targets")
            found = [o for o in found if target in (o.get("targets") or [None])]
        limit, skip = int(query.get("limit", 50)), int(query.get("skip", 0))
        if limit > 50:
            return problem(400, "limit is 50 at most")
        return 200, {}, json.dumps(found[skip : skip + limit]).encode()
