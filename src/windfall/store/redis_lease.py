"""Where Redis is used, a key in it makes sure of one coordinator per run: it has a token, and expires unless it is renewed.

On one machine the run directory's lock and fence decide. The lease tells a copy of the directory on another machine that the
original runs. It never stops a run because Redis cannot be reached: a coordinator keeps its lease until it sees another's there.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

import redis

from windfall import clock
from windfall.errors import StoreError
from windfall.store.redis_link import RedisThread, connect, where, why

_TTL_S = 15.0
_RENEW_S = 4.0
_LOOK_S = 0.5

#: Renew if it is ours, take it if nobody has it, else say whose it is.
_RENEW = """
local held = redis.call('GET', KEYS[1])
if held == false or held == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return ARGV[1]
end
return held
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class RedisLease:
    """A coordinator's hold on its run in Redis."""

    def __init__(self, url: str, run_id: str, *, holder: str, place: str, known_token: str | None) -> None:
        """``holder`` names this process, ``place`` its run directory; ``known_token`` is the token last taken there."""
        self._url = url
        self._key = f"windfall:{run_id}:coordinator"
        self._holder, self._place, self._known = holder, place, known_token
        self.token = secrets.token_hex(8)
        self._value = ""
        self._other = ""
        self._renewed_at = 0.0
        self._thread: RedisThread | None = None

    def acquire(self, fence: int) -> None:
        """Take the lease, and keep it from now on.

        The lease of an earlier coordinator of this very directory is taken over at once: it has ended, since we hold its lock. For
        any other lease it waits until that would have expired.

        Raises:
            StoreError: another coordinator holds and renews it; or this is the run's first start and Redis cannot be
                reached (a run that has had its lease before goes on without Redis, and takes it up when it is back).
        """
        self._value = json.dumps({"token": self.token, "fence": fence, "holder": self._holder, "place": self._place})
        client = connect(self._url)
        try:
            self._take(client)
        except (redis.RedisError, OSError) as e:
            if self._known is None or isinstance(e, redis.AuthenticationError):
                raise StoreError(f"{why(e, self._url)}; start it, or correct run.bus") from None
        finally:
            client.close()
        self._thread = RedisThread(self._url, "redis-lease", self._renew, pause_s=_LOOK_S)

    def _take(self, client: Any) -> None:
        deadline = clock.monotonic() + _TTL_S + 1
        while True:
            held = _parse(client.eval(_RENEW, 1, self._key, self._value, int(1000 * _TTL_S)))
            if held.get("token") == self.token:
                return
            if self._known is not None and (held.get("token"), held.get("place")) == (self._known, self._place):
                client.set(self._key, self._value, px=int(1000 * _TTL_S))
                return
            if clock.monotonic() > deadline:
                raise StoreError(
                    f"another coordinator ({held.get('holder', 'unknown')}, {held.get('place', 'unknown')}) is running this run, "
                    f"says Redis at {where(self._url)}; stop that one first"
                )
            clock.pause(_LOOK_S)

    def lost(self) -> str:
        """Why the run is not ours any more, or an empty string. Call it often; it renews the lease in the background."""
        now = clock.monotonic()
        if self._thread is not None and now - self._renewed_at >= _RENEW_S:
            self._renewed_at = now
            self._thread.wake()
        return f"another coordinator has taken this run over ({self._other}); this one stops" if self._other else ""

    def _renew(self, client: Any) -> None:
        held = _parse(client.eval(_RENEW, 1, self._key, self._value, int(1000 * _TTL_S)))
        if held.get("token") != self.token:
            self._other = f"{held.get('holder', 'unknown')}, {held.get('place', 'unknown')}"

    def release(self) -> None:
        """Let go of it, if Redis can be reached."""
        if self._thread is None:
            return
        self._thread.close()
        client = connect(self._url)
        try:
            client.eval(_RELEASE, 1, self._key, self._value)
        except (redis.RedisError, OSError):
            return  # it expires by itself
        finally:
            client.close()


def _parse(value: object) -> dict[str, Any]:
    try:
        found = json.loads(str(value))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
