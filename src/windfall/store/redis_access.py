"""A Redis user for each site, limited to that site's own keys and to what its end of the bus does with them.

A user's password is made from the token of the site's current life, so that it is handed over with that and nothing else has to
be: the site works it out, and the coordinator keeps its SHA-256, which is what Redis is told. A next life's token makes the last
one's password useless and ends its connections. Where Redis has forgotten its users they are made again.

Needs Redis 7 (patterns of keys that may only be read, or only written), and an account that may make users.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from windfall import clock

#: Variable with the run's own password.
PASSWORD = "WINDFALL_REDIS_PASSWORD"
#: How often users are looked at.
_LOOK_S = 2.0
#: What a site's end of the bus asks of Redis. Whoever connects may say who it is; that needs no right.
COMMANDS = ("xreadgroup", "xack", "xgroup|create", "xadd", "mset", "mget", "select", "ping")


@dataclass(frozen=True)
class Login:
    """As whom to speak to Redis. ``ca``: certificates (PEM) that Redis's is checked against, where the URL names none."""

    user: str
    password: str
    ca: str = ""

    def __repr__(self) -> str:
        return f"Login({self.user!r})"


def user_of(run_id: str, site: str) -> str:
    """The name of a site's user."""
    return f"windfall:{run_id}:{site}"


def password_of(token: str) -> str:
    """What a site's user proves itself with, from the token of its life. Whoever has it does not have the token."""
    return hmac.new(token.encode(), b"windfall redis", hashlib.sha256).hexdigest()


def rules(run_id: str, site: str, sha256: str) -> list[str]:
    """What is said of a site's user, after its name. ``sha256``: of its password."""
    own = f"windfall:{run_id}:{site}"
    keys = [f"~{own}:commands", f"%W~{own}:events", f"~{own}:site:*", f"%R~{own}:run:*"]
    return ["reset", "on", f"#{sha256}", "resetchannels", "-@all", *(f"+{c}" for c in COMMANDS), *keys]


class SiteUsers:
    """The users of a run's sites, as they should be. ``keep`` is for the thread that speaks to Redis, the rest for any."""

    def __init__(
        self, run_id: str, kept: str | None, keep: Callable[[str], None], revoked: Callable[[str], int] = lambda site: 0
    ) -> None:
        """``kept``: what ``keep`` was last given, by an earlier coordinator. ``revoked``: up to which life a site's are no good."""
        self._run_id = run_id
        self._write = keep
        self._revoked = revoked
        self._lock = threading.Lock()
        #: By site: generation, and the SHA-256 of its password.
        self._wanted: dict[str, tuple[int, str]] = {s: (int(g), str(h)) for s, (g, h) in json.loads(kept or "{}").items()}
        self._made: dict[str, tuple[int, str]] = {}
        self._looked_at = float("-inf")
        #: What is wrong with how Redis lets people in, or an empty string.
        self.warning = ""

    def admit(self, site: str, generation: int, token: str) -> None:
        """From now on the site's user is that of this life."""
        with self._lock:
            self._wanted[site] = generation, hashlib.sha256(password_of(token).encode()).hexdigest()
            self._looked_at = float("-inf")
            text = json.dumps(self._wanted)
        self._write(text)

    def keep(self, client: Any, *, sure: bool) -> None:
        """Make users as they should be. ``sure``: nothing has happened to the connection since the last time."""
        with self._lock:
            if sure and clock.monotonic() - self._looked_at < _LOOK_S:
                return
            self._looked_at = clock.monotonic()
            wanted = {s: life for s, life in self._wanted.items() if life[0] > self._revoked(s)}
        there = {str(u) for u in client.acl_users()}
        if not sure:
            self._made.clear()
            self.warning = _open_to_all(client)
        for site in self._made.keys() - wanted.keys():
            del self._made[site]
        names = {user_of(self._run_id, s) for s in wanted}
        gone = [u for u in there if u.startswith(user_of(self._run_id, "")) and u not in names]
        if gone:
            client.acl_deluser(*gone)  # which ends their connections
        for site, (generation, sha256) in wanted.items():
            user = user_of(self._run_id, site)
            if self._made.get(site) == (generation, sha256) and user in there:
                continue
            if user in there and not _has(client, user, sha256):
                client.acl_deluser(user)  # an earlier life's connections end with it
            client.execute_command("ACL SETUSER", user, *rules(self._run_id, site, sha256))
            self._made[site] = generation, sha256


def forget(client: Any, run_id: str, *, dry_run: bool = False) -> int:
    """Delete the users of all of a run's sites; how many there were."""
    gone = [u for u in client.acl_users() if str(u).startswith(user_of(run_id, ""))]
    if gone and not dry_run:
        client.acl_deluser(*gone)
    return len(gone)


def _has(client: Any, user: str, sha256: str) -> bool:
    return sha256 in _about(client, user).get("passwords", ())


def _open_to_all(client: Any) -> str:
    """Why users limit nobody here, or an empty string."""
    flags = _about(client, "default").get("flags", ())
    if "on" in flags and "nopass" in flags:
        return "its default user needs no password, so whoever reaches it may do everything: set requirepass (or switch it off)"
    return ""


def _about(client: Any, user: str) -> Mapping[str, Any]:
    found = client.acl_getuser(user)
    return found if isinstance(found, Mapping) else {}
