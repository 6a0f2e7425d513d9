"""Serves the dashboard until it is told to end."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from windfall.errors import ConfigError
from windfall.ui.web.app import Dashboard
from windfall.ui.web.guard import Gate, is_loopback, may_serve, usable
from windfall.view.run_folders import RunFolders
from windfall.wire.certificates import Certificates

#: Connections beyond this are refused with 503.
_CONNECTIONS = 3000
#: A connection that asks for nothing is closed after so long (s).
_IDLE_S = 30


@dataclass(frozen=True)
class Served:
    """Where a dashboard is, and the token that it takes."""

    url: str
    token: str
    tls: bool

    @property
    def login(self) -> str:
        """The address that signs a browser in."""
        return f"{self.url}login?token={self.token}"


def serve(
    roots: Sequence[Path], *, host: str, port: int, token: str | None, certificates: str | None, insecure: str,
    names: Sequence[str] = (), began: Callable[[Served], None] = lambda _: None,
) -> None:  # fmt: skip
    """Serve the runs in ``roots`` until interrupted. ``port`` 0 picks a free one; ``began`` is told where it is.

    Raises:
        ConfigError: it may not be served like this, or not there.
        StoreError: one of ``roots`` is no folder.
    """
    may_serve(host, certificates, insecure)
    found = Certificates.open(certificates) if certificates is not None else None
    folders = RunFolders(roots)
    made = token or secrets.token_urlsafe(24)
    usable(made)
    listening = _listen(host, port)
    port = listening.getsockname()[1]
    more = [*names, *(found.names() if found is not None else [])]
    guard = Gate.of(made, host, port, tls=found is not None, more=more)
    dashboard = Dashboard(folders, guard)
    tls: dict[str, Any] = {"ssl_certfile": str(found.endpoint), "ssl_keyfile": str(found.endpoint_key)} if found is not None else {}
    config = uvicorn.Config(
        dashboard.app(), access_log=False, log_level="error", lifespan="on", ws="none", server_header=False,
        timeout_graceful_shutdown=2, timeout_keep_alive=_IDLE_S, limit_concurrency=_CONNECTIONS, backlog=1024, **tls,
    )  # fmt: skip
    named = next((n for n in found.names() if not is_loopback(n)), host) if found is not None and not is_loopback(host) else host
    shown = f"[{named}]" if ":" in named else named
    began(Served(f"{'https' if found is not None else 'http'}://{shown}:{port}/", made, found is not None))
    _WebServer(config, dashboard).run(sockets=[listening])


class _WebServer(uvicorn.Server):
    """Ends the streams before it waits for connections to end, which those of open pages would never do."""

    def __init__(self, config: uvicorn.Config, dashboard: Dashboard) -> None:
        super().__init__(config)
        self._dashboard = dashboard

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._dashboard.streams.close()
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    """Raises ConfigError where that address cannot be listened at."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as e:
        raise ConfigError(f"--host {host}: is no address of this machine ({e.strerror or e})") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as e:
        listening.close()
        raise ConfigError(f"--host {host} --port {port}: cannot be listened at ({e.strerror or e}); name another") from None
    return listening
