"""Where a run goes while it trains: checkpoints, `metrics.csv`, `curves.csv`, loggers, callbacks, the terminal."""

import pathlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

from rljax.errors import UsageError
from rljax.experiment import checkpoints, remote
from rljax.experiment.checkpoints import Saved
from rljax.experiment.history import Record, Runs
from rljax.experiment.metrics_file import MetricsFile
from rljax.experiment.output import write_curves
from rljax.experiment.progress import Progress
from rljax.experiment.spec import Experiment
from rljax.report import console

Callback = Callable[[Progress], Any]


class Listener(Protocol):
    """Gets what runs do: the loggers, or on a cluster's worker the way to them."""

    def chunk(self, runs: Runs, first: int, metrics: dict[str, np.ndarray]) -> None:
        """Metrics `[R, U, ...]` of the U updates after the first `first`."""

    def evaluation(self, runs: Runs, env_steps: int, evaluated: dict[str, np.ndarray]) -> None:
        """An evaluation's means `[R]`, by name: `return`, and those of other measures."""

    def finish(self, summary: dict[str, Any]) -> None:
        """The end."""


class Outlets:
    """What receives an experiment's states, metrics and returns while it trains.

    A file that cannot be written is reported once, and training continues, since a full disk may have room at the end.
    """

    def __init__(
        self,
        experiment: Experiment,
        callbacks: Iterable[Callback] = (),
        *,
        writer: checkpoints.Writer | None = None,
        metrics: MetricsFile | None = None,
        logs: Listener | None = None,
        curves: pathlib.Path | None = None,
    ) -> None:
        """Pass on to these; `curves` is the folder of `curves.csv`."""
        self.experiment, self.stopped = experiment, False
        self._callbacks, self._checkpoints, self._metrics = tuple(callbacks), writer, metrics
        self._logs, self._curves = logs, curves
        # By configuration and seed, how many updates and evaluations were passed on: none is twice, whether a run was
        # resumed, continues after a rung, or begins again in a smaller batch.
        self._updates: dict[tuple[int, int], int] = {}
        self._evaluations: dict[tuple[int, int], int] = {}
        self._reported: set[str] = set()

    def begin(self, record: Record) -> None:
        """Write what these runs did before, in an earlier session."""
        start = 0
        for chunk in record.chunks:
            self.updates(record.runs, start, chunk)
            start += chunk["env_steps"].shape[1]
        for number in range(len(record.evaluations)):
            self._pass_on_evaluation(record, number)

    def chunk(self, record: Record, progress: Progress) -> None:
        """Pass on the record's last chunk."""
        metrics = record.chunks[-1]
        self.updates(record.runs, record.updates - metrics["env_steps"].shape[1], metrics)
        self.call(progress)

    def evaluation(self, record: Record, others: Iterable[Record], progress: Progress) -> None:
        """Pass on the record's last evaluation, and write the curves, with those of other batches."""
        self.curves(others)
        self._pass_on_evaluation(record, len(record.evaluations) - 1)
        self.call(progress)

    def curves(self, records: Iterable[Record]) -> None:
        """Write the curves of these records."""
        if self._curves is not None:
            self.or_report(write_curves, self.experiment, self._curves, list(records))

    def save(self, folder_name: str, saved: Saved) -> None:
        """Write a batch's checkpoint."""
        if self._checkpoints is not None:
            self.or_report(self._checkpoints.save, folder_name, saved)
            folder = self.experiment.folder
            if remote.is_staged(folder):
                self.or_report(self._checkpoints.close)  # which waits until it is complete
                self.or_report(remote.upload, folder)

    def flush(self) -> None:
        """Wait until the last checkpoint and the metrics are written."""
        if self._checkpoints is not None:
            self.or_report(self._checkpoints.close)
        if self._metrics is not None:
            self.or_report(self._metrics.flush)

    def finish(self, summary: dict[str, Any]) -> None:
        """End the loggers."""
        if self._logs is not None:
            self._logs.finish(summary)

    def stop(self) -> None:
        """End the experiment after the running chunk."""
        self.stopped = True

    def updates(self, runs: Runs, first: int, metrics: dict[str, np.ndarray]) -> None:
        """Write and log the metrics `[R, U, ...]` of the U updates after the first `first`, as far as they are new."""
        count = metrics["env_steps"].shape[1]
        known = min(max(self._updates.get(next(iter(runs)), 0) - first, 0), count)
        if known == count:
            return
        new = {name: rows[:, known:] for name, rows in metrics.items()}
        if self._metrics is not None:
            self.or_report(self._metrics.add, runs, first + known, new)
        if self._logs is not None:
            self._logs.chunk(runs, first + known, new)
        self._updates.update(dict.fromkeys(runs, first + count))

    def _pass_on_evaluation(self, record: Record, number: int) -> None:
        evaluated = {"return": record.evaluations[number], **record.eval_measures[number]}
        self.evaluated(record.runs, number, record.eval_steps[number], evaluated)

    def evaluated(self, runs: Runs, number: int, env_steps: int, means: dict[str, np.ndarray]) -> None:
        """Log an evaluation of this number, if it is new."""
        if self._logs is None or self._evaluations.get(next(iter(runs)), 0) > number:
            return
        self._logs.evaluation(runs, env_steps, means)
        self._evaluations.update(dict.fromkeys(runs, number + 1))

    def call(self, progress: Progress) -> None:
        """Call the callbacks."""
        for callback in self._callbacks:
            callback(progress)

    def or_report(self, write: Callable[..., None], *arguments: Any) -> None:
        """Write, and report an error instead of raising it."""
        try:
            write(*arguments)
        except UsageError as error:
            if str(error) not in self._reported:
                self._reported.add(str(error))
                console.say(f"{error} The run continues.")
