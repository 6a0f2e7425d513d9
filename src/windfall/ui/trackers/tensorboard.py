"""TensorBoard: event files in a folder of the run directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorboard  # noqa: F401 - so that its absence is told before torch's own words
from torch.utils.tensorboard import SummaryWriter

from windfall.config.trackers import TrackerTable
from windfall.ui.trackers.base import failed, own_folder
from windfall.view.tracked import TrackedPoint


class TensorBoard:
    """``tensorboard --logdir FOLDER`` shows it; the step is tokens."""

    def __init__(self, table: TrackerTable, run_id: str, root: Path, config: Mapping[str, Any]) -> None:
        self._table = table
        folder = own_folder(table, root) / run_id
        first = not folder.exists()
        try:
            self._writer = SummaryWriter(log_dir=str(folder))
            if first:
                text = "\n".join(f"    {line}" for line in json.dumps(config, indent=2, default=str).splitlines())
                self._writer.add_text("configuration", text, 0)
        except OSError as e:
            failed(table, e)

    def log(self, points: list[TrackedPoint]) -> None:
        try:
            for p in points:
                for name, value in p.values.items():
                    self._writer.add_scalar(name, value, global_step=p.tokens, walltime=p.t_wall)
            self._writer.flush()
        except OSError as e:
            failed(self._table, e)

    def close(self, state: str) -> None:
        try:
            self._writer.close()
        except OSError as e:
            failed(self._table, e)
