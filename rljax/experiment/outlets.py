"""Where a run goes while it trains: checkpoints, `metrics.csv`, `curves.csv`, loggers, callbacks, the terminal."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from rljax.errors import UsageError
from rljax.experiment import checkpoints
from rljax.experiment.checkpoints import Saved
from rljax.experiment.history import Record
from rljax.experiment.logs import Logs
from rljax.experiment.metrics_file import MetricsFile
from rljax.experiment.output import write_curves
from rljax.experiment.progress import Progress
from rljax.experiment.spec import Experiment
from rljax.report import console

Callback = Callable[[Progress], Any]


class Outlets:
    """What receives an experiment's states, metrics and returns while it trains.

    A file that cannot be written is reported once, and training continues, since a full disk may have room at the end.
    """

    def __init__(self, experiment: Experiment, updates: int, callbacks: Iterable[Callback]) -> None:
        """Write into the experiment's folder, if it has one; `updates` are those of all runs together."""
        self.experiment, self.stopped = experiment, False
        folder = experiment.folder
        self._callbacks = tuple(callbacks)
        self._checkpoints = None if folder is None else checkpoints.Writer(folder)
        self._metrics = None if folder is None else MetricsFile(experiment, folder, updates)
        self._logs = Logs(experiment)
        # By configuration and seed, how many updates and evaluations were passed on: none is twice, whether a run was
        # resumed, continues after a rung, or begins again in a smaller batch.
        self._updates: dict[tuple[int, int], int] = {}
        self._evaluations: dict[tuple[int, int], int] = {}
        self._reported: set[str] = set()

    def begin(self, record: Record) -> None:
        """Write what these runs did before, in an earlier session."""
        start = 0
        for chunk in record.chunks:
            self._pass_on_updates(record, start, chunk)
            start += chunk["env_steps"].shape[1]
        for number in range(len(record.evaluations)):
            self._pass_on_evaluation(record, number)

    def chunk(self, record: Record, progress: Progress) -> None:
        """Pass on the record's last chunk."""
        metrics = record.chunks[-1]
        self._pass_on_updates(record, record.updates - metrics["env_steps"].shape[1], metrics)
        self._call(progress)

    def evaluation(self, record: Record, others: Iterable[Record], progress: Progress) -> None:
        """Pass on the record's last evaluation, and write the curves, with those of other batches."""
        folder = self.experiment.folder
        if folder is not None:
            self._or_report(write_curves, self.experiment, folder, list(others))
        self._pass_on_evaluation(record, len(record.evaluations) - 1)
        self._call(progress)

    def save(self, folder_name: str, saved: Saved) -> None:
        """Write a batch's checkpoint."""
        if self._checkpoints is not None:
            self._or_report(self._checkpoints.save, folder_name, saved)

    def flush(self) -> None:
        """Wait until the last checkpoint and the metrics are written."""
        if self._checkpoints is not None:
            self._or_report(self._checkpoints.close)
        if self._metrics is not None:
            self._or_report(self._metrics.flush)

    def finish(self, summary: dict[str, Any]) -> None:
        """End the loggers."""
        self._logs.finish(summary)

    def stop(self) -> None:
        """End the experiment after the running chunk."""
        self.stopped = True

    def _pass_on_updates(self, record: Record, first: int, metrics: dict[str, np.ndarray]) -> None:
        """Write and log the metrics `[R, U, ...]` of the updates after the first `first` that are new."""
        count = metrics["env_steps"].shape[1]
        known = min(max(self._updates.get(next(iter(record.runs)), 0) - first, 0), count)
        if known == count:
            return
        new = {name: rows[:, known:] for name, rows in metrics.items()}
        if self._metrics is not None:
            self._or_report(self._metrics.add, record.runs, first + known, new)
        self._logs.chunk(record.runs, first + known, new)
        self._updates.update(dict.fromkeys(record.runs, first + count))

    def _pass_on_evaluation(self, record: Record, number: int) -> None:
        """Log the record's evaluation of this number, if it is new."""
        if self._evaluations.get(next(iter(record.runs)), 0) > number:
            return
        self._logs.evaluation(record.runs, record.eval_steps[number], record.evaluations[number])
        self._evaluations.update(dict.fromkeys(record.runs, number + 1))

    def _call(self, progress: Progress) -> None:
        for callback in self._callbacks:
            callback(progress)

    def _or_report(self, write: Callable[..., None], *arguments: Any) -> None:
        try:
            write(*arguments)
        except UsageError as error:
            if str(error) not in self._reported:
                self._reported.add(str(error))
                console.say(f"{error} The run continues.")
