"""Which runs are trained together: the tasks of an experiment, and those that follow when a rung ends.

A task is a slice of a group's runs. Its number and its runs follow from the experiment, the sizes in the manifest and,
after a rung, the returns of the one before: never from the number of workers, their order, or which of them died. A
task is one batch, unless that does not fit into memory; its batches have folders of the task's number plus multiples
of the number of tasks.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from rljax.experiment import halving
from rljax.experiment.batching import Batch, lanes_for
from rljax.experiment.checkpoints import Saved
from rljax.experiment.combining import Trained
from rljax.experiment.history import Runs
from rljax.experiment.spec import Experiment
from rljax.experiment.sweeps import Group


class Task(NamedTuple):
    """Runs that one worker trains."""

    number: int
    group: Group
    rung: int  # of successive halving
    runs: Runs
    lanes: int  # of a batch of all of them
    sources: tuple[str, ...] = ()  # folders of the batches of the rung before

    def batches(self, experiment: Experiment, saved: list[Saved], source: Saved | None = None) -> list[Batch]:
        """The batches that have checkpoints, in order, and those of the remaining runs.

        Args:
            experiment: of the task.
            saved: its checkpoints.
            source: the state of all its runs at the end of the rung before.
        """
        begun: list[Batch] = []
        for one in sorted(saved, key=lambda one: int(one.folder_name)):
            lanes = lanes_for(one.lanes, experiment.lane_devices)
            name = one.folder_name
            begun.append(Batch(self.group, one.record.runs, lanes, one, self.rung, self.number, folder_name=name))
        known = {run for batch in begun for run in batch.runs}
        left = [run for run in self.runs if run not in known]
        if source is not None and not begun:
            return [Batch(self.group, self.runs, self.lanes, source, self.rung, self.number)]
        # All batches have the layout of the first one: other shapes would round differently.
        size, lanes = (len(begun[0].runs), begun[0].lanes) if begun else (len(self.runs), self.lanes)
        parts = [left[i : i + size] for i in range(0, len(left), size)]
        return begun + [Batch(self.group, Runs.of(part), lanes, None, self.rung, self.number) for part in parts]


@dataclasses.dataclass
class _Rung:
    """A rung of a group while its tasks are trained."""

    open: set[int]  # numbers of the tasks that have not ended
    trained: list[Trained] = dataclasses.field(default_factory=list)


class Schedule:
    """The tasks of an experiment, in order, and what has been trained."""

    def __init__(self, experiment: Experiment, groups: list[Group]) -> None:
        """Plan the first rung of every group, which without halving is all."""
        self._experiment, self.groups = experiment, groups
        self._first: list[list[int]] = []  # number of the first task of each group's rungs
        number = 0
        for group in groups:
            firsts: list[int] = []
            for configurations in self._configurations(group):
                firsts.append(number)
                runs = configurations * experiment.options.seeds
                number += -(-runs // min(experiment.size_of(len(self._first), group), runs))
            self._first.append(firsts)
        self.count = number
        self._ended: list[Trained] = []
        self._rungs: dict[tuple[int, int], _Rung] = {}
        seeds = experiment.options.seeds
        self.tasks = [
            task
            for index, group in enumerate(groups)
            for task in self._open(index, 0, list(itertools.product(group.points, range(seeds))))
        ]

    @property
    def trained(self) -> list[Trained]:
        """What has been trained so far, each run once."""
        return [*self._ended, *(t for rung in self._rungs.values() for t in rung.trained)]

    def done(self, task: Task, trained: list[Trained]) -> list[Task]:
        """Note what a task has trained; the tasks of the next rung, if this was the last one of a rung."""
        index = self.groups.index(task.group)
        rungs, rung = self._rungs_of(task.group), self._rungs[index, task.rung]
        rung.trained += trained
        is_whole = sum(len(t.record.runs) for t in trained) == len(task.runs)
        is_last = task.rung == len(rungs)
        if is_last or not is_whole or any(t.record.updates < rungs[task.rung][0] for t in trained):
            return []  # it was interrupted, or nothing follows
        rung.open.discard(task.number)
        if rung.open:
            return []
        runs = Runs.of(np.concatenate([t.record.runs.pairs for t in rung.trained]))
        returns = np.concatenate([t.final.mean(axis=1) for t in rung.trained])
        order = np.lexsort((runs.seeds, runs.configurations))  # as if one worker had trained them all
        runs, returns = runs[order], returns[order]
        kept = runs[halving.survivors(runs, returns, rungs[task.rung][1])]
        del self._rungs[index, task.rung]
        going_on = set(kept)
        for t in rung.trained:
            rows = np.flatnonzero([run not in going_on for run in t.record.runs])
            if len(rows):
                states = jax.tree.map(lambda x, rows=rows: x[rows], t.states)
                self._ended.append(Trained(t.batch, t.record.rows(rows), states, t.final[rows], t.record.updates))
        folder = {run: t.batch.folder_name for t in rung.trained for run in t.record.runs}
        return self._open(index, task.rung + 1, list(kept), folder)

    def _open(
        self, index: int, rung: int, runs: list[tuple[int, int]], folder: Mapping[tuple[int, int], str] = {}
    ) -> list[Task]:
        group, experiment = self.groups[index], self._experiment
        size = min(experiment.size_of(index, group), len(runs))
        lanes, first = lanes_for(size, experiment.lane_devices), self._first[index][rung]
        parts = [Runs.of(runs[i : i + size]) for i in range(0, len(runs), size)]
        sources = [tuple(dict.fromkeys(folder[run] for run in part if run in folder)) for part in parts]
        tasks = [Task(first + i, group, rung, part, lanes, sources[i]) for i, part in enumerate(parts)]
        self._rungs[index, rung] = _Rung({task.number for task in tasks})
        return tasks

    def _rungs_of(self, group: Group) -> list[tuple[int, int]]:
        num_updates = self._experiment.points[group.points[0]].config.num_updates
        return halving.rungs(len(group.points), num_updates, self._experiment.options.halving)

    def _configurations(self, group: Group) -> list[int]:
        """How many configurations each rung has."""
        return [len(group.points), *(remaining for _, remaining in self._rungs_of(group))]


def free_numbers(number: int, count: int, saved: list[Saved]) -> Iterator[int]:
    """Numbers for the folders of a task's batches after those that have checkpoints."""
    last = max((int(one.folder_name) for one in saved), default=number - count)
    return itertools.count(last + count, count)
