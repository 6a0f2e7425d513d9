"""What tests of verbs have in common."""

from __future__ import annotations

import math

import pytest


@pytest.fixture(autouse=True)
def _no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is told of how far a verb is: on a slow machine it would be, and tests look at all that is on standard error."""
    monkeypatch.setattr("windfall.ui.terminal.progress._PATIENCE_S", math.inf)
    monkeypatch.setattr("windfall.cli.output._QUIET_S", math.inf)
