"""For all tests."""

from __future__ import annotations

import gc
import os

from hypothesis import settings

# Models here are so small that a second thread costs more than it brings, and several tests run side by side. Before torch is
# imported; what tests start has it too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says more about the machine than about the code. WINDFALL_LONG=1: many more of them.
settings.register_profile("windfall", deadline=None, max_examples=400 if os.environ.get("WINDFALL_LONG") == "1" else 50)
settings.load_profile("windfall")


def pytest_collection_finish() -> None:
    """What has been imported and collected stays: collecting garbage need not look through all of it again, ever."""
    gc.collect()
    gc.freeze()
