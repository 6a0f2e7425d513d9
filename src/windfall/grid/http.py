"""Asks an HTTP service for JSON, with time-outs, limits and retries. Its error messages hold no secret.

One ``get`` is one request, so a poller never waits in it. Trouble that may pass is raised as ``TryLater`` with the time to wait,
and the poller plans its next attempt with ``backoff_s``. A command may allow it to retry (``patience_s``).
"""

from __future__ import annotations

import base64
import html
import json
import logging
import random
import re
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urljoin, urlsplit, urlunsplit

import httpx

from windfall import clock, proxies
from windfall.errors import SignalError, Transient, Unauthorized

#: The longest time (s) that a service can make us wait.
MAX_RETRY_AFTER_S = 3600.0
#: A longer answer (bytes) is refused.
_MAX_BYTES = 32 * 1024 * 1024
#: How many tries one ``get`` makes at most, if it may retry.
_TRIES = 4
#: How a message ends that a poller tells.
AGAIN = "; it is asked again"
_FORM = "application/x-www-form-urlencoded"
#: If the name of a query parameter contains one of these, its value is a secret.
_SECRET_WORDS = ("key", "token", "secret", "passw", "auth", "sig", "credential")

Params = Mapping[str, str | int | float]

# httpx tells every URL at INFO, and a URL may hold somebody's key.
logging.getLogger("httpx").setLevel(logging.WARNING)


