"""Fixtures of the views' tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from ui_runs import empty_run, finished_run

from windfall.store.rundir import RunDir


@pytest.fixture
def empty(tmp_path: Path) -> RunDir:
    """Prepared and not begun: no version, no telemetry."""
    return empty_run(tmp_path / "empty")


@pytest.fixture
def small(tmp_path: Path) -> RunDir:
    """A finished run of two hours."""
    return finished_run(tmp_path / "small")
