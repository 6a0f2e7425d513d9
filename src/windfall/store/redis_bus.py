"""The bus over Redis: Streams with consumer groups for commands and events, plain keys for registers.

Keys, after ``windfall:RUN_ID:``: ``instance`` (a token of the coordinator: without it Redis has forgotten everything),
``SITE:commands`` (group ``site``) and ``SITE:events`` (group ``run``), ``SITE:run:REGISTER``, ``SITE:site:REGISTER``.

Redis delivers at least once. Every entry has an identity, by which what comes twice is dropped. An entry is acknowledged when its
reader asks for more. When Redis comes back empty, the coordinator sends again what no site has acknowledged. What cannot be sent
waits in memory, within limits: the bus is an accelerator, not a truth.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections import OrderedDict, deque
from typing import Any

import redis

from windfall.store.bus import Entry
from windfall.store.files import to_json
from windfall.store.redis_access import Login, SiteUsers
from windfall.store.redis_link import RedisThread

#: Least time between two requests of one process.
_PAUSE_S = 0.05
#: At most so many entries wait while Redis cannot be reached; beyond that the oldest are dropped.
_WAITING = 20_000
#: About how many entries Redis keeps in a stream.
_KEPT = 50_000
_BATCH = 500
_REMEMBERED = 5_000


class _Seen:
    """The identities of the newest entries that have come."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def first(self, identity: str) -> bool:
        if identity in self._ids:
            return False
        self._ids[identity] = None
        if len(self._ids) > _REMEMBERED:
            self._ids.popitem(last=False)
        return True


class _StreamWriter:
    """Entries on their way into streams, each with an identity."""

    def __init__(self) -> None:
        self._source = secrets.token_hex(6)
        self._count = 0
        self.waiting: deque[tuple[str, str, str]] = deque(maxlen=_WAITING)

    def add(self, key: str, entry: Entry) -> None:
        self._count += 1
        self.waiting.append((key, f"{self._source}-{self._count}", to_json(entry)))

    def send(self, client: Any) -> list[tuple[str, str, str, str]]:
        """Send what waits; (key, identity, text, id in Redis) of each entry sent. What cannot be sent goes on waiting."""
        done: list[tuple[str, str, str, str]] = []
        while self.waiting:
            batch = [self.waiting.popleft() for _ in range(min(_BATCH, len(self.waiting)))]
            pipe = client.pipeline(transaction=False)
            for key, identity, text in batch:
                pipe.xadd(key, {"id": identity, "entry": text}, maxlen=_KEPT, approximate=True)
            try:
                sent = pipe.execute()
            except (redis.RedisError, OSError):
                self.waiting.extendleft(reversed(batch))
                raise
            done += [(*entry, number) for entry, number in zip(batch, sent, strict=True)]
        return done


class _StreamReader:
    """One consumer of a group on one stream."""

    def __init__(self, key: str, group: str, consumer: str, seen: _Seen) -> None:
        self.key, self._group, self._consumer, self._seen = key, group, consumer, seen
        self._handed: list[str] = []
        self._fresh: list[tuple[str, Entry | None]] = []
        self._lock = threading.Lock()
        self._settled: list[str] = []
        #: From which entry to read what an earlier life of this reader was handed and did not acknowledge; None once all of it is
        #: read.
        self._own_from: str | None = "0"

    def take(self) -> list[Entry]:
        """What has come since the last call. The entries of that last call count as handled, and are acknowledged."""
        with self._lock:
            self._settled += self._handed
            self._handed = [number for number, _ in self._fresh]
            found = [entry for _, entry in self._fresh if entry is not None]
            self._fresh = []
        return found

    def read(self, client: Any) -> None:
        """Acknowledge what has been handled and fetch what is new."""
        with self._lock:
            settled, self._settled = self._settled, []
        try:
            if settled:
                client.xack(self.key, self._group, *settled)
            # First comes all that an earlier life was handed and did not acknowledge.
            found = client.xreadgroup(self._group, self._consumer, {self.key: self._own_from or ">"}, count=_BATCH)
        except redis.ResponseError as e:
            if "NOGROUP" not in str(e):
                raise
            self._make_group(client)
            return
        entries = found[0][1] if found else []
        if self._own_from is not None:
            self._own_from = entries[-1][0] if entries else None
        with self._lock:
            self._fresh += [(number, self._parse(fields)) for number, fields in entries]

    def _make_group(self, client: Any) -> None:
        try:
            client.xgroup_create(self.key, self._group, id="0", mkstream=True)
        except redis.ResponseError as e:
            if "BUSYGROUP" not in str(e):
                raise

    def _parse(self, fields: dict[str, str] | None) -> Entry | None:
        """The entry; None if it has come before, or is malformed."""
        try:
            entry = json.loads((fields or {})["entry"])
            known = not self._seen.first(str((fields or {})["id"]))
        except (KeyError, ValueError, TypeError, RecursionError):
            return None
        return entry if isinstance(entry, dict) and not known else None


class _Registers:
    """The newest values of registers: of those that this end writes, and of those that it has asked for."""

    def __init__(self) -> None:
        self._ours: dict[str, str] = {}
        self._changed: dict[str, str] = {}
        self._asked: dict[str, Entry | None] = {}
        self._lock = threading.Lock()

    def set(self, key: str, value: Entry) -> None:
        text = to_json(value)
        with self._lock:
            self._ours[key] = self._changed[key] = text

    def get(self, key: str) -> Entry | None:
        with self._lock:
            return self._asked.setdefault(key, None)

    def again(self) -> None:
        """Write everything again, because Redis has lost it."""
        with self._lock:
            self._changed = {**self._ours, **self._changed}

    def exchange(self, client: Any) -> None:
        with self._lock:
            changed, self._changed = self._changed, {}
            asked = list(self._asked)
        try:
            if changed:
                client.mset(changed)
            values = client.mget(asked) if asked else []
        except (redis.RedisError, OSError):
            with self._lock:
                self._changed = {**changed, **self._changed}
            raise
        for key, text in zip(asked, values, strict=True):
            value = _value(text)
            with self._lock:
                self._asked[key] = value


