"""What a run directory says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from windfall.errors import StoreError
from windfall.store.rundir import SUPERVISOR_LOCK, RunDir


def test_a_run_that_is_being_prepared_is_told_from_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no run here"):
        RunDir(tmp_path).open_existing()
    (tmp_path / SUPERVISOR_LOCK).touch()
    with pytest.raises(StoreError, match="is being prepared"):
        RunDir(tmp_path).open_existing()
