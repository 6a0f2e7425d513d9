"""Weights & Biases. ``WANDB_API_KEY`` and ``WANDB_MODE=offline`` are the client's own variables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from windfall.config.trackers import TrackerTable
from windfall.ui.trackers.base import failed, flat, own_folder
from windfall.view.tracked import TrackedPoint


class WandB:
    """One run of the service, with the run's own id, so that a resumed run goes on in it. The x axis is ``tokens``."""

    def __init__(self, table: TrackerTable, run_id: str, root: Path, config: Mapping[str, Any]) -> None:
        self._table = table
        settings = wandb.Settings(console="off", silent=True, x_disable_stats=True, x_disable_meta=True, save_code=False)
        if table.url:
            settings.base_url = table.url
        try:
            self._run = wandb.init(
                project=table.project, entity=table.entity, id=run_id, name=run_id, resume="allow", config=flat(config),
                dir=str(own_folder(table, root)), settings=settings,
            )  # fmt: skip
            self._run.define_metric("tokens")
            self._run.define_metric("*", step_metric="tokens")
        except (wandb.Error, OSError, ValueError) as e:
            failed(table, e)

    def log(self, points: list[TrackedPoint]) -> None:
        try:
            for p in points:
                self._run.log({"tokens": p.tokens, **p.values})
        except (wandb.Error, OSError, ValueError) as e:
            failed(self._table, e)

    def close(self, state: str) -> None:
        try:
            self._run.finish(exit_code=1 if state == "failed" else 0)
        except (wandb.Error, OSError, ValueError) as e:
            failed(self._table, e)
