"""What a run directory says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from windfall.errors import NoRun, StoreError
from windfall.store.rundir import SUPERVISOR_LOCK, RunDir


def test_a_run_that_is_being_prepared_is_told_from_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no run here"):
        RunDir(tmp_path).open_existing()
    (tmp_path / SUPERVISOR_LOCK).touch()
    with pytest.raises(StoreError, match="is being prepared"):
        RunDir(tmp_path).open_existing()


def test_a_folder_of_runs_and_a_file_are_told_from_a_run(tmp_path: Path) -> None:
    for name in "fedcba":
        (tmp_path / name).mkdir()
        (tmp_path / name / "ledger.db").touch()
    with pytest.raises(NoRun, match=f"a folder of runs, and one is wanted: name {tmp_path / 'a'}, .* or one of 1 more"):
        RunDir(tmp_path).open_existing()
    with pytest.raises(NoRun, match="a run is a folder"):
        RunDir(tmp_path / "a" / "ledger.db").open_existing()
    with pytest.raises(NoRun, match="is no folder"):
        RunDir(tmp_path / "a" / "ledger.db").make()
