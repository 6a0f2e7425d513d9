"""Sends alerts to a webhook, from a thread of its own: whoever tells of one never waits for the network.

A webhook that is away is tried again, later and later; what waits meanwhile is bounded, and of too much the oldest is let go.
Addresses and headers are secrets by reference, read anew for each message. A redirect is not followed: credentials would go along.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from windfall import clock
from windfall.config.alerts import AlertsTable
from windfall.errors import SignalError, Transient, Unauthorized
from windfall.grid.credentials import by_reference
from windfall.grid.http import Http, TryLater, backoff_s, host_of, url_secrets

#: So many messages wait at most.
_MOST = 100
_BACKOFF_S, _BACKOFF_MOST_S = 2.0, 300.0

Message = Mapping[str, Any]


class Webhook:
    """Where the table `[alerts]` says that alerts go."""

    def __init__(self, table: AlertsTable) -> None:
        self._table = table
        self._http = Http("alerts", timeout_s=table.timeout_s)

    def send(self, message: Message) -> None:
        """Send one message, once.

        Raises:
            TryLater: the same may succeed later.
            Unauthorized: the address or a header is not there, or access is refused.
            SignalError: it is not taken so, or sent on to elsewhere.
        """
        url = self.address()
        headers = {name: by_reference(where, f"alerts.headers.{name}") for name, where in self._table.headers.items()}
        self._http.hide(*headers.values(), *url_secrets(url))
        if url != self._table.webhook:  # it is a secret from its path on
            self._http.hide(url, url.split(host_of(url), 1)[-1])
        body = {"text": slack_text(message)} if self._table.format == "slack" else dict(message)
        self._http.post(url, body, headers=headers)

    def address(self) -> str:
        """The address. Raises Unauthorized if it is not where the table says."""
        where = self._table.webhook or ""
        return by_reference(where, "alerts.webhook") if where.startswith(("env:", "file:")) else where

    def close(self) -> None:
        """Let go of connections."""
        self._http.close()


def missing(table: AlertsTable) -> list[str]:
    """What `[alerts]` names and is not there, a sentence each; of a table that is wrong, of what is right in it."""
    headers = getattr(table, "headers", {})
    named = {"alerts.webhook": getattr(table, "webhook", None) or "", **{f"alerts.headers.{k}": v for k, v in headers.items()}}
    found = []
    for key, where in named.items():
        try:
            if where.startswith(("env:", "file:")):
                by_reference(where, key)
        except Unauthorized as e:
            found.append(f"{e}; alerts are kept as events, and not sent")
    return found


def slack_text(message: Message) -> str:
    """The text of a message, in which nothing means more to Slack than it says."""
    text = f"{message['name']}: {message['text']}"
    text = f"over: {text}" if message["state"] == "over" else text
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class Sender:
    """The thread."""

    def __init__(
        self, send: Callable[[Message], None], *, base_s: float = _BACKOFF_S, most: int = _MOST, rng: random.Random | None = None
    ) -> None:
        self._send = send
        self._base_s = base_s
        self._rng = rng or random.Random()
        self._waiting: deque[Message] = deque()
        self._most = most
        self._there = threading.Condition()
        self._closed = threading.Event()
        #: Why alerts cannot be sent now, or empty; and how many were let go of, in all.
        self.trouble = ""
        self.let_go = 0
        self._thread = threading.Thread(target=self._work, name="alerts", daemon=True)
        self._thread.start()

    def put(self, message: Message) -> None:
        """Have a message sent. It never waits."""
        with self._there:
            if len(self._waiting) >= self._most:
                self._waiting.popleft()
                self.let_go += 1
            self._waiting.append(message)
            self._there.notify_all()

    def close(self, patience_s: float = 5.0) -> None:
        """End; while nothing is wrong what waits is still sent, for ``patience_s`` at most (wall time)."""
        until = clock.monotonic() + patience_s
        with self._there:
            while self._waiting and not self.trouble and (left := until - clock.monotonic()) > 0:
                self._there.wait(min(left, 0.1))
            self._closed.set()
            self._there.notify_all()

    def _work(self) -> None:
        while True:
            with self._there:
                while not self._waiting and not self._closed.is_set():
                    self._there.wait()
                if self._closed.is_set():
                    return
                message = self._waiting[0]
            self._deliver(message)
            with self._there:
                if self._waiting and self._waiting[0] is message:
                    self._waiting.popleft()
                self._there.notify_all()

    def _deliver(self, message: Message) -> None:
        failures = 0
        while not self._closed.is_set():
            try:
                self._send(message)
            except Transient as e:
                failures += 1
                self.trouble = str(e)
                after = e.retry_after_s if isinstance(e, TryLater) else None
                self._closed.wait(backoff_s(failures, self._base_s, self._rng, cap_s=_BACKOFF_MOST_S, at_least_s=after))
            except (SignalError, Unauthorized) as e:
                self.trouble = str(e)
                self.let_go += 1
                return
            else:
                self.trouble = ""
                return
