"""Who may look, and who may act: the token, where a request comes from, and where the dashboard may be served."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request

from windfall.errors import ConfigError

COOKIE = "windfall_dashboard"
#: What a page sends with what it asks to be done; no other site's page can set it.
PROOF = "X-Windfall-Proof"
#: A token shorter than this could be guessed.
_LEAST_CHARACTERS = 16
#: A form that signs in is not longer, and no header of a request should be.
_MOST_CHARACTERS = 1000


class Bad(HTTPException):
    """Answered with a status and a sentence."""


def is_loopback(host: str) -> bool:
    """Whether ``host`` names this machine itself."""
    if host.strip("[]").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def may_serve(host: str, certificates: str | None, insecure: str) -> None:
    """Raises ConfigError where anybody on the way could read the token."""
    if insecure not in ("", "I know"):
        raise ConfigError(f'--insecure {insecure}: the only word for it is "I know"')
    if not is_loopback(host) and certificates is None and not insecure:
        raise ConfigError(
            f"--host {host} is no loopback address, and there are no certificates: anybody on the way could read the token and "
            "steer the run; make some with `windfall certs init` and name their folder with --certificates, or "
            'say --insecure "I know"'
        )


def usable(token: str) -> None:
    """Raises ConfigError where a token could be guessed, or sent in no header."""
    if len(token) < _LEAST_CHARACTERS:
        raise ConfigError(f"the dashboard's token has {len(token)} characters and needs {_LEAST_CHARACTERS} or more")
    if len(token) > _MOST_CHARACTERS or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"the dashboard's token is one word of ASCII, of at most {_MOST_CHARACTERS} characters; what is given is not"
        )


@dataclass(frozen=True)
class Gate:
    """Looks at every request. Reading on the loopback is free; reading from elsewhere, and acting from anywhere, takes the token.

    ``names``: hosts by which the dashboard may be asked for; a page of another site that makes its name point here is refused.
    """

    token: str
    names: frozenset[str]
    port: int
    tls: bool
    free_reading: bool

    @classmethod
    def of(cls, token: str, host: str, port: int, *, tls: bool, more: Iterable[str] = ()) -> Gate:
        """Raises ConfigError where the token is too short."""
        usable(token)
        own = {"localhost", "127.0.0.1", "::1"} if is_loopback(host) else {host, *more}
        if host in ("0.0.0.0", "::"):
            own = set()  # by whatever name this machine has; the token is asked for anyway
        return cls(token, frozenset(n.lower() for n in own | set(more)), port, tls, is_loopback(host))

    @property
    def proof(self) -> str:
        """What pages that know the token send with what they ask to be done."""
        return hmac.new(self.token.encode(), b"windfall dashboard: act", hashlib.sha256).hexdigest()

    def is_token(self, text: str) -> bool:
        """In constant time."""
        return hmac.compare_digest(text.encode(), self.token.encode())

    def signed_in(self, request: Request) -> bool:
        """Whether it bears the token, as a header or as the cookie of a page."""
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(secret.strip()):
            return True
        return self.is_token(request.cookies.get(self.cookie, ""))

    @property
    def cookie(self) -> str:
        """Cookies know no ports: each dashboard of a machine has its own."""
        return f"{COOKIE}_{self.port}"

    def require_host(self, request: Request) -> None:
        """Raises Bad where the request asks for another host (its name was made to point here)."""
        asked = urlsplit(f"//{request.headers.get('host', '')}")
        try:
            name = (asked.hostname or "").lower()
        except ValueError:
            name = ""
        if self.names and name not in self.names:
            raise Bad(
                421, f"this dashboard answers to {', '.join(sorted(self.names))}, not to {name or 'a request without a host'}"
            )

    def require_reader(self, request: Request) -> None:
        """Raises Bad (401, 403) where it may not be looked at."""
        if (
            request.headers.get("sec-fetch-site") in ("cross-site", "same-site")
            and request.headers.get("sec-fetch-mode") != "navigate"
        ):
            raise Bad(403, "a page of another site asks for this; open the dashboard itself")
        if not self.free_reading and not self.signed_in(request):
            raise Bad(401, "sign in with the token that `windfall dashboard` printed, or send it as Authorization: Bearer TOKEN")

    def require_own_page(self, request: Request) -> None:
        """Raises Bad (403) where a browser says that another site's page asks."""
        origin = request.headers.get("origin")
        if origin is not None and origin != self.own_origin(request):
            raise Bad(403, f"the request comes from {origin}; only the dashboard's own page may ask")
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise Bad(403, "a page of another site asks for this; only the dashboard's own page may")

    def require_actor(self, request: Request) -> None:
        """Raises Bad (401, 403) where it may not act."""
        self.require_own_page(request)
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            if self.is_token(secret.strip()):
                return
            raise Bad(401, "the token is wrong: `windfall dashboard` printed it when it began")
        if not self.is_token(request.cookies.get(self.cookie, "")):
            raise Bad(401, "acting takes the token: sign in with the one that `windfall dashboard` printed")
        if not hmac.compare_digest(request.headers.get(PROOF, "").encode(), self.proof.encode()):
            raise Bad(403, f"the header {PROOF} is missing or wrong; load the page again")

    def own_origin(self, request: Request) -> str:
        """The origin of the dashboard's own pages, by the name under which it was asked for."""
        return f"{'https' if self.tls else 'http'}://{request.headers.get('host', '')}"