class TryLater(Transient):
    """The request may succeed later. ``retry_after_s``: how long the service, or our own limit, asks to wait, if it says."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class AccessDenied(Unauthorized):
    """HTTP 401 or 403; ``status`` is which, ``answer`` the status with the service's own words (`HTTP 403: no such plan`)."""

    def __init__(self, message: str, status: int, answer: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.answer = answer or f"HTTP {status}"


class NotFound(SignalError):
    """The service does not have it (HTTP 404 or another 4xx), or has it elsewhere (3xx). ``status`` is the HTTP status."""

    def __init__(self, message: str, status: int, answer: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.answer = answer or f"HTTP {status}"


class RateLimit:
    """At most ``limit`` requests in any ``per_s`` seconds. Thread-safe."""

    def __init__(self, limit: int, per_s: float) -> None:
        self.limit, self.per_s = limit, per_s
        self._sent: deque[float] = deque()
        self._lock = threading.Lock()

    def take(self, now: float) -> float:
        """If a request may be sent at ``now``, count it and return 0; else the seconds until one may be sent."""
        with self._lock:
            while self._sent and not 0 <= now - self._sent[0] < self.per_s:
                self._sent.popleft()
            if len(self._sent) >= self.limit:
                return self._sent[0] + self.per_s - now
            self._sent.append(now)
            return 0.0


class RateLimits:
    """Limits by host and purpose. All clients of a process share them, because a service counts requests by account."""

    def __init__(self) -> None:
        self._limits: dict[tuple[str, str], RateLimit] = {}
        self._lock = threading.Lock()

    def of(self, host: str, purpose: str, limit: int, per_s: float) -> RateLimit:
        """The limit of that name; made with these figures if it is new."""
        with self._lock:
            return self._limits.setdefault((host, purpose), RateLimit(limit, per_s))


SHARED_LIMITS = RateLimits()


def public_url(url: str) -> str:
    """``url`` without what may be secret in it: user, password, and values of query parameters with telling names."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(no valid URL)"
    host = parts.netloc.rpartition("@")[2]
    query = [(k, "***" if any(w in k.lower() for w in _SECRET_WORDS) else v) for k, v in parse_qsl(parts.query, True)]
    return urlunsplit((parts.scheme, host, parts.path, urlencode(query, safe="*"), ""))


def url_secrets(url: str) -> list[str]:
    """The parts of ``url`` that `public_url` leaves out, which a service may repeat in an error."""
    try:
        parts = urlsplit(url)
        return [parts.password or "", *(v for k, v in parse_qsl(parts.query) if any(w in k.lower() for w in _SECRET_WORDS))]
    except ValueError:
        return []


def backoff_s(failures: int, base_s: float, rng: random.Random, *, cap_s: float = 900.0, at_least_s: float | None = None) -> float:
    """Seconds before attempt ``failures`` + 1: doubling from ``base_s``, capped, with jitter; never under ``at_least_s``."""
    delay = min(cap_s, base_s * 2.0 ** min(failures - 1, 30)) * rng.uniform(0.5, 1.0)
    return max(delay, at_least_s or 0.0)


def retry_after_s(text: str | None, now: float) -> float | None:
    """Seconds that a ``Retry-After`` header (RFC 9110 10.2.3: seconds or a date) asks for, at most an hour; None if unreadable."""
    if not text:
        return None
    if text.strip().isdecimal():
        return min(float(text.strip()[:12]), MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return min(max(moment.timestamp() - now, 0.0), MAX_RETRY_AFTER_S)


class Http:
    """A client of one service on behalf of one signal.

    ``who`` opens every message (`watttime CAISO_NORTH`); ``secrets`` never appear in one, wherever they came from.
    """

    def __init__(
        self,
        who: str,
        *,
        timeout_s: float,
        now: Callable[[], float] = clock.wall,
        pause: Callable[[float], None] = clock.pause,
        rng: random.Random | None = None,
        limits: RateLimits = SHARED_LIMITS,
    ) -> None:
        self.who = who
        #: Requests made so far.
        self.requests = 0
        #: How many seconds in all one ``get`` may wait for retries; 0 while polling.
        self.patience_s = 0.0
        self._timeout_s = timeout_s
        self._now = now
        self._pause = pause
        self._rng = rng or random.Random()
        self._limits = limits
        self._secrets: set[str] = set()
        self._client: httpx.Client | None = None

    def hide(self, *secrets: str) -> None:
        """Keep these secrets out of messages, also in the spellings of addresses and headers."""
        self._secrets |= {form for s in secrets if s for form in (s, quote(s, safe=""), quote(s))}

    def public(self, text: str) -> str:
        """``text`` on one line, without secrets."""
        # The longest first, because one secret may be the beginning of another.
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return " ".join(text.split())

    def close(self) -> None:
        """Close its connections; a later ``get`` opens new ones."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def get(
        self,
        url: str,
        params: Params | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        limit: tuple[str, int, float] = ("requests", 60, 60.0),
    ) -> Any:
        """The JSON that ``url`` answers. ``limit``: name, number and seconds of our own limit for such requests.

        Raises:
            AccessDenied: HTTP 401 or 403.
            TryLater: a limit, a time-out, a failed connection, HTTP 429, 408 or 5xx.
            SignalError: another status (``NotFound``), an answer that is not JSON, or an address or header that cannot be sent.
        """
        waited = 0.0
        for failures in range(1, _TRIES + 1):
            try:
                return self._once(url, params, headers or {}, auth, limit)
            except TryLater as e:
                delay = backoff_s(failures, 1.0, self._rng, at_least_s=e.retry_after_s)
                if failures == _TRIES or waited + delay > self.patience_s:
                    raise
                waited += delay
                self._pause(delay)
        raise AssertionError("unreachable")

    def post(
        self, url: str, value: Any, *, headers: Mapping[str, str] | None = None, limit: tuple[str, int, float] = ("posts", 60, 60.0)
    ) -> None:
        """Send ``value`` as JSON, once; whatever is answered with success will do. Raises as ``get``."""
        self._answer(url, None, headers or {}, None, limit, json.dumps(value).encode())

    def post_form(self, url: str, form: Mapping[str, str], *, limit: tuple[str, int, float] = ("posts", 60, 60.0)) -> Any:
        """The JSON that is answered to a form, sent once. Raises as ``get``."""
        body, kind, status = self._answer(url, None, {"Content-Type": _FORM}, None, limit, urlencode(form).encode())
        return self._json(url, body, kind, status)

    def _once(
        self,
        url: str,
        params: Params | None,
        headers: Mapping[str, str],
        auth: tuple[str, str] | None,
        limit: tuple[str, int, float],
    ) -> Any:
        return self._json(url, *self._answer(url, params, headers, auth, limit, None))

    def _json(self, url: str, body: bytes, kind: str, status: int) -> Any:
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            what = f"{kind} that is not JSON" if body.strip() else "nothing, which is not JSON"
            said = self.public(said_of(body))[:200]
            answer = f"HTTP {status}" + (f": {said}" if said else "")
            raise SignalError(f"{self.who}: {host_of(url)} answers {what} ({answer}); check the address") from None

    def _answer(
        self, url: str, params: Params | None, headers: Mapping[str, str], auth: tuple[str, str] | None,
        limit: tuple[str, int, float], content: bytes | None,
    ) -> tuple[bytes, str, int]:  # fmt: skip
        """Body, content type and status of an answer that is a success. With ``content`` it is sent (POST)."""
        host = host_of(url)
        if auth:
            self.hide(base64.b64encode(":".join(auth).encode()).decode())
        wait = self._limits.of(host, *limit).take(self._now())
        if wait > 0:
            raise TryLater(
                f"{self.who}: {limit[1]} {limit[0]} in {limit[2]:g} s to {host} is our limit; asked again in {wait:.0f} s", wait
            )
        self.requests += 1
        through = proxies.way(url)
        if through.fault:
            raise SignalError(f"{self.who}: {host} cannot be asked: {through.fault}")
        by_proxy = f" through the proxy {proxies.shown(through.proxy)}" if through.proxy else ""
        if self._client is None:
            headers_of_all = {"Accept": "application/json", "User-Agent": "windfall"}
            try:
                # `proxies.way` decides on proxies. An organisation's certificates (SSL_CERT_FILE) count in any case.
                self._client = httpx.Client(
                    timeout=self._timeout_s, headers=headers_of_all, proxy=through.proxy, trust_env=False,
                    verify=httpx.create_ssl_context(),
                )  # fmt: skip
            except OSError as e:  # httpx reads the certificates when it is made
                raise SignalError(
                    f"{self.who}: the certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read "
                    f"({e.strerror or e}); correct it, or unset it"
                ) from None
        try:
            status, told, body = self._read(url, params, headers, auth, content)
        except httpx.TimeoutException:
            raise TryLater(f"{self.who}: no answer from {host}{by_proxy} within {self._timeout_s:g} s; it is asked again") from None
        except UnicodeEncodeError:
            raise SignalError(f"{self.who}: a credential or header has characters that HTTP cannot carry; correct it") from None
        except httpx.InvalidURL:
            raise SignalError(f"{self.who}: its address is no valid URL; correct it in the configuration") from None
        except httpx.UnsupportedProtocol:
            raise SignalError(f"{self.who}: its address does not begin with http:// or https://; correct it") from None
        except (httpx.TransportError, httpx.DecodingError) as e:
            why = self.public(_cause(e, host))[:200]
            raise TryLater(f"{self.who}: no connection to {host}{by_proxy} ({why}); it is asked again") from None
        said = self.public(said_of(body))[:200]
        answer = f"HTTP {status}" + (f": {said}" if said else "")
        if status in (401, 403):
            raise AccessDenied(f"{self.who}: {host}{by_proxy} refuses access ({answer}); check the credentials", status, answer)
        if status in (408, 429) or status >= 500:
            wait_s = retry_after_s(told.get("retry-after"), self._now())
            what = "asks for fewer requests" if status == 429 else "does not answer properly"
            raise TryLater(f"{self.who}: {host} {what} ({answer}); it is asked again", wait_s)
        if 300 <= status < 400 and told.get("location"):
            there = self.public(public_url(urljoin(url, told["location"])))[:200]
            raise NotFound(
                f"{self.who}: {host} sends on to {there} (HTTP {status}), where nothing is asked, for credentials would go along; "
                "if it is right, set the address in the configuration to that one", status, answer,
            )  # fmt: skip
        if not 200 <= status < 300:
            check = "check zone and address" if content is None else "check the address, and what it takes"
            raise NotFound(f"{self.who}: {host} answers {answer}; {check}", status, answer)
        return body, told.get("content-type", "").partition(";")[0] or "something", status

    def _read(
        self, url: str, params: Params | None, headers: Mapping[str, str], auth: tuple[str, str] | None, content: bytes | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        assert self._client is not None
        begun = self._now()
        # The URL may have a query of its own, which httpx's `params` would replace.
        target = httpx.URL(url).copy_merge_params(dict(params or {}))
        method, more = ("GET", {}) if content is None else ("POST", {"Content-Type": "application/json", **headers})
        with self._client.stream(
            method, target, content=content, headers={**headers, **more}, auth=auth or httpx.USE_CLIENT_DEFAULT
        ) as answer:
            parts, size = [], 0
            for part in answer.iter_bytes():
                parts.append(part)
                size += len(part)
                if size > _MAX_BYTES:
                    raise SignalError(f"{self.who}: {host_of(url)} answers more than {_MAX_BYTES >> 20} MiB; check the address")
                # httpx limits each read, not the whole: a service that sends slowly could hold a thread for ever.
                if self._now() - begun > 3 * self._timeout_s:
                    raise TryLater(f"{self.who}: {host_of(url)} answers too slowly; it is asked again")
            return answer.status_code, answer.headers, b"".join(parts)


def said_of(body: bytes) -> str:
    """The error message in a body: of JSON, a page's title, or a line of plain text; else empty."""
    try:
        return said_in(json.loads(body))
    except (ValueError, RecursionError):
        text = body[:4096].decode("utf-8", "replace").lstrip("\ufeff \r\n\t")
    if not text.startswith("<"):
        return "" if text.startswith(("{", "[")) or "\ufffd" in text else text
    title = re.search(r"<(title|h1)[^>]*>([^<]+)<", text, re.IGNORECASE)
    return html.unescape(title[2]).strip() if title else ""


def said_in(value: Any) -> str:
    """The text in the shapes of errors that services use, of an answer that may be anything."""
    if isinstance(value, dict | list):
        return _message(value)
    return value if isinstance(value, str) else ""


def _message(value: Any, depth: int = 4) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return _message(value[0], depth - 1) if value and depth else ""
    if isinstance(value, dict) and depth:
        for key in ("message", "msg", "detail", "details", "error_description", "error", "errors", "errorMessage", "title"):
            if text := _message(value.get(key), depth - 1):
                return text
    return ""


def host_of(url: str) -> str:
    """Host and port of ``url``, for messages."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2] or "its address"
    except ValueError:
        return "its address"


def _cause(e: BaseException, host: str) -> str:
    """Why there is no connection, and what to do if that is known."""
    chain: list[BaseException] = [e]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    for c in chain:
        if isinstance(c, ssl.SSLCertVerificationError):
            return (
                f"its certificate cannot be verified: {c.verify_message}; where a proxy of your organisation opens TLS, set "
                "SSL_CERT_FILE to a file with its certificates; check this machine's clock too"
            )
        if isinstance(c, socket.gaierror):
            name = host.rpartition(":")[0] or host
            return f"the name {name} cannot be looked up: {c.strerror or c}; check the address, and DNS and network here"
    text = str(e)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"its certificate cannot be verified: {text}; set SSL_CERT_FILE to a file with the certificates to trust"
    return text or type(e).__name__


def instant_text(t: float, offset_s: float = 0.0) -> str:
    """``2026-01-11T17:05:00`` of Unix seconds ``t`` on a clock that is ``offset_s`` ahead of UTC, without an offset."""
    return datetime.fromtimestamp(t + offset_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")
