"""For all tests."""

from __future__ import annotations

import gc
import os

from hypothesis import settings

from patience import examples

# Models here are so small that a second thread costs more than it brings, and several tests run side by side. Before torch is
# imported; what tests start has it too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says more about the machine than about the code.
settings.register_profile("windfall", deadline=None, max_examples=examples(30))
settings.load_profile("windfall")


def pytest_collection_finish() -> None:
    """What has been imported and collected stays: collecting garbage need not look through all of it again, ever."""
    gc.collect()
    gc.freeze()
