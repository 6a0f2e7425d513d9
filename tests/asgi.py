"""Asks an ASGI application in the test's own process, one request after another, without a network."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

import httpx


class Asked:
    """A browser without scripts: it keeps cookies and follows nothing."""

    def __init__(self, app: Any, base: str) -> None:
        self.app = app
        self._runner = asyncio.Runner()
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()

    def request(self, method: str, url: str, **more: Any) -> httpx.Response:
        """Any request."""
        return self._runner.run(self._client.request(method, url, **more))

    def get(self, path: str, **more: Any) -> httpx.Response:
        """GET."""
        return self._runner.run(self._client.get(path, **more))

    def post(self, path: str, **more: Any) -> httpx.Response:
        """POST."""
        return self._runner.run(self._client.post(path, **more))
