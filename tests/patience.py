"""How long a test waits for what must happen: long enough for the slowest machine, as a test that passes never waits it out."""

from __future__ import annotations

from collections.abc import Callable

from windfall import clock

PATIENCE_S = 900.0


def wait_for(what: str, ready: Callable[[], object], timeout: float = PATIENCE_S) -> None:
    """Look again and again until ``ready`` says something true."""
    deadline = clock.monotonic() + timeout
    while not ready():
        assert clock.monotonic() < deadline, f"timed out waiting for {what}"
        clock.pause(0.01)
