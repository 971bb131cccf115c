"""A logger for MLflow, at `MLFLOW_TRACKING_URI` or where MLflow keeps its runs by default."""

import os
import time
from typing import Any

from rljax.report import files
from rljax.report.loggers import Place


class Writer:
    """Makes one MLflow run for each series, in the experiment `MLFLOW_EXPERIMENT_NAME` or `rljax`."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def start(self, config: dict[str, Any]) -> None:
        """Make the run; its params are the config's."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "rljax")
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        folder = self._place.folder
        group = self._place.title if folder is None else folder.name
        named = "/".join(filter(None, (group, self._place.series)))
        self._run = self._client.create_run(experiment, run_name=named).info.run_id
        params = [Param(key, str(value)[:500]) for key, value in files.plain(config).items()]
        self._client.log_batch(self._run, params=params)

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Log numbers."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._run, metrics=[Metric(name, value, now, step) for name, value in metrics.items()])

    def finish(self, summary: dict[str, Any]) -> None:
        """Keep the summary next to the run's numbers, and end the run."""
        self._client.log_dict(self._run, files.plain(summary), "summary.json")
        self._client.set_terminated(self._run)
