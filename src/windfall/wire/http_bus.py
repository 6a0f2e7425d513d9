"""The bus over HTTP, a site's end. It only ever connects outwards, so it works behind NAT and proxies.

Two threads carry everything, so that no call waits for the network: one asks for news and is kept waiting until there are some, one
sends what has gathered since its last request.
"""

from __future__ import annotations

import secrets
import ssl
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

import httpx

from windfall import clock, proxies
from windfall.errors import TransferError
from windfall.store.bus import Entry
from windfall.store.files import to_json

#: How long a request for news is kept waiting, and how much longer an answer may take.
_NEWS_S, _TIMEOUT_S = 25, 10.0
#: The wait after a failure, doubling up to the longest.
_WAIT_S, _LONGEST_WAIT_S = 0.2, 5.0
#: Entries sent at once, and those kept while nobody can be reached: of more the oldest are lost, as a bus may lose entries.
_AT_ONCE, _BYTES_AT_ONCE, _KEPT = 500, 500_000, 10_000
#: Between two requests, so that what comes together goes together.
_GATHER_S = 0.05
#: How long the end of a site waits for its last words to be taken.
_LAST_WORDS_S = 3.0


class HttpSiteBus:
    """Implements ``store.bus.SiteBus``."""

    def __init__(
        self, url: str, token: str, *, verify: bool | ssl.SSLContext = True, environ: Mapping[str, str] | None = None
    ) -> None:
        """``url`` of the run's endpoint. Raises TransferError if the proxy that leads to it cannot be used."""
        way = proxies.way(url, environ)
        if way.fault:
            raise TransferError(f"{url} cannot be asked: {way.fault}")
        self._url = f"{url.rstrip('/')}/bus"
        self._client = httpx.Client(
            timeout=httpx.Timeout(_TIMEOUT_S, read=_NEWS_S + _TIMEOUT_S), proxy=way.proxy, trust_env=False, follow_redirects=False,
            verify=verify if url.startswith("https:") else False,
            headers={"Authorization": f"Bearer {token}", "User-Agent": "windfall"},
        )  # fmt: skip
        self._changed = threading.Condition()
        self._commands: deque[Entry] = deque()
        self._registers: dict[str, Entry] = {}
        self._entries: deque[Entry] = deque(maxlen=_KEPT)
        self._to_set: dict[str, Entry] = {}
        self._life, self._batch = secrets.token_hex(8), 0
        self._closed = threading.Event()
        #: Why nothing passes at present, or an empty string.
        self.trouble = ""
        self._threads = [threading.Thread(target=t, name=f"bus {t.__name__}", daemon=True) for t in (self._listen, self._speak)]
        for thread in self._threads:
            thread.start()

    # -- what the site calls ---------------------------------------------------------------------------------

    def commands(self) -> list[Entry]:
        with self._changed:
            found = list(self._commands)
            self._commands.clear()
        return found

    def emit(self, entry: Entry) -> None:
        with self._changed:
            self._entries.append(entry)
            self._changed.notify()

    def set(self, register: str, value: Entry) -> None:
        with self._changed:
            self._to_set[register] = value
            self._changed.notify()

    def get(self, register: str) -> Entry | None:
        with self._changed:
            return self._registers.get(register)

    def close(self) -> None:
        self._closed.set()
        with self._changed:
            self._changed.notify()
        self._threads[1].join(_LAST_WORDS_S)
        self._client.close()

    # -- the two threads -------------------------------------------------------------------------------------

    def _listen(self) -> None:
        at, tag, wait_s = 0, "", _WAIT_S
        while not self._closed.is_set():
            try:
                answer = self._client.get(self._url, params={"at": at, "tag": tag, "wait_s": _NEWS_S})
                news = self._understood(answer)
            except (httpx.HTTPError, RuntimeError) as e:  # RuntimeError: the client has been closed
                self.trouble = f"{self._url} does not answer ({type(e).__name__})"
                news = None
            if news is None:
                self._closed.wait(wait_s)
                wait_s = min(_LONGEST_WAIT_S, 2 * wait_s)
                continue
            wait_s, self.trouble = _WAIT_S, ""
            at, tag = news["at"], news["tag"]
            with self._changed:
                self._commands.extend(news["commands"])
                if news["registers"] is not None:
                    self._registers = news["registers"]

    def _understood(self, answer: httpx.Response) -> dict[str, Any] | None:
        if answer.status_code != 200:
            self.trouble = f"{self._url} refuses: {' '.join(answer.text[:200].split())}"
            return None
        try:
            news = answer.json()
        except ValueError:
            news = None
        registers = news.get("registers") if isinstance(news, dict) else 0
        well = (
            isinstance(news, dict) and type(news.get("at")) is int and isinstance(news.get("tag"), str)
            and isinstance(news.get("commands"), list) and all(isinstance(c, dict) for c in news["commands"])
            and (registers is None or (isinstance(registers, dict) and all(isinstance(v, dict) for v in registers.values())))
        )  # fmt: skip
        if not well:
            self.trouble = f"{self._url} gives an answer that is none of an endpoint of Windfall"
            return None
        return dict(news)

    def _speak(self) -> None:
        wait_s = _WAIT_S
        while True:
            with self._changed:
                while not self._entries and not self._to_set and not self._closed.is_set():
                    self._changed.wait()
                if not self._entries and not self._to_set:
                    return
                entries = self._some()
                registers, self._to_set = self._to_set, {}
                self._batch += 1
            body = to_json({"life": self._life, "batch": self._batch, "entries": entries, "registers": registers}).encode()
            last = clock.monotonic() + _LAST_WORDS_S
            while not self._sent(body):
                if self._closed.wait(wait_s):
                    if clock.monotonic() > last:
                        return
                    clock.pause(_GATHER_S)
                wait_s = min(_LONGEST_WAIT_S, 2 * wait_s)
                with self._changed:  # of a register only the newest value counts
                    newer, self._to_set = self._to_set, {}
                if newer:
                    registers |= newer
                    body = to_json({"life": self._life, "batch": self._batch, "entries": entries, "registers": registers}).encode()
            wait_s = _WAIT_S
            self._closed.wait(_GATHER_S)

    def _some(self) -> list[Entry]:
        """Of what waits, as much as goes into a request."""
        found: list[Entry] = []
        size = 0
        while self._entries and len(found) < _AT_ONCE:
            size += len(to_json(self._entries[0]))
            if found and size > _BYTES_AT_ONCE:
                break
            found.append(self._entries.popleft())
        return found

    def _sent(self, body: bytes) -> bool:
        try:
            answer = self._client.post(self._url, content=body, headers={"Content-Type": "application/json"})
        except (httpx.HTTPError, RuntimeError):
            return False
        # What is refused for what it is would be refused again.
        return answer.status_code in (204, 400, 413)
