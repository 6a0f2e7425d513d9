"""MLflow, by its client (mlflow-skinny). Its variables (``MLFLOW_TRACKING_URI``, ``…_TOKEN`` and others) are its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from windfall.config.trackers import TrackerTable
from windfall.errors import TrackerError
from windfall.run.tracking import unnamed
from windfall.ui.trackers.base import failed, flat
from windfall.view.tracked import TrackedPoint

#: What one request of its API may hold.
_METRICS, _PARAMS, _LETTERS = 1000, 100, 500
_STATES = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "stopped": "KILLED"}


class MLflow:
    """One run of an experiment, found again by the tag ``windfall.run_id``. The step is tokens."""

    def __init__(self, table: TrackerTable, run_id: str, root: Path, config: Mapping[str, Any]) -> None:
        self._table = table
        if lacks := unnamed([table]):  # its client would begin a database in the working directory
            raise TrackerError(lacks[0])
        # Its own attempts would go on for minutes, in silence; the follower tries again and says why.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        try:
            self._client = MlflowClient(tracking_uri=table.url)
            known = self._client.get_experiment_by_name(table.project)
            experiment = known.experiment_id if known else self._client.create_experiment(table.project)
            found = self._client.search_runs([experiment], f"tags.`windfall.run_id` = '{run_id}'", max_results=1)
            if found:
                self._id = found[0].info.run_id
                self._client.update_run(self._id, status="RUNNING")
            else:
                made = self._client.create_run(experiment, run_name=run_id, tags={"windfall.run_id": run_id})
                self._id = made.info.run_id
                params = [Param(k, str(v)[:_LETTERS]) for k, v in flat(config).items()]
                for i in range(0, len(params), _PARAMS):
                    self._client.log_batch(self._id, params=params[i : i + _PARAMS])
        except (MlflowException, OSError) as e:
            failed(table, e)

    def log(self, points: list[TrackedPoint]) -> None:
        metrics = [Metric(k, v, int(p.t_wall * 1000), p.tokens) for p in points for k, v in p.values.items()]
        try:
            for i in range(0, len(metrics), _METRICS):
                self._client.log_batch(self._id, metrics=metrics[i : i + _METRICS])
        except (MlflowException, OSError) as e:
            failed(self._table, e)

    def close(self, state: str) -> None:
        if state not in _STATES:
            return
        try:
            self._client.set_terminated(self._id, _STATES[state])
        except (MlflowException, OSError) as e:
            failed(self._table, e)
