"""For all tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator

import pytest
from hypothesis import settings

from patience import examples

# Models here are so small that a second thread costs more than it brings, and several tests run side by side. Before torch is
# imported; what tests start has it too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says more about the machine than about the code.
settings.register_profile("windfall", deadline=None, max_examples=examples(30))
settings.load_profile("windfall")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected is no garbage: to look for some again and again meanwhile would take twice the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """What has been imported and collected stays: collecting garbage need not look through all of it again, ever."""
    gc.collect()
    gc.freeze()
