"""Talks to Redis from a thread of its own, so that no other thread waits for it: connection, back-off and health.

Keys of a run begin with ``windfall:RUN_ID:``. The password comes from the environment, or is the site's own, never from the URL.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import redis

from windfall import clock
from windfall.store.redis_access import PASSWORD as PASSWORD
from windfall.store.redis_access import Login

_CONNECT_S, _ANSWER_S = 3.0, 5.0
_BACK_OFF_S, _BACK_OFF_MAX_S = 0.1, 2.0
#: A request that takes longer than this (s) is reported as trouble.
_SLOW_S = 2.0


def where(url: str) -> str:
    """Host and port of a URL, for messages."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 6379}"


def connect(url: str, login: Login | None = None) -> redis.Redis:
    """A client that neither retries by itself nor waits long. It connects at its first request. ``login``: a site's own."""
    who: dict[str, Any] = {"password": os.environ.get(PASSWORD) or None}
    if login is not None:
        who = {"username": login.user, "password": login.password, **({"ssl_ca_data": login.ca} if login.ca else {})}
    return redis.Redis.from_url(
        url, **who, decode_responses=True, protocol=2, retry=None, socket_connect_timeout=_CONNECT_S, socket_timeout=_ANSWER_S,
    )  # fmt: skip


def why(error: Exception, url: str, login: Login | None = None) -> str:
    """What a Redis error means."""
    if isinstance(error, redis.exceptions.NoPermissionError):
        return f"Redis at {where(url)} does not let this account do what it has to: {error}"
    if isinstance(error, redis.AuthenticationError):
        if login is not None:
            return f"Redis at {where(url)} does not let this site's user in; it was revoked, or this life of the site is over"
        return f"Redis at {where(url)} refuses the password; set {PASSWORD} to the right one"
    if isinstance(error, redis.TimeoutError):
        return f"Redis at {where(url)} does not answer in time"
    if isinstance(error, redis.ConnectionError | OSError):
        return f"Redis at {where(url)} cannot be reached"
    return f"Redis at {where(url)} answers with an error: {error}"


class RedisThread:
    """Calls ``cycle(client)`` again and again in a thread, as soon as it has been woken but not more often than ``pause_s``."""

    def __init__(self, url: str, name: str, cycle: Callable[[Any], None], *, pause_s: float, login: Login | None = None) -> None:
        self._url, self._login = url, login
        self._cycle = cycle
        self._pause_s = pause_s
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._error = ""
        self._asking_since: float | None = None
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    def trouble(self) -> str:
        """Why Redis is of no use at present, or an empty string."""
        asking = self._asking_since
        if not self._thread.is_alive() and not self._stop.is_set():
            return f"the thread that speaks to Redis at {where(self._url)} has ended"
        if self._error:
            return self._error
        if asking is not None and clock.monotonic() - asking > _SLOW_S:
            return f"Redis at {where(self._url)} does not answer"
        return ""

    def close(self, last_s: float = 1.0) -> None:
        """Run the cycle a last time if there is something to do, wait at most ``last_s`` for it, and end."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=last_s)

    def _serve(self) -> None:
        client = connect(self._url, self._login)
        back_off = _BACK_OFF_S
        while True:
            self._wake.wait()
            self._wake.clear()
            stopping = self._stop.is_set()
            try:
                self._asking_since = clock.monotonic()
                self._cycle(client)
                self._error, back_off = "", _BACK_OFF_S
                wait = self._pause_s
            except (redis.RedisError, OSError, ValueError) as e:  # ValueError: a value in Redis is not UTF-8 text
                self._error = why(e, self._url, self._login)
                client.close()
                client = connect(self._url, self._login)
                wait, back_off = back_off, min(_BACK_OFF_MAX_S, 2 * back_off)
                self._wake.set()
            finally:
                self._asking_since = None
            if stopping:
                client.close()
                return
            self._stop.wait(wait)
