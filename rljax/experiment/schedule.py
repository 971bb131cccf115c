"""Which runs are trained together: the tasks of an experiment, and those that follow when a rung ends.

A search's batch of configurations ends like a rung. A task is a slice of a group's runs. Its number and its runs follow
from the experiment, the sizes in the manifest and, after a rung, the returns of the ones before: never from the number
of workers, their order, or which of them died. A task is one batch, unless that does not fit into memory; its batches
have folders of the task's number plus multiples of the number of tasks.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from rljax.experiment import halving, search
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
    """A rung of a group."""

    open: set[int] = dataclasses.field(default_factory=set)  # numbers of the tasks that have not ended
    trained: list[Trained] = dataclasses.field(default_factory=list)
    promoted: set[int] = dataclasses.field(default_factory=set)  # configurations that continue
    is_decided: bool = False  # the others do not


class Schedule:
    """The tasks of an experiment, in order, and what has been trained."""

    def __init__(self, experiment: Experiment, groups: list[Group]) -> None:
        """Plan the first rung of every group, which without halving is all; of a search only the first group.

        `groups` get the configurations that a search suggests.
        """
        self._experiment, self.groups = experiment, groups
        self._search = None if experiment.space is None else search.Search(experiment)
        self._first: list[list[int]] = []  # number of the first task of each group's rungs
        self._rungs: list[list[_Rung]] = []
        seeds, number = experiment.options.seeds, 0
        for index, group in enumerate(groups):
            self._first.append([])
            self._rungs.append([])
            for rung, configurations in enumerate(self._most_configurations(group)):
                self._first[-1].append(number)
                self._rungs[-1].append(_Rung())
                if experiment.options.asynchronous and rung:
                    number += configurations * self._tasks_each(index)
                else:
                    runs = configurations * seeds
                    number += -(-runs // min(experiment.size_of(index, group), runs))
        self.count = number
        if self._search is not None:
            self.tasks = self._suggested(0)
        else:
            self.tasks = [task for index in range(len(groups)) for task in self._begun(index)]

    def trained(self, with_waiting: bool) -> list[Trained]:
        """What has been trained so far, each run once: where it got furthest.

        Args:
            with_waiting: also runs that continue but have not in the next rung yet, which a local session has itself.
        """
        found: list[Trained] = []
        for rungs in self._rungs:
            seen: set[tuple[int, int]] = set()
            for rung in reversed(rungs):
                for t in rung.trained:
                    of_runs = [(run in seen, run[0] in rung.promoted) for run in t.record.runs]
                    found += _rows(t, [not is_seen and not goes_on for is_seen, goes_on in of_runs], rung.is_decided)
                    if with_waiting:
                        found += _rows(t, [not is_seen and goes_on for is_seen, goes_on in of_runs], False)
                seen.update(run for t in rung.trained for run in t.record.runs)
        return found

    def done(self, task: Task, trained: list[Trained]) -> list[Task]:
        """Note what a task has trained; the tasks that are ready now, if a rung ended or promotes without waiting."""
        index = next(i for i, group in enumerate(self.groups) if group is task.group)
        lengths, rung = self._lengths(task.group), self._rungs[index][task.rung]
        rung.trained += trained
        is_whole = sum(len(t.record.runs) for t in trained) == len(task.runs)
        is_last = task.rung == len(lengths)
        if not is_whole or (not is_last and any(t.record.updates < lengths[task.rung][0] for t in trained)):
            return []  # it was interrupted
        if self._search is not None and any(t.record.updates < t.num_updates for t in trained):
            return []
        rung.open.discard(task.number)
        if self._search is not None:
            return self._after_batch(self._search, index)
        if self._experiment.options.asynchronous:
            return self._promoted(index, task.group)
        if is_last or rung.open:
            return []
        return self._continued(index, task.rung, lengths[task.rung][1])

    def _continued(self, index: int, number: int, remaining: int) -> list[Task]:
        """The next rung's tasks, once all of a rung have ended."""
        rung = self._rungs[index][number]
        kept = self._best(rung, remaining)
        rung.promoted.update(configuration for configuration, _ in kept)
        rung.is_decided = True
        return self._open(index, number + 1, kept, _folders(rung))

    def _after_batch(self, found: search.Search, index: int) -> list[Task]:
        """The tasks of a search's next batch, once all of this one have ended."""
        (rung,) = self._rungs[index]
        if rung.open:
            return []
        runs, returns = _returns(rung)
        found.report(runs, returns)
        return self._suggested(index + 1) if index + 1 < len(self.groups) else []

    def _suggested(self, index: int) -> list[Task]:
        """The tasks of the batch of a search that is suggested now."""
        assert self._search is not None
        self.groups[index] = self._search.suggest(index)
        return self._begun(index)

    def _begun(self, index: int) -> list[Task]:
        """The tasks of a group's first rung."""
        runs = itertools.product(self.groups[index].points, range(self._experiment.options.seeds))
        return self._open(index, 0, list(runs), {})

    def _promoted(self, index: int, group: Group) -> list[Task]:
        """The tasks of configurations that are promoted now (ASHA, Li et al. 2020), from the highest rung down.

        One in `halving` of the configurations that have ended a rung continues: rounded down while others may come,
        and rounded up once none can.
        """
        factor = self._experiment.options.halving
        assert factor is not None
        rungs, tasks = self._rungs[index], list[Task]()
        for number in reversed(range(len(rungs) - 1)):
            rung, seeds = rungs[number], self._experiment.options.seeds
            runs = [run for t in rung.trained for run in t.record.runs]
            counts = collections.Counter(configuration for configuration, _ in runs)
            ended = sum(count == seeds for count in counts.values())
            can_grow = any(below.open for below in rungs[: number + 1])
            kept = self._best(rung, ended // factor if can_grow else -(-ended // factor))
            new = {run[0] for run in kept if run[0] not in rung.promoted and counts[run[0]] == seeds}
            rung.promoted |= new
            for configuration in sorted(new):  # whatever the order, a configuration's task has the same number
                place = group.points.index(configuration)
                own = [run for run in kept if run[0] == configuration]
                tasks += self._open(index, number + 1, own, _folders(rung), place * self._tasks_each(index))
        if not any(rung.open for rung in rungs):
            for rung in rungs:
                rung.is_decided = True
        return tasks

    def _best(self, rung: _Rung, remaining: int) -> list[tuple[int, int]]:
        """The runs of a rung's best configurations, in order."""
        if not rung.trained or not remaining:
            return []
        runs, returns = _returns(rung)
        return list(runs[halving.survivors(runs, returns, remaining)])

    def _open(
        self,
        index: int,
        rung: int,
        runs: list[tuple[int, int]],
        folders: Mapping[tuple[int, int], str],
        offset: int = 0,
    ) -> list[Task]:
        """Tasks of these runs, whose states at the end of the rung before are in the folders."""
        if not runs:
            return []
        group, experiment = self.groups[index], self._experiment
        size = experiment.size_of(index, group)
        size = size if self._search is not None else min(size, len(runs))
        lanes, first = lanes_for(size, experiment.lane_devices), self._first[index][rung] + offset
        parts = [Runs.of(runs[i : i + size]) for i in range(0, len(runs), size)]
        sources = [tuple(dict.fromkeys(folders[run] for run in part if run in folders)) for part in parts]
        tasks = [Task(first + i, group, rung, part, lanes, sources[i]) for i, part in enumerate(parts)]
        self._rungs[index][rung].open.update(task.number for task in tasks)
        return tasks

    def _tasks_each(self, index: int) -> int:
        """Tasks of a configuration that is promoted by itself."""
        return -(-self._experiment.options.seeds // self._experiment.size_of(index, self.groups[index]))

    def _lengths(self, group: Group) -> list[tuple[int, int]]:
        num_updates = self._experiment.points[group.points[0]].config.num_updates
        return halving.rungs(len(group.points), num_updates, self._experiment.options.halving)

    def _most_configurations(self, group: Group) -> list[int]:
        """How many configurations each rung may have."""
        lengths = self._lengths(group)
        if self._experiment.options.asynchronous:
            return [len(group.points)] * (len(lengths) + 1)
        return [len(group.points), *(remaining for _, remaining in lengths)]


def _returns(rung: _Rung) -> tuple[Runs, np.ndarray]:
    """The runs of a rung in order, as if one batch had trained them all, and their final returns."""
    runs = Runs.of(np.concatenate([t.record.runs.pairs for t in rung.trained]))
    returns = np.concatenate([t.final.mean(axis=1) for t in rung.trained])
    order = np.lexsort((runs.seeds, runs.configurations))
    return runs[order], returns[order]


def _rows(trained: Trained, chosen: list[bool], is_over: bool) -> list[Trained]:
    """The chosen runs of a batch, if there are any; those that are over were to have no more updates."""
    if all(chosen) and not is_over:
        return [trained]
    rows = np.flatnonzero(chosen)
    if not len(rows):
        return []
    states = jax.tree.map(lambda x: x[rows], trained.states)
    num_updates = trained.record.updates if is_over else trained.num_updates
    return [Trained(trained.batch, trained.record.rows(rows), states, trained.final[rows], num_updates)]


def _folders(rung: _Rung) -> dict[tuple[int, int], str]:
    """The folder of each run's batch."""
    return {run: t.batch.folder_name for t in rung.trained for run in t.record.runs}


def free_numbers(number: int, count: int, saved: list[Saved]) -> Iterator[int]:
    """Numbers for the folders of a task's batches after those that have checkpoints."""
    last = max((int(one.folder_name) for one in saved), default=number - count)
    return itertools.count(last + count, count)
