"""Windfall: pretraining language models on renewable electricity that would otherwise be curtailed."""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` takes a while to import, and type checkers know this name
if TYPE_CHECKING:
    from os import PathLike

    from windfall.view.frames import RunFrames

__version__ = "0.1.0"


def open_run(path: str | PathLike[str]) -> RunFrames:
    """The series of the run in ``path`` as tables, for notebooks: ``open_run("runs/demo").energy().to_pandas()``.

    Raises:
        StoreError: there is no run.
    """
    from pathlib import Path

    from windfall.view.frames import RunFrames

    return RunFrames(Path(path))
