"""What tests of a site share; the rest is in federation/fixtures.py."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from federation.fixtures import data, no_waiting_for_the_disk, runs

__all__ = ["data", "no_waiting_for_the_disk", "runs"]


@pytest.fixture
def own_signals() -> Iterator[None]:
    """A verb takes signals over; whatever runs these tests gets its own back."""
    kept = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)
