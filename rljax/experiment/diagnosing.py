"""Findings of the doctor while runs train: one line each, from the metrics that are recorded anyway."""

import dataclasses

import numpy as np

from rljax.backend import controllers
from rljax.envs import Box
from rljax.experiment.description import describe
from rljax.experiment.history import Record
from rljax.experiment.spec import Experiment
from rljax.report import console, findings
from rljax.report.evidence import Evidence, sentence

_MOST_SEEDS, _MOST_CONFIGURATIONS = 64, 16  # of a batch, that are looked at: it is to cost nothing that is noticed


@dataclasses.dataclass
class Diagnoser:
    """Looks at every tenth of a batch's updates, and prints each kind of finding once in an experiment."""

    experiment: Experiment
    said: set[str] = dataclasses.field(default_factory=set)
    _looked: dict[tuple[int, int], int] = dataclasses.field(default_factory=dict)  # tenths, by a batch's first run

    def __call__(self, record: Record) -> None:
        """Print what is new in a record."""
        batch = next(iter(record.runs))
        num_updates = self.experiment.points[batch[0]].config.num_updates
        tenths = 10 * record.updates // num_updates
        if not self.experiment.options.progress or tenths <= self._looked.get(batch, 0) or not controllers.is_first():
            return
        self._looked[batch] = tenths
        updates = tenths * num_updates // 10
        for configuration in np.unique(record.runs.configurations)[:_MOST_CONFIGURATIONS].tolist():
            for found in findings.so_far(self._evidence(record, configuration, updates)):
                if found.name not in self.said:
                    self.said.add(found.name)
                    where = f"Configuration {configuration}, " if self.experiment.fields else ""
                    console.say(f"{where}{sentence(found)}")

    def _evidence(self, record: Record, configuration: int, updates: int) -> Evidence:
        config = self.experiment.points[configuration].config
        rows = record.runs.rows_of(configuration)[:_MOST_SEEDS]
        names = [name for name in findings.USED if name in record.chunks[0] and record.chunks[0][name].ndim == 2]
        space = config.env.action_space
        return Evidence(
            config=describe(config),
            seeds=record.runs.seeds[rows],
            metrics={
                name: np.concatenate([chunk[name][rows] for chunk in record.chunks], axis=1)[:, :updates].astype(float)
                for name in names
            },
            num_updates=config.num_updates,
            eval_returns=record.eval_returns[rows],
            diverged=tuple(
                int(record.runs.seeds[i]) for i in rows if i in record.frozen and not record.frozen[i].is_solved
            ),
            dimensions=int(np.prod(space.shape)) if isinstance(space, Box) else 0,
        )
