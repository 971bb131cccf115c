"""What watches a batch while it trains: it freezes solved runs, keeps policies, and passes everything on."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rljax.backend import controllers
from rljax.backend.lanes import shared_leaves
from rljax.experiment import placement
from rljax.experiment.batching import Batch
from rljax.experiment.checkpoints import Saved
from rljax.experiment.history import Frozen, Kept, Record
from rljax.experiment.outlets import Outlets
from rljax.experiment.progress import Progress
from rljax.experiment.spec import Experiment

Show = Callable[[Record, Progress], None]


@dataclasses.dataclass
class Observer:
    """Watches a batch; see `loop.Observer`."""

    experiment: Experiment
    batch: Batch
    outlets: Outlets
    axes: Any  # of the states
    keys: np.ndarray  # [R, ...] key data of the runs' updates
    others: Callable[[], tuple[list[Record], list[Record]]]  # of the batches before and after this one
    show: Show
    is_interrupted: Callable[[], bool]
    diagnoser: Callable[[Record], None]  # prints what is found in the metrics
    saved_at: float = dataclasses.field(default_factory=time.perf_counter)

    def after_chunk(self, record: Record, states: Any) -> None:
        """Pass the chunk on, and save if it is time to."""
        progress = self._progress(record, states, is_evaluation=False)
        self.show(record, progress)
        self.outlets.chunk(record, progress)
        self.diagnoser(record)
        every = self.experiment.options.checkpoint_every
        if every is not None and controllers.first(int(time.perf_counter() - self.saved_at >= every)):
            self.outlets.save(self.batch.folder_name, self.snapshot(record, states))
            self.saved_at = time.perf_counter()

    def after_evaluation(self, record: Record, states: Any) -> None:
        """Keep policies, freeze solved runs, pass the evaluation on."""
        options = self.experiment.options
        if options.keeps_policies:
            self._keep(record, states)
        if options.stop_at is not None:
            counters = [np.asarray(leaf) for leaf in shared_leaves(states, self.axes)]
            for lane in np.flatnonzero(record.evaluations[-1] >= options.stop_at).tolist():
                if lane not in record.frozen:
                    record.frozen[lane] = Frozen(record.updates, record.env_steps, counters, is_solved=True)
        progress = self._progress(record, states, is_evaluation=True)
        self.show(record, progress)
        before, after = self.others()
        self.outlets.evaluation(record, (*before, record, *after), progress)

    def interrupted(self, record: Record) -> bool:
        """True if the batch is to end: after a signal or `Progress.stop`, or since all its runs are solved."""
        return record.is_solved or self.is_interrupted()

    def snapshot(self, record: Record, states: Any, final: np.ndarray | None = None) -> Saved:
        """What a checkpoint holds."""
        leaves, axes = placement.capture(states, self.axes, len(self.batch.runs))
        return Saved(record, leaves, axes, self.keys, final, self.batch.lanes, self.experiment.about, self.batch.rung)

    def _keep(self, record: Record, states: Any) -> None:
        updates = np.full(len(record.runs), record.updates)
        leaves = placement.capture_acting(states, self.axes, len(record.runs), self._acting)
        kept = Kept(updates, record.evaluations[-1], leaves)
        if "all" in self.experiment.options.keep or not record.kept:
            record.kept.append(kept)
        else:
            record.kept[0] = record.kept[0].or_better(kept)

    @functools.cached_property
    def _acting(self) -> list[int]:
        return placement.acting(self.experiment.algorithm, self._config)

    @property
    def _config(self) -> Any:
        return self.experiment.points[self.batch.runs.configurations[0]].config

    def _progress(self, record: Record, states: Any, is_evaluation: bool) -> Progress:
        runs = record.runs
        missing = np.full(len(runs), np.nan)
        return Progress(
            runs=runs,
            updates=record.updates,
            num_updates=self._config.num_updates,
            env_steps=record.env_steps,
            env_steps_per_second=len(runs) * record.env_steps / record.seconds if record.seconds else 0.0,
            metrics={} if is_evaluation else record.chunks[-1],
            returns=record.evaluations[-1] if record.evaluations else missing,
            measures=record.eval_measures[-1] if record.eval_measures else {},
            is_evaluation=is_evaluation,
            fetch=lambda: jax.tree.map(controllers.on_host, placement.stacked(states, self.axes, record)),
            halt=self.outlets.stop,
        )
