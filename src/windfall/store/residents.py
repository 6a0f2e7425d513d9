"""Machines that are always there: how they join a run, what they are to do, and what they say of themselves.

A machine joins with a token that is good once and trades it for a key. Only hashes of both are kept here. What it is to do and what
it said last are files in the site's folder: the driver of the coordinator and the endpoint, two processes, meet in them.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windfall.errors import Refused
from windfall.store.files import read_json, write_json, write_secret

#: In a site's folder.
_JOIN, _ASSIGNMENT, _PRESENCE, _TOKEN = "join.json", "assignment.json", "presence.json", "start-token"
_REVOKED = "revoked.json"


def revoke_lives(sites_dir: Path, site: str, generation: int) -> None:
    """From now on nothing that this life of a site, or an earlier one, was given is good any more."""
    (sites_dir / site).mkdir(parents=True, exist_ok=True)
    write_json(sites_dir / site / _REVOKED, {"generation": max(generation, revoked_lives(sites_dir, site))})


def revoked_lives(sites_dir: Path, site: str) -> int:
    """Up to which generation a site's lives are revoked; 0: none is."""
    kept = read_json(sites_dir / site / _REVOKED)
    found = kept.get("generation") if isinstance(kept, dict) else 0
    return found if type(found) is int else 0


@dataclass(frozen=True)
class Assignment:
    """What a machine is to do: run this generation, or none (0) within ``grace_s``."""

    generation: int = 0
    grace_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Presence:
    """What a machine said last. ``state``: absent, starting, up, stopping or failed; ``at``: when it was heard (Unix time)."""

    generation: int
    state: str
    words: str
    asleep: bool
    at: float


class Resident:
    """The files of one site whose machine is always there."""

    def __init__(self, sites_dir: Path, site: str) -> None:
        self.site = site
        self._dir = sites_dir / site

    # -- joining ---------------------------------------------------------------------------------------------

    def invite(self, valid_until: float) -> str:
        """A token that one machine may join with, until then (Unix time). One that was made before is good no longer."""
        token = secrets.token_hex(24)
        self._dir.mkdir(parents=True, exist_ok=True)
        write_json(self._dir / _JOIN, {**self._joined(), "invited": _hash(token), "valid_until": valid_until})
        return token

    def join(self, token: str, now: float) -> str:
        """Trade a token for a key, which replaces any earlier one. Raises Refused."""
        if not self.invited(token):
            raise Refused("this join token is none of this run's, or has been used")
        if now > float(self._joined().get("valid_until", 0)):
            raise Refused("this join token is no longer valid; make another one with `windfall site invite`")
        key = secrets.token_hex(32)
        write_json(self._dir / _JOIN, {"key": _hash(key)})
        return key

    def invited(self, token: str) -> bool:
        """Whether this is the token that was made last."""
        kept = self._joined().get("invited")
        return isinstance(kept, str) and hmac.compare_digest(kept, _hash(token))

    def revoke(self) -> bool:
        """Let key and token be good no longer; whether there were any."""
        known = bool(self._joined())
        (self._dir / _JOIN).unlink(missing_ok=True)
        return known

    @property
    def joined(self) -> bool:
        """Whether a machine has joined."""
        return "key" in self._joined()

    def has_key(self, key: str) -> bool:
        """Whether this is the machine's key."""
        kept = self._joined().get("key")
        return isinstance(kept, str) and hmac.compare_digest(kept, _hash(key))

    def _joined(self) -> dict[str, Any]:
        kept = read_json(self._dir / _JOIN)
        return kept if isinstance(kept, dict) else {}

    # -- what it is to do ------------------------------------------------------------------------------------

    def assign(self, assignment: Assignment, token: str = "") -> None:
        """Say what the machine is to do. ``token``: the generation's, in a file that only this user may read till it is fetched."""
        self._dir.mkdir(parents=True, exist_ok=True)
        if token:
            write_secret(self._dir / _TOKEN, token)
        else:
            (self._dir / _TOKEN).unlink(missing_ok=True)
        write_json(self._dir / _ASSIGNMENT, vars(assignment))

    def assignment(self) -> Assignment:
        """What the machine is to do."""
        kept = read_json(self._dir / _ASSIGNMENT)
        try:
            return Assignment(int(kept["generation"]), float(kept["grace_s"]), str(kept["reason"])) if kept else Assignment()
        except (KeyError, TypeError, ValueError):
            return Assignment()

    def take_token(self) -> str:
        """The generation's token; the file is gone then. Empty if it has been taken."""
        path = self._dir / _TOKEN
        try:
            token = path.read_text(encoding="ascii").strip()
            path.unlink()
        except (OSError, UnicodeDecodeError):
            return ""
        return token

    # -- what it says ----------------------------------------------------------------------------------------

    def said(self, presence: Presence) -> None:
        """Note what the machine says of itself."""
        self._dir.mkdir(parents=True, exist_ok=True)
        write_json(self._dir / _PRESENCE, vars(presence))

    def presence(self) -> Presence | None:
        """What the machine said last; None if it never said anything."""
        kept = read_json(self._dir / _PRESENCE)
        try:
            return Presence(
                int(kept["generation"]), str(kept["state"]), str(kept["words"]), kept["asleep"] is True, float(kept["at"])
            ) if kept else None  # fmt: skip
        except (KeyError, TypeError, ValueError):
            return None


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
