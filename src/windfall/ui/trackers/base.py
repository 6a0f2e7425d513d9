"""What a tracker is, and which there are. Each real one is in a module of its own, which imports its package when it is used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, Protocol

from windfall.config.trackers import TrackerTable
from windfall.errors import TrackerError
from windfall.view.tracked import TrackedPoint


class Tracker(Protocol):
    """Where a run's figures go. Every call may raise TrackerError, and may be made again."""

    def log(self, points: list[TrackedPoint]) -> None:
        """Take figures over tokens, in the order in which they came about."""

    def close(self, state: str) -> None:
        """Nothing more is sent for now. ``state``: the run's (running, done, interrupted, failed, stopped)."""


#: The class of each kind.
_CLASSES = {
    "tensorboard": "windfall.ui.trackers.tensorboard:TensorBoard",
    "wandb": "windfall.ui.trackers.wandb:WandB",
    "mlflow": "windfall.ui.trackers.mlflow:MLflow",
}


def open_tracker(table: TrackerTable, run_id: str, root: Path, config: Mapping[str, Any]) -> Tracker:
    """The tracker of a table; it goes on with the run of the same ``run_id`` if it knows one already.

    ``config``: the run's configuration, shown beside the figures. ``root``: the run directory.

    Raises:
        TrackerError: its package is not installed, or it cannot be reached.
    """
    module, name = _CLASSES[table.kind].split(":")
    try:
        made: Tracker = getattr(import_module(module), name)(table, run_id, root, config)
    except ImportError as e:
        if e.name is None or e.name.startswith("windfall"):
            raise
        raise TrackerError(
            f'[[tracker]] kind = "{table.kind}": {e.name} is not installed; pip install "windfall[{table.kind}]"'
        ) from None
    return made


def own_folder(table: TrackerTable, root: Path) -> Path:
    """Where a tracker's own files go; made if it is not there."""
    folder = Path(table.folder) if table.folder else root / "trackers" / table.kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise TrackerError(f"{folder}: cannot be written ({e.strerror}); name another folder for {table.kind}") from None
    return folder


def failed(table: TrackerTable, error: Exception) -> NoReturn:
    """Raise what a tracker's package says as a TrackerError: its first line, and where to look."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    where = f" at {table.url}" if table.url else ""
    raise TrackerError(f"{table.kind}{where}: {said[:300]}") from None


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration as ``table.key`` to value; sites by their name."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            for i, item in enumerate(value):
                found |= flat(item, f"{name}.{item.get('name', i)}.")
        else:
            found[name] = value
    return found
