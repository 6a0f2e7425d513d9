"""An application that a test serves on a port of this machine, in a thread."""

from __future__ import annotations

import threading
from typing import Any

from starlette.applications import Starlette

from patience import wait_for
from windfall.wire.bulk_server import serving
from windfall.wire.probe import free_port


class Served:
    """Serves it until ``stop``; ``more`` goes to uvicorn."""

    def __init__(self, app: Starlette, port: int = 0, **more: Any) -> None:
        self.port = port or free_port()
        self._server = serving(app, "127.0.0.1", self.port, loop="asyncio", **more)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_for("the server", lambda: self._server.started)
        scheme = "https" if "ssl_certfile" in more else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End it: connections too."""
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join()
