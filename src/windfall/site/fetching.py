"""What a machine asks the run's endpoint before a site runs on it: small requests, patient with what may pass."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from windfall import clock, proxies
from windfall.errors import ConfigError, TransferError

_TIMEOUT_S = 10.0
#: The wait after a failure, doubling up to the longest.
_WAIT_S, _LONGEST_WAIT_S = 0.5, 15.0


class Endpoint:
    """The endpoint as one machine asks it."""

    def __init__(
        self, url: str, secret: str = "", *, verify: bool | ssl.SSLContext = True, environ: Mapping[str, str] | None = None
    ) -> None:
        """Raises ConfigError if it is no address, or the proxy that leads to it cannot be used."""
        if not url.startswith(("https://", "http://")):
            raise ConfigError(f"{url}: is no address of an endpoint; it begins with https:// (or http://, without TLS)")
        way = proxies.way(url, environ)
        if way.fault:
            raise ConfigError(f"{url} cannot be asked: {way.fault}")
        self.url = url.rstrip("/")
        headers = {"User-Agent": "windfall", **({"Authorization": f"Bearer {secret}"} if secret else {})}
        self._client = httpx.Client(
            timeout=httpx.Timeout(_TIMEOUT_S), proxy=way.proxy, trust_env=False, follow_redirects=False, headers=headers,
            verify=verify if url.startswith("https:") else False,
        )  # fmt: skip

    def ask(self, method: str, path: str, *, wait_s: float = 0.0, **more: Any) -> dict[str, Any]:
        """One request; ``wait_s``: how long the endpoint may keep it waiting.

        Raises:
            TransferError: it is refused.
            httpx.HTTPError: nobody answers, or not as an endpoint does; later it may work.
        """
        answer = self._client.request(
            method, f"{self.url}{path}", timeout=httpx.Timeout(_TIMEOUT_S, read=_TIMEOUT_S + wait_s), **more
        )
        if answer.status_code == 204:
            return {}
        if answer.status_code == 200:
            try:
                told = answer.json()
            except ValueError:
                told = None
            if isinstance(told, dict):
                return told
            raise httpx.RemoteProtocolError("the answer is none of an endpoint of Windfall")
        told = " ".join(answer.text[:300].split()) or f"HTTP {answer.status_code}"
        if answer.status_code >= 500 or answer.status_code in (408, 409, 425, 429):
            raise httpx.RemoteProtocolError(told)
        raise TransferError(f"{self.url} refuses: {told}")

    def until(
        self, method: str, path: str, asked: Callable[[], bool], say: Callable[[str], None],
        before: Callable[[], object] = lambda: None, **more: Any,
    ) -> dict[str, Any] | None:  # fmt: skip
        """Ask again and again for as long as what hinders it may pass; None if ``asked`` to end meanwhile. Raises TransferError.

        ``before`` is called before each try.
        """
        wait_s, said = _WAIT_S, ""
        while not asked():
            before()
            try:
                return self.ask(method, path, **more)
            except httpx.HTTPError as e:
                why = f"{self.url} does not answer ({why_not(e)})"
            if why != said:
                said = why
                say(f"{why}; trying again")
            until = clock.monotonic() + wait_s
            while clock.monotonic() < until and not asked():
                clock.pause(0.1)
            wait_s = min(_LONGEST_WAIT_S, 2 * wait_s)
        return None

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()


def why_not(e: httpx.HTTPError) -> str:
    """An error of a request in words."""
    text = str(e)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = text.rsplit("certificate verify failed: ", 1)[-1].split(" (_ssl")[0]
        return f"its certificate is not accepted: {reason}; give the run's CA with --ca-file"
    return text or type(e).__name__
