"""How long a test waits for what must happen: long enough for the slowest machine, as a test that passes never waits it out.

And how many examples it tries: few each time, as they are others each time, and many where there is time.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from windfall import clock

PATIENCE_S = 900.0
#: `make test-long` and what verifies at length.
LONG = os.environ.get("WINDFALL_LONG") == "1"


def examples(few: int) -> int:
    """Of a property whose examples cost more than a few milliseconds each."""
    return 10 * few if LONG else few


def wait_for(what: str, ready: Callable[[], object], timeout: float = PATIENCE_S) -> None:
    """Look again and again until ``ready`` says something true."""
    deadline = clock.monotonic() + timeout
    while not ready():
        assert clock.monotonic() < deadline, f"timed out waiting for {what}"
        clock.pause(0.01)