def _value(text: str | None) -> Entry | None:
    try:
        value = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


class RedisBus:
    """The coordinator's end."""

    def __init__(self, url: str, run_id: str, users: SiteUsers | None = None) -> None:
        """``users``: the sites' own, where Redis is to have any."""
        self._users = users
        self._prefix = f"windfall:{run_id}:"
        self._token = secrets.token_hex(8)
        self._writer = _StreamWriter()
        self._registers = _Registers()
        self._readers: dict[str, _StreamReader] = {}
        #: Commands in Redis that no site has acknowledged: (key, text of the entry) by id in Redis.
        self._open: dict[str, tuple[str, str, str]] = {}
        self._known = False
        self._thread = RedisThread(url, "redis-bus", self._cycle, pause_s=_PAUSE_S)

    def send(self, site: str, command: Entry) -> None:
        self._writer.add(f"{self._prefix}{site}:commands", command)
        self._thread.wake()

    def poll(self, site: str) -> list[Entry]:
        reader = self._readers.get(site)
        if reader is None:
            key = f"{self._prefix}{site}:events"
            self._readers = {**self._readers, site: _StreamReader(key, "run", "coordinator", _Seen())}
            reader = self._readers[site]
        self._thread.wake()
        return reader.take()

    def set(self, site: str, register: str, value: Entry) -> None:
        self._registers.set(f"{self._prefix}{site}:run:{register}", value)
        self._thread.wake()

    def get(self, site: str, register: str) -> Entry | None:
        self._thread.wake()
        return self._registers.get(f"{self._prefix}{site}:site:{register}")

    def health(self) -> str:
        return self._thread.trouble()

    def close(self) -> None:
        self._thread.close()

    # -- in the thread ---------------------------------------------------------------------------------------

    def _cycle(self, client: Any) -> None:
        # After a failure Redis may come back with an older copy of its data, so everything that still counts is sent again.
        known, self._known = self._known, False
        if self._users is not None:
            self._users.keep(client, sure=known)
        self._mind_the_instance(client, known)
        for key, identity, text, number in self._writer.send(client):
            self._open[number] = (key, identity, text)
        if self._open:
            self._settle(client)
        self._registers.exchange(client)
        for reader in self._readers.values():
            reader.read(client)
        self._known = True

    def _mind_the_instance(self, client: Any, known: bool) -> None:
        """Notice that Redis may have lost data, and send again everything that still counts."""
        key = f"{self._prefix}instance"
        if known and client.get(key) == self._token:
            return
        client.set(key, self._token)
        self._registers.again()
        lost, self._open = self._open, {}
        for command in reversed(lost.values()):
            self._writer.waiting.appendleft(command)

    def _settle(self, client: Any) -> None:
        """Forget commands that have been acknowledged."""
        for key in {key for key, _, _ in self._open.values()}:
            try:
                groups = {g["name"]: g for g in client.xinfo_groups(key)}
                waiting = _unacknowledged(client, key) if groups else set()
            except redis.ResponseError:
                continue  # gone, or no site has ever been there: the next look at the instance decides
            delivered = _order(groups["site"]["last-delivered-id"]) if "site" in groups else (0, 0)
            for number in [n for n, (k, _, _) in self._open.items() if k == key]:
                if _order(number) <= delivered and number not in waiting:
                    del self._open[number]


def _unacknowledged(client: Any, key: str) -> set[str]:
    """Entries of a stream that have been handed to a site, whichever life of it, and not been acknowledged; all of them."""
    found: set[str] = set()
    start = "-"
    while True:
        part = [str(p["message_id"]) for p in client.xpending_range(key, "site", start, "+", _BATCH)]
        found.update(part)
        if len(part) < _BATCH:
            return found
        start = f"({part[-1]}"


def _order(number: str) -> tuple[int, int]:
    a, _, b = number.partition("-")
    return int(a), int(b or 0)


class RedisSiteBus:
    """A site's end."""

    def __init__(self, url: str, run_id: str, site: str, generation: int, login: Login | None = None) -> None:
        self._prefix = f"windfall:{run_id}:{site}:"
        self._generation = generation
        self._writer = _StreamWriter()
        self._registers = _Registers()
        self._reader = _StreamReader(f"{self._prefix}commands", "site", f"generation-{generation}", _Seen())
        self._thread = RedisThread(url, "redis-site-bus", self._cycle, pause_s=_PAUSE_S, login=login)

    def commands(self) -> list[Entry]:
        self._thread.wake()
        # Commands for an earlier life of the site are not for this one.
        return [c for c in self._reader.take() if c.get("generation") == self._generation]

    def emit(self, entry: Entry) -> None:
        self._writer.add(f"{self._prefix}events", {**entry, "generation": self._generation})
        self._thread.wake()

    def set(self, register: str, value: Entry) -> None:
        self._registers.set(f"{self._prefix}site:{register}", {**value, "generation": self._generation})
        self._thread.wake()

    def get(self, register: str) -> Entry | None:
        self._thread.wake()
        return self._registers.get(f"{self._prefix}run:{register}")

    def health(self) -> str:
        """Why nothing passes at present, or an empty string."""
        return self._thread.trouble()

    def close(self) -> None:
        self._thread.close()

    def _cycle(self, client: Any) -> None:
        self._registers.exchange(client)
        self._reader.read(client)
        self._writer.send(client)
